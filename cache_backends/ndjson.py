"""An entry as one line of JSON, to read, compare and carry elsewhere: cassettes, export, import.

    {"v":1,"prompt":{...},"generations":[...],"llm_string":{...},"about":{...},
    "stored_at":"2026-01-31T12:00:00Z","tags":[...],"id":"..."}

- `prompt` and `llm_string` are objects where writing the object gives the string again, byte for
  byte, else the strings themselves.
- A generation with a `message` is a chat's. Its `text` is left out where it is what the message's
  content says; `generation_info` where there is none.
- Times are RFC 3339 with as many digits as they need to be the same number again, or Unix seconds
  where that cannot say them. `expires_at` and `retained_until` are left out where there is no end.
- `about` is without the digests of the two strings: who reads makes them anew.
- `tags` are left out where there are none, `seen` always: it means something in one store only.

A line may come from anywhere: whatever is not exactly this raises `LineError`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from math import isfinite
from typing import Any, TypeVar

import orjson

from cache_backends.base import ChatGeneration, Entry, Generation, Key, digest
from cache_backends.codec import JSON_ONLY, MAX_VALUE_BYTES

VERSION = 1
# The strings of a key are told in the line, beside what `codec` keeps.
MAX_LINE_BYTES = 2 * MAX_VALUE_BYTES

_Object = dict[str, Any]
_REQUIRED = frozenset({"v", "id", "prompt", "llm_string", "generations", "stored_at"})
_OPTIONAL = frozenset({"tags", "about", "expires_at", "retained_until"})
_PLAIN = frozenset({"text"})
_GENERATION = frozenset({"text", "message", "generation_info"})
_DIGESTS = frozenset({"prompt_digest", "llm_digest"})
_CALLED = {dict: "an object", list: "a list", str: "text"}
_T = TypeVar("_T", dict[str, Any], list[Any], str)
_TIME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,40}))?Z", re.ASCII)
# Written by this program a content is not deeper: a message in a list, its parts, their texts.
_CONTENT_LEVELS = 3


class LineError(ValueError):
    """A line that is no entry, or an entry that cannot be a line: the message says why, and names
    nothing that the entry holds."""


def line_of(entry: Entry) -> bytes:
    """Write an entry, with the end of the line; `LineError` if it holds what is no JSON."""
    key = entry.key
    try:
        line: _Object = {
            "v": VERSION,
            "prompt": _unfolded(key.prompt),
            "generations": [_told(generation) for generation in entry.generations],
            "llm_string": _unfolded(key.llm_string),
            "about": _without_digests(entry.about),
            "stored_at": _time(entry.stored_at),
        }
        if entry.tags:
            line["tags"] = list(entry.tags)
        for name in ("expires_at", "retained_until"):
            if (time := getattr(entry, name)) is not None:
                line[name] = _time(time)
        line["id"] = key.id
        written = orjson.dumps(line, option=JSON_ONLY | orjson.OPT_APPEND_NEWLINE)
    except (TypeError, UnicodeEncodeError) as exc:
        raise LineError(f"cannot be written as JSON: {exc}") from exc
    if len(written) > MAX_LINE_BYTES:
        raise LineError(f"{len(written)} bytes; at most {MAX_LINE_BYTES} are written")
    return written


def entry_of(line: bytes) -> Entry:
    """Read what `line_of` wrote; `LineError` for anything else. `seen` is 0."""
    if len(line) > MAX_LINE_BYTES:
        raise LineError(f"{len(line)} bytes; at most {MAX_LINE_BYTES} are read")
    try:
        found = orjson.loads(line)
    except orjson.JSONDecodeError as exc:
        raise LineError(f"not JSON: {exc}") from exc
    _require_fields(found, _REQUIRED, _OPTIONAL)
    if type(found["v"]) is not int or found["v"] != VERSION:
        raise LineError(f"v: expected {VERSION}: another version wrote this")
    key = Key.of(_folded(found, "prompt"), _folded(found, "llm_string"))
    if found["id"] != key.id:
        raise LineError(f"id: that of this prompt and llm_string is {key.id}")
    generations = _taken(found, "generations", list)
    if not generations:
        raise LineError("generations: expected at least one")
    tags = _taken(found, "tags", list)
    if not all(type(tag) is str for tag in tags):
        raise LineError("tags: expected texts")
    return Entry(
        key,
        [_generation(each, f"generations[{place}]") for place, each in enumerate(generations)],
        stored_at=_seconds(found, "stored_at"),
        expires_at=_seconds(found, "expires_at") if "expires_at" in found else None,
        retained_until=_seconds(found, "retained_until") if "retained_until" in found else None,
        tags=tuple(tags),
        about=_taken(found, "about", dict) | _digests(key),
    )


def rebound(entry: Entry, scope: str) -> Entry:
    """The same entry for others: under a key with this `scope` ("shared", "client:evals", ...).

    `LineError` where the `llm_string` has no scope, as those that others than the proxy made.
    """
    how = _unfolded(entry.key.llm_string)
    if not isinstance(how, dict) or not isinstance(how.get("scope"), str):
        raise LineError("llm_string: has no scope to be changed")
    key = Key.of(entry.key.prompt, orjson.dumps({**how, "scope": scope}).decode())
    return replace(entry, key=key, about={**entry.about, **_digests(key)})


def _unfolded(text: str) -> _Object | str:
    """The object that a text is the JSON of, if writing it gives the same text; else the text."""
    try:
        found = orjson.loads(text)
        # As deep as it will be in the line.
        same = type(found) is dict and orjson.dumps([found])[1:-1] == text.encode()
    except (ValueError, TypeError):
        return text
    return found if same else text


def _folded(line: _Object, name: str) -> str:
    found = line[name]
    if type(found) is str:
        return found
    if type(found) is not dict:
        raise LineError(f"{name}: expected an object or text")
    try:
        return orjson.dumps(found).decode()
    except TypeError as exc:
        raise LineError(f"{name}: nested too deeply") from exc


def _told(generation: Generation) -> _Object:
    told: _Object = {}
    message = generation.message if isinstance(generation, ChatGeneration) else None
    if message is None or generation.text != _text_of(message):
        told["text"] = generation.text
    if message is not None:
        told["message"] = message
    if generation.generation_info is not None:
        told["generation_info"] = generation.generation_info
    return told


def _generation(found: Any, at: str) -> Generation:
    chat = type(found) is dict and "message" in found
    _require_fields(found, frozenset() if chat else _PLAIN, _GENERATION, at)
    info = _taken(found, "generation_info", dict, at) if "generation_info" in found else None
    if not chat:
        return Generation(_taken(found, "text", str, at), info)
    message = _taken(found, "message", dict, at)
    text = _taken(found, "text", str, at) if "text" in found else _text_of(message)
    return ChatGeneration(text, info, message=message)


def _text_of(message: Mapping[str, Any]) -> str:
    """What a person would read of a message, most likely."""
    return "".join(_words(message.get("content"), _CONTENT_LEVELS))


def _words(content: Any, levels: int) -> Iterator[str]:
    if isinstance(content, str):
        yield content
    elif isinstance(content, list) and levels:
        for part in content:
            if isinstance(part, dict):
                yield from _words(part.get("text") or part.get("content"), levels - 1)


def _without_digests(about: Mapping[str, Any]) -> _Object:
    return {name: value for name, value in about.items() if name not in _DIGESTS}


def _digests(key: Key) -> _Object:
    return {"prompt_digest": digest(key.prompt), "llm_digest": digest(key.llm_string)}


def _time(seconds: float) -> str | float:
    """RFC 3339, with the digits behind the point that the number has itself."""
    if not isfinite(seconds):
        raise TypeError("a time is no number")
    whole, _, fraction = repr(float(seconds)).partition(".")
    try:
        at = datetime.fromtimestamp(int(whole), UTC).replace(tzinfo=None).isoformat()
    except (ValueError, OverflowError, OSError):  # 1e+20, beyond the year 9999
        return seconds
    if seconds < 0 or not fraction.isdigit():
        return seconds
    return f"{at}Z" if fraction == "0" else f"{at}.{fraction}Z"


def _seconds(line: _Object, name: str) -> float:
    said = line[name]
    if type(said) is int or (type(said) is float and isfinite(said)):
        return float(said)
    parts = _TIME.fullmatch(said) if type(said) is str else None
    try:
        at = datetime.fromisoformat(f"{parts[1]}+00:00") if parts else None
    except ValueError:
        at = None
    if parts is None or at is None:
        raise LineError(f"{name}: expected a time such as 2026-01-31T12:00:00Z, or Unix seconds")
    return float(f"{int(at.timestamp())}.{parts[2] or 0}")


def _require_fields(
    found: Any, required: frozenset[str], optional: frozenset[str], at: str = ""
) -> None:
    if type(found) is not dict:
        raise LineError(f"{at or 'the line'}: expected an object")
    for name in sorted(required - found.keys()):
        raise LineError(f"{_dotted(at, name)}: is missing")
    if not found.keys() <= required | optional:
        known = ", ".join(sorted(required | optional))
        raise LineError(f"{at or 'the line'}: has a field that is none of {known}")


def _taken(found: _Object, name: str, kind: type[_T], at: str = "") -> _T:
    """A field of this type; an empty one where it is not there."""
    value = found.get(name, kind())
    if type(value) is not kind:
        raise LineError(f"{_dotted(at, name)}: expected {_CALLED[kind]}")
    return value


def _dotted(at: str, name: str) -> str:
    return f"{at}.{name}" if at else name
