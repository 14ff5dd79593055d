"""The sections of the configuration: names, types, defaults.

The text below a setting is what `config.example.toml` says of it.
"""

from __future__ import annotations

import os
import re
from typing import Annotated, Any, Literal, Self

import platformdirs
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
    SecretStr,
    model_validator,
)

from cache_backends.redaction import Redaction
from cache_backends.urls import CASSETTE
from proxy.config.values import (
    BaseUrl,
    HeaderName,
    Lease,
    Lifetime,
    LowerTexts,
    Patience,
    Port,
    Regex,
    Seconds,
    SettingError,
    Size,
    Texts,
    VariableName,
    from_json,
)
from proxy.models import KeepRules, Mode, Scope


def _default_cache_url() -> str:
    folder = platformdirs.user_data_path("llm-cache-proxy", appauthor=False)
    return f"sqlite:///{(folder / 'cache.db').as_posix()}"


class Section(BaseModel):
    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        hide_input_in_errors=True,
    )


class Server(Section):
    host: str = "127.0.0.1"
    """Where to listen. Beyond loopback, think of [clients]: who reaches the proxy can use it."""
    port: Port = 8484
    """0 takes any free port."""
    workers: PositiveInt = 1
    """Processes. More than one needs a cache that they can share: SQLite, not memory."""
    log_level: Literal["critical", "error", "warning", "info", "debug"] = "info"
    """The least that is logged."""
    drain_s: Seconds = 25.0
    """How long what runs may take to finish after SIGTERM; below Kubernetes' 30 s."""
    keep_alive_s: Patience = 120.0
    """How long an idle client connection stays open; longer than clients keep theirs."""
    max_cacheable_body: Size = 32 * 2**20
    """Larger request bodies are streamed past the cache."""
    send_timeout_s: Patience = 30.0
    """A client that takes no byte for so long is cut off."""
    allowed_hosts: LowerTexts = ()
    """More names that clients may reach a loopback proxy by (their Host header)."""
    max_misses: PositiveInt = 1000
    """Misses in flight; more get 503 and Retry-After, hits are still served."""
    max_backlog: Size = 512 * 2**20
    """What all answers in flight may hold in memory; past it they go at their readers' pace."""
    hit_lane: bool = True
    """Answer requests that come again and again from rendered bytes, before anything is parsed."""

    @property
    def url(self) -> str:
        """How a client on this machine reaches the proxy."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104 - told, not bound
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"


class Upstream(Section):
    provider: str = "openai"
    """Who answers under /v1: a known provider, or one of [providers]."""
    base_url: BaseUrl | None = None
    """Replaces that provider's base URL, with its /v1: "http://127.0.0.1:9999/v1"."""
    connect_timeout_s: Patience = 10.0
    """To reach the provider."""
    first_byte_timeout_s: Patience = 600.0
    """Until the answer begins; as long as OpenAI's clients wait."""
    idle_timeout_s: Patience = 600.0
    """Between two pieces of an answer; reasoning models can be silent for minutes."""
    max_connections: NonNegativeInt = 0
    """To all providers, for each worker; 0 means no limit."""
    keep_alive_s: Seconds = 30.0
    """How long an idle connection to a provider stays open."""
    include_usage: bool = True
    """Ask providers that tolerate it for usage in streams, so that entries know their tokens."""
    finish_abandoned_s: Seconds = 60.0
    """How long an answer that nobody waits for any more is still fetched, to store it."""
    flight_patience_s: Patience = 60.0
    """How long a request waits for an equal one that shows no sign of life before it goes alone."""


class Cache(Section):
    url: str = Field(default_factory=_default_cache_url)
    """sqlite:///FILE (four slashes: absolute), redis://, postgresql://, memory://, null://,
    cassette:FILE, langchain:module:Class or module:Class. Default: a SQLite file in your data
    directory."""
    options: Annotated[dict[str, Any], BeforeValidator(from_json)] = Field(
        default_factory=dict, repr=False
    )
    """What else the cache is told, such as { prefix = "llm:" } for Redis; also as a table,
    [cache.options]. For langchain:module:Class these are the arguments of the class."""
    ttl: Lifetime | None = None
    """How long answers stay fresh: "7d", "1h30m", seconds. Unset: they do not expire."""
    max_ttl: Lifetime | None = None
    """The most a client may ask for. Unset: not above ttl; without a ttl, freely."""
    stale_if_error_s: Seconds = 86400.0
    """How long an expired answer may still stand in when the provider fails."""
    scope: Scope = Scope.CREDENTIAL
    """Who shares answers: "credential" (the same key), "client" (see [clients]), "shared" (all).
    Unset, a cassette is shared."""
    scope_secret: SecretStr | None = None
    """Keys the hash of credentials. Unset: made once and kept in the cache."""
    max_bytes: Size | None = None
    """What the cache may take. Unset: SQLite 10 GiB and half of the free disk, memory 256 MiB."""
    memory_bytes: Size = 256 * 2**20
    """What each process keeps in memory of a cache that several share. 0: nothing."""
    memory_lease_s: Lease = 1.0
    """How long memory may answer without news of purges, and so how long a purge takes. The first
    process that opens the cache decides for all."""
    coalesce: Literal["worker", "cluster"] = "worker"
    """Who shares one fetch of a question: all requests of one process, or of all that use the
    cache, which must lend leases: sqlite, redis and postgresql do."""
    max_entry: Size = 64 * 2**20
    """Larger answers are not stored."""
    mode: Mode | None = None
    """What rules and requests cannot change: "normal", "offline" (nothing goes to a provider),
    "refresh" (all is fetched anew), "bypass" (the cache is not used) or "read-only". Unset: as it
    was set last, for all who use the cache."""
    lookup_timeout_s: Patience = 0.25
    """A slower cache is a miss."""
    save_timeout_s: Patience = 5.0
    """A slower save is given up; the client has its answer already."""
    honour_cache_control: bool = True
    """Heed Cache-Control and LLM-Cache-Control of requests."""
    key_headers: LowerTexts = ()
    """More request headers that can change an answer, to make them part of the key."""
    namespace: str = ""
    """Answers of other namespaces are not seen: "staging", "v2"."""
    refuse_finish_reasons: Texts = tuple(sorted(KeepRules().refuse_finish_reasons))
    """Answers that ended for these reasons are not stored."""
    tool_calls: bool = True
    """Store answers that call tools."""
    unparsable_json: bool = False
    """Store answers that should be JSON and are not."""
    max_temperature: NonNegativeFloat | None = None
    """Requests above this temperature go past the cache. Unset: all are cached."""

    @model_validator(mode="before")
    @classmethod
    def _share_recordings(cls, said: Any) -> Any:
        """What is in a cassette is for whoever has the file, unless it is said for whom."""
        if isinstance(said, dict) and str(said.get("url")).startswith(CASSETTE):
            return {"scope": Scope.SHARED, **said}
        return said

    @property
    def records(self) -> bool:
        """Is the cache a cassette?"""
        return self.url.startswith(CASSETTE)

    @property
    def told(self) -> dict[str, Any]:
        """All that the cache is told beside its URL."""
        return {"max_bytes": self.max_bytes, **self.options}


