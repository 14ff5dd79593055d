"""Cache URLs: what `--cache` takes, and the cache that it names."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from inspect import Parameter, signature
from typing import Any
from urllib.parse import parse_qsl

import orjson

from cache_backends.base import EntryCache, NullCache
from cache_backends.extras import needing
from cache_backends.memory import MemoryCache
from cache_backends.plain import PlainCache

log = logging.getLogger(__name__)

REDIS = ("redis", "redis+cluster", "redis+sentinel", "rediss", "rediss+cluster", "rediss+sentinel")
MEMORY_MAX_BYTES = 256 * 2**20

ACCEPTED = (
    "memory://, sqlite:///relative.db, sqlite:////absolute.db, redis://host:port/0, "
    "postgresql://host/database, cassette:file.ndjson, null://, langchain:module:Class for one of "
    "LangChain's, or module:Class for a class of your own"
)
CASSETTE = "cassette:"
LANGCHAIN = "langchain:"
# Of what is said of a LangChain cache, what is not for the class itself.
_OURS = ("allow_clear", "clock")
# The way out where one cannot be made.
_FOR_A_CLASS = (
    "a function of your own can make one that needs objects: langchain:my_module:make_cache"
)
_FOR_A_FUNCTION = "at log level debug the log has its traceback"


def open_cache(url: str, /, **options: Any) -> EntryCache:
    """Make the cache that `url` names. Files are opened and drivers imported only when needed.

    - `memory://`: option `max_bytes`, 256 MiB if not given
    - `sqlite:///file.db`, four slashes for an absolute path: options `max_bytes`, `busy_timeout`
    - `postgresql://user:password@host:port/database`: options `schema`, `max_bytes`, `timeout`,
      `max_connections`
    - `redis://user:password@host:port/0`, `rediss://`, `redis+cluster://host:port`,
      `redis+sentinel://host:port/service/0`: options `prefix`, `ttl`, `timeout`, `max_connections`
    - `cassette:file.ndjson`, or `cassette:///file.ndjson`, four slashes for an absolute path:
      options `redact`, `prune`; `max_bytes` means nothing
    - `null://`: keeps nothing, whatever the options
    - `langchain:module:Class?name=value`: a cache that was written for LangChain. Two options are
      kept back, `clock` and `allow_clear`: they are for `LangChainCache`. All others, `url` too,
      and the query go to the class. For one that needs more than a config can hold (an engine, a
      client), put a function of your own in its place, `langchain:my_module:make_cache`: it is
      called in the same way and returns the cache.
    - `module:Class?name=value`: the class is called with the query as keyword arguments; numbers,
      `true`, `false` and `null` are passed as such. No options. What is no `EntryCache` is wrapped
      in a `PlainCache`.

    Those that keep anything also take `clock`. An option that is `None` counts as not given.
    `ValueError` says what is accepted.
    """
    given = {name: value for name, value in options.items() if value is not None}
    if url.startswith(LANGCHAIN):
        return _langchain(url.removeprefix(LANGCHAIN), given)
    if url.startswith(CASSETTE) and "://" not in url:
        url = f"cassette:///{url.removeprefix(CASSETTE)}"
    scheme, separator, rest = url.partition("://")
    if not separator:
        return _own(url, given)
    if scheme not in _OPENERS:
        raise ValueError(f"unknown cache '{scheme}://': expected {ACCEPTED}")
    try:
        return _OPENERS[scheme](rest, given)
    except ImportError as exc:  # which names the extra
        raise ValueError(str(exc)) from exc
    except TypeError as exc:
        raise ValueError(f"cannot open {scheme}:// with {', '.join(given)}: {exc}") from exc


def _memory(rest: str, options: Mapping[str, Any]) -> EntryCache:
    _require_nothing("memory", rest)
    return _made(MemoryCache, **{"max_bytes": MEMORY_MAX_BYTES, **options})


def _null(rest: str, options: Mapping[str, Any]) -> EntryCache:  # noqa: ARG001 - needs none
    _require_nothing("null", rest)
    return NullCache()


def _sqlite(rest: str, options: Mapping[str, Any]) -> EntryCache:
    if not rest.startswith("/") or rest == "/":
        raise ValueError(
            f"sqlite://{rest} names no file: use sqlite:///relative.db or sqlite:////absolute.db"
        )
    if rest == "/:memory:":
        raise ValueError("sqlite:///:memory: would not outlive this process: use memory://")
    # The driver is needed only by those who ask for it.
    from cache_backends.sqlite import SQLiteCache

    return _made(SQLiteCache, rest[1:], **options)


def _cassette(rest: str, options: Mapping[str, Any]) -> EntryCache:
    if not rest.startswith("/") or rest == "/":
        raise ValueError(
            f"cassette://{rest} names no file: use cassette:relative.ndjson or cassette:/absolute"
        )
    from cache_backends.cassette import CassetteCache

    told = {name: value for name, value in options.items() if name != "max_bytes"}
    return _made(CassetteCache, rest[1:], **told)


def _postgres(rest: str, options: Mapping[str, Any]) -> EntryCache:
    with needing("postgres"):
        from cache_backends.postgres import PostgresCache
    return _made(PostgresCache, f"postgresql://{rest}", **options)


def _redis(scheme: str, rest: str, options: Mapping[str, Any]) -> EntryCache:
    with needing("redis"):
        from cache_backends.redis import RedisCache
    return _made(RedisCache, f"{scheme}://{rest}", **options)


def _made(make: Callable[..., EntryCache], /, *place: str, **options: Any) -> EntryCache:
    parameters = signature(make).parameters.values()
    known = [each.name for each in parameters if each.kind is Parameter.KEYWORD_ONLY]
    unknown = [name for name in options if name not in known]
    if unknown:
        known.remove("clock")  # nothing that a config can hold
        raise TypeError(f"it has no option {', '.join(unknown)}; it has {', '.join(known)}")
    return make(*place, **options)


_OPENERS: dict[str, Callable[[str, Mapping[str, Any]], EntryCache]] = {
    "cassette": _cassette,
    "memory": _memory,
    "null": _null,
    "postgres": _postgres,
    "postgresql": _postgres,
    **{scheme: partial(_redis, scheme) for scheme in REDIS},
    "sqlite": _sqlite,
}


def _langchain(rest: str, options: Mapping[str, Any]) -> EntryCache:
    try:
        from cache_backends.langchain import LangChainCache
    except ImportError as exc:  # which names the extra
        raise ValueError(str(exc)) from exc
    place, _, query = rest.partition("?")
    make = _load(place)
    said = {**_values(query), **options}
    ours = {name: said.pop(name) for name in _OURS if name in said}
    try:
        return LangChainCache(make(**said), **ours)
    except Exception as exc:  # a class of somebody else's may raise anything
        log.debug("making langchain:%s failed", place, exc_info=exc)
        # The text of another may hold a URL with a password.
        why = str(exc) if isinstance(exc, TypeError) else type(exc).__name__
        raise ValueError(
            f"cannot make langchain:{place} with {', '.join(said) or 'nothing'}: {why}; "
            + (_FOR_A_CLASS if isinstance(make, type) else _FOR_A_FUNCTION)
        ) from exc


def _own(url: str, options: Mapping[str, Any]) -> EntryCache:
    place, _, query = url.partition("?")
    make = _load(place)
    if options:
        raise ValueError(
            f"{', '.join(options)} is not for a class of your own: tell it so, {place}?name=value"
        )
    try:
        made = make(**_values(query))
        return made if isinstance(made, EntryCache) else PlainCache(made)
    except TypeError as exc:
        raise ValueError(f"cannot make {place!r}: {exc}") from exc


def _load(place: str) -> Callable[..., Any]:
    module, separator, name = place.partition(":")
    if "@" in place:  # a URL with a slash too few, and a password
        raise ValueError(f"unknown cache: expected {ACCEPTED}")
    if not separator or not module or not name:
        raise ValueError(f"unknown cache {place!r}: expected {ACCEPTED}")
    try:
        found = getattr(import_module(module), name)
    except ImportError as exc:
        raise ValueError(f"cannot import {module!r} for the cache {place!r}: {exc}") from exc
    except AttributeError as exc:
        raise ValueError(f"the module {module!r} has no {name!r}") from exc
    if not callable(found):
        raise ValueError(f"{place!r} is not a class")
    return found  # type: ignore[no-any-return]  # whatever the user's module holds


def _values(query: str) -> dict[str, Any]:
    return {name: _value(text) for name, text in parse_qsl(query)}


def _value(text: str) -> Any:
    """Numbers, booleans and null as such, anything else as the text that it is."""
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return text
    return text if isinstance(value, (str, list, dict)) else value


def _require_nothing(scheme: str, rest: str) -> None:
    if rest:
        raise ValueError(f"{scheme}://{rest}: nothing may follow {scheme}://")
