"""The lines of the one table: a measure beside another, and whether its target is reached."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from benchmarks.columns import aligned


class Row(NamedTuple):
    measure: str
    figure: str = ""
    than: str = ""  # what it is compared with
    other: str = ""  # the figure of that
    ratio: str = ""
    by_cpu: str = ""
    target: str = ""
    mark: str = ""


HEAD = Row("", "figure", "compared with", "its figure", "ratio", "by cpu", "target", "")


def text(rows: Iterable[Row]) -> str:
    """The table; what a row has in common with the one above is not said again."""
    lines = [HEAD]
    above = HEAD
    for row in rows:
        again = row.measure == above.measure
        same = again and row.figure == above.figure
        measure, figure = "" if again else row.measure, "" if same else row.figure
        lines.append(row._replace(measure=measure, figure=figure))
        above = row
    return aligned(lines, words={2})


def at_least(row: Row, value: float, target: float | None, unit: str = "x") -> Row:
    """Larger is better; without a target it is only told."""
    if target is None:
        return row
    return row._replace(target=f">= {target:g} {unit}".rstrip(), mark=_mark(value >= target))


def at_most(row: Row, value: float, target: float | None, unit: str = "") -> Row:
    """Smaller is better."""
    if target is None:
        return row
    return row._replace(target=f"<= {target:g} {unit}".rstrip(), mark=_mark(value <= target))


def short(rows: Sequence[Row]) -> int:
    """How many have not reached their target."""
    return sum(row.mark.startswith("short") for row in rows)


def per_s(value: float) -> str:
    return f"{value:,.0f}/s"


def us(seconds: float) -> str:
    return f"{1e6 * seconds:,.1f} us"


def ms(seconds: float) -> str:
    return f"{1e3 * seconds:,.3f} ms"


def _mark(met: bool) -> str:
    return "reached" if met else "short"
