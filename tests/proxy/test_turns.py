"""Turns: one process fetches, the others wait for what it brings, and nobody for nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack

import pytest
import pytest_asyncio

from cache_backends.base import Entry, Generation, Key
from cache_backends.memory import MemoryCache
from proxy.store import Store
from proxy.turns import Alone, Turn, Turns
from tests.fakes.provider import Gate
from tests.fakes.shared_cache import FakeSharedCache, World

KEY = Key.of("asked", "how")
ENTRY = Entry(KEY, [Generation("said")], stored_at=1.0)
LEASE_S = 0.15
# Enough for whoever waits to look several times, and less than a lease.
MOMENT_S = 0.08


class Process:
    """One of those that ask the same question."""

    def __init__(self, world: World, *, lease_s: float, patience_s: float) -> None:
        self.cache = FakeSharedCache(world)
        self.store = Store(self.cache, lookup_timeout_s=0.1)
        self.turns = Turns(self.store, lease_s=lease_s, patience_s=patience_s)
        self.obsolete = False

    async def take(self) -> Turn:
        return await self.turns.take([KEY], self._look, lambda: self.obsolete)

    def taking(self) -> asyncio.Task[Turn]:
        return asyncio.create_task(self.take())

    async def _look(self) -> Sequence[Entry] | None:
        found = [entry for entry in await self.store.find([KEY]) if entry]
        return found or None


Start = Callable[..., Process]


@pytest.fixture
def world() -> World:
    return World()


@pytest_asyncio.fixture
async def start(world: World) -> AsyncIterator[Start]:
    """`start()`: one more process; its leases are given back at the end."""
    async with AsyncExitStack() as stack:

        def start(lease_s: float = LEASE_S, patience_s: float = 60.0) -> Process:
            process = Process(world, lease_s=lease_s, patience_s=patience_s)
            stack.push_async_callback(process.turns.aclose)
            return process

        yield start


async def free(world: World) -> bool:
    """Is the lease given back, if it is given a moment?"""
    async with asyncio.timeout(5):
        while any("vain" not in name for name in world.leases):  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.005)
    return True


async def waits(task: asyncio.Task[Turn]) -> bool:
    done, _ = await asyncio.wait({task}, timeout=MOMENT_S)
    return not done


async def test_alone_everybody_fetches() -> None:
    """Nothing is asked of anybody."""

    async def look() -> None:
        raise AssertionError

    turn = await Alone().take([KEY], look, lambda: False)
    assert turn.found is None
    turn.end(True, None)


async def test_who_waits_is_given_what_was_stored(start: Start, world: World) -> None:
    """As soon as it is there, also before the turn has ended."""
    holder, *others = (start() for _ in range(4))
    turn = await holder.take()
    assert turn.found is None
    taking = [other.taking() for other in others]
    assert await waits(taking[0])
    world.store(ENTRY)
    for each in taking:
        assert (await each).found == [ENTRY]
    turn.end(True, None)
    assert await free(world)


async def test_what_was_stored_meanwhile_is_found_by_who_comes_late(
    start: Start, world: World
) -> None:
    """He looked for it before it was there, and asks for his turn after it has ended."""
    world.store(ENTRY)
    assert (await start().take()).found == [ENTRY]
    assert await free(world)


async def test_a_turn_lasts_as_long_as_it_takes(start: Start) -> None:
    """The lease is extended while something is fetched."""
    turn = await start().take()
    taking = start().taking()
    for _ in range(4):
        assert await waits(taking)
    turn.end(True, None)
    (await taking).end(True, None)


async def test_after_a_vain_fetch_nobody_waits_for_another(start: Start, world: World) -> None:
    """What could not be stored once is fetched by all at the same time, not one after another."""
    holder, *others = (start() for _ in range(5))
    turn = await holder.take()
    taking = [other.taking() for other in others]
    assert await waits(taking[0])
    turn.end(False, None)
    turns = await asyncio.wait_for(asyncio.gather(*taking), 3)
    assert [each.found for each in turns] == [None] * 4
    assert await free(world)


async def test_a_dead_holder_is_waited_for_no_longer_than_the_lease(
    start: Start, world: World
) -> None:
    """Then one of those who wait fetches, and the others go on waiting for it."""
    turn = await start().take()
    turn.task.cancel()  # type: ignore[attr-defined]  # as if its process were killed
    began = time.monotonic()
    taking = {start().taking() for _ in range(3)}
    done, left = await asyncio.wait(taking, timeout=5, return_when=asyncio.FIRST_COMPLETED)
    assert time.monotonic() - began >= LEASE_S * 0.8
    assert len(done) == 1
    for each in left:
        assert await waits(each)
    world.store(ENTRY)
    done.pop().result().end(True, None)
    for each in left:
        assert (await each).found == [ENTRY]


async def test_a_turn_ends_with_a_slow_save(start: Start, world: World) -> None:
    """Nobody fetches while it is on its way; if it fails, the next ones do."""
    for saved in (True, False):
        gate = Gate()

        async def save(gate: Gate = gate, saved: bool = saved) -> bool:
            await gate.enter()
            if saved:
                world.store(ENTRY)
            return saved

        world.entries.clear()
        turn = await start().take()
        turn.end(False, asyncio.create_task(save()))
        taking = start().taking()
        assert await waits(taking)
        await gate.open()
        assert (await taking).found == ([ENTRY] if saved else None)
        assert await free(world)


async def test_without_the_store_everybody_fetches(start: Start) -> None:
    """At once, and nothing more is asked of it."""
    process = start()
    process.cache.down = True
    for _ in range(2):
        assert (await process.take()).found is None
    assert process.cache.calls == ["claim"] * 2


async def test_who_has_waited_for_a_lookup_does_not_wait_for_a_turn(start: Start) -> None:
    """A store that did not answer just now is not asked again before the fetch."""
    process = start()
    process.cache.down = True
    await process.store.find([KEY])
    process.cache.calls.clear()
    assert (await process.take()).found is None
    assert process.cache.calls == []


async def test_a_store_that_does_not_answer_is_waited_for_like_a_lookup(start: Start) -> None:
    """Once, for its deadline; what it holds then ends by itself."""
    process = start()
    process.cache.gates["claim"] = gate = Gate()
    assert (await asyncio.wait_for(process.take(), 2)).found is None
    assert process.cache.calls == ["claim"]
    assert gate.waiting == 0


async def test_caches_without_leases_know_no_turns() -> None:
    """Memory is one process's own."""
    turns = Turns(Store(MemoryCache(max_bytes=2**20)))

    async def look() -> None:
        raise AssertionError

    for _ in range(2):
        assert (await turns.take([KEY], look, lambda: False)).found is None


