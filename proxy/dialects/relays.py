"""Hides from a caller the usage that only the proxy asked for."""

from __future__ import annotations

import re

import orjson

from proxy import sse

_NO_USAGE = re.compile(rb',\s*"usage"\s*:\s*null|"usage"\s*:\s*null\s*,')
_LAST = b',"usage":null}'


class UsageRelay:
    """Hides the usage that only the proxy asked for; all else passes byte for byte.

    Lines pass as soon as they are whole, and one that holds no object passes as it comes.
    """

    def __init__(self) -> None:
        self._held = bytearray()  # a line that has not ended
        self._is_object = False  # it holds an object, whatever follows
        self._midway = False  # the beginning of this line has passed
        self._hidden = False  # the event's data was hidden: so is the blank line that ends it

    def feed(self, chunk: bytes) -> bytes:
        self._held += chunk
        goes_on = b"\n" not in chunk and b"\r" not in chunk
        if self._is_object and goes_on and len(self._held) <= sse.MAX_EVENT_BYTES:
            return b""
        lines = bytes(self._held).splitlines(keepends=True)
        rest = lines.pop() if lines and not lines[-1].endswith(b"\n") else b""
        passed = b"".join([self._line(line) for line in lines])
        if rest and (self._midway or not _may_be_object(rest)):
            passed, rest, self._midway = passed + rest, b"", True
        self._held = bytearray(rest)
        self._is_object = rest.startswith((b"data: {", b"data:{"))
        return passed

    def finish(self) -> bytes:
        """A last line that nothing ended: some clients read it all the same."""
        rest, self._held = bytes(self._held), bytearray()
        return self._line(rest)

    def _line(self, line: bytes) -> bytes:
        if self._midway:
            self._midway = False
            return line
        if self._hidden and not line.strip():
            self._hidden = False
            return b""
        if not line.startswith(b"data:") or b'"usage"' not in line:
            return line
        shown = _without_usage(line)
        self._hidden = not shown
        return shown


def _may_be_object(line: bytes) -> bool:
    """May the beginning of a line become `data: {...}`? A CR may yet become a CRLF."""
    if len(line) > sse.MAX_EVENT_BYTES:
        return False  # no event of a language model: it passes as it comes
    return line.endswith(b"\r") or b"data: {".startswith(line[:7]) or b"data:{".startswith(line[:6])


def _without_usage(line: bytes) -> bytes:
    """The line without `usage: null`; nothing of it if it is the chunk that only tells usage."""
    try:
        chunk = orjson.loads(line[5:])
    except orjson.JSONDecodeError:
        return line
    if not isinstance(chunk, dict) or "usage" not in chunk:
        return line
    if chunk["usage"] is not None:
        return b"" if chunk.get("choices") == [] else line
    bare = line.rstrip()
    if bare.endswith(_LAST) and bare.count(b'"usage"') == 1:  # the end of the chunk itself
        return bare[: -len(_LAST)] + b"}" + line[len(bare) :]
    del chunk["usage"]
    shown = _NO_USAGE.sub(b"", line, count=1)
    if orjson.loads(shown[5:]) == chunk:
        return shown
    # `usage: null` also stands further in: write the chunk anew, if it is not too deep for that.
    try:
        return b"data: %b%b" % (orjson.dumps(chunk), line[len(line.rstrip()) :])
    except orjson.JSONEncodeError:
        return line
