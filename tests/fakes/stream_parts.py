"""What a client hands out of a stream, but for how the texts in it are cut."""

from __future__ import annotations

from typing import Any

import orjson

Part = dict[str, Any]

_PIECES = ("delta", "partial_json", "signature", "text", "thinking")
_JSON = ("input_json_delta", "tool-input-delta")  # nobody is told how it is spaced
_COUNTED = ("sequence_number", "obfuscation")  # as many as there are pieces


def joined(parts: list[Part]) -> list[tuple[Part, Any]]:
    """The parts in their order; those that tell a text in pieces are one, with that text."""
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
    kinds = (rest["type"], rest.get("delta", {}).get("type"))
    return orjson.loads(said or "{}") if any(kind in _JSON for kind in kinds) else said
