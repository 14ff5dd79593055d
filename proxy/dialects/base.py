"""What every dialect does, and what those of OpenAI's family share.

A dialect reads and writes bytes and never waits. It turns a Call into an Ask, listens to the
provider's answer through a Recorder, and tells a stored answer again with `replay`.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import orjson

from proxy import keys, sse
from proxy.errors import ProxyError, UnreadableRequest
from proxy.models import AnswerFacts, Answers, Ask, Call, Head, Ignored

_STREAM_OPTIONS = b'{"stream_options":{"include_usage":true},'
_NO_USAGE = re.compile(rb',\s*"usage"\s*:\s*null|"usage"\s*:\s*null\s*,')


class Recorder(Protocol):
    """Listens to one answer as it passes by. Fed the body's bytes, cut anywhere."""

    def feed(self, chunk: bytes) -> None: ...

    @property
    def ended(self) -> bool:
        """Was the sign of the end seen, so that nothing but the end of the body is to come?"""
        ...

    def finish(self) -> Answers | None:
        """The answers, one for each part that was asked; `None`: not complete, keep nothing.

        Called only when the body ended cleanly.
        """
        ...


class Relay(Protocol):
    """Changes a stream on its way to one caller: hides what only the proxy asked for."""

    def feed(self, chunk: bytes) -> bytes: ...

    def finish(self) -> bytes:
        """What is still held back when the body has ended."""
        ...


class Dialect(Protocol):
    """One wire format."""

    @property
    def name(self) -> str: ...

    def read(self, call: Call) -> Ask:
        """Read a request; `UnreadableRequest` if no provider could."""
        ...

    def request(self, ask: Ask, missing: Sequence[int] | None = None) -> bytes:
        """The body to send: the caller's own, or one that asks for the `missing` parts only."""
        ...

    def recorder(self, ask: Ask, head: Head, parts: int) -> Recorder:
        """A recorder for the answer that `head` begins, to `parts` parts of the Ask."""
        ...

    def relay(self, ask: Ask) -> Relay | None:
        """What a streamed answer must pass through for this caller; `None`: as it comes."""
        ...

    def can_replay(self, ask: Ask, answers: Answers) -> bool:
        """Do the stored answers hold all that this request would have been told?"""
        ...

    def replay(self, ask: Ask, answers: Answers) -> bytes:
        """The body that tells stored answers: events if `ask.stream`, else JSON."""
        ...

    def facts(self, ask: Ask, answers: Answers) -> AnswerFacts:
        """What policy, savings and logs need to know of the answers."""
        ...

    def error(self, error: ProxyError) -> bytes:
        """The body that tells an error of the proxy."""
        ...


@dataclass(frozen=True, slots=True)
class Fields:
    """The table of one dialect: which body fields mean what for the key."""

    asked: tuple[str, ...]  # these make `prompt`; all others `llm_string`
    ignored: Mapping[str, str]  # not in the key, and why
    neutral: Mapping[str, tuple[Any, ...]]  # values that say the same as leaving the field out
    nullable: frozenset[str]  # known fields whose null says the same as leaving them out
    echoed: frozenset[str] = frozenset()  # repeated in the answer
    shape: keys.Shape = field(default_factory=dict)  # the objects that may be levelled


