"""Says of one request what the proxy would make of it: where it goes, its key, what is left out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import orjson

from proxy import keys
from proxy.access import Access
from proxy.control import read_control
from proxy.dialects.base import Dialect
from proxy.errors import BadRequest, Unauthorized, UnreadableRequest
from proxy.models import Call, Headers, Scope, Verdict
from proxy.policy import Policy
from proxy.providers import Providers, split_directives

# What a file may hold around the body; anything else is taken for the body itself.
_AROUND = {"path", "headers", "body"}
# By which field a body tells where it is sent, where nothing else does.
_TELLING_FIELDS = {
    "messages": "/v1/chat/completions",
    "encoding_format": "/v1/embeddings",
    "input": "/v1/responses",
    "prompt": "/v1/completions",
}


class Request(NamedTuple):
    """A request to explain. `path` may begin with directives and end with a query."""

    path: str
    headers: Headers
    body: bytes
    path_is_guessed: bool = False


@dataclass(frozen=True, slots=True)
class Explanation:
    provider: str
    url: str
    dialect: str
    model: str
    stream: bool
    cache: str  # what may be done, and why something may not
    ids: tuple[str, ...]
    prompts: tuple[str, ...]
    llm_string: str
    ignored: tuple[tuple[str, str], ...]  # path, why

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


class Calls:
    """Makes the calls that requests would be which nobody sends."""

    def __init__(
        self, *, providers: Providers, dialects: Mapping[str, Dialect], access: Access
    ) -> None:
        self._providers = providers
        self._dialects = dialects
        self._access = access

    def of(self, request: Request, client: str | None = None) -> tuple[Call, Dialect]:
        """Read a request of this client, or of the one whose token it holds. ProxyError."""
        path, _, query = request.path.partition("?")
        directives, path = split_directives(path)
        route = self._providers.route(path, query)
        if route.dialect is None:
            raise BadRequest(f"{path} is passed through untouched: nothing of it is cached.")
        call = Call(
            route.provider,
            route.path,
            query,
            route.url,
            request.headers,
            request.body,
            read_control(request.headers, directives),
            client or self._client(request.headers),
        )
        return call, self._dialects[route.dialect]

    def _client(self, headers: Headers) -> str | None:
        try:
            return self._access.admit(headers)
        except Unauthorized:
            return None  # who explains need not hold a token


class Explainer:
    """Explains with the parts that answer: the same policy, dialects and keys."""

    def __init__(
        self,
        *,
        calls: Calls,
        policy: Policy,
        scope: Scope,
        scope_secret: bytes,
        keyed_headers: frozenset[bytes],
    ) -> None:
        self._calls = calls
        self._policy = policy
        self._scope = scope
        self._scope_secret = scope_secret
        self._keyed_headers = keyed_headers

    def explain(self, request: Request) -> Explanation:
        """Raises ProxyError where the proxy would answer with it."""
        call, dialect = self._calls.of(request)
        return self._explain(call, dialect)

    def _explain(self, call: Call, dialect: Dialect) -> Explanation:
        ask = dialect.read(call)
        partition = keys.partition(self._scope, call, self._scope_secret)
        verdict = self._policy.judge(call, ask, partition)
        question = keys.question(call, ask, verdict, self._keyed_headers)
        return Explanation(
            provider=call.provider.name,
            url=call.url,
            dialect=ask.dialect,
            model=ask.model,
            stream=ask.stream,
            cache=_cache(verdict, keys.ambiguity(ask.raw)),
            ids=tuple(key.id for key in question.keys),
            prompts=tuple(key.prompt for key in question.keys),
            llm_string=question.keys[0].llm_string,
            ignored=tuple((each.path, each.why) for each in question.ignored),
        )


def read_request(text: bytes, path: str | None, headers: Headers) -> Request:
    """Read a file: a body as it is sent, or an object with `path`, `headers` and `body`."""
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as exc:
        raise UnreadableRequest(
            f"not JSON: {exc.msg} at line {exc.lineno}, column {exc.colno}"
        ) from exc
    if not isinstance(value, dict) or "body" not in value or not value.keys() <= _AROUND:
        return Request(path or likely_path(value), headers, text, path_is_guessed=not path)
    own = value.get("headers", {})
    said = value.get("path", path)
    if not isinstance(own, dict) or not isinstance(said, str | None):
        raise UnreadableRequest('expected {"path": "/v1/...", "headers": {"name": "value"}, ...}')
    body = value["body"]
    return Request(
        said or likely_path(body),
        [(str(name).lower().encode(), str(text).encode()) for name, text in own.items()] + headers,
        body.encode() if isinstance(body, str) else orjson.dumps(body),
        path_is_guessed=not said,
    )


def likely_path(body: Any) -> str:
    """Where a body is sent that does not say it."""
    for name, path in _TELLING_FIELDS.items():
        if isinstance(body, dict) and name in body:
            return path
    return "/v1/chat/completions"


def _cache(verdict: Verdict, ambiguity: str) -> str:
    if ambiguity:
        return f"past the cache: {ambiguity}"
    if not verdict.may_read and not verdict.may_write:
        return f"past the cache: {verdict.reason}"
    if not verdict.may_write:
        return f"read, not written: {verdict.reason}"
    ends = "does not expire" if verdict.ttl is None else f"fresh for {_in_words(verdict.ttl)}"
    if not verdict.may_read:
        return f"written, not read: {verdict.reason}; {ends}"
    return f"read and written; {ends}"


def _in_words(seconds: float) -> str:
    days = seconds / 86400
    return f"{days:g} days" if days > 1 and days.is_integer() else f"{seconds:,.10g} s"
