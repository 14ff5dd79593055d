"""Every admin route and every kind of wrong credential: refused, never a fault, never data."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
import pytest_asyncio
from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute

from cache_backends import SQLiteCache
from proxy.routes import admin_gate
from proxy.routes.admin import join_admin
from proxy.routes.admin_border import is_admin, is_public
from proxy.routes.admin_gate import Gate
from tests.fakes.admin import FULL, READ, TOKENS
from tests.fakes.chat import asking
from tests.fakes.live_proxy import LiveProxy, StartProxy
from tests.fakes.managed import an_entry, tiered
from tests.fakes.provider import FakeProvider
from tests.fakes.raw_client import Connect

CLIENT = "clients-token-0123456789abcdef"
CANARY = "canary-of-a-prompt"
REFUSED = {401, 403, 404, 405, 429}


class Attempt(NamedTuple):
    """What is presented, in place of a right token in one header."""

    headers: list[tuple[str, str]]
    query: str = ""
    method: str = ""  # in place of the route's


def bearer(token: str) -> list[tuple[str, str]]:
    return [("authorization", f"Bearer {token}")]


WRONG: dict[str, Attempt] = {
    "none": Attempt([]),
    "empty": Attempt([("authorization", "")]),
    "scheme only": Attempt([("authorization", "Bearer")]),
    "wrong": Attempt(bearer("another-token-0123456789abcd")),
    "prefix": Attempt(bearer(FULL[:-1])),
    "longer": Attempt(bearer(f"{FULL}x")),
    "case": Attempt(bearer(FULL.upper())),
    "huge": Attempt(bearer("x" * 6000)),
    "not ASCII": Attempt(bearer("\xe9\xff" * 20)),
    "quoted": Attempt(bearer(f'"{FULL}"')),
    "scheme": Attempt([("authorization", f"Token {FULL}")]),
    "no scheme": Attempt([("authorization", FULL)]),
    "scheme with a tab": Attempt([("authorization", f"bearer\t{FULL}")]),
    "basic": Attempt([("authorization", "Basic YWRtaW46ZnVsbC10b2tlbg==")]),
    "two headers": Attempt([*bearer("wrong"), *bearer(FULL)]),
    "two tokens": Attempt(bearer(f"wrong, Bearer {FULL}")),
    "query": Attempt([], query=f"token={FULL}&access_token={FULL}"),
    "cookie": Attempt([("cookie", f"token={FULL}; authorization=Bearer {FULL}")]),
    "key headers": Attempt([("x-api-key", FULL), ("api-key", FULL), ("x-goog-api-key", FULL)]),
    "forwarded": Attempt([("x-forwarded-for", "127.0.0.1"), ("x-original-url", "/healthz")]),
    "a worker's": Attempt([("x-llm-cache-relayed", "1")]),
    "HEAD": Attempt([], method="HEAD"),
    "OPTIONS": Attempt([], method="OPTIONS"),
    "TRACE": Attempt([], method="TRACE"),
    "unknown method": Attempt([], method="PURGE"),
    "method override": Attempt([("x-http-method-override", "GET")], query="_method=GET"),
}


@pytest_asyncio.fixture
async def live(proxy: StartProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LiveProxy:
    """A proxy with something to steal."""
    monkeypatch.setenv("CLIENTS_TOKEN", CLIENT)
    monkeypatch.setattr(admin_gate, "MAX_GUESSES", 10**6)  # 429 would hide what else is answered
    cache = tiered(SQLiteCache(tmp_path / "cache.db"))
    await cache.put_many([an_entry(0, about={"model": CANARY}, tags=(CANARY,))])
    named = {"evals": {"token_env": "CLIENTS_TOKEN"}}
    return await proxy(cache, admin=TOKENS, clients=named)


@pytest_asyncio.fixture
async def wire() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(trust_env=False, timeout=10) as http:
        yield http


def routes(router: Any) -> Iterator[tuple[str, str]]:
    """Method and path of all that the app serves under /admin, whoever included it."""
    for route in router.routes:
        if isinstance(route, APIRoute):
            if is_admin(route.path) and not is_public(route.path):
                yield from ((method, route.path) for method in route.methods or ())
        elif hasattr(route, "original_router"):  # as newer versions of FastAPI include
            yield from routes(route.original_router)


def here(path: str) -> str:
    return path.replace("{id}", an_entry(0).key.id)


def test_all_routes_are_found(live: LiveProxy) -> None:
    """Else the matrix would prove nothing."""
    found = set(routes(live.app.ops))
    for each in (
        ("GET", "/admin/entries"),
        ("DELETE", "/admin/entries/{id}"),
        ("GET", "/admin/export"),
        ("POST", "/admin/import"),
        ("POST", "/admin/warm"),
        ("GET", "/admin/events"),
        ("GET", "/admin/stats"),
        ("PUT", "/admin/mode"),
        ("POST", "/admin/explain"),
        ("GET", "/admin/config"),
        ("GET", "/admin/openapi.json"),
    ):
        assert each in found
    described = live.app.ops.openapi()["paths"]
    listed = {(method.upper(), path) for path, each in described.items() for method in each}
    assert {each for each in listed if is_admin(each[1])} == found


async def test_no_wrong_credential_opens_a_route(live: LiveProxy, wire: httpx.AsyncClient) -> None:
    """Each kind at each route: 401, 403, 404, 405 or 429, and nothing is changed."""
    for (method, path), (name, attempt) in product(routes(live.app.ops), WRONG.items()):
        answer = await wire.request(
            attempt.method or method,
            f"{live.origin}{here(path)}?{attempt.query}",
            headers=[(key, value.encode("latin-1")) for key, value in attempt.headers],  # type: ignore[misc] # raw bytes
        )
        assert answer.status_code in REFUSED, (method, path, name)
        assert CANARY not in answer.text, (method, path, name)
    assert await live.stored() == 1


@pytest.mark.parametrize(
    ("token", "allowed"),
    [
        (
            READ,
            {
                "/admin/stats",
                "/admin/stats/history",
                "/admin/mode",
                "/admin/events",
                "/admin/config",
                "/admin/openapi.json",
            },
        ),
        (
            CLIENT,
            {
                "/admin/entries",
                "/admin/entries/{id}",
                "/admin/explain",
                "/admin/why",
                "/admin/why/{id}",
                "/admin/openapi.json",
            },
        ),
    ],
)
async def test_each_token_opens_its_own_routes_only(
    live: LiveProxy, wire: httpx.AsyncClient, token: str, allowed: set[str]
) -> None:
    """And no entry of others is told or changed behind them."""
    for method, path in routes(live.app.ops):
        if path == "/admin/events" and token == READ:
            continue  # has no end
        answer = await wire.request(
            method, f"{live.origin}{here(path)}", headers={"authorization": f"Bearer {token}"}
        )
        assert answer.status_code < 500, (method, path)
        assert CANARY not in answer.text, (method, path)
        if path not in allowed or (token == READ and method != "GET"):
            assert answer.status_code in REFUSED, (method, path, answer.status_code)
    assert await live.stored() == 1


async def test_raw_bytes_are_refused_or_cut(live: LiveProxy, connect: Connect) -> None:
    """NUL and line ends in a header never reach a route."""
    for value in (
        b"Bearer \0",
        b"Bearer a\0b",
        b"Bearer \r\n x",
        b"\x01\x7f",
        b"Bearer " + FULL.encode() + b"\0",
    ):
        raw = await connect(live.origin)
        await raw.send_bytes(
            b"GET /admin/entries HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: "
            + value
            + b"\r\n\r\n"
        )
        assert await raw.head() in {400, 401}
        assert CANARY.encode() not in (await raw.rest()).body


async def test_paths_that_mean_another_are_not_taken_for_it(
    live: LiveProxy, connect: Connect
) -> None:
    """Whatever the spelling, no way leads past the gate."""
    entry = an_entry(0).key.id
    for path in (
        "/admin/static/../entries",
        "/admin/static/..%2fentries",
        "/admin/static/%2e%2e/entries",
        "/admin%2fentries",
        "/%61dmin/entries",
        "//admin/entries",
        "/admin/entries/",
        "/ADMIN/entries",
        "/v1/../admin/entries",
        f"/admin/entries/{entry}/",
        f"/admin/entries/{entry}%00",
        "/admin/entries;x",
        "http://127.0.0.1/admin/entries",
    ):
        raw = await connect(live.origin)
        await raw.send(f"GET {path} HTTP/1.1\r\n", {"host": "127.0.0.1"})
        assert await raw.head() in {*REFUSED, 400}, path
        assert CANARY.encode() not in (await raw.rest()).body


async def test_wrong_tokens_are_counted_and_slowed_down(
    live: LiveProxy, wire: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """429 says how long to wait; the right token is let in all the while."""
    monkeypatch.setattr(admin_gate, "MAX_GUESSES", 10)
    url = f"{live.origin}/admin/stats"
    answers = await asyncio.gather(
        *(
            wire.get(url, headers={"authorization": f"Bearer wrong-{number}"})
            for number in range(40)
        )
    )
    statuses = [answer.status_code for answer in answers]
    assert set(statuses) == {401, 429}
    assert all(int(each.headers["retry-after"]) > 0 for each in answers if each.status_code == 429)
    right = await wire.get(url, headers={"authorization": f"Bearer {FULL}"})
    assert right.status_code == 200


def test_a_route_without_a_gate_is_not_served() -> None:
    """It is refused while the app is built, wherever its author put it."""
    open_to_all = APIRouter()

    @open_to_all.get("/admin/secret")
    async def secret() -> str:
        return "secret"

    with pytest.raises(ValueError, match="/admin/secret declares no gate"):
        join_admin(FastAPI(), Gate(token=FULL), [open_to_all])


async def test_without_a_token_and_off_loopback_admin_is_off(
    proxy: StartProxy, wire: httpx.AsyncClient, provider: FakeProvider
) -> None:
    """For everybody; the data port serves."""
    live = await proxy(ops={"host": "0.0.0.0", "port": 0})
    ops = httpx.ASGITransport(live.app.ops)
    async with httpx.AsyncClient(transport=ops, base_url="http://any.host") as client:
        for method, path in routes(live.app.ops):
            answer = await client.request(method, here(path), headers=dict(bearer(FULL)))
            assert answer.status_code == 403
            assert "LLM_CACHE_PROXY_ADMIN__TOKEN" in answer.json()["error"]["message"]
        assert (await client.get("/healthz")).status_code == 200
    answer = await wire.post(f"{live.base_url}/chat/completions", json=asking())
    assert answer.status_code == 200
