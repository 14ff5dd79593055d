"""Lines of a table below each other."""

from __future__ import annotations

from collections.abc import Sequence


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """Cells to the right in their columns; the first column, and the mark at the end, to the left.

    All lines have as many cells as the first.
    """
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(_aligned(line, widths) for line in lines)


def _aligned(line: Sequence[str], widths: Sequence[int]) -> str:
    what, *cells, mark = line
    right = [cell.rjust(width) for cell, width in zip(cells, widths[1:-1], strict=True)]
    return "  ".join([what.ljust(widths[0]), *right, mark]).rstrip()
