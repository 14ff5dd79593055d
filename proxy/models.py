"""The records that travel through the proxy, in the order in which a request meets them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple

from cache_backends.base import Generation, Key
from cache_backends.redaction import Redaction

# As ASGI gives them: lower-case names, in the order received.
Headers = list[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Provider:
    """Who answers on a miss. `base_url` is what a client of the provider would be given."""

    name: str
    base_url: str
    # Sent in place of the caller's credential when the operator configured one.
    api_key: str | None = field(default=None, repr=False)
    # The header that carries the key; "authorization" means `Bearer <key>`.
    auth_header: str = "authorization"
    # Whether `stream_options.include_usage` may be added to a streamed request.
    include_usage: bool = True
    # Runs on the user's own machine: work that nobody waits for is cancelled at once.
    local: bool = False


@dataclass(frozen=True, slots=True)
class Control:
    """What the caller asked of the cache. `None` and `False` mean: did not say. Seconds."""

    no_cache: bool = False
    no_store: bool = False
    only_if_cached: bool = False
    max_age: float | None = None
    min_fresh: float | None = None
    max_stale: float | None = None  # inf: however stale
    stale_if_error: float | None = None
    ttl: float | None = None
    namespace: str | None = None
    sample: int | None = None
    run: str | None = None  # in it, the k-th equal request is sample k
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Call:
    """One request for an answer, as it arrived: routed, its caller known, its body whole."""

    provider: Provider
    path: str  # raw, below the provider's origin: "/openai/v1/chat/completions"
    query: str  # raw, without "?"
    url: str  # where it goes on a miss: origin, path and query, raw
    headers: Headers = field(repr=False)
    body: bytes = field(repr=False)
    control: Control = Control()
    client: str | None = None  # the name of the client token that was presented
    trace_id: str = ""


@dataclass(frozen=True, slots=True)
class Passing:
    """One request that goes past the cache, streamed both ways."""

    method: str
    provider: Provider
    path: str  # raw, below the provider's origin
    url: str
    headers: Headers = field(repr=False)
    body: bytes | AsyncIterator[bytes] | None = field(repr=False)
    reason: str  # why it is passed on, for people
    forwarded: str = "bypass"  # the same as RFC 9211's `fwd`: "bypass" or "method"
    client: str | None = None
    trace_id: str = ""


class Ignored(NamedTuple):
    """A field that is not part of the key, and why."""

    path: str
    why: str


class Bounds(NamedTuple):
    """What a request itself says of keeping its answer, whatever the operator's rules are."""

    uncached: str = ""  # why it is neither stored nor told from the store: "background"
    account: str = ""  # why only the account that asked may be told it again
    keep_s: float | None = None  # the answer refers to what the provider keeps no longer than this


UNBOUNDED = Bounds()


@dataclass(frozen=True, slots=True)
class Ask:
    """What a Call asks, as its dialect reads it. JSON values, levelled where the dialect knows how.

    `parts` has one value for each entry: one, or one for each input of a batch. Each part is an
    object of body fields (`{"messages": [...]}`), `parameters` are the body's other fields.
    """

    dialect: str  # with its version: "chat/1"
    parts: tuple[dict[str, Any], ...]
    parameters: dict[str, Any]
    model: str
    body: dict[str, Any] = field(repr=False)  # the whole request as parsed; never changed
    raw: bytes = field(repr=False)  # the same, as it came
    stream: bool = False
    wants_usage: bool = True  # would an answer to this request carry usage?
    asks_usage_upstream: bool = False  # is usage asked of the provider on our own account?
    echoed: dict[str, Any] = field(default_factory=dict)  # answer fields that repeat the request's
    ignored: tuple[Ignored, ...] = ()
    bounds: Bounds = UNBOUNDED
    sampled: bool = True  # does a temperature play a part in the answer?


class Scope(StrEnum):
    """Who shares entries."""

    CREDENTIAL = "credential"
    CLIENT = "client"
    SHARED = "shared"


class Mode(StrEnum):
    """What the whole proxy does with its cache, whatever rules and requests say."""

    NORMAL = "normal"
    OFFLINE = "offline"  # nothing goes to a provider: what is not stored is an error
    REFRESH = "refresh"  # everything is fetched anew and stored
    BYPASS = "bypass"  # neither read nor written
    READ_ONLY = "read-only"  # read, not written

    __hash__ = str.__hash__  # as that of Outcome


class Levelling(NamedTuple):
    """A regular expression and what replaces its matches in a text before the key is made."""

    pattern: str
    replacement: str


