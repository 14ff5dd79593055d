"""Looks at all that a proxy needs, one thing after the other, and changes nothing for good."""

from __future__ import annotations

import asyncio
import os
import shutil
import stat
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from email.utils import parsedate_to_datetime
from pathlib import Path

import httpx

from cache_backends import CacheError, Entry, EntryCache, Generation, Key
from cache_backends.base import Unsupported
from proxy import app as parts
from proxy.cli.doctor_ports import ports
from proxy.cli.findings import OK, WARNING, WRONG, Finding, wrong
from proxy.cli.options import TOKEN_VARIABLE
from proxy.config import Settings, is_loopback
from proxy.config.redacted import cache_place
from proxy.errors import ProxyError
from proxy.local_token import TokenError, known_token, token_path
from proxy.models import Head, Provider
from proxy.providers import build_providers

PATIENCE_S = 15.0
# Entries that expire, and stores that several share, need clocks that agree.
MAX_CLOCK_S = 30.0
MIN_FREE_BYTES = 200 * 2**20
_PROBE = Key.of("llm-cache-proxy doctor", "a probe; it may be removed at any time")
_PROBE_S = 60.0


async def examine(config: Path | None, settings: Settings) -> AsyncIterator[Finding]:
    name = config or os.environ.get("LLM_CACHE_PROXY_CONFIG")
    yield Finding("config", OK, str(name) if name else "the defaults and the environment")
    for finding in (*_data_directory(), _token(settings), *_cache_file(settings)):
        yield finding
    yield await _cache(settings)
    async for finding in _providers(settings):
        yield finding
    async for finding in ports(config, settings):
        yield finding


def _data_directory() -> Iterator[Finding]:
    folder = token_path().parent
    if not folder.exists():
        yield _room_for("data", folder)
        return
    told = folder.stat()
    if told.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        yield Finding("data", WRONG, f"others can write to {folder}", f"chmod 700 {folder}")
    elif not os.access(folder, os.W_OK):
        yield Finding("data", WRONG, f"{folder} cannot be written to", f"chown it, {_me()}")
    else:
        yield Finding("data", OK, str(folder))


def _token(settings: Settings) -> Finding:
    if settings.admin.token is not None:
        return Finding("token", OK, "admin.token is set")
    if not is_loopback(settings.admin_host):
        way_out = f"set {TOKEN_VARIABLE} to what `openssl rand -hex 24` prints"
        return Finding("token", WARNING, "the admin API is off: no admin.token is set", way_out)
    try:
        known = known_token()
    except TokenError as error:
        return wrong("token", error)
    return Finding("token", OK, str(token_path()) if known else "is made at the first start")


def _cache_file(settings: Settings) -> Iterator[Finding]:
    if not settings.cache.url.startswith("sqlite:"):
        return
    path = Path(cache_place(settings.cache.url).partition("?")[0]).expanduser().absolute()
    if not path.exists():
        yield _room_for("cache file", path.parent)
    else:
        yield _own_file(path)
    folder = _there(path.parent)
    free = shutil.disk_usage(folder).free
    if free < MIN_FREE_BYTES:
        found = f"{free / 2**20:,.0f} MiB are free at {folder}"
        yield Finding("disk", WARNING, found, "make room, or set cache.max_bytes")


def _own_file(path: Path) -> Finding:
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        found = f"others can read {path}, and so all answers in it"
        return Finding("cache file", WRONG, found, f"chmod 600 {path}")
    if not os.access(path, os.R_OK | os.W_OK):
        found = f"{path} cannot be read and written"
        return Finding("cache file", WRONG, found, f"chown it, {_me()}")
    return Finding("cache file", OK, str(path))


def _room_for(name: str, folder: Path) -> Finding:
    above = _there(folder)
    if os.access(above, os.W_OK | os.X_OK):
        return Finding(name, OK, f"{folder} is made at the first start")
    way_out = f"make it, so that it can be written by this user, {_me()}"
    return Finding(name, WRONG, f"{folder} cannot be made", way_out)


def _there(folder: Path) -> Path:
    """The folder, or the first above it that there is."""
    return next(each for each in (folder, *folder.parents) if each.exists())


def _me() -> str:
    return f"user {os.geteuid()}"