async def test_patience_has_an_end(start: Start) -> None:
    """Then it is fetched all the same."""
    turn = await start().take()
    impatient = start(patience_s=MOMENT_S)
    assert (await asyncio.wait_for(impatient.take(), 2)).found is None
    turn.end(True, None)


async def test_within_a_process_nobody_waits_for_his_like(start: Start) -> None:
    """Who may share a fetch joins it; whoever does not had a reason, and it would be a deadlock
    for one who was to be faster than the first."""
    process = start()
    turn = await process.take()
    assert not await waits(process.taking())
    turn.end(True, None)


async def test_who_leaves_gives_back_what_he_holds(start: Start, world: World) -> None:
    """Also in the middle of a last look at the store."""
    process = start()
    process.cache.gates["get"] = gate = Gate()
    taking = process.taking()
    await gate.reached()
    taking.cancel()
    assert await free(world)
    assert not process.turns._held


async def test_for_what_was_purged_nobody_waits(start: Start, world: World) -> None:
    """It goes on for its listeners; others need not wait for what they would not be given."""
    holder, other = start(), start()
    turn = await holder.take()
    taking = other.taking()
    assert await waits(taking)
    holder.obsolete = True
    (await asyncio.wait_for(taking, 2)).end(True, None)
    turn.end(True, None)
    assert await free(world)


async def test_at_the_end_all_leases_are_given_back(start: Start, world: World) -> None:
    """So that other processes need not wait for a restart of this one."""
    process = start()
    turn = await process.take()
    turn.end(False, None)
    await process.turns.aclose()
    assert all("vain" in name for name in world.leases)
    assert not process.turns._held


async def test_different_questions_do_not_wait_for_each_other(start: Start) -> None:
    """Nor does a batch for its parts."""
    first, process = await start().take(), start()
    for keys in ([Key.of("other", "how")], [KEY, KEY]):
        turn = await process.turns.take(keys, process._look, lambda: False)
        assert turn.found is None
        turn.end(True, None)
    first.end(True, None)
