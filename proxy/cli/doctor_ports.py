"""Whether the proxy could listen where it should; or who does, and whether it lets us in."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import httpx

from proxy.cli.endings import OutOfReach, Refused
from proxy.cli.findings import OK, WARNING, WRONG, Finding
from proxy.cli.options import TOKEN_VARIABLE
from proxy.cli.remote import Place, Remote, admin_url
from proxy.config import Settings
from proxy.errors import ConfigError

PATIENCE_S = 15.0
_STATES = ("ready", "starting", "draining")


async def ports(config: Path | None, settings: Settings) -> AsyncIterator[Finding]:
    server, ops = settings.server, settings.ops
    yield await _port("port", server.host, server.port, "server.port", settings)
    if ops.port is not None:
        yield await _port("ops port", settings.admin_host, ops.port, "ops.port", settings)
    if (running := await asyncio.to_thread(_running, config, settings)) is not None:
        yield running


async def _port(name: str, host: str, port: int, setting: str, settings: Settings) -> Finding:
    if port == 0:
        return Finding(name, OK, "any that is free")
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as exc:
        if exc.errno == errno.EADDRINUSE:
            return await _taken(name, port, setting, settings)
        found = f"{host}:{port} cannot be listened at: {exc.strerror}"
        return Finding(name, WRONG, found, f"choose another host or {setting}")
    return Finding(name, OK, f"{host}:{port} is free: no proxy runs there")


async def _taken(name: str, port: int, setting: str, settings: Settings) -> Finding:
    at = settings.server.model_copy(update={"port": port})
    if name == "ops port":
        at = at.model_copy(update={"host": settings.admin_host})
    async with httpx.AsyncClient(trust_env=False, timeout=PATIENCE_S) as http:
        with suppress(httpx.HTTPError, ValueError, LookupError, AttributeError, TypeError):
            told = (await http.get(f"{at.url}/readyz")).json()
            if told.get("status") == "degraded":
                found = f"the proxy at {at.url} goes past its cache: {told['reason']}"
                return Finding(name, WARNING, found, "see what is said of the cache")
            if told.get("status") in _STATES:
                return Finding(name, OK, f"a proxy runs at {at.url}: {told['status']}")
            if (
                told["error"]["type"] == "llm_cache_proxy_error"
            ):  # health is told by the other listener
                return Finding(name, OK, f"a proxy runs at {at.url}")
    found = f"{at.url} is taken by another program"
    return Finding(name, WRONG, found, f"end it, or choose another {setting}")


def _running(config: Path | None, settings: Settings) -> Finding | None:
    """Whether a proxy that runs is opened by the token that is known here."""
    try:
        place = Place.find(config, url=admin_url(settings))
        with Remote(place, PATIENCE_S) as api:
            mode = api.get("/mode")["mode"]
    except (OutOfReach, ConfigError):
        return None  # none runs, or no token can be read: port and token tell
    except Refused as error:
        if error.status == httpx.codes.FORBIDDEN:
            return None  # it is off, as the token tells
        found = str(error)
        if error.status == httpx.codes.UNAUTHORIZED:
            found = f"{place.url}/admin does not know the token that is known here"
        return Finding("admin", WRONG, found, f"set {TOKEN_VARIABLE} as it was set for serve")
    return Finding("admin", OK, f"{place.url}/admin/ opens; the mode is {mode}")