async def _cache(settings: Settings) -> Finding:
    url = settings.cache.url
    place = cache_place(url)
    if url.startswith("memory:"):
        return Finding("cache", OK, "in memory: it is empty after a restart")
    if url.startswith("null:"):
        return Finding("cache", WARNING, "null:// keeps nothing", "set cache.url")
    cache = parts.build_cache(settings)
    if settings.cache.records:  # it was read by this; closing it could drop what is not used
        return Finding("cache", OK, f"{place} can be read")
    began = time.monotonic()
    try:
        async with asyncio.timeout(PATIENCE_S):
            fault = await _probe(cache)
    except TimeoutError:
        fault = f"{place} does not answer within {PATIENCE_S:g} s"
    except CacheError as error:
        return Finding("cache", WRONG, f"{place}: {error}", _way_to(url))
    except Exception as error:  # noqa: BLE001 - any class can be a cache, and raise anything
        return Finding("cache", WRONG, f"{place}: {type(error).__name__}", _way_to(url))
    finally:
        with suppress(Exception):
            await cache.aclose()
    if fault:
        return Finding("cache", WRONG, fault, _way_to(url))
    took = (time.monotonic() - began) * 1000
    return Finding("cache", OK, f"{place}: stored, read and removed in {took:,.0f} ms")


async def _probe(cache: EntryCache) -> str:
    """Store an entry, read it and remove it; what is wrong with that."""
    now = time.time()
    answer = [Generation(f"probe of {now}")]
    ends = now + _PROBE_S
    await cache.put(Entry(_PROBE, answer, stored_at=now, expires_at=ends, retained_until=ends))
    found = await cache.get(_PROBE)
    with suppress(Unsupported):
        await cache.delete(_PROBE.id)
    if found is None:
        return "what was stored is not found again"
    return "" if found.generations == answer else "something else is found than was stored"


def _way_to(url: str) -> str:
    if url.startswith("sqlite:"):
        return "see that the file is on a local disk with room, and this user's"
    return "see that the server runs and can be reached, and that cache.url is right"


async def _providers(settings: Settings) -> AsyncIterator[Finding]:
    """Whether each can be reached, as the proxy itself would; and what time it is there."""
    known = build_providers(settings)
    names = dict.fromkeys([settings.upstream.provider, *settings.providers])
    clock: Finding | None = None
    for name in names:
        provider = known.named(name)
        if provider is None:
            continue
        asked_at = time.time()
        try:
            head = await _ask(settings, provider)
        except ProxyError as error:
            yield wrong(name, error)
        except TimeoutError:
            found = f"{provider.base_url} does not answer within {PATIENCE_S:g} s"
            yield Finding(name, WRONG, found, "see whether this machine can reach it")
        else:
            yield _reached(name, provider, head)
            clock = clock or _clock(head, (asked_at + time.time()) / 2)
    if clock is not None:
        yield clock


async def _ask(settings: Settings, provider: Provider) -> Head:
    upstream = parts.build_upstream(settings, None)
    try:
        async with asyncio.timeout(PATIENCE_S):
            arrival = await upstream.send("GET", provider.base_url, [], None, decode=False)
            await arrival.aclose()
    finally:
        await upstream.aclose()
    return arrival.head


def _reached(name: str, provider: Provider, head: Head) -> Finding:
    # Without a key, at a path that is none: what counts is that HTTP comes back.
    found = f"{provider.base_url} answers (status {head.status}, without a key)"
    if head.status >= httpx.codes.INTERNAL_SERVER_ERROR:
        return Finding(name, WARNING, found, "see whether the provider is in trouble")
    return Finding(name, OK, found)


def _clock(head: Head, now: float) -> Finding | None:
    dates = [value.decode("latin-1") for key, value in head.headers if key.lower() == b"date"]
    try:
        ahead = now - parsedate_to_datetime(dates[0]).timestamp()
    except (IndexError, ValueError):
        return None
    if abs(ahead) <= MAX_CLOCK_S:
        return Finding("clock", OK, "as the provider's")
    way = "ahead of" if ahead > 0 else "behind"
    found = f"{abs(ahead):,.0f} s {way} the provider's"
    return Finding("clock", WRONG, found, "set it by NTP: timedatectl set-ntp true")
