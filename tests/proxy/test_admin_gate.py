"""The gate of the admin API: tokens, roles, foreign pages, attempts."""

from __future__ import annotations

import logging

import pytest
from starlette.requests import Request

from proxy.access import Access
from proxy.errors import Forbidden, TooManyAttempts, Unauthorized
from proxy.models import Headers
from proxy.routes import admin_gate
from proxy.routes.admin_gate import GUESSES_S, MAX_GUESSES, Gate, Role, Visitor
from tests.fakes.clock import FakeClock

FULL, READ, ALICE = "full-token-0123456789", "read-token-0123456789", "alices-token-0123456789"


def bearing(token: str) -> Headers:
    return [(b"authorization", f"Bearer {token}".encode())]


def asking(token: str) -> Request:
    return Request({"type": "http", "headers": bearing(token), "query_string": b""})


def gate_of(clock: FakeClock | None = None, hosts: tuple[str, ...] | None = None) -> Gate:
    return Gate(
        token=FULL,
        read_token=READ,
        access=Access({"alice": ALICE}),
        hosts=hosts,
        clock=clock or FakeClock(),
    )


@pytest.mark.parametrize(
    ("token", "visitor"),
    [
        (FULL, Visitor(Role.FULL, "admin.token")),
        (READ, Visitor(Role.FIGURES, "admin.read_token")),
        (ALICE, Visitor(Role.CLIENT, "client alice", "alice")),
    ],
)
def test_a_token_says_who_enters(token: str, visitor: Visitor) -> None:
    """Each has a role, and a name for the logs."""
    assert gate_of().visitor(bearing(token), "192.0.2.1") == visitor


@pytest.mark.parametrize(
    "headers",
    [
        [],
        bearing(""),
        bearing(FULL[:-1]),
        bearing(f"{FULL}x"),
        bearing(f"{FULL}\0"),
        bearing(FULL.upper()),
        [(b"authorization", b"Bearer \xff\xe9")],
        [(b"authorization", f"Basic {FULL}".encode())],
        [(b"authorization", FULL.encode())],
        [(b"authorization", f"bearer\t{FULL}".encode())],
        [(b"x-api-key", FULL.encode())],
        [(b"cookie", f"token={FULL}".encode())],
        bearing(FULL) + bearing(FULL),
    ],
)
def test_anything_else_is_refused(headers: Headers) -> None:
    """A part of a token, another scheme, another header, two at once; whatever the bytes."""
    with pytest.raises(Unauthorized) as refused:
        gate_of().visitor(headers, "192.0.2.1")
    assert "full-token" not in str(refused.value)


async def test_a_role_is_needed() -> None:
    """Who is known may still not do all."""
    full, figures = gate_of().admits(Role.FULL), gate_of().admits(Role.FULL, Role.FIGURES)
    assert (await figures(asking(READ))).role is Role.FIGURES
    with pytest.raises(Forbidden, match=r"admin\.read_token may not do this"):
        await full(asking(READ))
    with pytest.raises(Forbidden, match="client alice may not do this"):
        await figures(asking(ALICE))


def test_without_a_token_it_is_shut() -> None:
    """For clients as well: nobody has opened it."""
    with pytest.raises(Forbidden, match="LLM_CACHE_PROXY_ADMIN__TOKEN"):
        Gate(access=Access({"alice": ALICE})).visitor(bearing(ALICE), "")


def test_an_address_that_tries_many_tokens_waits(caplog: pytest.LogCaptureFixture) -> None:
    """Also if the next one were right; it is told for how long, and others are let in."""
    clock = FakeClock()
    gate = gate_of(clock)
    with caplog.at_level(logging.WARNING, "proxy.admin"):
        for number in range(MAX_GUESSES):
            with pytest.raises(Unauthorized):
                gate.visitor(bearing(f"wrong{number}"), "192.0.2.1")
    for token in ("wrong", FULL):
        with pytest.raises(TooManyAttempts) as told:
            gate.visitor(bearing(token), "192.0.2.1")
        assert told.value.retry_after == GUESSES_S
    assert gate.refused == MAX_GUESSES + 1
    assert "192.0.2.1" in caplog.text
    assert "wrong0" not in caplog.text
    assert gate.visitor(bearing(FULL), "192.0.2.2")
    clock.advance(GUESSES_S)
    assert gate.visitor(bearing(FULL), "192.0.2.1")


