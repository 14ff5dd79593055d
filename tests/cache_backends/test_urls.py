"""Cache URLs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import cache_backends
from cache_backends import (
    EntryCache,
    InMemoryCache,
    MemoryCache,
    NullCache,
    PlainCache,
    PostgresCache,
    SQLiteCache,
    open_cache,
)
from cache_backends.base import Unsupported
from tests.fakes.clock import FakeClock


async def test_memory() -> None:
    """With a bound of its own or the default, and a clock."""
    clock = FakeClock()
    cache = open_cache("memory://", max_bytes=5_000, clock=clock)
    assert isinstance(cache, MemoryCache)
    assert "of 5000 bytes" in repr(cache)
    assert "of 268435456 bytes" in repr(open_cache("memory://", max_bytes=None))


def test_null() -> None:
    """The cache that is off needs no bound, and takes any."""
    assert isinstance(open_cache("null://", max_bytes=10), NullCache)


@pytest.mark.parametrize("slashes", ["", "///"])
def test_cassettes_take_relative_and_absolute_paths(
    slashes: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With or without the slashes of a URL; a bound means nothing to them."""
    monkeypatch.chdir(tmp_path)
    relative = open_cache(f"cassette:{slashes}sub/file.ndjson", max_bytes=10)
    assert repr(relative) == f"<CassetteCache {tmp_path}/sub/file.ndjson: 0 entries>"
    absolute = open_cache(f"cassette:{slashes}{tmp_path}/file.ndjson", redact=[("a", "b")])
    assert repr(absolute) == f"<CassetteCache {tmp_path}/file.ndjson: 0 entries>"
    with pytest.raises(ValueError, match=r"names no file: use cassette:relative\.ndjson"):
        open_cache(f"cassette:{slashes}")
    with pytest.raises(ValueError, match="matches the empty text"):
        open_cache("cassette:file.ndjson", redact=[("a*", "b")])


def test_sqlite_takes_relative_and_absolute_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three slashes: from here; four: from the root. A later change of directory moves nothing."""
    monkeypatch.chdir(tmp_path)
    relative = open_cache("sqlite:///sub/file.db", max_bytes=10**6)
    assert isinstance(relative, SQLiteCache)
    assert repr(relative) == f"<SQLiteCache {tmp_path}/sub/file.db>"
    absolute = open_cache(f"sqlite:///{tmp_path}/100%20.db")
    assert repr(absolute) == f"<SQLiteCache {tmp_path}/100%20.db>"


@pytest.mark.parametrize("scheme", ["postgresql", "postgres"])
def test_postgres_is_not_called_before_it_is_needed(scheme: str) -> None:
    """With or without a bound; the login is shown to nobody."""
    cache = open_cache(f"{scheme}://me:secret@localhost:1/db", schema="mine", max_bytes=10**6)
    assert isinstance(cache, PostgresCache)
    assert repr(cache) == "<PostgresCache postgresql://localhost:1/db schema mine>"
    with pytest.raises(ValueError, match="cannot open postgresql:// with colour"):
        open_cache("postgresql://localhost/db", colour="blue")


class Own:
    """A cache of one's own, with what its URL said."""

    def __init__(self, **said: object) -> None:
        self.said = said

    def lookup(self, prompt: str, llm_string: str) -> None:
        return None

    def update(self, prompt: str, llm_string: str, return_val: object) -> None:
        return None


