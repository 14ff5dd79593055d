"""Another answer in the place of a stored one: written by a person, and yet to be told as any.

An answer can be told again if what its dialect tells of it, whole and as a stream, is taken for a
complete answer again, with the same texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import orjson

from cache_backends.base import ChatGeneration, Entry, Generation
from proxy.dialects.base import Dialect
from proxy.errors import BadRequest, ProxyError
from proxy.models import Ask, Call, Head, Provider

_PLAIN = Head(200, [(b"content-type", b"application/json")])
_STREAM = Head(200, [(b"content-type", b"text/event-stream")])
# What says of a text where it comes from, or how likely it was: no longer true of another.
_OF_TEXT: dict[str, Any] = {"logprobs": None, "annotations": [], "citations": None}
# What a body says it is.
_KINDS = ("object", "type", "role")


def with_text(generations: Sequence[Generation], text: str) -> list[Generation]:
    """The same answer with another text, everywhere it stands. BadRequest if it has not just one
    choice with one text."""
    if len(generations) != 1:
        raise BadRequest("text: this answer has several choices; give all generations")
    (old,) = generations
    info = old.generation_info
    if info is not None and isinstance(choice := info.get("choice"), dict):
        info = {**info, "choice": _without_old(choice)}
    if not isinstance(old, ChatGeneration):
        if not old.text:
            raise BadRequest("text: this answer is no text")
        return [Generation(text, info)]
    message = {**old.message, "content": _content(old.message.get("content"), text)}
    return [ChatGeneration(text, info, message=message)]


def _content(content: Any, text: str) -> Any:
    if isinstance(content, str):
        return text
    places = _places(content)
    if len(places) != 1:
        raise BadRequest("text: this answer has not just one text; give all generations")
    return _replaced(content, places[0], text)


def _places(content: Any) -> list[tuple[int, ...]]:
    """Where texts stand in a message's content, which may be items with contents of their own."""
    found: list[tuple[int, ...]] = []
    for place, part in enumerate(content if isinstance(content, list) else ()):
        if not isinstance(part, dict):
            continue
        if isinstance(part.get("text"), str) and part.get("type") in ("text", "output_text"):
            found.append((place,))
        elif part.get("type") == "message":
            found += [(place, *inner) for inner in _places(part.get("content"))]
    return found


def _replaced(content: list[Any], place: tuple[int, ...], text: str) -> list[Any]:
    first, *inner = place
    part = content[first]
    if inner:
        part = {**part, "content": _replaced(part["content"], tuple(inner), text)}
    else:
        part = {**_without_old(part), "text": text}
    return [*content[:first], part, *content[first + 1 :]]


def _without_old(part: dict[str, Any]) -> dict[str, Any]:
    return {name: _OF_TEXT.get(name, value) for name, value in part.items()}


def require_json(generations: Sequence[Generation]) -> None:
    """Raises BadRequest for what Python reads in JSON, and cannot be written again: NaN, huge
    numbers, halves of characters."""
    values = [
        (each.text, each.generation_info, getattr(each, "message", None)) for each in generations
    ]
    try:
        again = orjson.loads(orjson.dumps(values))
    except (TypeError, ValueError) as exc:
        raise BadRequest(f"The answer cannot be written as JSON: {exc}.") from exc
    if list(map(tuple, again)) != values:  # NaN has become null
        raise BadRequest("The answer cannot be written as JSON: a number in it is none.")


def check(
    entry: Entry, dialect: Dialect, generations: list[Generation], text: str | None = None
) -> None:
    """Raises BadRequest for an answer to an entry's question that could not be told again."""
    for ask in _asks(entry, dialect):
        try:
            told = _told_again(ask, dialect, generations)
            facts = dialect.facts(ask, [generations])
        except Exception as exc:  # a hand-written answer may lack anything
            raise BadRequest(_UNTELLABLE.format(dialect.name)) from exc
        if told != [each.text for each in generations]:
            raise BadRequest(_UNTELLABLE.format(dialect.name))
        if misfit := _misfit_of(ask, dialect, entry.generations, generations):
            raise BadRequest(f"{misfit}: is missing, or not what clients expect there")
        if text is not None and facts.has_tool_calls:
            raise BadRequest("text: this answer calls tools; give all generations")
        if facts.broken_json:
            raise BadRequest(f"{facts.broken_json}: JSON was asked for, and this is none")


_UNTELLABLE = (
    "This cannot be told again as an answer of the dialect {}: take the generations that GET "
    "gives, and change what is wrong in them."
)


def _told_again(ask: Ask, dialect: Dialect, generations: list[Generation]) -> list[str] | None:
    """The texts of the answer, as one would read it who is told it; `None`: not complete."""
    if not dialect.can_replay(replace(ask, wants_usage=False, stream=True), [generations]):
        return None
    recorder = dialect.recorder(ask, _STREAM if ask.stream else _PLAIN, 1)
    recorder.feed(dialect.replay(ask, [generations]))
    answers = recorder.finish()
    return None if answers is None else [each.text for each in answers[0]]


def _misfit_of(ask: Ask, dialect: Dialect, before: list[Generation], now: list[Generation]) -> str:
    """Where the answer is of another shape than the one before; "" if nowhere."""
    if ask.stream or not dialect.can_replay(ask, [before]):
        return ""
    old, new = (orjson.loads(dialect.replay(ask, [each])) for each in (before, now))
    for name, value in old.items():
        if value is not None and new.get(name) is None:
            return str(name)
        if name in _KINDS and new[name] != value:
            return str(name)
    return _misfit(old, new)


def _misfit(old: Any, new: Any, path: str = "") -> str:
    if old is None or new is None:
        return ""
    if _kind(old) is not _kind(new):
        return path
    if isinstance(old, dict):
        # What a tool is given is up to whoever made the tool.
        pairs = [(f"{path}.{name}".lstrip("."), name) for name in old if name in new]
        places = [(at, old[name], new[name]) for at, name in pairs if name != "input"]
    elif isinstance(old, list):
        places = [(f"{path}[{at}]", *each) for at, each in enumerate(zip(old, new, strict=False))]
    else:
        return ""
    return next((found for at, was, is_ in places if (found := _misfit(was, is_, at))), "")


def _kind(value: Any) -> type:
    return float if type(value) is int else type(value)


def _asks(entry: Entry, dialect: Dialect) -> list[Ask]:
    """The entry's question, as it was asked but for what is not in the key: whole, and streamed."""
    try:
        part, how = orjson.loads(entry.key.prompt), orjson.loads(entry.key.llm_string)
        body = {**how["parameters"], **part}
        call = Call(Provider(how["provider"], ""), "", "", how["url"], [], orjson.dumps(body))
        asks = [dialect.read(call)]
        streamed = dialect.read(replace(call, body=orjson.dumps({**body, "stream": True})))
    except (ValueError, TypeError, KeyError, ProxyError) as exc:
        raise BadRequest(
            "What was asked is not all in this entry's key, so an answer to it cannot be checked."
        ) from exc
    return [*asks, streamed] if streamed.stream else asks
