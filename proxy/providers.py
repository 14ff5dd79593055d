"""Which provider a path leads to, and the URL there.

`/v1/...` is the default provider's base URL, `/<provider>/...` that provider's origin, and
`/~ttl=60,namespace=evals/...` before either carries directives. What follows is forwarded raw.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache

from proxy.config import Settings
from proxy.errors import BadRequest, UnknownPath
from proxy.models import Headers, Provider
from proxy.provider_table import CLIENTS_WANT_ORIGIN, EXAMPLE_BASE_URL, KNOWN

# Each (path, query) is worked out once while it is among the latest so many.
MAX_ROUTES = 4096
MAX_MEMOISED_CHARACTERS = 512
_MAX_SHOWN = 80

# Ends of paths that are other APIs: Mistral's fill-in-the-middle and agents, Ollama's own.
_OTHER_APIS = {"fim/completions", "agents/completions", "api/embeddings"}

# How a path ends, and the dialect spoken there.
_TWO_WORDS = {
    "chat/completions": "chat",
    "responses/input_tokens": "input_tokens",
    "messages/count_tokens": "count_tokens",
}
_ONE_WORD = {
    "completions": "completions",
    "embeddings": "embeddings",
    "responses": "responses",
}
_ANTHROPIC = frozenset({"messages", "count_tokens"})

# Printable ASCII but the backslash, which some servers take for a slash, and what starts a query
# or a fragment. Everything else in a path is percent-encoded (RFC 3986 3.3).
_RAW_PATH = re.compile(r"/[!\"$->@-\[\]-~]*")
_RAW_QUERY = re.compile(r"[!-~]*")
_CONTROL = re.compile(r"%(?:[01][0-9a-f]|7f)", re.IGNORECASE)
_DOT = re.compile(r"%2e", re.IGNORECASE)
# Also the semicolon: Java servers take what follows it in a segment for a parameter.
_SEGMENT_END = re.compile(r"[/;]|%2f|%5c|%3b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Route:
    """Where a request goes."""

    provider: Provider
    path: str  # raw, below the provider's origin: "/openai/v1/chat/completions"
    url: str  # raw, with the query
    dialect: str | None = None  # "chat", "messages", ...; None: only passed through


class Providers:
    """The providers that can be reached, and the one behind `/v1`."""

    def __init__(
        self,
        table: Iterable[Provider],
        default: str,
        proxy_url: str = "http://127.0.0.1:8484",
    ) -> None:
        self._table = {provider.name: provider for provider in table}
        self._proxy_url = proxy_url
        self.default = self._table[default]
        self._memoised = lru_cache(maxsize=MAX_ROUTES)(self._route)

    def __repr__(self) -> str:
        return f"<Providers {', '.join(self._table)}; /v1 is {self.default.name}>"

    def route(self, path: str, query: str = "") -> Route:
        """Say where a raw path leads. Raises UnknownPath, or BadRequest if it is no plain path."""
        if len(path) + len(query) > MAX_MEMOISED_CHARACTERS:
            return self._route(path, query)
        return self._memoised(path, query)

    def named(self, name: str) -> Provider | None:
        """The provider of this name."""
        return self._table.get(name)

    def path_to(self, base_url: str) -> str | None:
        """Where on this proxy a client asks that was given this base URL; `None`: nowhere."""
        if base_url == self.default.base_url:
            return "/v1"
        for name, provider in self._table.items():
            if base_url == provider.base_url:
                return f"/{name}{base_url.removeprefix(_origin(base_url))}"
        return None

    def _route(self, path: str, query: str) -> Route:
        _refuse_trickery(path, query)
        first, slash, rest = path[1:].partition("/")
        if first == "v1":
            provider = self.default
            below = provider.base_url + slash + rest
        elif first in self._table:
            provider = self._table[first]
            if first in CLIENTS_WANT_ORIGIN:
                rest = _with_one_version(rest)
            below = _origin(provider.base_url) + slash + rest
        else:
            raise UnknownPath(self._way_out(path, first))
        if not provider.base_url:
            raise UnknownPath(_unconfigured(provider.name))
        dialect = _dialect(rest, below.startswith(f"{provider.base_url}/"))
        return Route(
            provider,
            path=below.removeprefix(_origin(provider.base_url)) or "/",
            url=f"{below}?{query}" if query else below,
            dialect=dialect,
        )

    def refuse_stray(self, route: Route, headers: Headers) -> None:
        """Refuse what was meant for Anthropic before OpenAI is handed the caller's key for it."""
        if route.provider.base_url != KNOWN["openai"].base_url:
            return
        if route.dialect in _ANTHROPIC or any(name == b"anthropic-version" for name, _ in headers):
            base_url = self._base_url("anthropic")
            raise UnknownPath(f"This is OpenAI: for Anthropic use {base_url} as base_url.")

    def _way_out(self, path: str, first: str) -> str:
        here = self._proxy_url
        if first in ("chat", "completions", "embeddings", "responses", "models"):
            return f"/{first} is not below a base URL. Use {here}/v1 as base_url."
        if first == "messages":
            base_url = self._base_url("anthropic")
            return f"/{first} is not below a base URL. Use {base_url} as base_url."
        names = [*self._table, "v1"]
        name = first[:_MAX_SHOWN]
        if close := difflib.get_close_matches(name.lower(), names, n=1, cutoff=0.6):
            return f"There is no provider /{name}. Did you mean {self._base_url(close[0])}?"
        known = ", ".join(f"/{name}" for name in self._table)
        return (
            f"There is nothing at {path[:_MAX_SHOWN]}. Use {here}/v1 as base_url for"
            f" {self.default.name}, or one of {known} in place of a provider's origin; add"
            " others as [providers.<name>]."
        )

    def _base_url(self, name: str) -> str:
        if name == "v1":
            return f"{self._proxy_url}/v1"
        url = self._table[name].base_url
        below = "" if name in CLIENTS_WANT_ORIGIN else url.removeprefix(_origin(url))
        return f"{self._proxy_url}/{name}{below}"


