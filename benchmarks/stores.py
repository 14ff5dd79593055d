"""The stores whose backends are measured: what they are called, and how one is made."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from benchmarks import postgres
from benchmarks.servers import Cores, Servers


class Missing(Exception):
    """The programs of a server are not on this machine; the message says how to get them."""


class Place(NamedTuple):
    """Where stores are made: servers run on the core that asks and answers others."""

    servers: Servers
    cores: Cores
    folder: Path


class Work(NamedTuple):
    """What a worker is told to do, and with how many tasks at a time."""

    what: str
    tasks: int = 1


class Store(NamedTuple):
    """A kind of store. `make` makes a new one under a name and returns its URL."""

    title: str
    make: Callable[[Place, str], str]
    taken: str  # what is counted as the space it takes
    lookups: tuple[Work, ...]
    storing: tuple[Work, ...]
    most: int = 1_000_000  # entries
    judged: bool = True


def _dict(_: Place, __: str) -> str:
    return "benchmarks.bare_dict:DictCache"


def _memory(_: Place, __: str) -> str:
    return "memory://"


def _sqlite(place: Place, name: str) -> str:
    return place.servers.sqlite(name)


def _redis(place: Place, name: str) -> str:
    """A Redis that keeps nothing on disk."""
    program = shutil.which("redis-server") or shutil.which("valkey-server")
    if program is None:
        raise Missing("redis-server is missing: apt-get install redis-server")

    def command(port: str) -> list[str]:
        return [program, "--port", port, "--bind", "127.0.0.1", "--save", ""]

    started = place.servers.start(name, place.cores.load, command, cwd=place.folder)
    return f"redis://127.0.0.1:{started.port}/0"


def _postgres(place: Place, name: str) -> str:
    programs = postgres.programs()
    if programs is None:
        raise Missing("postgresql is missing: apt-get install postgresql")
    return postgres.start(place.servers, programs, place.folder / name, place.cores.load)


_LOOKUP, _HOT, _STORE = Work("lookup"), Work("hot"), Work("store")
_LOOKUPS, _STORING = (_LOOKUP, Work("lookup", 32), _HOT), (_STORE, Work("store", 32))

# Where nobody waits, one task has all of the core.
STORES = (
    Store("a bare dict", _dict, "RSS", (_LOOKUP,), (), judged=False),
    Store("memory", _memory, "RSS", (_LOOKUP, _HOT), (_STORE,)),
    Store("SQLite", _sqlite, "file", _LOOKUPS, _STORING),
    Store("Redis", _redis, "used_memory", _LOOKUPS, _STORING),
    Store("Postgres", _postgres, "database", _LOOKUPS, _STORING, most=100_000),
)
