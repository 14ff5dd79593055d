"""What several dialects read for `AnswerFacts`: counts of tokens, and whether a text is JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson


def usage_of(envelope: Mapping[str, Any]) -> dict[str, Any]:
    """The usage that an answer tells; empty if it tells none."""
    usage = envelope.get("usage")
    return usage if isinstance(usage, dict) else {}


def count(usage: Mapping[str, Any], name: str) -> int | None:
    """One count of a usage; `None` if it is not told, or is no whole number."""
    value = usage.get(name)
    return value if type(value) is int else None


def is_json(text: str) -> bool:
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError:
        return False
    return True
