"""What every cache must do: subclass a suite and give it a `cache` fixture that is empty."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from cache_backends.base import BaseCache, ChatGeneration, Entry, EntryCache, Generation, Key
from tests.fakes.clock import FakeClock

JOKE = [Generation("Why did the chicken cross the road?")]
CHAT = ChatGeneration(
    "It's raining. ☂ 雨",
    {"finish_reason": "stop", "logprobs": {"content": [{"token": "It", "logprob": -0.5}]}},
    message={
        "role": "assistant",
        "content": "It's raining. ☂ 雨",
        "refusal": None,
        "new": [1, 1.0],
    },
)


class LangChainConformance:
    """The six methods of LangChain's `BaseCache`."""

    def test_a_miss_is_none(self, cache: BaseCache) -> None:
        """What was never stored is not found."""
        assert cache.lookup("prompt", "llm") is None

    def test_a_hit_is_the_list_that_was_stored(self, cache: BaseCache) -> None:
        """LangChain takes anything but a list for a miss."""
        cache.update("prompt", "llm", (Generation("a", {"n": 1}), CHAT))
        hit = cache.lookup("prompt", "llm")
        assert type(hit) is list
        assert hit == [Generation("a", {"n": 1}), CHAT]

    def test_parameters_have_langchains_names(self, cache: BaseCache) -> None:
        """Callers may pass everything by keyword."""
        cache.update(prompt="prompt", llm_string="llm", return_val=JOKE)
        assert cache.lookup(prompt="prompt", llm_string="llm") == JOKE

    def test_a_shorter_answer_replaces_all_of_a_longer_one(self, cache: BaseCache) -> None:
        """Nothing of the old list stays behind the new one."""
        cache.update("prompt", "llm", [Generation(text) for text in "abc"])
        cache.update("prompt", "llm", [Generation("z")])
        assert cache.lookup("prompt", "llm") == [Generation("z")]

    def test_models_are_kept_apart(self, cache: BaseCache) -> None:
        """The same prompt to two models has two answers."""
        cache.update("prompt", "one", [Generation("1")])
        assert cache.lookup("prompt", "two") is None
        cache.update("prompt", "two", [Generation("2")])
        assert cache.lookup("prompt", "one") == [Generation("1")]

    def test_the_two_strings_are_not_just_joined(self, cache: BaseCache) -> None:
        """("ab", "c") is not ("a", "bc")."""
        cache.update("ab", "c", JOKE)
        assert cache.lookup("a", "bc") is None

    @pytest.mark.parametrize(
        "text", ["", "\x00", "e\u0301", "\u00e9", "🦜🔗", "'; DROP TABLE entries"]
    )
    def test_any_text_comes_back(self, cache: BaseCache, text: str) -> None:
        """Strings are kept as they are, in keys and in answers, normalised by nobody."""
        cache.update(text, text, [Generation(text, {text: text})])
        assert cache.lookup(text, text) == [Generation(text, {text: text})]

    def test_ten_megabytes_come_back(self, cache: BaseCache) -> None:
        """Long prompts and long answers are kept whole."""
        long = "0123456789" * 2**20
        cache.update(long, "llm", [Generation(long)])
        assert cache.lookup(long, "llm") == [Generation(long)]
        assert cache.lookup(long + "x", "llm") is None

    def test_an_empty_answer_is_refused(self, cache: BaseCache) -> None:
        """As a hit, an empty list would break every LangChain model."""
        with pytest.raises(ValueError, match="at least one generation"):
            cache.update("prompt", "llm", [])
        assert cache.lookup("prompt", "llm") is None

    def test_values_are_copies(self, cache: BaseCache) -> None:
        """Changing what was stored, or what was found, changes no later hit."""
        stored: list[Generation] = [ChatGeneration("a", {"n": [1]}, message={"content": "a"})]
        cache.update("prompt", "llm", stored)
        for changed in (stored, cache.lookup("prompt", "llm")):
            assert changed is not None
            assert changed[0].generation_info is not None
            changed[0].generation_info["n"].append(2)
            changed.clear()
        expected = [ChatGeneration("a", {"n": [1]}, message={"content": "a"})]
        assert cache.lookup("prompt", "llm") == expected

    def test_clear_forgets_everything(self, cache: BaseCache) -> None:
        """After `clear` nothing is found, and new answers can be stored."""
        for prompt in "abc":
            cache.update(prompt, "llm", JOKE)
        cache.clear()
        assert [cache.lookup(prompt, "llm") for prompt in "abc"] == [None, None, None]
        cache.update("a", "llm", JOKE)
        assert cache.lookup("a", "llm") == JOKE

    async def test_the_async_methods_do_the_same(self, cache: BaseCache) -> None:
        """Sync and async methods see one store, also from within a running loop."""
        assert await cache.alookup(prompt="prompt", llm_string="llm") is None
        await cache.aupdate(prompt="prompt", llm_string="llm", return_val=JOKE)
        assert await cache.alookup("prompt", "llm") == cache.lookup("prompt", "llm") == JOKE
        with pytest.raises(ValueError, match="at least one generation"):
            await cache.aupdate("prompt", "llm", [])
        await cache.aclear()
        assert cache.lookup("prompt", "llm") is None

    def test_threads_share_the_cache(self, cache: BaseCache) -> None:
        """Eight threads on the same few keys only ever see whole answers."""

        def work(thread: int) -> None:
            for turn in range(25):
                prompt = str(turn % 3)
                cache.update(prompt, "llm", [Generation(prompt)] * (thread + 1))
                hit = cache.lookup(prompt, "llm")
                assert hit is not None
                assert hit == [Generation(prompt)] * len(hit)

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(work, range(8)))

    async def test_tasks_share_the_cache(self, cache: BaseCache) -> None:
        """Fifty tasks at once each find their own answer."""

        async def work(number: int) -> None:
            await cache.aupdate(str(number), "llm", [Generation(str(number))])
            assert await cache.alookup(str(number), "llm") == [Generation(str(number))]

        await asyncio.gather(*(work(number) for number in range(50)))