def test_a_class_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Imported, called with what the query says, and wrapped if it is plain."""
    monkeypatch.setitem(sys.modules, "own_cache", sys.modules[__name__])
    cache = open_cache("own_cache:Own?size=10&share=0.5&on=true&none=null&name=a%20b&id=%2210%22")
    assert isinstance(cache, PlainCache)
    assert cache._cache.said == {
        "size": 10,
        "share": 0.5,
        "on": True,
        "none": None,
        "name": "a b",
        "id": '"10"',
    }
    assert isinstance(open_cache("cache_backends:NullCache"), NullCache)
    plain = open_cache("cache_backends.memory:InMemoryCache?maxsize=1")
    assert isinstance(plain, PlainCache)
    assert isinstance(plain._cache, InMemoryCache)


def make(database_path: str, **said: object) -> object:
    """What a user writes whose cache needs an object."""
    from langchain_community.cache import SQLAlchemyCache
    from sqlalchemy import create_engine

    if said:
        raise LookupError(f"a password: {said}")
    return SQLAlchemyCache(create_engine(f"sqlite:///{database_path}"))


@pytest.mark.parametrize("named", ["langchain_community.cache:SQLiteCache", "own_cache:make"])
async def test_a_cache_of_langchains(
    named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A class, or a function that makes one; told by options, by the query, or by both."""
    from cache_backends.langchain import LangChainCache

    monkeypatch.setitem(sys.modules, "own_cache", sys.modules[__name__])
    path = f"{tmp_path}/theirs.db"
    url = f"langchain:{named}"
    by_options = open_cache(url, database_path=path, allow_clear=True, clock=FakeClock())
    by_query = open_cache(f"{url}?database_path={path}")
    assert isinstance(by_options, LangChainCache)
    await by_options.aclear()
    with pytest.raises(Unsupported):
        await by_query.aclear()
    for cache in (by_options, by_query):
        cache._cache.engine.dispose()  # type: ignore[attr-defined]  # it is one of theirs


