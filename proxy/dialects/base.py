"""What every dialect does, and what all share whose requests are one JSON object.

A dialect reads and writes bytes and never waits. It turns a Call into an Ask, listens to the
provider's answer through a Recorder, and tells a stored answer again with `replay`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import orjson

from proxy import keys
from proxy.errors import ProxyError, UnreadableRequest
from proxy.models import UNBOUNDED, AnswerFacts, Answers, Ask, Bounds, Call, Head, Ignored

# Why a field is not in the key, where several dialects say the same.
TELLING = "says how to tell the answer"
CALLER = "names the caller"
CACHING = "the provider's own cache: speed and price"
QUEUE = "place in the queue, and price"


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

    @property
    def version(self) -> int:
        """Part of what entries are called by: "chat/1"."""
        ...

    @property
    def request_id(self) -> bytes:
        """The response header in which clients look for the request's id."""
        ...

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
    # Names in any of these objects that are not in the key: where the provider's own cache begins.
    marks: frozenset[str] = frozenset()


class JsonDialect(ABC):
    """Reads one JSON object with the help of its table, and tells errors as OpenAI does."""

    name: str
    version: int
    fields: Fields
    request_id = b"x-request-id"
    sampled = True  # does a temperature play a part in the answers?

    def read(self, call: Call) -> Ask:
        body = parse_object(call.body)
        stream = self._stream(body)
        wants_usage, asks_usage_upstream = self._usage(call, body, stream)
        asked, parameters, ignored = self._split(body)
        echoed = {name: body[name] for name in body if name in self.fields.echoed}
        if echoed:
            keys.canonical(echoed)  # not in the key, and yet to be written: not too deep for that
        return Ask(
            dialect=f"{self.name}/{self.version}",
            parts=self.parts(asked, parameters),
            parameters=parameters,
            model=body["model"] if isinstance(body.get("model"), str) else "",
            body=body,
            raw=call.body,
            stream=stream,
            wants_usage=wants_usage,
            asks_usage_upstream=asks_usage_upstream,
            echoed=echoed,
            ignored=ignored,
            bounds=self.bounds(body),
            sampled=self.sampled,
        )

    def bounds(self, body: dict[str, Any]) -> Bounds:
        """What the request itself says of keeping its answer: nothing, unless a dialect knows."""
        return UNBOUNDED

    def parts(
        self, asked: dict[str, Any], parameters: dict[str, Any]
    ) -> tuple[dict[str, Any], ...]:
        """Split what is asked into what is cached apart: one part, unless a dialect knows more."""
        return (asked,)

    def request(self, ask: Ask, missing: Sequence[int] | None = None) -> bytes:
        return ask.raw

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

    def _usage(self, call: Call, body: dict[str, Any], stream: bool) -> tuple[bool, bool]:
        """Does the caller want usage, and is it to be asked for on the proxy's account?"""
        return True, False

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
        levelled = keys.level(body, table.shape)
        marks = set(keys.drop(levelled, table.shape, table.marks))
        for name, value in levelled.items():
            if name in table.ignored:
                ignored.append(Ignored(name, table.ignored[name]))
            elif value is None and name in table.nullable:
                ignored.append(Ignored(name, "null says the same as leaving it out"))
            elif name in table.neutral and _is_one_of(value, table.neutral[name]):
                ignored.append(Ignored(name, "this value says the same as leaving it out"))
            elif name in table.asked:
                asked[name] = value
            else:
                parameters[name] = value
        ignored += [Ignored(path, CACHING) for path in sorted(marks)]
        return asked, parameters, tuple(ignored)


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


def _is_one_of(value: Any, candidates: tuple[Any, ...]) -> bool:
    # Python takes 1 for True and 1.0 for 1; JSON does not.
    return any(value == each and type(value) is type(each) for each in candidates)
