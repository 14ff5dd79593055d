"""Export, import and warming, as served."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from cache_backends import SQLiteCache
from cache_backends.ndjson import line_of
from tests.fakes.admin import READ, TOKENS, AdminClient
from tests.fakes.chat import MINE, YOURS, asker, asking
from tests.fakes.live_proxy import LiveProxy, StartProxy
from tests.fakes.managed import an_entry, tiered
from tests.fakes.provider import Answer, FakeProvider, Gate
from tests.fakes.raw_client import Connect

NDJSON = "application/x-ndjson"
SECRET: dict[str, Any] = {"scope_secret": "the same for both of them", "lookup_timeout_s": 5}
WARM = "/warm?path=/v1/chat/completions"

Start = Callable[..., Any]


@pytest.fixture
def start(proxy: StartProxy, tmp_path: Path) -> Start:
    """`await start("a")`: a proxy before a file of that name."""

    async def before(name: str, **sections: Any) -> LiveProxy:
        sections["cache"] = SECRET | sections.get("cache", {})
        return await proxy(tiered(SQLiteCache(tmp_path / name)), admin=TOKENS, **sections)

    return before


def lines(answer: httpx.Response) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in answer.content.splitlines()]


def line(prompt: str, **fields: Any) -> bytes:
    return orjson.dumps(asking(prompt, **fields)) + b"\n"


async def test_entries_move_to_another_proxy(start: Start, client: httpx.AsyncClient) -> None:
    """They hit there for those for whom they were made, and for nobody else."""
    old, new = await start("old"), await start("new")
    for prompt in ("one", "two"):
        await asker(client, old)(prompt=prompt)
    async with AdminClient(old.origin) as of_old, AdminClient(new.origin) as of_new:
        exported = await of_old.get("/export")
        assert exported.headers["content-type"] == NDJSON
        assert lines(exported)[-1]["cursor"] is None
        answer = await of_new.post("/import", content=exported.content)
        sums = {"lines": 3, "imported": 2, "skipped": 0, "unreachable": 0}
        sums |= {"failures": 0, "failed": []}
        assert answer.json() == sums
        again = await of_new.post("/import", content=exported.content)
        assert again.json() == sums | {"imported": 0, "skipped": 2}
    assert (await asker(client, new)(prompt="one")).headers["x-cache"] == "HIT"
    assert (await asker(client, new)(YOURS, prompt="one")).headers["x-cache"] == "MISS"


async def test_a_part_is_exported_from_where_it_was_interrupted(
    start: Start, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By filters, and from a cursor on; a wrong one is refused by the status."""
    monkeypatch.setattr("proxy.catalogue.BATCH", 2)
    live = await start("old")
    for number in range(5):
        await asker(client, live)(prompt=f"{number}", model="even" if number % 2 == 0 else "odd")
    async with AdminClient(live.origin) as admin:
        first = lines(await admin.get("/export", params={"model": "even"}))
        assert ["cursor" in each for each in first] == [False, False, True, False, True]
        query = {"model": "even", "cursor": first[2]["cursor"]}
        assert lines(await admin.get("/export", params=query)) == first[3:]
        assert (await admin.get("/export", params={"cursor": "x"})).status_code == 404


async def test_entries_that_nobody_will_find_are_told(
    start: Start, client: httpx.AsyncClient
) -> None:
    """Another cache knows callers by another secret, of which nothing is told."""
    old, new = await start("old"), await start("new", cache={"scope_secret": "another one"})
    await asker(client, old)()
    async with AdminClient(old.origin) as of_old, AdminClient(new.origin) as of_new:
        exported = (await of_old.get("/export")).content
        assert SECRET["scope_secret"].encode() not in exported
        assert (await of_new.post("/import", content=exported)).json()["unreachable"] == 1
        said = {"x-llm-cache-credential": "mine"}
        bound = await of_new.post("/import?scope=credential", content=exported, headers=said)
        assert bound.json()["unreachable"] == 0


