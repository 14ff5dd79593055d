"""What several dialects read for `AnswerFacts`: tokens, what they are billed by, what is JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from proxy.models import Bill

# No answer has so many. Who says so would spoil sums that are kept for all time.
MAX_TOKENS = 10**9


def usage_of(envelope: Mapping[str, Any]) -> dict[str, Any]:
    """The usage that an answer tells; empty if it tells none."""
    usage = envelope.get("usage")
    return usage if isinstance(usage, dict) else {}


def count(usage: Mapping[str, Any], name: str) -> int | None:
    """One count of a usage; `None` if it is not told, or is no number of tokens."""
    value = usage.get(name)
    return value if type(value) is int and 0 <= value <= MAX_TOKENS else None


def bill_of(envelope: Mapping[str, Any], read: str, written: str) -> Bill:
    """The bill of an answer whose usage is told as OpenAI does: `read` and `written` name the
    objects that take the counts apart."""
    usage = usage_of(envelope)
    read_as, written_as = _object(usage, read), _object(usage, written)
    model, tier = text_at(envelope, "model"), text_at(envelope, "service_tier")
    if not read_as and not written_as:
        return Bill(model, tier)
    return Bill(
        model,
        tier,
        cached=count(read_as, "cached_tokens") or 0,
        kept=count(read_as, "cache_write_tokens") or 0,
        heard=count(read_as, "audio_tokens") or 0,
        spoken=count(written_as, "audio_tokens") or 0,
        reasoned=count(written_as, "reasoning_tokens") or 0,
    )


def text_at(envelope: Mapping[str, Any], name: str) -> str:
    value = envelope.get(name)
    return value if isinstance(value, str) else ""


def _object(usage: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = usage.get(name)
    return value if isinstance(value, dict) else {}


def is_json(text: str) -> bool:
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError:
        return False
    return True
