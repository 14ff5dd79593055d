"""Answers as bytes: versioned JSON, and a decoder that believes nothing.

A store may hold what another program, another version or an attacker wrote. Only values of the two
known types are made, nothing is looked up by name, and whatever is not exactly as written here
raises `CodecError`, which a backend treats as a miss.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any, NamedTuple

import orjson

from cache_backends.base import CacheError, ChatGeneration, Generation, require_generations

VERSION = 1
# An entry of the largest allowed answer (64 MiB) stays below this also where it is kept twice.
MAX_VALUE_BYTES = 256 * 2**20

# orjson would turn dataclasses, dates and subclasses into JSON of its own: refuse them instead.
_JSON_ONLY = (
    orjson.OPT_PASSTHROUGH_DATACLASS
    | orjson.OPT_PASSTHROUGH_DATETIME
    | orjson.OPT_PASSTHROUGH_SUBCLASS
)

_Object = dict[str, Any]


class CodecError(CacheError):
    """A value that cannot be written as JSON, or bytes that are not an answer."""


class Stored(NamedTuple):
    """What the bytes of an entry hold."""

    generations: list[Generation]
    tags: tuple[str, ...] = ()
    about: Mapping[str, Any] = {}


def encode(
    generations: Sequence[Generation],
    tags: Sequence[str] = (),
    about: Mapping[str, Any] | None = None,
) -> bytes:
    """Write an answer; `CodecError` if it holds anything but JSON values."""
    require_generations(generations)
    value = {
        "v": VERSION,
        "generations": [_plain(generation) for generation in generations],
        "tags": list(tags),
        "about": dict(about or {}),
    }
    try:
        encoded = orjson.dumps(value, option=_JSON_ONLY)
    except TypeError as exc:
        raise CodecError(f"the answer cannot be written as JSON: {exc}") from exc
    if len(encoded) > MAX_VALUE_BYTES:
        raise CodecError(f"the answer has {len(encoded)} bytes; at most {MAX_VALUE_BYTES} are kept")
    return encoded


def decode(value: bytes) -> Stored:
    """Read what `encode` wrote; `CodecError` for anything else."""
    if not isinstance(value, bytes):
        raise CodecError(f"expected bytes, got {type(value).__name__}")
    if len(value) > MAX_VALUE_BYTES:
        raise CodecError(f"{len(value)} bytes; at most {MAX_VALUE_BYTES} are read")
    try:
        found = orjson.loads(value)
    except orjson.JSONDecodeError as exc:
        raise CodecError(f"not JSON: {exc}") from exc
    fields = _object("value", found, {"v", "generations", "tags", "about"})
    _check("v", type(fields["v"]) is int and fields["v"] == VERSION)
    _check("generations", isinstance(fields["generations"], list) and fields["generations"])
    _check("tags", _all_text(fields["tags"]))
    _check("about", isinstance(fields["about"], dict))
    generations = [_generation(each) for each in fields["generations"]]
    return Stored(generations, tuple(fields["tags"]), fields["about"])


def encode_label(tags: Sequence[str], about: Mapping[str, Any]) -> bytes:
    """Write tags and facts by themselves, so that a listing need not read the answer."""
    return orjson.dumps([list(tags), dict(about)])


def decode_label(label: bytes) -> tuple[tuple[str, ...], dict[str, Any]]:
    """Read what `encode_label` wrote; `CodecError` for anything else."""
    try:
        found = orjson.loads(label)
    except orjson.JSONDecodeError as exc:
        raise CodecError("no label") from exc
    match found:
        case [list(tags), dict(about)] if _all_text(tags):
            return tuple(tags), about
    raise CodecError("no label")


def are_times(times: Sequence[float | None]) -> bool:
    """Are these times of an entry, as stored beside its bytes? `None` is without end."""
    return all(time is None or isfinite(time) for time in times)


def _plain(generation: Generation) -> _Object:
    fields = {"text": generation.text, "generation_info": generation.generation_info}
    if isinstance(generation, ChatGeneration):
        return {"type": "chat", **fields, "message": generation.message}
    return {"type": "plain", **fields}


def _generation(found: Any) -> Generation:
    if isinstance(found, dict) and found.get("type") == "chat":
        fields = _object("generation", found, {"type", "text", "generation_info", "message"})
        _check("message", isinstance(fields["message"], dict))
        return ChatGeneration(_text(fields), _info(fields), message=fields["message"])
    fields = _object("generation", found, {"type", "text", "generation_info"})
    _check("type", fields["type"] == "plain")
    return Generation(_text(fields), _info(fields))


def _text(fields: _Object) -> str:
    text = fields["text"]
    if not isinstance(text, str):
        raise CodecError("text: not text")
    return text


def _info(fields: _Object) -> _Object | None:
    info = fields["generation_info"]
    if info is not None and not isinstance(info, dict):
        raise CodecError("generation_info: not an object")
    return info


def _object(name: str, found: Any, keys: set[str]) -> _Object:
    if not isinstance(found, dict) or found.keys() != keys:
        raise CodecError(f"{name}: expected an object of {', '.join(sorted(keys))}")
    return found


def _all_text(found: Any) -> bool:
    return isinstance(found, list) and all(isinstance(each, str) for each in found)


def _check(name: str, holds: object) -> None:
    if not holds:
        raise CodecError(f"{name}: not as it was written")
