"""What another process does: `-m tests.cache_backends.postgres_child MODE URL SCHEMA NAME`."""

from __future__ import annotations

import asyncio
import sys

from cache_backends import PostgresCache
from cache_backends.shared import EVERYTHING
from tests.cache_backends.child import answer, say


async def share(cache: PostgresCache, name: str) -> None:
    """Store a hundred answers of one's own and a hundred that everyone stores; tell the fact."""
    for turn in range(100):
        for prompt in (f"{name} {turn}", f"all {turn}"):
            await cache.aupdate(prompt, "llm", answer(prompt))
            assert await cache.alookup(prompt, "llm") == answer(prompt)
    say(f"{await cache.fact('secret', name)} {(await cache.purges(0)).store}")


async def announce(cache: PostgresCache, name: str) -> None:
    """Append to the log a hundred times; tell the numbers."""
    numbers = [await cache.announce(EVERYTHING) for _ in range(100)]
    say(" ".join(map(str, numbers)))


async def claim(cache: PostgresCache, name: str) -> None:
    """Try to take two hundred leases, the same as everyone; tell which one got."""
    for turn in range(200):
        if await cache.claim(f"lease {turn}", name, 60):
            say(str(turn))


async def main(mode: str, url: str, schema: str, name: str) -> None:
    cache = PostgresCache(url, schema=schema, timeout=20)
    await {"share": share, "announce": announce, "claim": claim}[mode](cache, name)
    await cache.aclose()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