class EntryConformance(LangChainConformance):
    """What a proxy needs beyond. The cache reads its time from the `clock` fixture."""

    @pytest.fixture
    def clock(self) -> FakeClock:
        return FakeClock()

    async def test_an_entry_comes_back_as_it_was(self, cache: EntryCache, clock: FakeClock) -> None:
        """Generations, times, tags and facts: everything is kept, losslessly."""
        entry = entry_of("prompt", clock, CHAT, expires=60.5, retained=120.25)
        await cache.put(entry)
        assert await cache.get(entry.key) == entry

    async def test_answers_come_in_the_order_asked(
        self, cache: EntryCache, clock: FakeClock
    ) -> None:
        """Many keys at once, known and unknown and repeated, are answered by position."""
        entries = [entry_of(prompt, clock) for prompt in "abcdef"]
        await cache.put_many(entries)
        missing = Key.of("missing", "llm")
        asked = [entries[3].key, missing, entries[0].key, entries[3].key]
        assert await cache.get_many(asked) == [entries[3], None, entries[0], entries[3]]
        assert await cache.get_many([]) == []

    async def test_both_strings_are_compared(self, cache: EntryCache, clock: FakeClock) -> None:
        """An entry found by its id alone is another question's: a miss."""
        entry = entry_of("prompt", clock)
        await cache.put(entry)
        for prompt, llm_string in (("prompt!", "llm"), ("prompt", "llm!")):
            key = Key(entry.key.id, prompt, llm_string)
            assert await cache.get(key) is None
            assert cache.peek(key) is None

    async def test_an_expired_entry_is_told_to_the_reader_only(
        self, cache: EntryCache, clock: FakeClock
    ) -> None:
        """While it is retained it may serve as stale; for LangChain's methods it is a miss."""
        entry = entry_of("prompt", clock, expires=60, retained=120)
        await cache.put(entry)
        clock.advance(59.9)
        assert cache.lookup("prompt", "llm") == entry.generations
        clock.advance(0.1)
        assert cache.lookup("prompt", "llm") is None
        assert await cache.get(entry.key) == entry

    async def test_an_entry_ends_when_it_is_no_longer_retained(
        self, cache: EntryCache, clock: FakeClock
    ) -> None:
        """From `retained_until` on nobody gets it."""
        entry = entry_of("prompt", clock, expires=60, retained=120)
        await cache.put(entry)
        clock.advance(120)
        assert await cache.get(entry.key) is None
        assert cache.peek(entry.key) is None

    async def test_an_end_may_be_any_time(self, cache: EntryCache, clock: FakeClock) -> None:
        """Later than any clock can tell, too: it comes back as it was."""
        entry = entry_of("prompt", clock, expires=1e300, retained=1e308)
        await cache.put(entry)
        found = await cache.get(entry.key)
        assert found is not None
        assert (found.expires_at, found.retained_until) == (1e300, 1e308)

    async def test_a_new_entry_replaces_the_old_times_too(
        self, cache: EntryCache, clock: FakeClock
    ) -> None:
        """Stored again without an end, an entry has none."""
        await cache.put(entry_of("prompt", clock, retained=10))
        await cache.put(entry_of("prompt", clock, Generation("new")))
        clock.advance(1000)
        found = await cache.get(Key.of("prompt", "llm"))
        assert found is not None
        assert found.generations == [Generation("new")]
        assert found.retained_until is None

    async def test_an_entry_without_generations_is_refused(
        self, cache: EntryCache, clock: FakeClock
    ) -> None:
        """An entry is an answer; without one there is nothing to keep."""
        key = Key.of("prompt", "llm")
        with pytest.raises(ValueError, match="at least one generation"):
            await cache.put(Entry(key, [], clock()))
        assert await cache.get(key) is None

    async def test_a_fact_is_what_the_first_one_said(self, cache: EntryCache) -> None:
        """Everyone who asks gets the same value, whatever default they bring."""
        asked = [cache.fact("scope secret", str(number)) for number in range(10)]
        assert len(set(await asyncio.gather(*asked))) == 1
        assert await cache.fact("another", "x") == "x"

    async def test_facts_survive_a_clear(self, cache: EntryCache) -> None:
        """Clearing removes entries and nothing else."""
        first = await cache.fact("scope secret", "first")
        await cache.aclear()
        assert await cache.fact("scope secret", "second") == first

    async def test_facts_are_no_entries(self, cache: EntryCache) -> None:
        """A fact cannot be asked for as if it were an answer."""
        await cache.fact("name", "value")
        assert await cache.alookup("name", "") is None
        assert await cache.alookup("name", "llm") is None


