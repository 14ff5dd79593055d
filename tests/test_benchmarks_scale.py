"""The page about scale has the tables that its scripts print, and these simulate what they say."""

from __future__ import annotations

from collections import Counter

import pytest

from benchmarks import entries
from benchmarks.scale.__main__ import PAGE, QUICK, tables
from benchmarks.scale.demand import log_reads
from benchmarks.scale.hit_ratio import ratio
from benchmarks.scale.policies import POLICIES, Belady, Lfu, Ours, Policy, Sieve
from benchmarks.scale.replicas import WORKERS, memory_hits, one_each, upstream_calls
from benchmarks.scale.tables import Table, put_in_place, tables_in
from benchmarks.scale.traffic import stream, streams
from cache_backends import MemoryCache
from cache_backends.memory_packing import packed, size_of

REQUESTS = 3_000


class NaiveSieve:
    """As the paper describes it, over a list with the oldest first."""

    def __init__(self, space: int) -> None:
        self.space = space
        self.held: list[int] = []
        self.visited: set[int] = set()
        self.hand: int | None = None

    def ask(self, question: int, _: int) -> bool:
        if question in self.held:
            self.visited.add(question)
            return True
        if len(self.held) == self.space:
            place = 0 if self.hand is None else self.held.index(self.hand)
            while self.held[place] in self.visited:
                self.visited.remove(self.held[place])
                place = (place + 1) % len(self.held)
            self.hand = self.held[place + 1] if place + 1 < len(self.held) else None
            del self.held[place]
        self.held.append(question)
        return False


class NaiveLfu:
    """Looks at all that it holds."""

    def __init__(self, space: int) -> None:
        self.space = space
        self.now = 0
        self.held: dict[int, tuple[int, int]] = {}  # how often, and when last

    def ask(self, question: int, _: int) -> bool:
        self.now += 1
        there = question in self.held
        if not there and len(self.held) == self.space:
            del self.held[min(self.held, key=self.held.__getitem__)]
        self.held[question] = (self.held.get(question, (0, 0))[0] + 1, self.now)
        return there


async def test_the_page_has_the_tables_that_are_printed() -> None:
    """With the same rows and columns, in order; and what is counted is about what is worked out."""
    printed = [table async for table in tables(QUICK)]
    assert [table.shape for table in printed] == [table.shape for table in tables_in(page())]
    counted = next(table for table in printed if "by formula and counted" in table.title)
    rows = {row[0]: row[1:] for row in counted.rows}
    for call in ("get_many", "put_many", "claim", "release"):
        for formula, count in zip(rows[call][:4:2], rows[call][1:4:2], strict=True):
            # Who joins a fetch that finds the answer in the store looks nothing up himself.
            assert number(count) == pytest.approx(number(formula), abs=100), call


def number(cell: str) -> int:
    return int(cell.replace(",", ""))


def page() -> str:
    return PAGE.read_text(encoding="utf-8")


def test_only_tables_with_that_title_are_replaced() -> None:
    """The text around them stays, and a table that is put in is read again as it was."""
    old, new = Table("one", ["a", "b"], [["x", "1"]]), Table("one", ["a", "b"], [["x", "2"]])
    other = Table("two", ["a", "c"], [["y", "3"]])
    text = f"Before.\n\n{old.markdown()}\nBetween.\n\n{other.markdown()}\nAfter.\n"
    changed = put_in_place(text, [new])
    assert changed == text.replace("| x | 1 |", "| x | 2 |")
    assert tables_in(changed) == [new, other]


@pytest.mark.parametrize("title", [each.title for each in streams(10)])
@pytest.mark.parametrize(("policy", "naive"), [(Sieve, NaiveSieve), (Lfu, NaiveLfu)])
def test_a_policy_does_as_its_plain_form(
    policy: type[Policy], naive: type[Policy], title: str
) -> None:
    """Request by request."""
    questions = stream(title, REQUESTS).questions
    quick, plain = policy(40), naive(40)  # type: ignore[call-arg]  # a Protocol has no constructor
    assert [quick.ask(each, 1) for each in questions] == [plain.ask(each, 1) for each in questions]


def test_ours_does_as_the_memory_cache() -> None:
    """The same requests hit in a memory with room for as many entries."""
    size = size_of(packed(entries.entry(100_000)))
    memory, ours = MemoryCache(max_bytes=50 * size + 49), Ours(50)
    for question in stream("chat", REQUESTS).questions:
        made = entries.entry(100_000 + question)  # all as long
        held = memory.peek(made.key) is not None
        assert ours.ask(question, 1) is held
        if not held:
            memory.hold(made)
    assert memory.evictions


@pytest.mark.parametrize("title", [each.title for each in streams(10)])
def test_nobody_does_better_than_who_knows_the_future(title: str) -> None:
    """Nor worse than nothing, with room for one in twenty."""
    questions = stream(title, REQUESTS).questions
    sizes = dict.fromkeys(questions, 1)
    space = len(sizes) // 20
    best = ratio(Belady(space, questions), questions, sizes)
    others = [ratio(make(space, questions), questions, sizes) for make in POLICIES.values()]
    assert best == max(others)
    assert best < 1 - len(sizes) / len(questions) or min(others) > 0


def test_streams_are_the_same_each_time() -> None:
    """They are as long as they were asked to be, and number questions as they come."""
    for first, again in zip(streams(500), streams(500), strict=True):
        assert first == again
        assert len(first.asked) == 500
        assert list(dict.fromkeys(first.questions)) == [*range(len(set(first.questions)))]


def test_shares_of_chat_are_as_said() -> None:
    """Two of three requests are never made again."""
    times = Counter(stream("chat", 20_000).questions)
    once = sum(count == 1 for count in times.values())
    assert 0.6 < once / 20_000 < 0.7


def test_more_workers_fetch_more_often_unless_they_share() -> None:
    """One worker fetches as often as any number that take turns."""
    bursts = stream("bursts", REQUESTS)
    calls = [upstream_calls(bursts, workers, cluster=False) for workers in WORKERS]
    assert calls == sorted(set(calls))
    assert upstream_calls(bursts, WORKERS[-1], cluster=True) == calls[0]


def test_a_client_that_stays_with_a_worker_is_answered_from_memory() -> None:
    """Programs run again in the worker that has their answers."""
    development = stream("development", 20_000)
    assert memory_hits(development, 100, "by client") > 2 * memory_hits(development, 100, "any")


def test_formulas_at_their_ends() -> None:
    """One worker fetches once, very many each once; the log is read twice a lease, or each time."""
    assert one_each(1, 500) == 1
    assert one_each(10**6, 5) == pytest.approx(5, rel=1e-3)
    assert log_reads(1e9, 0.5) == pytest.approx(4)
    assert log_reads(0.001, 1.0) == pytest.approx(0.001, rel=1e-3)
    assert log_reads(0, 1.0) == 0
