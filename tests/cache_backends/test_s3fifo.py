"""The policy of the memory cache."""

from __future__ import annotations

from collections import OrderedDict
from itertools import accumulate
from random import Random

from cache_backends.s3fifo import MAX_HITS, S3Fifo


def trace(
    seed: int, *, requests: int = 40_000, values: int = 1_000, once: float = 0.3
) -> list[str]:
    """Requests as a language model sees them: a few often (Zipf), and many only once."""
    random = Random(seed)
    weights = list(accumulate(1 / rank for rank in range(1, values + 1)))
    known = random.choices(range(values), cum_weights=weights, k=requests)
    return [
        f"once {turn}" if random.random() < once else f"often {value}"
        for turn, value in enumerate(known)
    ]


def s3fifo_hits(asked: list[str], room: int) -> int:
    cache: S3Fifo[str] = S3Fifo(room)
    hits = 0
    for name in asked:
        cell = cache.cells.get(name)
        if cell is None:
            cache.put(name, name, 1)
            continue
        hits += 1
        cell.hits = min(cell.hits + 1, MAX_HITS)
    return hits


def queue_hits(asked: list[str], room: int, *, refresh: bool) -> int:
    """FIFO, or LRU if a hit refreshes."""
    held: OrderedDict[str, None] = OrderedDict()
    hits = 0
    for name in asked:
        if name in held:
            hits += 1
            if refresh:
                held.move_to_end(name)
            continue
        if len(held) == room:
            held.popitem(last=False)
        held[name] = None
    return hits


def test_it_beats_fifo_and_lru_where_most_is_asked_once() -> None:
    """On a skewed trace with one-off requests it finds far more than either."""
    for seed in (1, 2):
        asked = trace(seed)
        for room in (20, 100):
            found = s3fifo_hits(asked, room)
            assert found > 1.25 * queue_hits(asked, room, refresh=False)
            assert found > 1.15 * queue_hits(asked, room, refresh=True)


def test_a_ghost_returns_to_the_main_queue() -> None:
    """What comes back soon after it was evicted is not evicted by one-off values again."""
    cache: S3Fifo[str] = S3Fifo(10)
    for name in [*"abcdefghij", "k"]:
        cache.put(name, name, 1)
    assert "a" not in cache.cells
    cache.put("a", "a", 1)
    for number in range(50):
        cache.put(str(number), "once", 1)
    assert "a" in cache.cells


def test_sizes_and_queues_agree() -> None:
    """After any mix of operations the bytes are the sum of what is held, within the bound."""
    random = Random(7)
    cache: S3Fifo[int] = S3Fifo(1000)
    for turn in range(5000):
        name = str(random.randrange(60))
        action = random.random()
        if action < 0.1:
            cache.discard(name)
        elif action < 0.5 and name in cache.cells:
            cache.cells[name].hits = 1
        elif cache.put(name, turn, random.randrange(1, 400), pinned=action < 0.6):
            assert cache.cells[name].value == turn
        else:
            assert name not in cache.cells
        held = cache.cells.values()
        assert cache.bytes == sum(cell.size for cell in held) <= 1000
        small = sum(cell.size for cell in held if not cell.in_main and not cell.pinned)
        pinned = sum(cell.size for cell in held if cell.pinned)
        assert (cache._small_bytes, cache._pinned_bytes) == (small, pinned)
    cache.clear()
    assert (cache.bytes, cache.cells) == (0, {})


def test_ghosts_are_bounded() -> None:
    """No more ids are remembered than values are held."""
    cache: S3Fifo[str] = S3Fifo(10)
    for number in range(1000):
        cache.put(str(number), "once", 1)
    assert len(cache._ghosts) <= 10


def test_pinned_values_go_last() -> None:
    """The oldest of them, and only for others that are pinned."""
    cache: S3Fifo[str] = S3Fifo(10)
    for name in "abcd":
        cache.put(name, name, 1, pinned=True)
    for number in range(50):
        assert cache.put(str(number), "once", 1)
        cache.cells[str(number)].hits = MAX_HITS
    assert set("abcd") < cache.cells.keys()
    for name in "efghijkl":
        assert cache.put(name, name, 1, pinned=True)
    assert cache.cells.keys() == set("cdefghijkl")


def test_a_cache_full_of_pinned_values_refuses_others() -> None:
    """Nothing is pushed out in vain: what is too large for the rest of the space is not let in."""
    cache: S3Fifo[str] = S3Fifo(10)
    for name in "abcdefgh":
        cache.put(name, name, 1, pinned=True)
    assert cache.put("small", "once", 1)
    assert not cache.put("large", "once", 3)
    assert "small" in cache.cells
    assert cache.put("a", "a", 2)
    assert cache.cells["a"].pinned is False
    assert cache.bytes <= 10


def test_what_its_owner_counts_stays_when_a_value_is_replaced() -> None:
    """It goes with the value."""
    cache: S3Fifo[str] = S3Fifo(10)
    cache.put("a", "first", 1)
    cache.cells["a"].counted = 5
    cache.put("a", "second", 2)
    assert cache.cells["a"].counted == 5
    cache.discard("a")
    cache.put("a", "third", 1)
    assert cache.cells["a"].counted == 0
