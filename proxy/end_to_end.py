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
# RFC 9110 5.5: who forwards a value with these puts spaces in their place.
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")


def request_headers(headers: Headers) -> Headers:
    """Return what of a caller's headers goes to the provider, in its order.

    What frames the body is added by whoever sends it; Host comes from the URL.
    """
    dropped = _OF_REQUESTS | _nominated(headers)
    return [
        header
        for header in headers
        if header[0] not in dropped and not header[0].startswith(b"proxy-")
    ]


def response_headers(headers: Headers) -> Headers:
    """Return what of a provider's headers goes to the caller, in order, names in lower case."""
    headers = [(name.lower(), _CONTROL.sub(b" ", value)) for name, value in headers]
    dropped = _OF_RESPONSES | _nominated(headers)
    if any(name == b"transfer-encoding" for name, _ in headers):
        dropped |= {b"content-length"}  # RFC 9112 6.3: beside it, a length is void
    return [header for header in headers if header[0] not in dropped]


def without(headers: Headers, *names: bytes) -> Headers:
    return [(name, value) for name, value in headers if name not in names]


def joined(headers: Headers, name: bytes) -> bytes:
    return b", ".join([value.strip() for key, value in headers if key == name])


def announced_length(headers: Headers) -> int | None:
    length = joined(headers, b"content-length")
    return int(length) if length.isdigit() else None


def _nominated(headers: Headers) -> set[bytes]:
    names = joined(headers, b"connection").lower().split(b",")
    return {name for each in names if not _NEVER_NOMINATED.fullmatch(name := each.strip())}
