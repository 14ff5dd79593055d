"""Which headers pass, and which stay on their connection."""

from __future__ import annotations

import pytest

from proxy.end_to_end import announced_length, request_headers, response_headers
from proxy.models import Headers

KEY = (b"authorization", b"Bearer sk-1")
TYPE = (b"content-type", b"application/json")


def test_requests_keep_what_is_the_providers() -> None:
    """Order and repeated names stay, unknown headers and cookies too."""
    headers = [(b"x-b", b"1"), KEY, (b"x-a", b"2"), (b"x-b", b"3"), (b"cookie", b"c"), TYPE]
    assert request_headers(headers) == headers


@pytest.mark.parametrize(
    "name",
    b"connection keep-alive te trailer transfer-encoding upgrade http2-settings host expect "
    b"content-length proxy-authorization proxy-connection proxy-anything llm-cache-control".split(),
)
def test_requests_lose_what_is_of_this_connection(name: bytes) -> None:
    """Framing, hop-by-hop headers and what is said to this proxy."""
    assert request_headers([KEY, (name, b"1"), TYPE]) == [KEY, TYPE]


def test_connection_names_more_to_drop() -> None:
    """All lists, in any spelling, with all that they name."""
    headers = [(b"connection", b"X-One , close"), (b"x-one", b"1"), (b"x-two", b"2"), KEY]
    assert request_headers([*headers, (b"connection", b"x-two,,")]) == [KEY]


@pytest.mark.parametrize(
    "name",
    b"authorization api-key x-api-key x-goog-api-key cookie content-type content-encoding "
    b"openai-organization anthropic-version".split(),
)
def test_connection_cannot_drop_who_asks_what(name: bytes) -> None:
    """Else a request would be keyed by a credential that the provider never saw."""
    headers = [(name, b"1")]
    assert request_headers([(b"connection", name.title()), *headers]) == headers


def test_responses_keep_what_is_the_callers() -> None:
    """Names come in lower case, values untouched, cookies one by one."""
    headers = [(b"Set-Cookie", b"a"), (b"X-Id", b"caf\xe9"), (b"set-cookie", b"b")]
    expected = [(b"set-cookie", b"a"), (b"x-id", b"caf\xe9"), (b"set-cookie", b"b")]
    assert response_headers(headers) == expected


def test_responses_lose_what_is_of_the_other_connection() -> None:
    """Among it a length beside a transfer encoding, which is void."""
    headers: Headers = [(b"Connection", b"x-hop"), (b"Keep-Alive", b"timeout=5"), (b"X-Hop", b"1")]
    headers += [(b"Transfer-Encoding", b"chunked"), (b"Content-Length", b"5"), TYPE]
    assert response_headers([*headers, (b"proxy-authenticate", b"Basic")]) == [TYPE]
    assert response_headers([(b"Content-Length", b"5")]) == [(b"content-length", b"5")]


@pytest.mark.parametrize(
    ("values", "length"),
    [
        ([], None),
        ([b"12"], 12),
        ([b" 7 "], 7),
        ([b"-1"], None),
        ([b"1", b"1"], None),
        ([b"x"], None),
    ],
)
def test_a_length_is_one_number(values: list[bytes], length: int | None) -> None:
    """Anything else announces nothing."""
    assert announced_length([(b"content-length", value) for value in values]) == length
