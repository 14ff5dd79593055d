"""Where a Redis is: what a URL says, and how it is told without its secrets."""

from __future__ import annotations

from inspect import signature
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from redis.asyncio.connection import AbstractConnection, SSLConnection, parse_url

KINDS = {
    "redis": "single",
    "rediss": "single",
    "redis+cluster": "cluster",
    "rediss+cluster": "cluster",
    "redis+sentinel": "sentinel",
    "rediss+sentinel": "sentinel",
}
_PORTS = {"single": 6379, "cluster": 6379, "sentinel": 26379}

SENTINEL_OPTIONS = {"sentinel_username", "sentinel_password"}

Hosts = tuple[tuple[str, int], ...]


class Place(NamedTuple):
    """The servers, and what connections to them are made with (as redis-py names it)."""

    kind: str  # single, cluster, sentinel
    shown: str
    hosts: Hosts
    service: str  # what sentinels call it
    tls: bool
    options: dict[str, Any]

    @classmethod
    def of(cls, url: str) -> Place:
        """Read a URL; `ValueError` says what is wrong with it, without what it holds."""
        scheme, _, rest = url.partition("://")
        if scheme not in KINDS:
            raise ValueError(f"a Redis URL begins with one of {', '.join(KINDS)}")
        kind, authority, path = KINDS[scheme], *_split(rest)
        login, _, servers = authority.rpartition("@")
        hosts = tuple(_host(server, _PORTS[kind]) for server in servers.split(","))
        if len(hosts) > 1 and kind == "single":
            raise ValueError(f"{scheme}:// takes one host; several are for a cluster or sentinels")
        service, database = _service_and_database(kind, path)
        if kind == "cluster" and database:
            raise ValueError("a cluster has only database 0")
        options = _options(login, url, tls=scheme.startswith("rediss"))
        shown = f"{scheme}://{','.join(f'{host}:{port}' for host, port in hosts)}"
        if kind != "cluster":
            shown += f"/{service}/{database}" if service else f"/{database}"
            options["db"] = database
        return cls(kind, shown, hosts, service, scheme.startswith("rediss"), options)


def _split(rest: str) -> tuple[str, str]:
    authority, _, path = rest.partition("?")[0].partition("/")
    return authority, path


def _host(server: str, port: int) -> tuple[str, int]:
    try:
        parts = urlsplit(f"//{server}")
        return parts.hostname or "localhost", parts.port or port
    except ValueError as exc:
        raise ValueError("the URL's host and port cannot be read") from exc


def _service_and_database(kind: str, path: str) -> tuple[str, int]:
    service, _, database = path.rpartition("/") if kind == "sentinel" else ("", "", path)
    if kind == "sentinel" and not service:
        service, database = database, "0"
    if kind == "sentinel" and not service:
        raise ValueError("name the service: redis+sentinel://host:26379/service/0")
    if not (database or "0").isdecimal():
        raise ValueError("the database must be a number")
    return unquote(service), int(database or "0")


def _options(login: str, url: str, *, tls: bool) -> dict[str, Any]:
    """User, password and the query, as redis-py reads them."""
    if "#" in login:
        raise ValueError("a # in the URL's user or password must be written %23")
    query = url.partition("?")[2]
    options: dict[str, Any] = dict(parse_url(f"redis://{login}@host?{query}"))
    for name in ("host", "port", "db", "connection_class"):
        options.pop(name, None)
    kinds = (AbstractConnection, SSLConnection) if tls else (AbstractConnection,)
    known = {name for kind in kinds for name in signature(kind).parameters}
    for name in options.keys() - known - SENTINEL_OPTIONS:
        raise ValueError(f"a connection to Redis has no option {name!r}")
    return options
