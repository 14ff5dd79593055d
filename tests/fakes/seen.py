"""What the scripts in tests/node saw, ask by ask, and what a stream comes to however it is cut."""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from typing import Any

import orjson

Seen = dict[str, Any]  # `cache`, the outcome, and `answer`
Part = dict[str, Any]

_PIECES = ("delta", "partial_json", "signature", "text", "thinking")
_INPUTS = ("input_json_delta", "tool-input-delta")
_COUNTED = ("sequence_number", "obfuscation")  # as many as there are pieces


def caches(seen: list[Seen]) -> list[str]:
    return [each["cache"] for each in seen]


def columns(seen: list[Seen], outcomes: list[str]) -> list[list[Any]]:
    """The answers to each of some asks, which were repeated prompt after prompt.

    Their outcomes must be these, every time.
    """
    width = len(outcomes)
    assert caches(seen) == outcomes * (len(seen) // width)
    return [[each["answer"] for each in seen[at::width]] for at in range(width)]


def told(answers: list[Any], *, but: Collection[str] = ()) -> list[Any]:
    """The answers, with each text that a stream told in pieces as one, and but for these parts."""
    return [_told(each, but) for each in answers]


def _told(answer: Any, but: Collection[str]) -> Any:
    if isinstance(answer, list):
        return _joined([part for part in answer if part["type"] not in but])
    return {**answer, "parts": _told(answer["parts"], but)} if "parts" in answer else answer


def _joined(parts: list[Part]) -> list[tuple[Part, Any]]:
    whole: list[tuple[Part, Any]] = []
    for part in parts:
        rest, piece = _apart(part)
        if piece is not None and whole and whole[-1][0] == rest:
            piece = whole.pop()[1] + piece
        whole.append((rest, piece))
    return [(rest, _value(rest, said)) for rest, said in whole]


def _apart(part: Part) -> tuple[Part, str | None]:
    """What a part says beside its piece of a text, and the piece."""
    rest = {name: value for name, value in part.items() if name not in _COUNTED}
    holder = rest
    if isinstance(rest.get("delta"), dict):
        holder = rest["delta"] = dict(rest["delta"])
    if not rest["type"].endswith("delta"):
        return rest, None
    pieces = [holder.pop(name) for name in _PIECES if isinstance(holder.get(name), str)]
    return rest, "".join(pieces) if pieces else None


def _value(rest: Part, said: str | None) -> Any:
    """A text as it is; a tool's input, which may have been spaced otherwise, by what it says."""
    kinds = (rest["type"], rest.get("delta", {}).get("type"))
    with contextlib.suppress(orjson.JSONDecodeError):
        if any(kind in _INPUTS for kind in kinds):
            return orjson.loads(said or "{}")
    return said