class Level(Section):
    pattern: Regex
    """A regular expression."""
    replacement: str = ""
    """What takes the place of each match."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        try:
            re.compile(self.pattern).sub(self.replacement, "")
        except (re.error, IndexError) as exc:
            raise SettingError(f"does not fit the pattern: {exc}", "replacement") from None
        return self


class Cassette(Section):
    redact: Annotated[tuple[Level, ...], BeforeValidator(from_json)] = ()
    """What must not be in the file: matches are replaced, in questions and in answers."""
    prune: bool = False
    """Drop at the end what was not used since the start."""

    @model_validator(mode="after")
    def _can_be_kept_out(self) -> Self:
        for each in self.redact:
            try:
                Redaction([(each.pattern, each.replacement)])
            except ValueError as exc:
                raise SettingError(str(exc), "redact") from None
        return self

    @property
    def redaction(self) -> list[tuple[str, str]]:
        return [(each.pattern, each.replacement) for each in self.redact]


class Rule(Section):
    """For which requests what is different. The first rule that matches counts."""

    provider: Texts = ()
    """For these providers."""
    path: Texts = ()
    """For these paths."""
    model: Texts = ()
    """For these models."""
    client: Texts = ()
    """For these clients of [clients]."""
    header: dict[str, Texts] = Field(default_factory=dict)
    """For requests with these headers."""
    cache: bool | None = None
    """false: past the cache."""
    ttl: Lifetime | None = None
    """As in [cache]; "never" where [cache] has one and these answers shall not expire."""
    namespace: str | None = None
    """As in [cache]."""
    ignore: Texts | None = None
    """Fields that are left out of the key; * stands for every item."""
    level: tuple[Level, ...] | None = None
    """Texts are levelled with these before the key is made; what is sent stays as it is."""
    refuse_finish_reasons: Texts | None = None
    """As in [cache]."""
    tool_calls: bool | None = None
    """As in [cache]."""
    unparsable_json: bool | None = None
    """As in [cache]."""
    max_temperature: NonNegativeFloat | None = None
    """As in [cache]."""
    max_entry: Size | None = None
    """As in [cache]."""
    stale_if_error_s: Seconds | None = None
    """As in [cache]."""


class ProviderSettings(Section):
    base_url: BaseUrl | None = None
    """What a client of the provider would be given, with its /v1."""
    api_key_env: VariableName | None = None
    """The environment variable with the key to send in place of the caller's."""
    auth_header: HeaderName | None = None
    """The header that carries it. Unset: authorization, as a bearer token."""
    include_usage: bool | None = None
    """Whether stream_options.include_usage is tolerated. Unset: as known; true for your own."""
    local: bool | None = None
    """Runs on your own machine: work that nobody waits for is cancelled at once."""


class PriceSettings(Section):
    input: NonNegativeFloat
    """What is read."""
    output: NonNegativeFloat = 0.0
    """What is written."""
    cached_input: NonNegativeFloat | None = None
    """What is read from the provider's own cache. Unset: as input."""
    cache_write: NonNegativeFloat | None = None
    """What is read and put into that cache. Unset: as input."""


class Client(Section):
    token_env: VariableName
    """The environment variable with the token that this client presents as its API key."""

    @property
    def token(self) -> str:
        return os.environ.get(self.token_env, "")


class Admin(Section):
    token: SecretStr | None = None
    """May do all under /admin. Better given as LLM_CACHE_PROXY_ADMIN__TOKEN. Unset: one is made
    where only this machine can ask, kept in your data directory; elsewhere there is no admin."""
    read_token: SecretStr | None = None
    """Sees figures, and nothing that was asked or answered: for dashboards and monitoring."""


class Ops(Section):
    host: str | None = None
    """Where health probes, /metrics and /admin listen apart from the API. Unset: as [server]."""
    port: Port | None = None
    """Unset: no listener of their own; then /metrics asks for a token of [admin], unless only this
    machine can ask."""
