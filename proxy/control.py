"""Reads what a caller asks of the cache: `Cache-Control`, `LLM-Cache-Control`, the base URL.

From the weakest to the strongest:

    /~namespace=evals,ttl=60/v1      for tools that can set nothing but a base URL
    Cache-Control: max-age=60        RFC 9111 5.2.1, as lenient as that asks for
    LLM-Cache-Control: ttl=60        an RFC 9651 dictionary, strict: a typo must not do nothing

A stronger source's `name=?0` takes back what a weaker one said.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from functools import lru_cache
from typing import Any, NamedTuple, cast
from urllib.parse import unquote_to_bytes

import http_sf

from proxy.errors import BadControl
from proxy.models import Control, Headers

MAX_BYTES = 4 * 2**10  # of all lines of one header, and of the text in the base URL
MAX_NAMESPACE_CHARS = 128
MAX_TAGS = 32
MAX_TAG_CHARS = 128
MAX_SAMPLE = 10_000
# RFC 9111 1.2.2: what is larger counts as this; 68 years.
MAX_SECONDS = 2**31

_PLAIN = b"cache-control"
_OWN = b"llm-cache-control"
_READ = frozenset({_PLAIN, _OWN})
_NOTHING_SAID = Control()

_Said = dict[str, Any]  # fields of Control, with their values


def read_control(headers: Headers, directives: str | None) -> Control:
    """Read one request's wishes; `directives` is the raw text after `/~` in the base URL."""
    if not directives and _READ.isdisjoint(dict(headers)):
        return _NOTHING_SAID
    lines = [line for line in headers if line[0] in _READ]
    plain = b", ".join(value for name, value in lines if name == _PLAIN)
    own = b", ".join(value for name, value in lines if name == _OWN and value.strip())
    from_url = (directives or "").encode("utf-8", "replace")
    return _merge(from_url, plain, own, bool(plain) and _wants_events(headers))


def _wants_events(headers: Headers) -> bool:
    return any(
        name == b"accept" and b"text/event-stream" in value.lower() for name, value in headers
    )


# A caller says the same with each request: read it once. Holds 3 MiB at the very most.
@lru_cache(maxsize=256)
def _merge(from_url: bytes, plain: bytes, own: bytes, events: bool) -> Control:
    said = {
        **_read_dictionary("the base URL's /~", unquote_to_bytes(from_url)),
        **_read_cache_control(plain, events),
        **_read_dictionary("LLM-Cache-Control", own),
    }
    control = replace(_NOTHING_SAID, **said)
    return replace(control, no_cache=True) if control.max_age == 0 else control


# name, and its argument as a quoted string or a token
_DIRECTIVE = re.compile(rb'([^\s,;="]+)(?:[ \t]*(=)[ \t]*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]*)))?')
_SWITCHES = {b"no-cache": "no_cache", b"no-store": "no_store", b"only-if-cached": "only_if_cached"}
_SECONDS = {
    b"max-age": "max_age",
    b"max-stale": "max_stale",
    b"min-fresh": "min_fresh",
    b"stale-if-error": "stale_if_error",
}


def _read_cache_control(text: bytes, events: bool) -> _Said:
    """Take what is understood; a directive said twice counts as first said (RFC 9111 4.2.1)."""
    _bound("Cache-Control", text)
    said: _Said = {}
    for name, equals, quoted, token in _DIRECTIVE.findall(text.lower()):
        if name in _SWITCHES:
            said.setdefault(_SWITCHES[name], True)
        elif name == b"max-stale" and not equals:
            said.setdefault("max_stale", math.inf)
        elif name in _SECONDS and (quoted or token).isdigit():
            said.setdefault(_SECONDS[name], _delta_seconds(quoted or token))
    if events:
        # httpx-sse and those who copied it send no-store with every stream: not the user's wish.
        said.pop("no_store", None)
    return said


def _delta_seconds(digits: bytes) -> float:
    return float(min(int(digits), MAX_SECONDS))