class OpenAIDialect(ABC):
    """What chat, completions and embeddings share: one JSON object in, `error` objects out."""

    name: str
    version: int
    fields: Fields

    def read(self, call: Call) -> Ask:
        body = parse_object(call.body)
        stream = self._stream(body)
        wants_usage = not stream or _includes_usage(body)
        asked, parameters, ignored = self._split(body)
        echoed = {name: body[name] for name in body if name in self.fields.echoed}
        if echoed:
            keys.canonical(echoed)  # not in the key, and yet to be written: not too deep for that
        return Ask(
            dialect=f"{self.name}/{self.version}",
            parts=self.parts(asked),
            parameters=parameters,
            model=body["model"] if isinstance(body.get("model"), str) else "",
            body=body,
            raw=call.body,
            stream=stream,
            wants_usage=wants_usage,
            asks_usage_upstream=not wants_usage and call.provider.include_usage,
            echoed=echoed,
            ignored=ignored,
        )

    def parts(self, asked: dict[str, Any]) -> tuple[dict[str, Any], ...]:
        """Split what is asked into what is cached apart: one part, unless a dialect knows more."""
        return (asked,)

    def request(self, ask: Ask, missing: Sequence[int] | None = None) -> bytes:
        """The caller's bytes, untouched but for the wish for usage where that is tolerated."""
        if not ask.asks_usage_upstream:
            return ask.raw
        if "stream_options" not in ask.body:
            return _STREAM_OPTIONS + ask.raw.lstrip()[1:].lstrip()
        options = ask.body["stream_options"]
        wish = {**options, "include_usage": True} if isinstance(options, dict) else options
        wish = wish or {"include_usage": True}
        return keys.canonical({**ask.body, "stream_options": wish}).encode()

    def relay(self, ask: Ask) -> Relay | None:
        return None

    @abstractmethod
    def recorder(self, ask: Ask, head: Head, parts: int) -> Recorder: ...

    @abstractmethod
    def can_replay(self, ask: Ask, answers: Answers) -> bool: ...

    @abstractmethod
    def replay(self, ask: Ask, answers: Answers) -> bytes: ...

    @abstractmethod
    def facts(self, ask: Ask, answers: Answers) -> AnswerFacts: ...

    def error(self, error: ProxyError) -> bytes:
        return openai_error(error)

    def _repeats_caller(self, envelope: dict[str, Any]) -> bool:
        """Does an answer tell an ignored field of the request that it answered?

        For dialects whose references know no such answer: another caller must not be told it.
        """
        return not self.fields.ignored.keys().isdisjoint(envelope)

    def _stream(self, body: dict[str, Any]) -> bool:
        stream = body.get("stream")
        if stream is not None and not isinstance(stream, bool):
            raise UnreadableRequest(f"stream: expected true or false, got {json_kind(stream)}.")
        return bool(stream)

    def _split(
        self, body: dict[str, Any]
    ) -> tuple[dict[str, Any], dict[str, Any], tuple[Ignored, ...]]:
        table = self.fields
        asked: dict[str, Any] = {}
        parameters: dict[str, Any] = {}
        ignored: list[Ignored] = []
        for name, value in keys.level(body, table.shape).items():
            if name in table.asked:
                asked[name] = value
            elif name in table.ignored:
                ignored.append(Ignored(name, table.ignored[name]))
            elif value is None and name in table.nullable:
                ignored.append(Ignored(name, "null says the same as leaving it out"))
            elif name in table.neutral and _is_one_of(value, table.neutral[name]):
                ignored.append(Ignored(name, "this value says the same as leaving it out"))
            else:
                parameters[name] = value
        return asked, parameters, tuple(ignored)


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
            body = orjson.loads(b"".join(self._chunks))
            if not isinstance(body, dict) or tells_error(body):
                return None
            return _writable(self._read(body))
        except (orjson.JSONDecodeError, RecursionError):
            return None


class EventRecorder(ABC):
    """Collects an answer that comes as a stream of JSON objects, ended by `[DONE]` or not."""

    def __init__(self) -> None:
        self._decoder = sse.Decoder()
        self._ended = False
        self._broken = False

    @property
    def ended(self) -> bool:
        return self._ended

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
                self._ended = True
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
            chunk = orjson.loads(event)
        except orjson.JSONDecodeError:
            return False
        return isinstance(chunk, dict) and not tells_error(chunk) and self.add(chunk)


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


def is_event_stream(head: Head) -> bool:
    """Told by the reply, not by the request: some servers stream although they were not asked."""
    return head.header(b"content-type").lower().startswith(b"text/event-stream")


def tells_error(body: dict[str, Any]) -> bool:
    """Does a body or an event that came with status 200 tell an error?

    OpenRouter and vLLM send `error` once generation began, Groq `x_groq.error`.
    """
    groq = body.get("x_groq")
    return bool(
        body.get("error")
        or "error" in (body.get("type"), body.get("object"))
        or (isinstance(groq, dict) and groq.get("error"))
    )


def parse_object(raw: bytes) -> dict[str, Any]:
    """Parse a body that must be a JSON object; `UnreadableRequest` says what else it is."""
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as exc:
        raise UnreadableRequest(
            f"The body is not JSON: {exc.msg} at line {exc.lineno}, column {exc.colno}."
        ) from exc
    if not isinstance(body, dict):
        raise UnreadableRequest(f"The body must be a JSON object, got {json_kind(body)}.")
    return body


def json_kind(value: Any) -> str:
    """Name the JSON type of a value, for error messages."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return "text"
    return "a list" if isinstance(value, list) else "an object"


def openai_error(error: ProxyError) -> bytes:
    """OpenAI's error object. Source: the API reference, "Error codes"."""
    detail = {
        "message": str(error),
        "type": "llm_cache_proxy_error",
        "param": None,
        "code": error.code,
    }
    return orjson.dumps({"error": detail})


def _writable(answers: Answers | None) -> Answers | None:
    """orjson reads 1024 levels and writes 254: what could not be told again is not kept."""
    try:
        orjson.dumps(answers)
    except orjson.JSONEncodeError:
        return None
    return answers


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
    del chunk["usage"]
    shown = _NO_USAGE.sub(b"", line, count=1)
    if orjson.loads(shown[5:]) == chunk:
        return shown
    # `usage: null` also stands further in: write the chunk anew, if it is not too deep for that.
    try:
        return b"data: %b%b" % (orjson.dumps(chunk), line[len(line.rstrip()) :])
    except orjson.JSONEncodeError:
        return line


def _includes_usage(body: dict[str, Any]) -> bool:
    options = body.get("stream_options")
    return isinstance(options, dict) and bool(options.get("include_usage"))


def _is_one_of(value: Any, candidates: tuple[Any, ...]) -> bool:
    # Python takes 1 for True and 1.0 for 1; JSON does not.
    return any(value == each and type(value) is type(each) for each in candidates)
