"""What is said where nothing is stored, and no provider may be asked: what was asked, what is near.

Entries of others are not spoken of: whoever asks here need not be the operator.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from cache_backends.base import CacheError, Entry
from proxy.errors import Offline
from proxy.inquiry import Inquiry
from proxy.models import Freshness
from proxy.nearest import Asked, Near, Nearest

log = logging.getLogger("proxy.offline")

NOT_ASKED = "In offline mode no provider is asked"
MAX_DIFFERENCES = 5
SERVES = frozenset({Freshness.FRESH, Freshness.STALE})


async def offline(
    inquiry: Inquiry, found: Sequence[Entry | None], known: Sequence[Freshness], nearest: Nearest
) -> Offline:
    """The error for an inquiry that cannot be answered from what was found."""
    verdict = inquiry.verdict
    if not verdict.may_read:
        return Offline(f"{NOT_ASKED}, and the cache may not be read here: {verdict.reason}.")
    place = next(at for at, freshness in enumerate(known) if freshness not in SERVES)
    asked = _asked(inquiry, place)
    if found[place] is not None:
        return Offline(f"{NOT_ASKED}, and what is stored does not do for {asked}.")
    near = await _nearest(inquiry, place, nearest)
    told = "".join(f" {_told(each)}" for each in near) or " Nothing like it is stored either."
    return Offline(f"{NOT_ASKED}, and nothing is stored for {asked}.{told}")


async def _nearest(inquiry: Inquiry, place: int, nearest: Nearest) -> list[Near]:
    call, ask = inquiry.call, inquiry.ask
    key = inquiry.question.keys[place]
    try:
        return await nearest.find(Asked(key, call.provider.name, ask.model, client=call.client))
    except CacheError as exc:
        log.debug("no nearest entries: %s", exc)
        return []


def _asked(inquiry: Inquiry, place: int) -> str:
    keys = inquiry.question.keys
    part = f"input {place} of " if len(keys) > 1 else ""
    path, model = inquiry.call.path, inquiry.ask.model
    return f"{part}this request (POST {path}, model {model or 'unsaid'}, id {keys[place].id})"


def _told(near: Near) -> str:
    differences = near.comparison.differences
    told = "; ".join(map(str, differences[:MAX_DIFFERENCES]))
    more = "; and more" if near.comparison.more or len(differences) > MAX_DIFFERENCES else ""
    return f"Entry {near.id} differs in {told}{more}."
