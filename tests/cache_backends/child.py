"""What another process does: `python -m tests.cache_backends.child MODE PATH NAME`."""

from __future__ import annotations

import asyncio
import hashlib
import resource
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import count

from cache_backends import CacheError, Entry, Generation, Key, SQLiteCache
from cache_backends.shared import EVERYTHING, Filter


def answer(prompt: str) -> list[Generation]:
    """An answer of some size that says whether it is whole and whose it is."""
    digest = hashlib.sha256(prompt.encode()).hexdigest()
    return [Generation(digest * (1 + len(prompt) % 7 * 40)), Generation(digest)]


def write(cache: SQLiteCache, name: str) -> None:
    """Store answers until killed; a line for each that was acknowledged."""

    def work(thread: int) -> None:
        for turn in count():
            prompt = f"{name} {thread} {turn}"
            cache.update(prompt, "llm", answer(prompt))
            say(prompt)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))


def share(cache: SQLiteCache, name: str) -> None:
    """Store a hundred answers of one's own and a hundred that everyone stores; tell the fact."""
    for turn in range(100):
        for prompt in (f"{name} {turn}", f"all {turn}"):
            cache.update(prompt, "llm", answer(prompt))
            assert cache.lookup(prompt, "llm") == answer(prompt)
    say(asyncio.run(cache.fact("secret", name)))


def fill(cache: SQLiteCache, name: str) -> None:
    """Store until the disk is full (a limit on the size of files), then read."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20))
    cache.update("first", "llm", answer("first"))
    try:
        for turn in range(1000):
            cache.update(f"{name} {turn}", "llm", [Generation("x" * 20_000)])
    except CacheError as error:
        say(str(error))
    assert cache.lookup("first", "llm") == answer("first")
    say("read on")


def leave(cache: SQLiteCache, name: str) -> None:
    """Store one answer and end without closing."""
    cache.update(name, "llm", answer(name))
    assert cache.lookup(name, "llm") == answer(name)


def purge(cache: SQLiteCache, name: str) -> None:
    """Announce purges until killed; a line for each that is in the log."""
    for turn in count():
        say(str(asyncio.run(cache.announce(Filter(tag=f"{name} {turn}")))))


def purge_some(cache: SQLiteCache, name: str) -> None:
    """Announce a hundred purges, as others do; tell their numbers."""
    for turn in range(100):
        say(str(asyncio.run(cache.announce(Filter(tag=f"{name} {turn}")))))


def take_turns(cache: SQLiteCache, name: str) -> None:
    """Hold a lease fifty times, and whenever it does so store an entry that is alone."""

    async def work() -> None:
        for _ in range(50):
            while not await cache.claim("turn", name, 60):
                pass
            await cache.put(Entry(Key.of(name, "inside"), [Generation(name)], 0.0))
            assert [each.prompt for each in (await cache.page(EVERYTHING)).entries] == [name]
            await cache.delete(Key.of(name, "inside").id)
            await cache.release("turn", name)

    asyncio.run(work())
    say("done")


def page(cache: SQLiteCache, name: str) -> None:
    """List what is stored; tell how many there are."""
    say("begun")
    said = asyncio.run(cache.page(EVERYTHING, limit=1000))
    say(f"{name} {len(said.entries)}")


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    modes = {
        each.__name__: each
        for each in (write, share, fill, leave, purge, purge_some, take_turns, page)
    }
    _, mode, path, name = sys.argv
    modes[mode](SQLiteCache(path), name)