def build_providers(settings: Settings) -> Providers:
    """The known providers as the settings change them, and those that only the settings have."""
    names = dict.fromkeys([*KNOWN, *settings.providers])
    table = (_provider(name, settings) for name in names)
    return Providers(table, settings.upstream.provider, settings.server.url)


def split_directives(path: str) -> tuple[str | None, str]:
    """Part `/~ttl=60/v1/models` into the directives' text and the path behind them."""
    if not path.startswith("/~"):
        return None, path
    directives, slash, rest = path[2:].partition("/")
    return directives, slash + rest or "/"


def error_dialect(path: str) -> str:
    """Name the dialect in which whoever asks for this path expects errors."""
    anthropic = path.startswith("/anthropic/") or "/v1/messages/" in f"{path}/"
    return "messages" if anthropic else "chat"


def _with_one_version(rest: str) -> str:
    """Some clients of Anthropic add `/v1` to the base URL, others expect it there."""
    if rest.startswith("v1/v1/"):
        return rest.removeprefix("v1/")
    return f"v1/{rest}" if rest.partition("/")[0] == "messages" else rest


def _dialect(path: str, below_base_url: bool) -> str | None:
    """Name the dialect that a POST to the path speaks, by the path's end.

    Right at the origin of a provider whose base URL is elsewhere, only two-word ends are known:
    `/completions` and `/embeddings` there are llama.cpp's own API.
    """
    before, _, last = path.rpartition("/")
    parent = before.rpartition("/")[2]
    if dialect := _TWO_WORDS.get(f"{parent}/{last}"):
        return dialect
    if f"{parent}/{last}" in _OTHER_APIS or not (before or below_base_url):
        return None
    if last == "messages":  # those of a thread are OpenAI's assistants'
        return "messages" if parent in ("", "v1") else None
    return _ONE_WORD.get(last)


def _provider(name: str, settings: Settings) -> Provider:
    provider = KNOWN.get(name) or Provider(name, "")
    if said := settings.providers.get(name):
        provider = replace(
            provider,
            base_url=said.base_url or provider.base_url,
            api_key=os.environ.get(said.api_key_env) if said.api_key_env else None,
            auth_header=said.auth_header or provider.auth_header,
            include_usage=_either(said.include_usage, provider.include_usage),
            local=_either(said.local, provider.local),
        )
    if name == settings.upstream.provider and settings.upstream.base_url:
        provider = replace(provider, base_url=settings.upstream.base_url)
    if not settings.upstream.include_usage:
        provider = replace(provider, include_usage=False)
    return provider


def _either(said: bool | None, known: bool) -> bool:
    return known if said is None else said


def _refuse_trickery(path: str, query: str) -> None:
    """Refuse what servers on the way could read as another path than it is routed by.

    A path that leaves its place (`..`, also encoded) would let a caller choose what lies outside
    of the base URL, with the key that the operator put in.
    """
    if not _RAW_PATH.fullmatch(path):
        raise BadRequest(
            "The path must start with / and be percent-encoded: no backslash, no control"
            " characters, no scheme and host."
        )
    if not _RAW_QUERY.fullmatch(query):
        raise BadRequest("The query must be percent-encoded.")
    if "%" in path and _CONTROL.search(path):
        raise BadRequest("The path holds an encoded control character.")
    if "." not in path and "%2" not in path:
        return
    plain = _DOT.sub(".", path)
    if not {".", ".."}.isdisjoint(_SEGMENT_END.split(plain)):
        raise BadRequest("The path holds a . or .. segment; write the path that is meant.")


def _origin(base_url: str) -> str:
    scheme, separator, rest = base_url.partition("://")
    return scheme + separator + rest.partition("/")[0]


def _unconfigured(name: str) -> str:
    return (
        f"Where {name} is depends on your account: set providers.{name}.base_url in the config,"
        f' such as "{EXAMPLE_BASE_URL.get(name, "https://...")}".'
    )