class CountedConformance(EntryConformance):
    """For caches that can name and count their entries."""

    async def test_delete_removes_one_entry(self, cache: EntryCache, clock: FakeClock) -> None:
        """By id, once; the others stay."""
        one, other = entry_of("one", clock), entry_of("other", clock)
        await cache.put_many([one, other])
        assert await cache.delete(one.key.id)
        assert not await cache.delete(one.key.id)
        assert await cache.get_many([one.key, other.key]) == [None, other]

    @pytest.mark.parametrize("id", ["", "no id", "0" * 63, "0" * 64, "é"])
    async def test_deleting_what_is_not_there_says_so(self, cache: EntryCache, id: str) -> None:
        """An unknown or malformed id is no error."""
        assert await cache.delete(id) is False

    async def test_totals_count_entries_and_bytes(
        self, cache: EntryCache, clock: FakeClock
    ) -> None:
        """Both go up with each entry, follow replacements and return to nothing."""
        assert await cache.totals() == (0, 0)
        await cache.put(entry_of("a", clock, Generation("x" * 10_000)))
        one = await cache.totals()
        assert one.entries == 1
        assert one.bytes >= 10_000
        await cache.put(entry_of("b", clock))
        await cache.put(entry_of("a", clock))
        both = await cache.totals()
        assert both.entries == 2
        assert both.bytes < one.bytes
        await cache.delete(Key.of("a", "llm").id)
        assert (await cache.totals()).entries == 1
        await cache.aclear()
        assert await cache.totals() == (0, 0)


def entry_of(
    prompt: str,
    clock: FakeClock,
    *generations: Generation,
    expires: float | None = None,
    retained: float | None = None,
    tags: Sequence[str] = ("eval", "ünï"),
    about: dict[str, Any] | None = None,
) -> Entry:
    """An entry stored now; times in seconds from now."""
    now = clock()
    return Entry(
        Key.of(prompt, "llm"),
        list(generations) or [Generation(f"answer to {prompt[:20]}")],
        now,
        None if expires is None else now + expires,
        None if retained is None else now + retained,
        tuple(tags),
        {"model": "m", "cost": 0.25, "nested": {"a": [None, True]}} if about is None else about,
    )
