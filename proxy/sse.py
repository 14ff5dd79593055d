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
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class Decoder:
    """Is fed chunks cut anywhere, gives the data of each event that is whole.

    Event names, ids, retry times and comments are passed over: the formats read here repeat the
    name inside the data. An event that is never ended by a blank line is none.
    """

    def __init__(self) -> None:
        self._rest: list[bytes] = []  # a line that has not ended, in pieces: joined once
        self._rest_bytes = 0
        self._data: list[bytes] = []
        self._data_bytes = 0

    def feed(self, chunk: bytes) -> list[bytes]:
        self._rest.append(chunk)
        self._rest_bytes += len(chunk)
        events = self._events() if b"\n" in chunk or b"\r" in chunk else []
        if self._rest_bytes + self._data_bytes > MAX_EVENT_BYTES:
            raise UpstreamFailure(
                f"The provider sent an event of more than {MAX_EVENT_BYTES} bytes."
            )
        return events

    def _events(self) -> list[bytes]:
        text = b"".join(self._rest)
        if text.endswith(b"\n\n") and not self._data and b"\r" not in text:
            self._rest, self._rest_bytes = [], 0
            return [event for each in text[:-2].split(b"\n\n") if (event := self._event(each))]
        held = b""
        if text.endswith(b"\r"):  # perhaps half of a CRLF
            text, held = text[:-1], b"\r"
        *lines, rest = _LINE_END.split(text) if b"\r" in text else text.split(b"\n")
        self._rest = [rest + held]
        self._rest_bytes = len(self._rest[0])
        return [event for line in lines if (event := self._line(line))]

    def _event(self, lines: bytes) -> bytes:
        """The data of one whole event."""
        if lines.startswith(b"data: ") and b"\n" not in lines:
            return lines[6:]  # as nearly always
        for line in lines.split(b"\n"):
            self._line(line)
        return self._line(b"")

    def _line(self, line: bytes) -> bytes:
        """Take in a line; the data of the event that it ends, if any."""
        if not line:
            event = b"\n".join(self._data)
            self._data.clear()
            self._data_bytes = 0
            return event
        line = line.removeprefix(_BYTE_ORDER_MARK)
        if line.startswith(b"data:"):
            self._data.append(line[6:] if line.startswith(b"data: ") else line[5:])
            self._data_bytes += len(line)
        return b""


def encode(events: Iterable[bytes]) -> bytes:
    """Render the data of events, each on one line, as a stream."""
    return b"".join(b"data: %b\n\n" % event for event in events)


def encode_named(events: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Render events, each a name and its data on one line, as a stream."""
    return b"".join(b"event: %b\ndata: %b\n\n" % event for event in events)
