"""One line for each request: for people on a terminal, as JSON elsewhere. Never prompts or keys.

A thread of its own writes, some times a second: a slow terminal or a full pipe holds nobody up. It
renders nothing: while it did, requests waited up to 5 ms for the interpreter's lock.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from functools import lru_cache
from math import floor
from typing import Any, TextIO

import orjson

from proxy.figures import Figures
from proxy.models import Event, Outcome
from proxy.savings import settle
from proxy.tally import Kind

log = logging.getLogger("proxy.journal")

# Lines that may wait to be written; past it they are dropped and counted.
MAX_WAITING = 10_000
# Lines are gathered for so long before they are written: waking a thread for each took 6 us.
GATHER_S = 0.05
# Paths and reasons that have been warned of once.
MAX_WARNED = 100
# From the year 1 to the year 9999: RFC 3339 has no others, and those of entries may be any numbers.
_FIRST_SECOND, _LAST_SECOND = -62_135_596_800, 253_402_300_799

_DIM, _BOLD, _RED, _GREEN, _YELLOW, _PLAIN = (f"\x1b[{code}m" for code in (2, 1, 31, 32, 33, 0))
_COLOURS = {
    Outcome.HIT: _GREEN,
    Outcome.PARTIAL: _GREEN,
    Outcome.COLLAPSED: _GREEN,
    Outcome.STALE: _YELLOW,
    Outcome.BYPASS: _YELLOW,
    Outcome.MISS: "",
}

# What is not the same whenever an answer is told.
CHANGING = frozenset({"seconds", "saved_seconds", "age"})

Render = Callable[[float, Event], str]


class Journal:
    """Writes a line for each event that it is told of; with no `out`, only what is a warning."""

    def __init__(
        self, out: TextIO | None, render: Render, clock: Callable[[], float] = time.time
    ) -> None:
        self._out = out
        self._render = render
        self._clock = clock
        self._lines: deque[str] = deque()
        self._waiting = threading.Event()
        self._closing = threading.Event()
        self._writer: threading.Thread | None = None
        self._warned: set[tuple[str, str]] = set()
        self.dropped = 0

    def record(self, event: Event) -> None:
        if event.outcome is Outcome.BYPASS:
            self._warn_once(event)
        if self._out is None:
            return
        if len(self._lines) >= MAX_WAITING:
            self.dropped += 1
            return
        self._lines.append(self._render(self._clock(), event))
        if not self._waiting.is_set():
            self._waiting.set()
            if self._writer is None:
                self._writer = threading.Thread(
                    target=self._write, args=(self._out,), name="journal", daemon=True
                )
                self._writer.start()

    def _warn_once(self, event: Event) -> None:
        """Nobody should wonder why nothing hits."""
        what = (event.path, event.reason)
        if what not in self._warned and len(self._warned) < MAX_WARNED:
            self._warned.add(what)
            log.warning("%s goes past the cache: %s", _printable(event.path), event.reason)

    def _write(self, out: TextIO) -> None:
        while not (self._closing.is_set() and not self._lines):
            self._waiting.wait()
            self._closing.wait(GATHER_S)
            self._waiting.clear()
            lines = [self._lines.popleft() for _ in range(len(self._lines))]
            text = "\n".join([*lines, ""])
            try:
                out.write(_writable(text, out))
                out.flush()
            except (OSError, ValueError):
                return  # nobody reads any more

    def close(self) -> None:
        """Write what waits."""
        if self._writer is not None:
            self._closing.set()
            self._waiting.set()
            self._writer.join(timeout=2.0)
            self._writer = None
        if self.dropped:
            log.warning("%s lines were dropped: nobody took them in time", self.dropped)


def _writable(text: str, out: TextIO) -> str:
    """The text in what `out` can write: not every terminal knows every character."""
    encoding = out.encoding or "utf-8"
    if encoding.lower() in ("utf-8", "utf8"):
        return text
    return text.encode(encoding, "backslashreplace").decode(encoding)


@dataclass(slots=True)
class Repeated(Event):
    """The event of an answer that is told again and again; what stays the same is written once.

    Its line takes 1 us, that of another event 3.
    """

    same: str = ""  # of the line, what does not change

    @classmethod
    def of(cls, event: Event, **more: Any) -> Repeated:
        event = replace(event, **more)
        settle(event)
        said = {each.name: getattr(event, each.name) for each in fields(Event)}
        same = {name: value for name, value in said.items() if name not in CHANGING}
        return cls(**said, same=orjson.dumps(same).decode()[1:])


def as_json(at: float, event: Event) -> str:
    """The line for machines: one JSON object, seconds as numbers."""
    if isinstance(event, Repeated):
        return (
            f'{{"time":"{utc(at)}","event":"request","seconds":{event.seconds:.6f},'
            f'"saved_seconds":{event.saved_seconds:.6f},"age":{event.age:.3f},{event.same}'
        )
    told = orjson.dumps(event)
    if event.outcome is None:  # who counts outcomes should see these as well
        told = told.replace(b'"outcome":null', b'"outcome":"ERROR"', 1)
    return f'{{"time":"{utc(at)}","event":"request",{told[1:].decode()}'


def utc(at: float) -> str:
    """A moment as RFC 3339 writes it, to the millisecond."""
    if not _FIRST_SECOND <= at <= _LAST_SECOND:
        at = min(max(at, _FIRST_SECOND), _LAST_SECOND)
    return _moment(floor(at * 1000))


@lru_cache(maxsize=4)  # many lines are of the same millisecond
def _moment(at_ms: int) -> str:
    return f"{_second(at_ms // 1000)}.{at_ms % 1000:03d}Z"


@lru_cache(maxsize=4)
def _second(at: int) -> str:
    return datetime.fromtimestamp(at, UTC).replace(tzinfo=None).isoformat()


def for_people(at: float, event: Event, colour: bool = True) -> str:
    """The line for a terminal."""
    clock = datetime.fromtimestamp(at).astimezone().strftime("%H:%M:%S")
    outcome = event.outcome.value if event.outcome else f"ERROR {event.status}"
    what = _printable(event.model or event.path)
    line = [
        _in(_DIM, clock, colour),
        _in(_colour_of(event), f"{outcome:<10}", colour),
        f"{what:<28}",
        f"{event.seconds * 1000:>10,.1f} ms",
        _tokens(event),
        _in(_DIM, _remark(event), colour),
    ]
    return "  ".join(line).rstrip()


def summary(figures: Figures) -> str:
    """What was saved, in a sentence or two; "" if nothing was asked."""
    if not figures.requests:
        return ""
    counts = ", ".join(f"{count:,} {outcome}" for outcome, count in figures.outcomes().items())
    failed = f", {errors:,} failed" if (errors := figures.outcome(Kind.ERROR)) else ""
    saved = figures.saved()
    return (
        f"{figures.requests:,} requests: {counts or 'none answered'}{failed}. "
        f"Hit ratio {figures.hit_ratio:.0%}. "
        f"Saved {saved['tokens']:,} tokens{_money(saved['usd'])} and "
        f"{_duration(saved['seconds'])} of waiting."
    )


def in_all(figures: Figures, since: str) -> str:
    """What was ever saved with this cache."""
    saved = figures.saved()
    return f"In all, since {since[:10]}: {saved['tokens']:,} tokens{_money(saved['usd'])}."


def _colour_of(event: Event) -> str:
    if event.outcome is None or event.status >= 400 or event.cut:
        return _RED
    return _COLOURS[event.outcome]


def _in(style: str, text: str, colour: bool) -> str:
    return f"{style}{text}{_PLAIN}" if colour and style and text else text


def _tokens(event: Event) -> str:
    if event.input_tokens is None and event.output_tokens is None:
        return " " * 19
    return f"{event.input_tokens or 0:>6,} in {event.output_tokens or 0:>5,} out"


def _remark(event: Event) -> str:
    remarks = [event.reason] if event.reason else []
    if event.outcome is not None and event.status >= 400:
        remarks.insert(0, f"status {event.status}")
    if event.cut:
        remarks.append("not sent to its end")
    return ", ".join(dict.fromkeys(remarks))


def _money(usd: float) -> str:
    """Cents count where there is less than a dollar; unknown prices are not told as nothing."""
    if not usd:
        return ""
    return f" (${usd:,.2f})" if usd >= 1 else f" (${usd:.4f})"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _printable(text: str) -> str:
    """What callers send must not move the cursor or fake a line."""
    return "".join(char if char.isprintable() else "?" for char in text[:80])