@pytest.mark.parametrize(
    ("scope", "query", "unreachable"),
    [("shared", "", 1), ("shared", "?scope=shared", 0), ("credential", "?scope=shared", 1)],
)
async def test_entries_for_others_than_those_who_share_here_are_told(
    start: Start, client: httpx.AsyncClient, scope: str, query: str, unreachable: int
) -> None:
    """Although the secret is the same: whoever asks is not looked for among them."""
    old, new = await start("old"), await start("new", cache=SECRET | {"scope": scope})
    await asker(client, old)()
    async with AdminClient(old.origin) as of_old, AdminClient(new.origin) as of_new:
        exported = (await of_old.get("/export")).content
        told = await of_new.post(f"/import{query}", content=exported)
        assert told.json()["unreachable"] == unreachable
    asked = (await asker(client, new)()).headers["x-cache"]
    assert asked == ("MISS" if unreachable else "HIT")


HOSTILE: list[dict[str, Any]] = [
    {"about": {"usd": -1.7e308, "seconds": 1.7e308, "input_tokens": 2**64 - 1}},
    {"about": {"usd": True, "seconds": [1], "model": {"a": 1}, "client": 5, "dialect": None}},
    {"about": {"pinned": True, "unpinned": [1e300, True]}},
    {"stored_at": -1e300},
    {"stored_at": 1e300, "expires_at": 1e300, "retained_until": 1e300},
]


@pytest.mark.parametrize("said", HOSTILE)
async def test_what_lines_say_breaks_no_list_and_no_sum(
    start: Start, client: httpx.AsyncClient, said: dict[str, Any]
) -> None:
    """They may come from anywhere: times and amounts that cannot be are not believed."""
    old = await start("old")
    await asker(client, old)()
    await old.settled()
    new = await start("new")
    async with AdminClient(old.origin) as of_old, AdminClient(new.origin) as of_new:
        entry = lines(await of_old.get("/export"))[0]
        entry["generations"][0]["generation_info"]["envelope"]["usage"] = {
            "prompt_tokens": 2**64 - 1,
            "completion_tokens": -(2**63),
        }
        entry |= said | {"about": entry["about"] | said.get("about", {})}
        imported = await of_new.post("/import", content=orjson.dumps(entry))
        assert imported.json()["imported"] == 1
        for _ in range(2):
            assert (await asker(client, new)()).headers["x-cache"] == "HIT"
            stats = (await of_new.get("/stats")).json()
        assert stats["covers"] == "all processes"
        assert stats["hits"] == 2
        assert all(0 <= amount < 10 for amount in stats["saved"].values())
        for path in ("/entries", f"/entries/{entry['id']}", "/stats/history", "/export"):
            assert (await of_new.get(path)).status_code == 200


@pytest.mark.parametrize(
    ("scope", "headers", "who"),
    [
        ("shared", {}, None),
        ("credential", {"x-llm-cache-credential": "yours"}, YOURS),
    ],
)
async def test_an_import_binds_entries_to_others(
    start: Start,
    client: httpx.AsyncClient,
    scope: str,
    headers: dict[str, str],
    who: dict[str, str] | None,
) -> None:
    """To all, or to whoever presents a credential; this is not kept."""
    old = await start("old")
    await asker(client, old)()
    new = await start("new", cache={"scope": scope})
    async with AdminClient(old.origin) as of_old, AdminClient(new.origin) as of_new:
        exported = (await of_old.get("/export")).content
        answer = await of_new.post(f"/import?scope={scope}", content=exported, headers=headers)
        assert answer.json()["imported"] == 1
        assert b"yours" not in (await of_new.get("/export")).content
    for asking_one in [MINE, YOURS] if who is None else [who]:
        assert (await asker(client, new)(asking_one)).headers["x-cache"] == "HIT"