def test_the_same_wrong_token_is_no_guess() -> None:
    """As of a program that was not told of the new one: it is refused, and locks nobody out."""
    gate = gate_of()
    for _ in range(5 * MAX_GUESSES):
        with pytest.raises(Unauthorized):
            gate.visitor(bearing("yesterdays"), "192.0.2.1")
    assert gate.refused == 5 * MAX_GUESSES
    assert gate.visitor(bearing(FULL), "192.0.2.1")


@pytest.mark.parametrize(
    ("address", "known"), [("127.0.0.1", False), ("", False), ("10.1.1.1", True)]
)
def test_a_right_token_is_not_locked_out_by_others(address: str, known: bool) -> None:
    """Not where many share an address: on this machine, and where it was shown before."""
    gate = gate_of()
    if known:
        gate.visitor(bearing(FULL), address)
    for number in range(2 * MAX_GUESSES):
        with pytest.raises((Unauthorized, TooManyAttempts)):
            gate.visitor(bearing(f"wrong{number}"), address)
    assert gate.visitor(bearing(READ), address)


def test_the_table_of_addresses_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network of IPv6 counts as one address, and old ones are forgotten."""
    monkeypatch.setattr(admin_gate, "MAX_ADDRESSES", 3)
    gate = gate_of()
    for number in range(MAX_GUESSES):
        with pytest.raises(Unauthorized):
            gate.visitor(bearing(f"wrong{number}"), f"2001:db8::{number:x}")
    with pytest.raises(TooManyAttempts):
        gate.visitor(bearing("wrong"), "2001:db8::ffff")
    for number in range(3):
        with pytest.raises(Unauthorized):
            gate.visitor(bearing("wrong"), f"192.0.2.{number}")
    with pytest.raises(Unauthorized):
        gate.visitor(bearing("wrong"), "2001:db8::1")


@pytest.mark.parametrize(
    "header",
    [
        (b"host", b"evil.example"),
        (b"host", b"127.0.0.1.evil.example:8484"),
        (b"host", b"user@127.0.0.1"),
        (b"host", b"["),
        (b"host", b"\xff"),
        (b"origin", b"https://evil.example"),
        (b"origin", b"http://127.0.0.1:3000"),
        (b"origin", b"null"),
        (b"origin", b"\xff"),
        (b"sec-fetch-site", b"cross-site"),
        (b"sec-fetch-site", b"same-site"),
        (b"sec-fetch-site", b"Cross-Site"),
    ],
)
def test_foreign_pages_are_refused(header: tuple[bytes, bytes]) -> None:
    """By the name they reached us by, by where they are from, by what the browser says of them."""
    with pytest.raises(Forbidden):
        gate_of(hosts=()).refuse_foreign_pages([(b"host", b"127.0.0.1:8484"), header])


@pytest.mark.parametrize(
    "headers",
    [
        [(b"host", b"127.0.0.1:8484")],
        [(b"host", b"LOCALHOST:8484"), (b"origin", b"http://localhost:8484")],
        [(b"host", b"[::1]:8484"), (b"sec-fetch-site", b"same-origin")],
        [(b"host", b"cache.internal"), (b"origin", b"https://cache.internal")],
        [(b"host", b"localhost"), (b"sec-fetch-site", b"none")],
    ],
)
def test_own_pages_are_let_in(headers: Headers) -> None:
    """Under all names of this machine, and those that are allowed."""
    gate_of(hosts=("Cache.Internal",)).refuse_foreign_pages(headers)


def test_elsewhere_any_host_is_ours() -> None:
    """Names are the operator's business there; other sites' pages are still refused."""
    gate = gate_of(hosts=None)
    gate.refuse_foreign_pages([(b"host", b"any"), (b"origin", b"https://any")])
    with pytest.raises(Forbidden):
        gate.refuse_foreign_pages([(b"host", b"any"), (b"origin", b"https://other")])
