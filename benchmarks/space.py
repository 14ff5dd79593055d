"""How many bytes a store takes, as its system or its server counts them."""

from __future__ import annotations

import gc
import os
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg  # type: ignore[import-untyped]  # it comes without types
from redis import asyncio as redis


async def taken(url: str) -> int:
    """Of SQLite the file, of a server the whole database, of memory what this process takes."""
    parts = urlsplit(url)
    if parts.scheme == "sqlite":
        return _file(Path(parts.path[1:]))
    if parts.scheme == "redis":
        return await _redis(url)
    if parts.scheme == "postgresql":
        return await _postgres(url)
    return _resident()


def _resident() -> int:
    gc.collect()
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def _file(path: Path) -> int:
    # Without the log: it is folded in when the last one closes the file.
    return path.stat().st_size


async def _redis(url: str) -> int:
    async with redis.Redis.from_url(url) as client:
        told = await client.info("memory")
    return int(told["used_memory"])


async def _postgres(url: str) -> int:
    connection = await asyncpg.connect(url)
    try:
        size: int = await connection.fetchval("SELECT pg_database_size(current_database())")
    finally:
        await connection.close()
    return size
