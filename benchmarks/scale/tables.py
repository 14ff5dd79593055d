"""Tables in Markdown: written, read again, and put in the place of older ones in a text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

# A table stands below a line with its title alone, in bold.
_TABLE = re.compile(r"^\*\*(?P<title>.+)\*\*\n\n(?P<lines>(?:\|.*\n)+)", re.MULTILINE)


class Table(NamedTuple):
    """Cells of text. The first `labels` cells of a row say what it is of, others are figures."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    labels: int = 1

    @property
    def shape(self) -> tuple[str, list[str], list[list[str]]]:
        """All but the figures."""
        labels = [list(row[: self.labels]) for row in self.rows]
        return self.title, list(self.header), labels

    def markdown(self) -> str:
        rule = ["---"] * self.labels + ["---:"] * (len(self.header) - self.labels)
        lines = [_line(cells) for cells in (self.header, rule, *self.rows)]
        return f"**{self.title}**\n\n" + "".join(lines)

    @classmethod
    def read(cls, title: str, lines: str) -> Table:
        header, rule, *rows = (_cells(line) for line in lines.splitlines())
        return cls(title, header, rows, labels=rule.count("---"))


def tables_in(text: str) -> list[Table]:
    """All tables of a text that have a title."""
    return [Table.read(found["title"], found["lines"]) for found in _TABLE.finditer(text)]


def put_in_place(text: str, tables: Iterable[Table]) -> str:
    """The text with these tables in place of those that have their titles."""
    by_title = {table.title: table.markdown() for table in tables}
    return _TABLE.sub(lambda found: by_title.get(found["title"], found[0]), text)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |\n"


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]
