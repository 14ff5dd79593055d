"""The store: deadlines, the breaker, and no answer that is another's."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

import pytest

from cache_backends.base import CacheError, Entry, Generation, Key, NullCache
from cache_backends.memory import MemoryCache
from cache_backends.plain import PlainCache
from proxy.store import MAX_PENDING_SAVES, Breaker, Store
from tests.fakes.broken_cache import BrokenCache, Fault
from tests.fakes.clock import FakeClock
from tests.fakes.dict_cache import DictCache
from tests.fakes.provider import Gate
from tests.fakes.shared_cache import FakeSharedCache, World

KEY = Key.of("asked", "how")
ENTRY = Entry(KEY, [Generation("said")], stored_at=1.0)


def memory() -> MemoryCache:
    return MemoryCache(max_bytes=2**20)


async def kept(store: Store) -> list[Entry | None]:
    await store.save([ENTRY], patience_s=1.0)
    return await store.find([KEY])


async def test_what_was_saved_is_found() -> None:
    """By its key, and at hand if the cache is in memory."""
    store = Store(memory())
    assert await kept(store) == [ENTRY]
    assert store.peek([KEY]) == [ENTRY]
    assert store.peek([KEY, Key.of("other", "how")]) is None


async def test_a_lookup_has_a_deadline() -> None:
    """What does not come in time is a miss."""
    store = Store(BrokenCache(fault=Fault.HANG), lookup_timeout_s=0.01)
    assert await asyncio.wait_for(store.find([KEY, KEY]), 1) == [None, None]


async def test_a_save_has_a_deadline_and_a_patience() -> None:
    """Whoever waits for it waits shorter than it may take."""
    store = Store(BrokenCache(fault=Fault.HANG), save_timeout_s=0.02)
    late = await store.save([ENTRY], patience_s=0.001)
    assert isinstance(late, asyncio.Task)
    assert await late is False
    assert await store.save([ENTRY], patience_s=1.0) is False


@pytest.mark.parametrize(
    "found",
    [
        [Entry(Key.of("another", "how"), [Generation("x")], 1.0)],
        [Entry(KEY._replace(prompt="another"), [Generation("x")], 1.0)],
        [],
        [ENTRY, ENTRY],
        ["rubbish"],
        None,
    ],
)
async def test_what_is_not_the_entry_asked_for_is_a_miss(found: Any) -> None:
    """Another's key, too many, too few, or no entries at all."""

    class Odd(NullCache):
        async def get_many(self, keys: Sequence[Key]) -> list[Entry | None]:
            return found  # type: ignore[no-any-return]  # that is the point

        def peek(self, key: Key) -> Entry | None:
            return found[0] if found and found[0] is not ENTRY else None

    assert await Store(Odd()).find([KEY]) == [None]
    assert Store(Odd()).peek([KEY]) is None


async def test_five_faults_in_ten_seconds_open_the_breaker() -> None:
    """The cache is not asked any more, and the reason is told by its kind only."""
    cache = BrokenCache(memory())
    store = Store(cache, scope_secret=b"s", clock=FakeClock())
    for made in range(Breaker.FAULTS):
        assert len(cache.calls) == made
        await store.find([KEY])
    assert store.degraded == "cache lookup failed: OSError"
    calls = len(cache.calls)
    assert await store.find([KEY]) == [None]
    assert len(cache.calls) == calls


async def test_faults_that_lie_far_apart_do_not_open_the_breaker() -> None:
    """Nor do those with a success between them."""
    cache = BrokenCache(memory())
    store = Store(cache, scope_secret=b"s", clock=(clock := FakeClock()))
    for _ in range(2 * Breaker.FAULTS):
        await store.find([KEY])
        clock.advance(Breaker.WINDOW_S / (Breaker.FAULTS - 1))
    clock.advance(Breaker.WINDOW_S)
    for number in range(2 * Breaker.FAULTS):
        cache.fault = Fault.NONE if number % 4 == 3 else Fault.ERROR
        await store.find([KEY])
    assert len(cache.calls) == 4 * Breaker.FAULTS


