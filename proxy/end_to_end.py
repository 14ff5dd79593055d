"""Which headers go on to the other end, and which speak of one connection only (RFC 9110 7.6.1)."""

from __future__ import annotations

import re

from proxy.models import Headers

_HOP_BY_HOP = frozenset(
    {b"connection", b"keep-alive", b"te", b"trailer", b"transfer-encoding", b"upgrade"}
    | {b"http2-settings", b"proxy-connection"}
)
_OF_REQUESTS = _HOP_BY_HOP | {b"host", b"content-length", b"expect", b"llm-cache-control"}
_OF_RESPONSES = _HOP_BY_HOP | {b"proxy-authenticate", b"proxy-authentication-info"}
# What `Connection` may not take off a message: what it says, and who says it.
_NEVER_NOMINATED = re.compile(
    rb"authorization|api-key|x-api-key|cookie|set-cookie|(content|openai|anthropic|x-goog)-.*"
)


def request_headers(headers: Headers) -> Headers:
    """Return what of a caller's headers goes to the provider, in its order.

    What frames the body is added by whoever sends it; Host comes from the URL.
    """
    kept = _end_to_end(headers, _OF_REQUESTS)
    return [(name, value) for name, value in kept if not name.startswith(b"proxy-")]


def response_headers(headers: Headers) -> Headers:
    """Return what of a provider's headers goes to the caller, in order, names in lower case."""
    kept = _end_to_end(headers, _OF_RESPONSES)
    # RFC 9112 6.3: beside a transfer encoding, a length is void.
    is_chunked = any(name.lower() == b"transfer-encoding" for name, _ in headers)
    return without(kept, b"content-length") if is_chunked else kept


def without(headers: Headers, *names: bytes) -> Headers:
    return [(name, value) for name, value in headers if name not in names]


def joined(headers: Headers, name: bytes) -> bytes:
    return b", ".join(value.strip() for key, value in headers if key == name)


def announced_length(headers: Headers) -> int | None:
    length = joined(headers, b"content-length")
    return int(length) if length.isdigit() else None


def _end_to_end(headers: Headers, ends_here: frozenset[bytes]) -> Headers:
    nominated = [value for key, value in headers if key.lower() == b"connection"]
    names = (name.strip().lower() for value in nominated for name in value.split(b","))
    ends_here |= {name for name in names if not _NEVER_NOMINATED.fullmatch(name)}
    return [(name, value) for key, value in headers if (name := key.lower()) not in ends_here]
