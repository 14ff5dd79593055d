"""Tells the caller what became of a request: `Cache-Status` (RFC 9211) and its companions."""

from __future__ import annotations

import re
from functools import lru_cache
from math import floor
from typing import NamedTuple

from proxy.models import Headers, Outcome

# The name of this cache in Cache-Status, a structured-field token.
NAME = "llm-cache-proxy"
# RFC 9111 1.2.2: what is more counts as this; and structured fields have no such numbers.
MAX_SECONDS = 2**31


class Telling(NamedTuple):
    """What is known when the head of a response goes out. `None`: unknown, or does not apply.

    Answers that the proxy makes up itself (its errors) are not told of: RFC 9211 2.
    """

    outcome: Outcome
    forwarded: str = ""  # why upstream was asked: an RFC 9211 `fwd` token; "": as outcome implies
    detail: str = ""  # "memory", "sqlite", "stale-if-error", "rule 2"
    entry_id: str = ""
    age: float | None = None  # seconds since the answer was stored; hits only
    ttl_left: float | None = None  # seconds, below 0 if expired; None: entries do not expire
    stored: bool | None = None  # of a streamed miss nobody knows yet
    collapsed: bool | None = None  # False: tried to join another's fetch, had to fetch itself
    fwd_status: int | None = None  # only if another one is sent
    timings: tuple[tuple[str, float], ...] = ()  # ("upstream", 0.512), seconds


def tell(telling: Telling) -> Headers:
    """Return the headers that say it."""
    headers = [(b"cache-status", _member(telling)), (b"x-cache", _X_CACHE[telling.outcome])]
    if telling.age is not None:
        headers.append((b"age", b"%d" % max(0, min(floor(telling.age), MAX_SECONDS))))
    if telling.entry_id:
        headers.append((b"x-llm-cache-id", telling.entry_id.encode()))
    if telling.timings:
        headers.append((b"server-timing", _timings(telling)))
    return headers


def tell_after(headers: Headers, telling: Telling) -> Headers:
    """Return the upstream's headers and then ours.

    Members of Cache-Status stand in the order of the caches, the one nearest to the origin first;
    X-Cache has no such order: the upstream's would contradict ours.
    """
    ours = tell(telling)
    # The server that sends this has a clock of its own: two Dates are not allowed.
    replaced = _REPLACED.union(dict(ours)) - _TOLD_BY_BOTH
    kept = [line for line in headers if line[0] not in replaced]
    if b"cache-status" not in dict(headers):
        return kept + ours
    before = [value for name, value in headers if name == b"cache-status" and value.strip()]
    return [*kept, (b"cache-status", b", ".join([*before, ours[0][1]])), *ours[1:]]


_REPLACED = frozenset({b"x-llm-cache-id", b"date"})
_TOLD_BY_BOTH = frozenset({b"server-timing"})


_X_CACHE = {outcome: outcome.value.encode() for outcome in Outcome}
_FORWARDED = {
    Outcome.MISS: "miss",
    Outcome.PARTIAL: "partial",
    Outcome.COLLAPSED: "miss",
    Outcome.BYPASS: "bypass",
}


def _member(telling: Telling) -> bytes:
    implied = _FORWARDED.get(telling.outcome)
    member = f"{NAME}; hit" if implied is None else _forwarded(telling, implied)
    if telling.ttl_left is not None:
        left = max(-MAX_SECONDS, min(floor(telling.ttl_left), MAX_SECONDS))
        member += f"; ttl={left}"
    if telling.detail:
        member += f"; detail={_token_or_string(telling.detail)}"
    return member.encode()


def _forwarded(telling: Telling, implied: str) -> str:
    collapsed = telling.collapsed
    if collapsed is None and telling.outcome is Outcome.COLLAPSED:
        collapsed = True
    status = "" if telling.fwd_status is None else f"; fwd-status={telling.fwd_status}"
    return (
        f"{NAME}; fwd={telling.forwarded or implied}{status}"
        f"{_flag('stored', telling.stored)}{_flag('collapsed', collapsed)}"
    )


def _flag(name: str, value: bool | None) -> str:
    if value is None:
        return ""
    return f"; {name}" if value else f"; {name}=?0"


_TOKEN = re.compile(r"[A-Za-z*][A-Za-z0-9:/!#$%&'*+\-.^_`|~]*")
_UNPRINTABLE = re.compile(r"[^ -~]")


@lru_cache(maxsize=256)
def _token_or_string(text: str) -> str:
    """RFC 9651 4.1.6 and 4.1.7; strings hold printable ASCII only."""
    if _TOKEN.fullmatch(text):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{_UNPRINTABLE.sub("?", escaped)}"'


def _timings(telling: Telling) -> bytes:
    """The W3C's Server-Timing counts in milliseconds."""
    told = [f"{name};dur={seconds * 1000:.2f}" for name, seconds in telling.timings]
    return ", ".join(told).encode()