async def test_a_single_fault_is_told_for_a_while() -> None:
    """Where little is asked, the cache is in trouble long before it is skipped."""
    cache = BrokenCache(memory())
    store = Store(cache, scope_secret=b"s", clock=(clock := FakeClock()))
    await store.find([KEY])
    assert store.degraded == "cache lookup failed: OSError"
    clock.advance(Breaker.WINDOW_S)
    assert not store.degraded
    await store.find([KEY])
    cache.fault = Fault.NONE
    await store.find([KEY])
    assert not store.degraded


async def test_a_skipped_cache_is_tried_again_now_and_then() -> None:
    """Every two seconds, and no request has to: it stays skipped until that succeeds."""
    cache = BrokenCache(memory())
    store = Store(cache, scope_secret=b"s", clock=(clock := FakeClock()))
    for _ in range(Breaker.FAULTS):
        await store.find([KEY])
    clock.advance(Breaker.RETRY_S)
    calls = len(cache.calls)
    assert await store.find([KEY]) == [None]
    for _ in range(5):
        await store.try_again()
    assert len(cache.calls) == calls + 1
    assert store.degraded
    cache.fault = Fault.NONE
    clock.advance(Breaker.RETRY_S)
    await store.try_again()
    assert not store.degraded
    assert await kept(store) == [ENTRY]


async def test_a_cache_that_works_is_not_tried() -> None:
    """Nor one whose secret is not known yet: that is asked for elsewhere."""
    cache = BrokenCache(memory(), Fault.NONE)
    await Store(cache, scope_secret=b"s").try_again()
    await Store(cache).try_again()
    assert cache.calls == []


async def test_a_cache_that_takes_again_what_it_is_given_is_found_out() -> None:
    """Though nobody has anything to save: who asks how it is should not be told of yesterday."""
    clock, cache = FakeClock(), FakeSharedCache(World())
    store = Store(cache, scope_secret=b"s", clock=clock)
    cache.down = True
    for _ in range(Breaker.FAULTS):
        await store.save([ENTRY], patience_s=1.0)
    cache.down = False
    await store.try_again()
    assert store.degraded
    clock.advance(Breaker.RETRY_S)
    await store.try_again()
    assert (store.degraded, store.state) == ("", "open")


async def test_a_save_is_tried_again_without_anybody_waiting() -> None:
    """One every two seconds; its answer is delivered meanwhile."""
    cache = BrokenCache(memory())
    store = Store(cache, scope_secret=b"s", clock=(clock := FakeClock()))
    for _ in range(Breaker.FAULTS):
        assert await store.save([ENTRY], patience_s=1.0) is False
    cache.fault = Fault.HANG
    clock.advance(Breaker.RETRY_S)
    trial = await store.save([ENTRY], patience_s=60.0)
    assert isinstance(trial, asyncio.Task)
    assert await store.save([ENTRY], patience_s=60.0) is False
    trial.cancel()


async def test_late_faults_do_not_open_the_breaker_again() -> None:
    """Calls that began while the cache was down and end when it answers again."""
    cache = BrokenCache(memory(), Fault.HANG)
    store = Store(cache, save_timeout_s=0.05, scope_secret=b"s", clock=(clock := FakeClock()))
    late = [await store.save([ENTRY], patience_s=0.0) for _ in range(2 * Breaker.FAULTS)]
    cache.fault = Fault.ERROR
    for _ in range(Breaker.FAULTS):
        await store.save([ENTRY], patience_s=1.0)
    cache.fault = Fault.NONE
    clock.advance(Breaker.RETRY_S)
    assert await store.save([ENTRY], patience_s=1.0) is not False
    await asyncio.sleep(0)
    assert not store.degraded
    assert [await save for save in late if not isinstance(save, bool)] == [False] * len(late)
    assert not store.degraded


