"""The border of the admin API, as served: no token no entry, foreign pages, what headers say."""

from __future__ import annotations

import httpx
import orjson
import pytest

from proxy.routes import admin_border
from tests.fakes.admin import FULL, READ, TOKENS, AdminClient, bearing
from tests.fakes.broken_cache import BrokenCache
from tests.fakes.chat import asking
from tests.fakes.live_proxy import StartProxy
from tests.fakes.raw_client import Connect

CLIENT = "clients-token-0123456789abcdef"
SAFE = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
}


async def test_without_a_token_nothing_is_told(
    proxy: StartProxy, client: httpx.AsyncClient
) -> None:
    """Not even what there is; and how to come in."""
    live = await proxy(admin=TOKENS)
    for path in (
        "/admin/entries",
        "/admin/nothing",
        "/admin//entries",
        "/admin/%2e%2e/v1",
    ):
        answer = await client.get(live.origin + path)
        assert (answer.status_code, answer.headers.get("www-authenticate")) == (401, "Bearer"), path
        assert answer.json()["error"]["type"] == "llm_cache_proxy_error"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/openapi.json", 200),
        ("GET", "/nothing", 404),
        ("POST", "/openapi.json", 405),
        ("GET", "/openapi.json?token=1", 400),
    ],
)
async def test_all_answers_are_safe_to_show(
    proxy: StartProxy, method: str, path: str, status: int
) -> None:
    """Errors too: not sniffed, not framed, not kept, no scripts, no grants to other sites."""
    live = await proxy(admin=TOKENS)
    async with AdminClient(live.origin, READ) as admin:
        answer = await admin.request(method, path, headers={"origin": live.origin})
    assert answer.status_code == status
    assert SAFE.items() <= dict(answer.headers).items()
    assert not [name for name in answer.headers if name.startswith("access-control")]
    assert status == 200 or answer.json()["error"].keys() == {"message", "type", "code", "param"}


@pytest.mark.parametrize(
    "header",
    [
        {"host": "rebound.example"},
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site"},
    ],
)
@pytest.mark.parametrize("path", ["", "/", "/static/x", "/openapi.json", "/nothing"])
async def test_foreign_pages_are_refused(
    proxy: StartProxy, path: str, header: dict[str, str]
) -> None:
    """With a right token too, everywhere; whatever is asked, preflight or not."""
    live = await proxy(admin=TOKENS)
    async with AdminClient(live.origin) as admin:
        for method in ("GET", "OPTIONS", "POST"):
            answer = await admin.request(method, path, headers=header)
            assert answer.status_code == 403
            assert SAFE.items() <= dict(answer.headers).items()


LINK = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}


@pytest.mark.parametrize(
    ("method", "path", "more", "status"),
    [
        ("GET", "/", {}, 200),
        ("POST", "/", {}, 403),
        ("GET", "/stats", {}, 403),
        ("GET", "/", {"sec-fetch-dest": "iframe"}, 403),
        ("GET", "/", {"origin": "https://evil.example"}, 403),
    ],
)
async def test_a_link_may_lead_to_the_page(
    proxy: StartProxy, method: str, path: str, more: dict[str, str], status: int
) -> None:
    """From a wiki, say: to the page, which holds nothing; to nothing else, and in no frame."""
    live = await proxy(admin=TOKENS)
    async with AdminClient(live.origin) as admin:
        answer = await admin.request(method, path, headers=LINK | more)
    assert answer.status_code == status


async def test_too_large_a_body_is_not_read(
    proxy: StartProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """413, whether its length is announced or not."""
    monkeypatch.setattr(admin_border, "MAX_BODY_BYTES", 1000)
    live = await proxy(admin=TOKENS)

    async def chunks() -> object:
        for _ in range(5):
            yield b"x" * 300

    async with AdminClient(live.origin) as admin:
        for content in (b"x" * 1001, chunks()):
            answer = await admin.put(
                f"/entries/{'0' * 64}",
                content=content,
                headers={"content-type": "application/json"},
            )
            assert answer.status_code == 413
            assert answer.json()["error"]["code"] == "body_too_large"


@pytest.mark.parametrize("path", ["/explain", "/import", "/warm"])
async def test_a_client_sends_less(
    proxy: StartProxy, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """To read a body takes many times its memory; even where the operator may send anything."""
    monkeypatch.setenv("A_TOKEN", CLIENT)
    monkeypatch.setattr(admin_border, "MAX_ASKED_BYTES", 1000)
    live = await proxy(admin=TOKENS, clients={"alice": {"token_env": "A_TOKEN"}})
    body = orjson.dumps({"body": asking("x" * 1000)})
    for token, status in ((CLIENT, 413 if path == "/explain" else 403), (FULL, 200)):
        async with AdminClient(live.origin, token) as visitor:
            json = {"content-type": "application/json"}
            assert (await visitor.post(path, content=body, headers=json)).status_code == status


async def test_a_body_of_another_type_is_told_which_is_read(proxy: StartProxy) -> None:
    """curl says that all it sends is a form."""
    live = await proxy(admin=TOKENS)
    form = {"content-type": "application/x-www-form-urlencoded"}
    async with AdminClient(live.origin) as admin:
        for method, path in (
            ("PUT", "/mode"),
            ("POST", "/explain"),
            ("PUT", f"/entries/{'0' * 64}"),
        ):
            told = await admin.request(method, path, content=b'{"mode":"offline"}', headers=form)
            assert told.status_code == 400
            assert "Content-Type: application/json" in told.json()["error"]["message"]


async def test_data_and_admin_ports(proxy: StartProxy, client: httpx.AsyncClient) -> None:
    """With a listener of its own, admin is not on the data port."""
    live = await proxy(admin=TOKENS, ops={"port": 0})
    answer = await client.get(f"{live.origin}/admin/openapi.json", headers=bearing(FULL))
    assert answer.status_code == 404


async def test_raw_bytes_in_a_token(proxy: StartProxy, connect: Connect) -> None:
    """What no client would send is answered as any wrong token."""
    live = await proxy(admin=TOKENS)
    for value in (b"Bearer \xff\xfe\xe9", b"Bearer \x80" * 100, b"\xff", b"Bearer"):
        raw = await connect(live.origin)
        headers = {"host": "127.0.0.1", "authorization": value.decode("latin-1")}
        await raw.send("GET /admin/openapi.json HTTP/1.1\r\n", headers)
        assert await raw.head() == 401


async def test_it_answers_while_the_cache_is_down(proxy: StartProxy) -> None:
    """With the reason."""
    live = await proxy(BrokenCache(), admin=TOKENS)
    async with AdminClient(live.origin) as admin:
        assert (await admin.get("/openapi.json")).status_code == 200
