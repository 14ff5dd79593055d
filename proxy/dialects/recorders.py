"""Recorders that several dialects share: one JSON object, or a stream of them."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import orjson

from proxy import keys, sse
from proxy.errors import ProxyError
from proxy.models import Answers

# A number of so many digits may be beyond 64 bits. orjson would make a float of it. The expression
# takes 15 us for 1 kB; whether there are so many digits at all is known within 1.
_LONG_NUMBER = re.compile(rb"(?<=[\s:,\[-])\d{19}")
_AS_ZEROS = bytes.maketrans(b"123456789", b"000000000")
_MANY_ZEROS = b"0" * 19


class JsonRecorder:
    """Collects an answer that comes as one JSON object; `read` says what it comes to.

    Blank lines before it (DeepSeek sends them under load) do no harm.
    """

    ended = False  # the end of the body is the only sign

    def __init__(self, read: Callable[[dict[str, Any]], Answers | None]) -> None:
        self._read = read
        self._chunks: list[bytes] = []

    def feed(self, chunk: bytes) -> None:
        self._chunks.append(chunk)

    def finish(self) -> Answers | None:
        try:
            body = parse_exactly(b"".join(self._chunks))
            if not isinstance(body, dict) or tells_error(body):
                return None
            return _writable(self._read(body))
        except (orjson.JSONDecodeError, RecursionError):
            return None


class EventRecorder(ABC):
    """Collects an answer that comes as a stream of JSON objects.

    It has `ended` with `[DONE]`, or when a dialect sees the event that is always the last.
    """

    def __init__(self) -> None:
        self._decoder = sse.Decoder()
        self.ended = False
        self._broken = False

    def feed(self, chunk: bytes) -> None:
        if self._broken:
            return
        try:
            events = self._decoder.feed(chunk)
        except ProxyError:  # too long an event: it may pass, but is not kept
            self._broken = True
            return
        for event in events:
            if event == b"[DONE]":
                self.ended = True
            elif event and not self._take(event):
                self._broken = True

    def finish(self) -> Answers | None:
        return None if self._broken else _writable(self.answers())

    @abstractmethod
    def add(self, chunk: dict[str, Any]) -> bool:
        """Take in the next object; `False` if it is not of this format."""

    @abstractmethod
    def answers(self) -> Answers | None:
        """What all objects come to; `None` if the answer is not complete."""

    def _take(self, event: bytes) -> bool:
        try:
            chunk = parse_exactly(event)
        except orjson.JSONDecodeError:
            return False
        return isinstance(chunk, dict) and not tells_error(chunk) and self.add(chunk)


def parse_exactly(raw: bytes) -> Any:
    """Parse JSON that can be told again to the letter; `JSONDecodeError` if it cannot."""
    value = orjson.loads(raw)
    if _holds_long_number(raw) and (why := keys.ambiguity(raw)):
        raise orjson.JSONDecodeError(why, "", 0)
    return value


def _holds_long_number(raw: bytes) -> bool:
    return _MANY_ZEROS in raw.translate(_AS_ZEROS) and bool(_LONG_NUMBER.search(raw))


def tells_error(body: dict[str, Any]) -> bool:
    """Does a body or an event that came with status 200 tell an error?

    OpenRouter and vLLM send `error` once generation began, Groq `x_groq.error`.
    """
    get = body.get
    if get("error") or get("type") == "error" or get("object") == "error":
        return True
    groq = get("x_groq")
    return isinstance(groq, dict) and bool(groq.get("error"))


def _writable(answers: Answers | None) -> Answers | None:
    """orjson reads 1024 levels and writes 254: what could not be told again is not kept."""
    try:
        orjson.dumps(answers)
    except orjson.JSONEncodeError:
        return None
    return answers
