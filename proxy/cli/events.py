"""Events as a proxy tells them while one listens: read from the stream, and in a line each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import fields
from datetime import datetime
from typing import Any

import orjson

from proxy.journal import for_people
from proxy.models import Event, Outcome

_KNOWN = {each.name for each in fields(Event)}


def events(pieces: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """What stands behind `data:`; comments only say that the proxy is still there."""
    for line in _lines(pieces):
        if line.startswith(b"data: "):
            yield orjson.loads(line[6:])


def line_of(told: dict[str, Any], *, colour: bool) -> str:
    """As `serve` prints it."""
    if told["event"] != "request":
        return f"({told.get('count', 0):,} more, too fast to be told)"
    known = {name: value for name, value in told.items() if name in _KNOWN}
    known["outcome"] = Outcome(told["outcome"]) if told["outcome"] in set(Outcome) else None
    return for_people(datetime.fromisoformat(told["time"]).timestamp(), Event(**known), colour)


def _lines(pieces: Iterable[bytes]) -> Iterator[bytes]:
    rest = b""
    for piece in pieces:
        *whole, rest = (rest + piece).split(b"\n")
        yield from whole