def _read_dictionary(source: str, text: bytes) -> _Said:
    _bound(source, text)
    try:
        parsed = http_sf.parse(text, tltype="dictionary")
    except http_sf.StructuredFieldError as exc:
        raise BadControl(
            f"{source}: {exc}; expected a list such as: no-cache, ttl=60, namespace=evals"
        ) from exc
    members = cast("dict[str, tuple[object, dict[str, object]]]", parsed)
    said: _Said = {}
    for name, (value, parameters) in members.items():
        member = _MEMBERS.get(name)
        if member is None:
            raise BadControl(f"{source}: {name} is unknown; expected one of {', '.join(_MEMBERS)}")
        if parameters:
            raise BadControl(f"{source}: {name}: members are separated by commas, not semicolons")
        if member.field:
            said[member.field] = _read_member(source, name, member, value)
    return said


def _read_member(source: str, name: str, member: _Member, value: object) -> object:
    if value is False:
        return getattr(_NOTHING_SAID, member.field)
    read = member.read(value)
    if read is None:
        raise BadControl(f"{source}: {name}: expected {member.expected}")
    return read


def _bound(source: str, text: bytes) -> None:
    if len(text) > MAX_BYTES:
        raise BadControl(f"{source}: {len(text)} bytes; at most {MAX_BYTES} are read")


def _switch(value: object) -> bool | None:
    return True if value is True else None


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | Decimal) or value < 0:
        return None
    return min(float(value), float(MAX_SECONDS))


def _staleness(value: object) -> float | None:
    return math.inf if value is True else _number(value)


def _sample(value: object) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return value if 0 <= value <= MAX_SAMPLE else None


def _namespace(value: object) -> str | None:
    text = _text(value)
    return text if text is not None and len(text) <= MAX_NAMESPACE_CHARS else None


def _run(value: object) -> str | None:
    # An integer too: run=7 needs no quotes.
    plain = isinstance(value, int) and not isinstance(value, bool)
    return _namespace(str(value) if plain else value) or None


def _tags(value: object) -> tuple[str, ...] | None:
    items = value if isinstance(value, list) else [(value, {})]
    tags = [None if parameters else _text(item) for item, parameters in items]
    good = tuple(dict.fromkeys(tag for tag in tags if tag and len(tag) <= MAX_TAG_CHARS))
    return good if all(tag in good for tag in tags) and len(good) <= MAX_TAGS else None


def _text(value: object) -> str | None:
    if not isinstance(value, str | http_sf.Token | http_sf.DisplayString):
        return None
    text = str(value)
    return text if text.isprintable() else None


class _Member(NamedTuple):
    field: str  # of Control; "" if nothing comes of it yet
    read: Callable[[object], object]  # None: not what is expected
    expected: str


_ON = "no value, or ?0 to take it back"
_SOME_SECONDS = "seconds, a number from 0 on, such as 60"
_MEMBERS = {
    "no-cache": _Member("no_cache", _switch, _ON),
    "no-store": _Member("no_store", _switch, _ON),
    "only-if-cached": _Member("only_if_cached", _switch, _ON),
    "max-age": _Member("max_age", _number, _SOME_SECONDS),
    "min-fresh": _Member("min_fresh", _number, _SOME_SECONDS),
    "max-stale": _Member("max_stale", _staleness, f"no value, or {_SOME_SECONDS}"),
    "stale-if-error": _Member("stale_if_error", _number, _SOME_SECONDS),
    "ttl": _Member("ttl", _number, _SOME_SECONDS),
    "namespace": _Member(
        "namespace",
        _namespace,
        f'at most {MAX_NAMESPACE_CHARS} visible characters, such as evals or "2026-08"',
    ),
    "sample": _Member("sample", _sample, f"a whole number from 0 to {MAX_SAMPLE}"),
    "run": _Member(
        "run",
        _run,
        f'1 to {MAX_NAMESPACE_CHARS} visible characters, such as baseline or "2026-08-01"',
    ),
    "tags": _Member(
        "tags",
        _tags,
        f"at most {MAX_TAGS} of at most {MAX_TAG_CHARS} visible characters, such as (evals daily)",
    ),
}
