"""What is sent to a store at once."""

from __future__ import annotations

import pytest

from cache_backends.batches import in_batches


@pytest.mark.parametrize(
    ("items", "batches"),
    [
        ([], []),
        (["a"], [["a"]]),
        (["a", "b", "c", "d"], [["a", "b", "c"], ["d"]]),
        (["aaaa", "bb", "c"], [["aaaa"], ["bb", "c"]]),
        (["a", "much too long", "b"], [["a"], ["much too long"], ["b"]]),
    ],
)
def test_batches_hold_so_many_and_so_much(items: list[str], batches: list[list[str]]) -> None:
    """In order; what is too large is sent all the same, alone."""
    assert list(in_batches(items, len, most=3, most_bytes=5)) == batches
