"""Bodies as lines, however they are cut."""

from __future__ import annotations

import pytest

from proxy.lines import LineSplitter

BODY = b'{"a":1}\n\n  {"b":2} \r\n\xff\nlast'
LINES = [(1, b'{"a":1}'), (3, b'{"b":2}'), (4, b"\xff"), (5, b"last")]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
def test_lines_have_their_numbers(size: int) -> None:
    """Blank ones count; the last needs no end."""
    splitter = LineSplitter(100)
    pieces = [BODY[at : at + size] for at in range(0, len(BODY), size)]
    told = [line for piece in pieces for line in splitter.feed(piece)]
    assert told + list(splitter.finish()) == LINES
    assert list(splitter.finish()) == []


def test_too_long_a_line_is_told_as_none() -> None:
    """And not kept; the next one is read."""
    splitter = LineSplitter(10)
    told = [line for piece in (b"x" * 6, b"x" * 6, b"x\nshort\n") for line in splitter.feed(piece)]
    assert told == [(1, None), (2, b"short")]