@pytest.mark.parametrize(
    ("url", "options", "said"),
    [
        ("langchain:cache.db", {}, "expected memory://"),
        ("langchain:no_such_module:Class", {}, "cannot import 'no_such_module'"),
        ("langchain:langchain_community.cache:SQLAlchemyCache", {}, "with nothing: .*'engine'"),
        (
            "langchain:langchain_core.caches:InMemoryCache",
            {"max_bytes": 5},
            "with max_bytes: .*objects",
        ),
        ("langchain:builtins:object", {}, "object is no cache: it has neither lookup"),
        (
            "langchain:own_cache:make",
            {"database_path": "a", "x": "secret"},
            "x: LookupError; at log level debug",
        ),
    ],
)
def test_a_cache_of_langchains_that_cannot_be_made(
    url: str, options: dict[str, object], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names what was told, not what it said, and the way out."""
    monkeypatch.setitem(sys.modules, "own_cache", sys.modules[__name__])
    with pytest.raises(ValueError, match=said) as raised:
        open_cache(url, **options)
    assert "secret" not in str(raised.value)


def test_why_a_function_of_ones_own_failed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The log has the traceback for who debugs it, and nobody else."""
    monkeypatch.setitem(sys.modules, "own_cache", sys.modules[__name__])
    with caplog.at_level("DEBUG", "cache_backends.urls"), pytest.raises(ValueError):
        open_cache("langchain:own_cache:make", database_path="a", x="y")
    [record] = caplog.records
    assert record.levelname == "DEBUG"
    assert record.exc_info
    assert record.exc_info[0] is LookupError


def make_from_url(*, url: str, options: str) -> object:
    """One whose arguments are called as ours are."""
    return InMemoryCache(maxsize=len(url + options))


def test_an_option_may_be_called_url(monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes to the function, as all others."""
    monkeypatch.setitem(sys.modules, "own_cache", sys.modules[__name__])
    cache = open_cache("langchain:own_cache:make_from_url", url="abc", options="de")
    assert cache._cache._maxsize == 5  # type: ignore[attr-defined]  # as it was told


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("mongodb://localhost", r"expected memory://, sqlite:///relative\.db, .*or module:Class"),
        ("mysql://localhost/db", "unknown cache 'mysql://': expected"),
        ("", "expected memory://"),
        ("cache.db", "expected memory://"),
        ("memory://x", "nothing may follow memory://"),
        ("null://x", "nothing may follow null://"),
        ("sqlite://", r"use sqlite:///relative\.db"),
        ("sqlite:///", r"use sqlite:///relative\.db"),
        ("sqlite://file.db", r"use sqlite:///relative\.db"),
        ("sqlite:///:memory:", "use memory://"),
        ("no_such_module:Class", "cannot import 'no_such_module'"),
        ("cache_backends:NoSuchClass", "the module 'cache_backends' has no 'NoSuchClass'"),
        ("cache_backends:__name__", "is not a class"),
        ("cache_backends:", "expected memory://"),
        ("cache_backends:InMemoryCache?size=1", "cannot make .*size"),
        ("builtins:object", "object is no cache: it has neither"),
    ],
)
def test_what_is_accepted_is_said(url: str, expected: str) -> None:
    """A mistake in the setting is answered with the way out."""
    with pytest.raises(ValueError, match=expected):
        open_cache(url)


@pytest.mark.parametrize(
    "url",
    [
        "postgress://me:secret@host/db",
        "postgres:/me:secret@host/db",
        "postgresql://me:1/secret@host/db",
        "postgresql://me:1#secret@host/db",
        "postgresql://me:1?secret@host/db",
        "postgresql://me:1@2/secret@host/db",
        "redis://me:1/secret@host/0",
        "redis://:secret#1@host/0",
        "cache_backends:InMemoryCache?password=secret",
    ],
)
def test_a_mistake_in_a_url_shows_no_password(url: str) -> None:
    """Also where its scheme is misspelt, or what should be percent-encoded is not."""
    with pytest.raises(ValueError) as told:
        open_cache(url)
    assert "secret" not in str(told.value)


@pytest.mark.parametrize(
    ("url", "has"),
    [
        ("memory://", "max_bytes"),
        ("sqlite:///file.db", "max_bytes, busy_timeout"),
        ("redis://localhost:1", "prefix, ttl, timeout, max_connections"),
        ("postgresql://localhost:1/db", "schema, max_connections, timeout, max_bytes"),
    ],
)
@pytest.mark.parametrize("option", ["colour", "url", "make"])
def test_an_unknown_option_is_named(url: str, has: str, option: str) -> None:
    """Options that a cache does not have are not swallowed; those that it has are told."""
    with pytest.raises(ValueError, match=f"with .*{option}: it has no option {option}; .* {has}"):
        open_cache(url, **{option: "red"})


def test_a_class_of_ones_own_takes_no_options() -> None:
    """It is told by its URL; a bound that would not hold is not taken in silence."""
    with pytest.raises(
        ValueError, match=r"max_bytes is not for a class of your own: .*\?name=value"
    ):
        open_cache("cache_backends:InMemoryCache", max_bytes=10)


def test_a_driver_is_loaded_for_those_who_ask_for_it() -> None:
    """Importing the package does not import SQLite; naming the class does."""
    program = (
        "import sys, cache_backends\n"
        "cache_backends.open_cache('memory://')\n"
        "assert 'apsw' not in sys.modules\n"
        "cache_backends.SQLiteCache\n"
        "assert 'apsw' in sys.modules\n"
    )
    root = Path(cache_backends.__file__).parents[1]
    assert subprocess.run([sys.executable, "-c", program], cwd=root, check=False).returncode == 0


@pytest.mark.parametrize(
    ("module", "asking", "extra"),
    [
        ("redis", "from cache_backends import RedisCache", "redis"),
        ("asyncpg", "from cache_backends import PostgresCache", "postgres"),
        ("langchain_core", "import cache_backends.langchain", "langchain"),
        ("redis", "cache_backends.open_cache('redis://localhost')", "redis"),
        ("asyncpg", "cache_backends.open_cache('postgres://localhost/db')", "postgres"),
        ("langchain_core", "cache_backends.open_cache('langchain:a:b')", "langchain"),
    ],
)
def test_an_extra_that_is_missing_is_named(module: str, asking: str, extra: str) -> None:
    """Once, whoever asks for what it brings; all that needs none can be had."""
    program = (
        "import sys\n"
        f"sys.modules[{module!r}] = None\n"
        "from cache_backends import *\n"
        "import cache_backends\n"
        "try:\n"
        f"    {asking}\n"
        "except (ImportError, ValueError) as exc:\n"
        f"    assert str(exc).count('install llm-cache-proxy[{extra}]') == 1, exc\n"
        "else:\n"
        "    raise AssertionError\n"
    )
    root = Path(cache_backends.__file__).parents[1]
    assert subprocess.run([sys.executable, "-c", program], cwd=root, check=False).returncode == 0


def test_all_that_is_promised_is_there() -> None:
    """Every public name can be had, and no other."""
    for name in [*cache_backends.__all__, "PostgresCache", "RedisCache"]:
        assert getattr(cache_backends, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'DiskCache'"):
        cache_backends.DiskCache  # noqa: B018 - asking is what is tested
    assert issubclass(SQLiteCache, EntryCache)
