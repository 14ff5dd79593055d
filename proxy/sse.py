"""Server-sent events: bytes in, the data of events out, and back.

Source: WHATWG HTML, section 9.2 "Server-sent events".
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from proxy.errors import UpstreamFailure

CONTENT_TYPE = b"text/event-stream; charset=utf-8"
DONE = b"data: [DONE]\n\n"
# An event above this is no event of a language model; it would only fill memory.
MAX_EVENT_BYTES = 64 * 2**20

_LINE_END = re.compile(rb"\r\n|\n|\r")


class Decoder:
    """Is fed chunks cut anywhere, gives the data of each event that is whole.

    Event names, ids, retry times and comments are passed over: the formats read here repeat the
    name inside the data.
    """

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []
        self._bytes = 0

    def feed(self, chunk: bytes) -> list[bytes]:
        self._bytes += len(chunk)
        if self._bytes > MAX_EVENT_BYTES:
            raise UpstreamFailure(
                f"The provider sent an event of more than {MAX_EVENT_BYTES} bytes."
            )
        if b"\n" not in chunk and b"\r" not in chunk:
            self._rest += chunk
            return []
        text = self._rest + chunk
        held = b""
        if text.endswith(b"\r"):  # perhaps half of a CRLF
            text, held = text[:-1], b"\r"
        *lines, rest = _LINE_END.split(text) if b"\r" in text else text.split(b"\n")
        self._rest = rest + held
        events = [event for line in lines if (event := self._line(line)) is not None]
        if events:
            self._bytes = len(self._rest)
        return events

    def _line(self, line: bytes) -> bytes | None:
        if line.startswith(b"data:"):
            value = line[5:]
            self._data.append(value[1:] if value.startswith(b" ") else value)
            return None
        if line or not self._data:
            return None
        event = b"\n".join(self._data)
        self._data.clear()
        return event


def encode(events: Iterable[bytes]) -> bytes:
    """Render the data of events, each on one line, as a stream."""
    return b"".join(b"data: %b\n\n" % event for event in events)