async def test_an_import_binds_entries_to_a_client(
    start: Start, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who may list them then."""
    monkeypatch.setenv("ALICE", "alices-token-0123456789")
    old = await start("old")
    await asker(client, old)()
    new = await start("new", cache={"scope": "client"}, clients={"alice": {"token_env": "ALICE"}})
    async with AdminClient(old.origin) as of_old, AdminClient(new.origin) as of_new:
        exported = (await of_old.get("/export")).content
        await of_new.post("/import?scope=client:alice", content=exported)
    alice = {"authorization": "Bearer alices-token-0123456789"}
    assert (await asker(client, new)(alice)).headers["x-cache"] == "HIT"
    async with AdminClient(new.origin, "alices-token-0123456789") as hers:
        assert len((await hers.get("/entries")).json()["entries"]) == 1


@pytest.mark.parametrize(
    ("scope", "status"),
    [("everyone", 400), ("client", 400), ("", 400), ("client:bob", 404), ("credential", 403)],
)
async def test_a_scope_that_cannot_be_is_refused(start: Start, scope: str, status: int) -> None:
    """Before anything is imported."""
    live = await start("new")
    async with AdminClient(live.origin) as admin:
        answer = await admin.post(f"/import?scope={scope}", content=b"")
    assert answer.status_code == status
    assert "scope" in answer.json()["error"]["message"]


async def test_an_import_tells_how_far_it_is(
    start: Start, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the line, to who accepts that."""
    monkeypatch.setattr("proxy.routes.admin_transfer.TELL_S", 0)
    monkeypatch.setattr("proxy.transfer.STORED_AT_ONCE", 1)
    old, new = await start("old"), await start("new")
    for prompt in ("one", "two"):
        await asker(client, old)(prompt=prompt)
    async with AdminClient(old.origin) as of_old, AdminClient(new.origin) as of_new:
        exported = (await of_old.get("/export")).content + b"torn"
        answer = await of_new.post("/import", content=exported, headers={"accept": NDJSON})
    assert answer.headers["content-type"] == NDJSON
    told = lines(answer)
    assert [each["imported"] for each in told] == sorted(each["imported"] for each in told)
    assert told[-1]["done"] is True
    assert (told[-1]["imported"], told[-1]["failed"][0]["line"]) == (2, 4)


async def test_a_body_of_any_size_is_imported(start: Start) -> None:
    """It comes in pieces, and is bounded by its lines only."""
    live = await start("new")

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b"x" * 2**16 + b"\n" + b"\n" * 2**16

    async with AdminClient(live.origin) as admin:
        sums = (await admin.post("/import", content=pieces())).json()
    assert sums["failures"] == 20
    assert sums["lines"] == 19 * (2**16 + 1) + 1


async def test_what_came_of_a_torn_import_is_there(
    start: Start, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    """But for the line that was torn; that the caller left is no fault."""
    live = await start("new")
    raw = await connect(live.origin)
    headers = {
        "host": "127.0.0.1",
        "authorization": f"Bearer {TOKENS['token']}",
        "content-length": "10000",
    }
    body = line_of(an_entry(0)) + line_of(an_entry(1)) + line_of(an_entry(2))[:-30]
    await raw.send("POST /admin/import HTTP/1.1\r\n", headers, body)
    await raw.aclose()
    await live.settled()
    async with AdminClient(live.origin) as admin:
        assert len((await admin.get("/entries")).json()["entries"]) == 2
    assert not [each for each in caplog.records if each.levelname == "ERROR"]


async def test_requests_are_warmed(
    start: Start,
    provider: FakeProvider,
    client: httpx.AsyncClient,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """They hit for who presents that credential; lines that go wrong are told."""
    live = await start("new")
    body = line("one") + b"nonsense\n" + line("two")
    whole = {"path": "/v1/chat/completions", "headers": {"X-Other": "1"}, "body": asking("three")}
    body += orjson.dumps(whole) + b"\n" + line("one")
    with caplog.at_level(logging.DEBUG):
        async with AdminClient(live.origin) as admin:
            answer = await admin.post(
                f"{WARM}&concurrency=1", content=body, headers={"x-llm-cache-credential": "mine"}
            )
    *told, sums = lines(answer)
    assert [(each["line"], each.get("outcome")) for each in told] == [
        (1, "MISS"),
        (2, None),
        (3, "MISS"),
        (4, "MISS"),
        (5, "HIT"),
    ]
    assert told[1]["error"].startswith("not JSON")
    outcomes = {"MISS": 3, "HIT": 1}
    assert sums == {"done": True, "lines": 5, "failed": 1, "outcomes": outcomes}
    assert told[0]["id"] == told[4]["id"]
    for prompt in ("one", "two", "three"):
        assert (await asker(client, live)(prompt=prompt)).headers["x-cache"] == "HIT"
    assert provider.calls[0].credential == "Bearer mine"
    assert "mine" not in caplog.text


async def test_anthropics_clients_send_another_header(
    start: Start, provider: FakeProvider, client: httpx.AsyncClient
) -> None:
    """So does the warming of their requests."""
    base = {"anthropic": {"base_url": provider.base_url}}
    live = await start("new", providers=base)
    body = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}
    async with AdminClient(live.origin) as admin:
        answer = await admin.post(
            "/warm?path=/anthropic/v1/messages",
            content=orjson.dumps(body),
            headers={"x-llm-cache-credential": "mine"},
        )
    assert lines(answer)[0]["outcome"] == "MISS"
    url = f"{live.origin}/anthropic/v1/messages"
    hit = await client.post(url, json=body, headers={"x-api-key": "mine"})
    assert hit.headers["x-cache"] == "HIT"


async def test_what_the_provider_refuses_is_told(start: Start, provider: FakeProvider) -> None:
    """With the status, and what it said."""
    live = await start("new")
    provider.script(Answer(status=429, error={"message": "slow down"}))
    async with AdminClient(live.origin) as admin:
        told = lines(await admin.post(WARM, content=line("one")))
    assert (told[0]["status"], told[0]["error"]) == (429, "slow down")
    assert told[1]["failed"] == 1


async def test_no_more_are_asked_at_a_time_than_was_said(
    start: Start, provider: FakeProvider
) -> None:
    """The others wait, and all are asked."""
    live = await start("new")
    gate = Gate()
    provider.always = Answer(gate=gate)
    body = b"".join(line(f"{number}") for number in range(6))
    async with AdminClient(live.origin) as admin:
        warming = asyncio.create_task(admin.post(f"{WARM}&concurrency=2", content=body))
        await gate.reached(2)
        for _ in range(20):
            await asyncio.sleep(0.005)
            assert gate.waiting <= 2
        await gate.open()
        assert lines(await warming)[-1]["lines"] == 6


async def test_who_leaves_stops_the_warming(
    start: Start, provider: FakeProvider, connect: Connect
) -> None:
    """Nothing more is asked."""
    live = await start("new")
    gate = Gate()
    provider.always = Answer(gate=gate)
    raw = await connect(live.origin)
    body = b"".join(line(f"{number}") for number in range(50))
    headers = {"authorization": f"Bearer {TOKENS['token']}", "content-type": NDJSON}
    await raw.post(f"/admin{WARM}&concurrency=2", body, headers)
    await gate.reached(2)
    await raw.aclose()
    await gate.open()
    await live.settled()
    assert len(provider.calls) == 2


async def test_only_the_full_token_moves_entries(start: Start) -> None:
    """Who sees figures may not."""
    live = await start("new")
    async with AdminClient(live.origin, READ) as reader:
        for method, path in (("GET", "/export"), ("POST", "/import"), ("POST", "/warm")):
            assert (await reader.request(method, path, content=b"")).status_code == 403