async def test_that_purges_could_be_read_says_nothing_of_lookups() -> None:
    """They may be known already, with nothing asked of the backend: faults still add up."""
    cache = BrokenCache(memory())
    store = Store(cache, scope_secret=b"s", clock=FakeClock())
    for _ in range(Breaker.FAULTS):
        await store.find([KEY])
        await store.keep_up()
    assert store.degraded


async def test_purges_that_cannot_be_read_are_faults() -> None:
    """Where nothing is looked up they are all that is heard of the backend."""

    class Unreadable(NullCache):
        async def keep_up(self) -> None:
            raise OSError

    store = Store(Unreadable(), scope_secret=b"s", clock=FakeClock())
    for _ in range(Breaker.FAULTS):
        await store.keep_up()
    assert store.degraded == "cache reading of purges failed: OSError"


async def test_a_lease_that_comes_too_late_keeps_no_answer_from_being_saved() -> None:
    """A save may take twenty times as long; turns are not taken for a while."""
    cache = FakeSharedCache(World())
    cache.gates["claim"] = Gate()
    store = Store(cache, lookup_timeout_s=0.001)
    for _ in range(Breaker.FAULTS + 1):
        assert await store.claim("name", "me", 1.0) is None
    assert cache.calls == ["claim"] * Breaker.FAULTS
    assert await store.save([ENTRY], patience_s=1.0) is True


async def test_what_cannot_be_written_can_still_be_read() -> None:
    """A full disk opens the breaker for saves, and successful lookups do not close it."""
    cache = BrokenCache(memory(), Fault.NONE)
    store = Store(cache, scope_secret=b"s", clock=FakeClock())
    await store.save([ENTRY], patience_s=1.0)
    cache.fault, cache.operations = Fault.ERROR, frozenset({"put_many"})
    for _ in range(Breaker.FAULTS):
        assert await store.save([ENTRY], patience_s=1.0) is False
        assert await store.find([KEY]) == [ENTRY]
    assert store.degraded == "cache save failed: OSError"
    assert await store.find([KEY]) == [ENTRY]
    assert cache.calls.count("put_many") == 1 + Breaker.FAULTS


async def test_a_state_is_logged_when_it_changes(caplog: pytest.LogCaptureFixture) -> None:
    """Once when the breaker opens, once when it closes; never what the exception says."""
    cache = BrokenCache(memory())
    store = Store(cache, scope_secret=b"s", clock=(clock := FakeClock()))
    with caplog.at_level(logging.WARNING):
        for _ in range(20):
            await store.find([KEY])
        clock.advance(Breaker.RETRY_S)
        cache.fault = Fault.NONE
        await store.try_again()
    assert [record.getMessage() for record in caplog.records] == [
        "the cache is skipped: cache lookup failed: OSError",
        "the cache answers again",
    ]


async def test_the_scope_secret_is_one_for_all_users_of_a_cache() -> None:
    """Until it is known the store is not ready; a configured one needs no cache."""
    cache = BrokenCache(memory())
    first, second = Store(cache), Store(cache)
    await first.start()
    assert first.scope_secret is None
    assert first.degraded == "cache opening failed: OSError"
    cache.fault = Fault.NONE
    await first.start()
    await second.start()
    assert first.scope_secret == second.scope_secret
    assert first.scope_secret
    assert not first.degraded
    assert Store(cache, scope_secret=b"own").scope_secret == b"own"


async def test_the_scope_secret_outlives_the_store() -> None:
    """A store that was lost is told it again by who knows it; then all part callers alike."""
    world = World()
    first, second = Store(FakeSharedCache(world)), Store(FakeSharedCache(world))
    await first.start()
    known = first.scope_secret
    world.lose_everything()
    await first.agree()
    await second.start()
    assert first.scope_secret == second.scope_secret == known
    world.facts["scope_secret"] = "another's"
    for store in (first, second):
        await store.agree()
    assert first.scope_secret == second.scope_secret == b"another's"
    given = Store(FakeSharedCache(world), scope_secret=b"own")
    await given.agree()
    assert given.scope_secret == b"own"


