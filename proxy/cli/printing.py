"""What commands print: tables on a terminal, plain lines of fields elsewhere, or JSON.

Models and their callers may have put anything into what is shown: it moves no cursor.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, NoReturn

import orjson
from rich.console import Console
from rich.padding import Padding
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

# Characters that some terminals take for commands, and JSON leaves as they are.
_C1 = re.compile("[\x7f-\x9f]")
_JOINER = "\u200d"  # between the parts of one emoji


class Terminal(Console):
    """Lets whoever ends the command hear that nobody reads any more."""

    def on_broken_pipe(self) -> NoReturn:
        raise BrokenPipeError


def is_terminal() -> bool:
    return sys.stdout.isatty()


def is_watched() -> bool:
    """Does somebody see how far long work is?"""
    return sys.stderr.isatty()


def show_json(value: Any) -> None:
    """One document."""
    _write(orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))


def show_json_line(value: Any) -> None:
    _write(orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE))
    sys.stdout.flush()


def show_fields(*fields: Any) -> None:
    """A line with tabs between the fields, as `cut` takes it."""
    sys.stdout.write("\t".join(map(_field, fields)) + "\n")


def show_facts(facts: Iterable[tuple[str, Any]]) -> None:
    """Names and values below each other."""
    if not is_terminal():
        for name, value in facts:
            show_fields(name, value)
        return
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts:
        table.add_row(name, value if isinstance(value, Text) else plain(_word(value)))
    Terminal().print(table)


def show_text(title: str, text: str) -> None:
    """A text of many lines, as it is but for what would move the cursor."""
    terminal = Terminal()
    terminal.print(Text(f"\n{title}", "bold"))
    terminal.print(Text(printable(text)), soft_wrap=True)


def show_indented(text: Text, by: int = 10) -> None:
    """As a paragraph with a margin."""
    Terminal().print(Padding(text, (0, 0, 0, by)))


def show_hanging(head: Text, text: Text) -> None:
    """A paragraph to the right of its head."""
    table = Table.grid(expand=True)
    table.add_column(width=len(head))
    table.add_column(overflow="fold", ratio=1)
    table.add_row(head, text)
    Terminal().print(table)


def show_table(columns: Sequence[tuple[str, str]], rows: Iterable[Sequence[Any]]) -> None:
    """For a terminal. Columns are named, and "left", "right" or "rest": that one gives way."""
    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0), pad_edge=False)
    for name, side in columns:
        table.add_column(
            name,
            justify="right" if side == "right" else "left",
            no_wrap=True,
            overflow="ellipsis",
            ratio=1 if side == "rest" else None,
        )
    table.expand = any(side == "rest" for _, side in columns)
    for row in rows:
        table.add_row(*(each if isinstance(each, Text) else plain(_word(each)) for each in row))
    Terminal().print(table)


def show_note(text: str) -> None:
    """For who reads, not for what is piped."""
    Terminal(stderr=True).print(Text(text, "dim"))


def progress(what: str) -> Progress:
    """A bar on stderr; nothing where that is no terminal."""
    return Progress(
        TextColumn(what),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        disable=not is_watched(),
        transient=True,
    )


def flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Names with dots and values, of JSON."""
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            yield from flat(inner, f"{path}.{name}" if path else name)
    elif not isinstance(value, dict):
        yield path, value


def plain(text: str) -> Text:
    """On one line, nothing taken for markup."""
    return Text(" ".join(printable(text).split()))


def printable(text: str) -> str:
    return "".join(char if char.isprintable() or char in "\n\t" + _JOINER else "?" for char in text)


def ago(time: str | None, now: datetime) -> str:
    """How long ago that was, or how long until then."""
    if time is None:
        return "never"
    return duration(abs((now - datetime.fromisoformat(time)).total_seconds()))


def now() -> datetime:
    return datetime.now(UTC)


def duration(seconds: float) -> str:
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{int(seconds // size)} {unit}"
    return f"{int(seconds)} s"


def size(count: int | None) -> str:
    if count is None:
        return "unknown"
    amount = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"


def money(usd: float) -> str:
    """Cents count where there is less than a dollar."""
    return f"${usd:,.2f}" if usd >= 1 or not usd else f"${usd:.4f}"


def milliseconds(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return f"{seconds:,.1f} s" if seconds >= 10 else f"{seconds * 1000:,.1f} ms"


def _word(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _field(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
    return " ".join(printable(text).split())


def _write(told: bytes) -> None:
    sys.stdout.write(_C1.sub(lambda found: f"\\u{ord(found[0]):04x}", told.decode()))
