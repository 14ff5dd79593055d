"""Lines of a table below each other."""

from __future__ import annotations

from collections.abc import Container, Sequence


def aligned(lines: Sequence[Sequence[str]], words: Container[int] = ()) -> str:
    """Cells to the right in their columns; the first column, and the mark at the end, to the left.

    So are columns of `words`. All lines have as many cells as the first.
    """
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    last = len(widths) - 1

    def cell(text: str, column: int) -> str:
        to_left = column in (0, last) or column in words
        return text.ljust(widths[column]) if to_left else text.rjust(widths[column])

    return "\n".join(
        "  ".join(cell(text, column) for column, text in enumerate(line)).rstrip() for line in lines
    )
