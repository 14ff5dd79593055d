"""Which headers go on to the other end, and which speak of one connection only (RFC 9110 7.6.1)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from operator import itemgetter

from proxy.models import Headers

_HOP_BY_HOP = frozenset(
    {b"connection", b"keep-alive", b"te", b"trailer", b"transfer-encoding", b"upgrade"}
    | {b"http2-settings", b"proxy-connection"}
)
_OF_REQUESTS = _HOP_BY_HOP | {b"host", b"content-length", b"expect", b"llm-cache-control"}
_NOTHING: frozenset[bytes] = frozenset()
_LENGTH = frozenset({b"content-length"})
_OF_RESPONSES = _HOP_BY_HOP | {b"proxy-authenticate", b"proxy-authentication-info"}
# What `Connection` may not take off a message: what it says, and who says it.
_NEVER_NOMINATED = re.compile(
    rb"authorization|api-key|x-api-key|cookie|set-cookie|(content|openai|anthropic|x-goog)-.*"
)
# RFC 9110 5.5: who forwards a value with these puts spaces in their place.
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")


def request_headers(headers: Headers, *, but: frozenset[bytes] = _NOTHING) -> Headers:
    """Return what of a caller's headers goes to the provider, in its order, without those of `but`.

    What frames the body is added by whoever sends it; Host comes from the URL.
    """
    dropped = _dropped(_OF_REQUESTS, but, joined(headers, b"connection"))
    kept = [header for header in headers if header[0] not in dropped]
    if b"\nproxy-" in b"\n" + b"\n".join(dict(kept)):
        return [header for header in kept if not header[0].startswith(b"proxy-")]
    return kept


def response_headers(headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    """Return what of a provider's headers goes to the caller, in order, names in lower case."""
    lowered = [(name.lower(), value) for name, value in headers]
    if _CONTROL.search(b"".join(map(itemgetter(1), lowered))):
        lowered = [(name, _CONTROL.sub(b" ", value)) for name, value in lowered]
    # RFC 9112 6.3: beside a transfer encoding, a length is void.
    too = _LENGTH if b"transfer-encoding" in dict(lowered) else _NOTHING
    dropped = _dropped(_OF_RESPONSES, too, joined(lowered, b"connection"))
    return [header for header in lowered if header[0] not in dropped]


def without(headers: Headers, *names: bytes) -> Headers:
    return [header for header in headers if header[0] not in names]


def joined(headers: Headers, name: bytes) -> bytes:
    once = dict(headers)
    if len(once) == len(headers):  # nothing is there twice
        return once.get(name, b"").strip()
    return b", ".join([value.strip() for key, value in headers if key == name])


def announced_length(headers: Headers) -> int | None:
    length = joined(headers, b"content-length")
    return int(length) if length.isdigit() else None


# Nearly all say "keep-alive", or nothing.
@lru_cache(maxsize=128)
def _dropped(
    always: frozenset[bytes], too: frozenset[bytes], connection: bytes
) -> frozenset[bytes]:
    names = connection.lower().split(b",")
    nominated = [n for each in names if not _NEVER_NOMINATED.fullmatch(n := each.strip())]
    return always.union(too, nominated)
