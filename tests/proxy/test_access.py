"""Access: who is admitted, and whose credential the provider sees."""

from __future__ import annotations

import pytest

from proxy.access import Access
from proxy.errors import Forbidden, Unauthorized
from proxy.models import Headers, Provider

TOKENS = {"ci": "token-of-ci", "dev": "token-of-dev"}
GUARD = Access(guard_browser=True, allowed_hosts=frozenset({"Llm.Internal"}))
KEYED = Provider("openai", "https://api.example/v1", api_key="the operator's")


@pytest.mark.parametrize(
    "header",
    [
        (b"authorization", b"Bearer token-of-dev"),
        (b"authorization", b"bearer  token-of-dev"),
        (b"api-key", b"token-of-dev"),
        (b"x-api-key", b"token-of-dev"),
        (b"x-goog-api-key", b"token-of-dev"),
    ],
)
def test_a_token_is_presented_as_any_api_key(header: tuple[bytes, bytes]) -> None:
    """In whichever header the client's library puts its key."""
    assert Access(TOKENS).admit([header]) == "dev"


@pytest.mark.parametrize(
    "value",
    [b"", b"Bearer ", b"Bearer token-of-de", b"Bearer token-of-devs", b"Bearer \xff", b"ci"],
)
def test_what_is_no_token_is_refused(value: bytes) -> None:
    """Without a hint at what would be one."""
    with pytest.raises(Unauthorized) as refused:
        Access(TOKENS).admit([(b"authorization", value)])
    assert "token-of" not in str(refused.value)
    with pytest.raises(Unauthorized):
        Access(TOKENS).admit([])


def test_without_tokens_everyone_is_admitted_namelessly() -> None:
    """Who reaches the port may ask."""
    assert Access().admit([]) is None
    assert Access().admit([(b"authorization", b"Bearer sk-mine")]) is None


def test_callers_keys_go_through_where_none_is_held() -> None:
    """Nothing of the headers is changed."""
    headers: Headers = [(b"authorization", b"Bearer sk-mine"), (b"x-other", b"1")]
    assert Access().dress(headers, Provider("p", "https://p")) == headers


@pytest.mark.parametrize("access", [Access(), Access(TOKENS)])
def test_a_held_key_takes_the_place_of_the_callers(access: Access) -> None:
    """Whatever the caller sent as a credential goes no further."""
    theirs = (b"authorization", b"api-key", b"x-api-key", b"x-goog-api-key", b"openai-organization")
    headers: Headers = [(name, b"theirs") for name in theirs] + [(b"x-other", b"1")]
    dressed = access.dress(headers, KEYED)
    assert dressed == [(b"x-other", b"1"), (b"authorization", b"Bearer the operator's")]


def test_a_held_key_is_sent_in_the_providers_header() -> None:
    """As it is, where it is not `authorization`."""
    azure = Provider("azure", "https://a", api_key="k", auth_header="api-key")
    assert Access().dress([], azure) == [(b"api-key", b"k")]
    house = Provider("house", "https://h", api_key="k", auth_header="x-house-key")
    assert Access().dress([(b"x-house-key", b"theirs")], house) == [(b"x-house-key", b"k")]


def test_a_client_token_goes_no_further() -> None:
    """Not even to a provider without a held key."""
    headers: Headers = [(b"authorization", b"Bearer token-of-ci")]
    assert Access(TOKENS).dress(headers, Provider("p", "https://p")) == []


@pytest.mark.parametrize(
    "header",
    [
        (b"host", b"evil.example"),
        (b"host", b"evil.example:8484"),
        (b"host", b"127.0.0.1.evil.example"),
        (b"host", b"127.0.0.1@evil.example"),
        (b"host", b""),
        (b"host", b"[::1"),
        (b"host", b"localhost/x"),
        (b"origin", b"https://evil.example"),
        (b"origin", b"null"),
        (b"origin", b"http://localhost.evil.example"),
        (b"origin", b"http://[::1"),
        (b"sec-fetch-site", b"cross-site"),
    ],
)
def test_pages_of_other_sites_cannot_spend_held_keys(header: tuple[bytes, bytes]) -> None:
    """A foreign name that leads here, a foreign page that asks."""
    good: Headers = [(b"host", b"127.0.0.1:8484")]
    with pytest.raises(Forbidden):
        GUARD.admit([*(pair for pair in good if pair[0] != header[0]), header])
    assert Access().admit([header]) is None


@pytest.mark.parametrize(
    "headers",
    [
        [(b"host", b"127.0.0.1:8484")],
        [(b"host", b"localhost")],
        [(b"host", b"LOCALHOST:1")],
        [(b"host", b"[::1]:8484")],
        [(b"host", b"llm.internal:8484")],
        [(b"host", b"localhost:8484"), (b"origin", b"http://localhost:3000")],
        [(b"host", b"localhost"), (b"sec-fetch-site", b"same-origin")],
    ],
)
def test_ones_own_names_are_served(headers: Headers) -> None:
    """Loopback in all its forms, and what the operator added."""
    assert GUARD.admit(headers) is None