async def test_pending_saves_are_bounded() -> None:
    """Past it an answer is delivered and not kept."""
    store = Store(BrokenCache(fault=Fault.HANG), save_timeout_s=0.2)
    saves = [store.save([ENTRY], patience_s=0.0) for _ in range(MAX_PENDING_SAVES)]
    assert all(isinstance(save, asyncio.Task) for save in await asyncio.gather(*saves))
    assert await store.save([ENTRY], patience_s=1.0) is False
    await store.aclose()


async def test_closing_finishes_what_is_being_saved() -> None:
    """And ends although the cache cannot be closed."""

    class Slow(MemoryCache):
        never_waits = False

        async def put_many(self, entries: Sequence[Entry]) -> None:
            await asyncio.sleep(0.02)
            await super().put_many(entries)

        async def aclose(self) -> None:
            raise OSError

    cache = Slow(max_bytes=2**20)
    store = Store(cache)
    saving = await store.save([ENTRY], patience_s=0.0)
    await store.aclose()
    assert isinstance(saving, asyncio.Task)
    assert saving.result()
    assert cache.peek(KEY) == ENTRY


async def test_counting_is_not_needed() -> None:
    """A cache that cannot count is asked for answers all the same."""
    store = Store(PlainCache(DictCache()), scope_secret=b"s")
    for _ in range(2 * Breaker.FAULTS):
        assert await store.totals() is None
    assert not store.degraded
    assert await kept(store) == [ENTRY]


class Unopenable(NullCache):
    async def fact(self, name: str, default: str) -> str:
        raise CacheError("/var/cache.db: permission denied")


async def test_why_a_cache_cannot_be_opened_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    """A backend's own words name the place; whoever starts the proxy sees them at once."""
    store = Store(Unopenable())
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            await store.start()
    why = "cache opening failed: /var/cache.db: permission denied"
    assert store.degraded == why
    (said,) = [each.getMessage() for each in caplog.records if why in each.getMessage()]
    assert said.startswith("requests go past the cache until it can be opened")


async def test_that_the_cache_is_open_at_last_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """Once, and only after it was told that it was not."""
    cache = BrokenCache(memory())
    store = Store(cache)
    with caplog.at_level(logging.WARNING):
        await store.start()
        cache.fault = Fault.NONE
        for _ in range(2):
            await store.start()
        await Store(cache).start()
    assert [each.getMessage() for each in caplog.records] == [
        "requests go past the cache until it can be opened: cache opening failed: OSError",
        "the cache is open",
    ]


async def test_a_cache_that_is_off_stores_nothing() -> None:
    """And nobody is told that it did."""
    assert await Store(NullCache()).save([ENTRY], patience_s=1.0) is False


async def test_an_answer_that_cannot_be_written_says_nothing_of_the_cache() -> None:
    """It is not stored; the next one is, and nothing is skipped."""
    store = Store(memory(), scope_secret=b"x")
    odd = Entry(KEY, [Generation("said", {"at": object()})], stored_at=1.0)
    for _ in range(2 * Breaker.FAULTS):
        assert await store.save([odd], patience_s=1.0) is False
    assert store.degraded == ""
    assert await store.save([ENTRY], patience_s=1.0) is True


@pytest.mark.parametrize("secret", [None, b"secret"])
async def test_a_plain_cache_is_tried_out_once(
    secret: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    """What it does not give back is said when the proxy starts, and not again."""

    class Forgetful(DictCache):
        def lookup(self, prompt: str, llm_string: str) -> None:
            return None

    store = Store(PlainCache(Forgetful()), scope_secret=secret)
    for _ in range(3):
        await store.start()
    assert len(caplog.records) == 1
    assert "Forgetful keeps nothing that could be used" in caplog.text
    await store.aclose()