@dataclass(frozen=True, slots=True)
class KeepRules:
    """Which complete answers are stored."""

    refuse_finish_reasons: frozenset[str] = frozenset(
        {"content_filter", "error", "insufficient_system_resource", "pause_turn", "refusal"}
    )
    tool_calls: bool = True
    unparsable_json: bool = False
    max_temperature: float | None = None
    max_bytes: int = 64 * 2**20


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the operator's rules and the caller's wishes come to, for one Ask. Seconds."""

    may_read: bool
    may_write: bool
    reason: str = ""  # why it may not, for people: "no-store", "rule 2", "temperature above 0.5"
    scope: str = ""  # the partition: a keyed hash of a credential, a client's name, or "shared"
    namespace: str = ""
    sample: int = 0
    run: str = ""  # what the caller calls the run that this belongs to
    counted: bool = False  # the sample is the next of the run: shared with nobody
    ttl: float | None = None  # None: entries do not expire
    max_age: float | None = None
    min_fresh: float | None = None
    max_stale: float = 0.0
    stale_if_error: float = 0.0
    only_if_cached: bool = False
    retain_stale: float = 0.0  # how long an expired entry is kept
    tags: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()  # dotted paths: "metadata.run_id", "messages.*.id"
    level: tuple[Levelling, ...] = ()
    redaction: Redaction | None = None  # what matches is not to be in a key
    keep: KeepRules = KeepRules()


@dataclass(frozen=True, slots=True)
class Question:
    """What the cache is asked: one key for each part of the Ask."""

    keys: tuple[Key, ...]
    ignored: tuple[Ignored, ...] = ()

    @property
    def id(self) -> str:
        return self.keys[0].id


class Freshness(StrEnum):
    """How an entry may be used for one request."""

    FRESH = "fresh"
    STALE = "stale"  # expired, and the caller takes it as it is
    IF_ERROR = "if_error"  # expired; serves if the provider fails
    UNUSABLE = "unusable"


class Head(NamedTuple):
    """The beginning of an upstream response. Names are lower-case; no hop-by-hop headers."""

    status: int
    headers: Headers

    def header(self, name: bytes) -> bytes:
        return dict(reversed(self.headers)).get(name, b"")  # the first of them

    @property
    def streams(self) -> bool:
        """Are these server-sent events, whatever was asked for?"""
        return self.header(b"content-type").lower().startswith(b"text/event-stream")


# The answers to the parts of an Ask, in order; each has a Generation for every choice.
Answers = list[list[Generation]]


class Bill(NamedTuple):
    """What the price of an answer depends on, beside the tokens read and written.

    The counts are parts of these, which providers price apart.
    """

    model: str = ""  # as the answer names it
    service_tier: str = ""  # "flex", "priority"
    cached: int = 0  # read from the provider's own cache
    kept: int = 0  # read, and put into that cache
    kept_for_an_hour: int = 0  # of these
    heard: int = 0  # read as audio
    spoken: int = 0  # written as audio
    reasoned: int = 0  # written, and not shown


NO_BILL = Bill()


class AnswerFacts(NamedTuple):
    """What policy, savings and logs need to know of an answer."""

    finish_reasons: tuple[str, ...] = ()
    has_tool_calls: bool = False
    broken_json: str = ""  # what should be JSON and does not parse: "choices[0].message.content"
    unfinished: str = ""  # why the provider broke off, where that says nothing of the next try
    acted: str = ""  # what shows that a tool searched or acted at the provider: "web_search_call"
    input_tokens: int | None = None
    output_tokens: int | None = None
    bill: Bill = NO_BILL


NO_FACTS = AnswerFacts()


class Outcome(StrEnum):
    """What became of a request: the value of `X-Cache`."""

    HIT = "HIT"
    MISS = "MISS"
    PARTIAL = "PARTIAL"
    STALE = "STALE"
    COLLAPSED = "COLLAPSED"
    BYPASS = "BYPASS"

    __hash__ = str.__hash__  # Enum's own is Python code, and this is a key five times a hit


@dataclass(slots=True)
class Event:
    """One request, for counters and logs: no prompts, no answers, no keys. Seconds."""

    path: str
    provider: str = ""
    dialect: str = ""
    model: str = ""
    namespace: str = ""
    client: str = ""
    outcome: Outcome | None = None  # None: an error of the proxy's own
    status: int = 0
    reason: str = ""  # why it went past the cache, or was not stored
    input_tokens: int | None = None
    output_tokens: int | None = None
    seconds: float = 0.0
    upstream_seconds: float = 0.0
    made_seconds: float = 0.0  # what the provider took when the answer was made
    usd: float | None = None  # what the provider takes for such an answer, if its price is known
    saved_tokens: int = 0
    saved_seconds: float = 0.0
    saved_usd: float = 0.0
    age: float | None = None  # of what was stored
    tier: str = ""  # where it was found: "memory", or the backend's name
    request_bytes: int = 0
    answer_bytes: int = 0
    entry_id: str = ""
    trace_id: str = ""  # of the caller's traceparent
    cut: bool = False  # the caller did not get the whole answer


@dataclass(slots=True)
class Reply:
    """An answer on its way to the caller. A body in chunks may raise UpstreamFailure: then the
    connection is cut, so that nobody takes a part for the whole. Once the reply is sent or given
    up, `release` is called and `close` awaited."""

    status: int
    headers: Headers
    body: bytes | AsyncIterator[bytes]
    event: Event
    release: Callable[[], None]
    close: Callable[[], Awaitable[None]] | None = None
    whole: Callable[[], bool] = lambda: True  # has it all of an answer? Known once it is over
