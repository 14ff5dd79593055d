"""A credential that is given apart from a request, put where a client would have sent it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from cache_backends.base import Entry
from cache_backends.ndjson import LineError, rebound
from proxy import keys
from proxy.errors import BadRequest, Forbidden, NotThere
from proxy.models import Call, Headers, Provider, Scope
from proxy.providers import Providers

# Those whose clients send `x-api-key`: Anthropic's.
_OWN_HEADER = {"messages": b"x-api-key", "count_tokens": b"x-api-key"}


def presented(credential: str, provider: Provider, dialect: str) -> Headers:
    """The header in which a client of this wire format sends its key."""
    value = credential.encode("latin-1", "replace")
    header = _OWN_HEADER.get(dialect, provider.auth_header.encode())
    if header == b"authorization" and value[:7].lower() != b"bearer ":
        value = b"Bearer " + value
    return [(header, value)]


def rebinding(
    scope: str,
    *,
    clients: frozenset[str],
    providers: Providers,
    credential: str | None,
    secret: bytes,
) -> Callable[[Entry], Entry]:
    """What gives entries to others: `shared`, `client:NAME` or `credential`, then to him who
    presents it. The credential itself is not kept. Raises ProxyError."""
    if scope == Scope.SHARED:
        return lambda entry: rebound(entry, scope)
    kind, _, name = scope.partition(":")
    if kind == Scope.CLIENT:
        if name not in clients:
            raise NotThere(f"scope: there is no client {name[:40]!r} in [clients].")
        return lambda entry: rebound(_of_client(entry, name), scope)
    if scope != Scope.CREDENTIAL:
        raise BadRequest("scope: expected shared, client:NAME or credential")
    if not credential:
        raise Forbidden("scope=credential needs the credential in X-LLM-Cache-Credential.")

    def bind(entry: Entry) -> Entry:
        called = str(entry.about.get("provider", ""))
        provider = providers.named(called)
        if provider is None:
            raise LineError(f"about.provider: {called[:40]!r} is no provider here")
        dialect = str(entry.about.get("dialect", "")).partition("/")[0]
        headers = presented(credential, provider, dialect)
        call = Call(provider, "", "", "", headers, b"")
        return rebound(entry, keys.partition(Scope.CREDENTIAL, call, secret))

    return bind


def _of_client(entry: Entry, name: str) -> Entry:
    return replace(entry, about={**entry.about, "client": name})
