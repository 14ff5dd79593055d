"""Explaining over HTTP: what would become of a request, what became of others, who may know."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import pytest
import pytest_asyncio

from cache_backends.base import NullCache
from proxy.models import Mode
from tests.fakes.admin import FULL, READ, TOKENS, AdminClient
from tests.fakes.chat import MINE, PATH, YOURS, asker, asking, own, saying
from tests.fakes.clock import FakeClock
from tests.fakes.live_proxy import LiveProxy, StartProxy
from tests.fakes.provider import Answer, FakeProvider

DEEP: list[Any] = []
for _ in range(300):
    DEEP = [DEEP]

Open = Callable[..., AdminClient]


@pytest_asyncio.fixture
async def enter() -> AsyncIterator[Open]:
    """`enter(live, token)`: a client of its admin API, closed at the end of the test."""
    opened: list[AdminClient] = []

    def open_client(live: LiveProxy, token: str = FULL) -> AdminClient:
        opened.append(AdminClient(live.origin, token))
        return opened[-1]

    yield open_client
    for each in opened:
        await each.aclose()


async def explained(
    admin: AdminClient, headers: dict[str, str] = MINE, **fields: Any
) -> dict[str, Any]:
    said = {"path": PATH, "headers": headers, "body": asking(**fields)}
    answer = await admin.post("/explain", json=said)
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    return told


async def test_a_request_is_explained_as_it_would_be_answered(
    proxy: StartProxy, provider: FakeProvider, client: httpx.AsyncClient, enter: Open
) -> None:
    """The same id and outcome, and nothing is sent for it."""
    live = await proxy(admin=TOKENS)
    admin, ask = enter(live), asker(client, live)
    before = await explained(admin, user="me")
    assert (before["outcome"], before["nearest"]) == ("MISS", [])
    assert [each["path"] for each in before["ignored"]] == ["user"]
    assert not provider.calls
    told = await ask(user="me")
    after = await explained(admin, user="me")
    assert before["id"] == after["id"] == told.headers["x-llm-cache-id"]
    assert (after["outcome"], after["nearest"]) == ("HIT", [])
    assert after["prompt"] == '{"messages":[{"content":"Tell me a joke","role":"user"}]}'


async def test_a_miss_names_the_nearest_entries_and_all_that_differs(
    proxy: StartProxy, client: httpx.AsyncClient, enter: Open
) -> None:
    """By path, with both sides; of a field that one lacks it is told which."""
    live = await proxy(admin=TOKENS)
    stored = await asker(client, live)(temperature=0, seed=1)
    told = await explained(enter(live), temperature=1)
    assert told["nearest"] == [
        {
            "id": stored.headers["x-llm-cache-id"],
            "differences": [
                {"path": "parameters.temperature", "stored": 0, "asked": 1},
                {"path": "parameters.seed", "stored": 1, "asked": None, "absent": "asked"},
            ],
            "more": False,
        }
    ]


@pytest.mark.parametrize(
    ("headers", "outcome", "reason"),
    [
        (own("no-store"), "BYPASS", "no-store"),
        (own("no-cache"), "MISS", "no-cache"),
        (own("only-if-cached, namespace=other"), "NOT_CACHED", "nothing is stored for it"),
        (saying("max-age=5"), "MISS", "the request wants a fresher one"),
        (own("run=a"), "HIT", "sample 0"),
        (own("max-stale=1"), "HIT", "stored at"),
    ],
)
async def test_reasons_are_told_in_words(
    proxy: StartProxy,
    client: httpx.AsyncClient,
    enter: Open,
    headers: dict[str, str],
    outcome: str,
    reason: str,
) -> None:
    """What the caller asks of the cache counts as it would."""
    live = await proxy(admin=TOKENS, clock=(clock := FakeClock()), cache={"ttl": 60})
    await asker(client, live)()
    clock.advance(10)
    told = await explained(enter(live), headers)
    assert told["outcome"] == outcome
    assert reason in "; ".join(told["reasons"])


async def test_expired_entries_are_told_as_such(
    proxy: StartProxy, client: httpx.AsyncClient, enter: Open
) -> None:
    """A miss for most, stale for who takes it; offline for all."""
    live = await proxy(admin=TOKENS, clock=(clock := FakeClock()), cache={"ttl": 60})
    await asker(client, live)()
    clock.advance(61)
    admin = enter(live)
    told = await explained(admin)
    assert told["outcome"] == "MISS"
    assert "expired at 2027-01-15T08:01:00.000Z" in told["reasons"][0]
    assert "stands in if the provider fails" in told["reasons"][0]
    assert (await explained(admin, own("max-stale")))["outcome"] == "STALE"
    await live.app.switch.set(Mode.OFFLINE)
    assert (await explained(admin))["outcome"] == "STALE"
    missing = await explained(admin, prompt="Another")
    assert (missing["outcome"], missing["reasons"][-1]) == ("OFFLINE", "offline mode")


async def test_a_credential_is_hashed_and_told_to_nobody(
    proxy: StartProxy, client: httpx.AsyncClient, enter: Open
) -> None:
    """Another's entry is named as such; the credential itself nowhere."""
    live = await proxy(admin=TOKENS)
    await asker(client, live)()
    admin = enter(live)
    told = await explained(admin, {"authorization": "Bearer sk-very-secret"})
    assert told["outcome"] == "MISS"
    assert told["nearest"][0]["differences"] == [
        {"path": "scope", "stored": "another credential", "asked": "this credential"}
    ]
    assert "secret" not in str(told)


async def test_without_a_credential_the_entries_of_all_are_looked_at(
    proxy: StartProxy, client: httpx.AsyncClient, enter: Open
) -> None:
    """An operator has none of the callers' keys; the id is that of the entry that is found."""
    live = await proxy(admin=TOKENS)
    stored = await asker(client, live)(YOURS)
    admin = enter(live)
    told = await explained(admin, {})
    assert (told["outcome"], told["id"]) == ("HIT", stored.headers["x-llm-cache-id"])
    near = await explained(admin, {}, temperature=1)
    assert (near["outcome"], len(near["nearest"][0]["differences"])) == ("MISS", 1)


async def test_the_parts_of_a_batch_are_told_apart(
    proxy: StartProxy, client: httpx.AsyncClient, enter: Open
) -> None:
    """Which input is stored, and which is not."""
    live = await proxy(admin=TOKENS)
    body = {"model": "m", "input": ["a", "b"]}
    await client.post(f"{live.base_url}/embeddings", json=body, headers=MINE)
    said = {"path": "/v1/embeddings", "headers": MINE, "body": {**body, "input": ["a", "c"]}}
    told = (await enter(live).post("/explain", json=said)).json()
    assert told["outcome"] == "PARTIAL"
    assert told["reasons"][1] == "input 1: nothing is stored for it"


async def test_a_part_that_is_stale_is_fetched_with_the_rest(
    proxy: StartProxy, client: httpx.AsyncClient, enter: Open
) -> None:
    """Foreseen as it comes: expired parts do only where all do."""
    clock = FakeClock()
    live = await proxy(clock=clock, admin=TOKENS, cache={"ttl": 10})
    url, body = f"{live.base_url}/embeddings", {"model": "m", "input": ["a"]}
    await client.post(url, json=body, headers=MINE)
    clock.advance(20)
    for inputs, outcome in ((["a"], "STALE"), (["a", "b"], "MISS")):
        asked, headers = {**body, "input": inputs}, saying("max-stale=60")
        said = {"path": "/v1/embeddings", "headers": headers, "body": asked}
        told = (await enter(live).post("/explain", json=said)).json()
        answer = await client.post(url, json=asked, headers=headers)
        assert told["outcome"] == answer.headers["x-cache"] == outcome
        assert ("told as it is" in told["reasons"][0]) is (outcome == "STALE")


@pytest.mark.parametrize(
    ("said", "status"),
    [
        ({"body": []}, 400),
        ({"body": {"messages": 1}, "path": "/v1/chat/completions"}, 400),
        ({"body": "no JSON"}, 400),
        ({"body": {}, "path": "/v1/models"}, 400),
        ({"body": {}, "path": "nowhere"}, 400),
        ({"body": {}, "path": "/nowhere"}, 404),
        ({"body": {}, "path": "\ud800"}, 400),
        ({"body": {"n": 2**70}}, 200),
        ({"body": {"n": DEEP}}, 400),
        ({"body": '{"model": "m", "model": "n", "messages": []}'}, 200),
        ({"body": {}, "headers": {"llm-cache-control": "nonsense=1"}}, 400),
        ({"body": {}, "sent": True}, 400),
        ({}, 400),
    ],
)
async def test_what_cannot_be_understood_is_refused(
    proxy: StartProxy, enter: Open, said: dict[str, Any], status: int
) -> None:
    """With a message, never a fault of the proxy's."""
    live = await proxy(admin=TOKENS)
    answer = await enter(live).post(
        "/explain",
        content=json.dumps(said),  # httpx refuses what is no Unicode
        headers={"content-type": "application/json"},
    )
    assert answer.status_code == status, answer.text


async def test_a_cache_without_a_list_explains_the_rest(proxy: StartProxy, enter: Open) -> None:
    """What is nearest is not known, and that is said."""
    live = await proxy(backend=NullCache(), admin=TOKENS)
    told = await explained(enter(live))
    assert told["outcome"] == "MISS"
    assert "the nearest entries are not known" in told["reasons"][-1]


async def test_misses_are_remembered_with_why(
    proxy: StartProxy, provider: FakeProvider, client: httpx.AsyncClient, enter: Open
) -> None:
    """The newest first: never stored, expired, refused, past the cache, failed; no hits."""
    live = await proxy(admin=TOKENS, clock=(clock := FakeClock()), cache={"ttl": 60})
    ask, admin = asker(client, live), enter(live)
    await ask()
    await ask()
    clock.advance(3600)
    await ask()
    provider.script(Answer(status=500))
    await ask(prompt="Fail")
    await ask(own("no-store"))
    await ask(own("only-if-cached"), prompt="Nothing")
    await ask(own("no-cache"))
    told = (await admin.get("/why")).json()["requests"]
    assert [(each["outcome"], each["reasons"]) for each in told] == [
        ("MISS", ["fetched anew: no-cache", "it is stored now"]),
        ("ERROR", ["not_cached"]),
        ("BYPASS", ["past the cache: no-store"]),
        ("MISS", ["nothing was stored under this id", "not stored: status 500"]),
        (
            "MISS",
            ["the stored answer had expired at 2027-01-15T08:01:00.000Z", "it is stored now"],
        ),
        ("MISS", ["nothing was stored under this id", "it is stored now"]),
    ]
    assert [told[2]["prompt"], told[2]["nearest"]] == [None, []]
    assert told[3]["nearest"][0]["differences"] == [
        {"path": "messages[0].content", "stored": "Tell me a joke", "asked": "Fail"}
    ]
    assert len((await admin.get("/why?last=2")).json()["requests"]) == 2


async def test_one_request_is_found_by_its_id(
    proxy: StartProxy, client: httpx.AsyncClient, enter: Open
) -> None:
    """As the caller was told it; what is not known is not there."""
    live = await proxy(admin=TOKENS)
    name = (await asker(client, live)()).headers["x-llm-cache-id"]
    admin = enter(live)
    told = (await admin.get(f"/why/{name}")).json()
    assert (told["id"], told["model"], told["path"]) == (name, "m", PATH)
    assert (await admin.get(f"/why/{'0' * 64}")).status_code == 404
    for bad in ("0", "-1", "x", "1000000"):
        assert (await admin.get(f"/why?last={bad}")).status_code == 400


async def test_the_input_of_a_batch_that_missed_is_named(
    proxy: StartProxy, client: httpx.AsyncClient, enter: Open
) -> None:
    """Not the first, which was there."""
    live = await proxy(admin=TOKENS)
    for inputs in (["a", "b"], ["a", "c"]):
        body = {"model": "m", "input": inputs}
        await client.post(f"{live.base_url}/embeddings", json=body, headers=MINE)
    (told, _) = (await enter(live).get("/why")).json()["requests"]
    assert told["outcome"] == "PARTIAL"
    assert told["reasons"][0] == "input 1: nothing was stored under this id"
    assert told["prompt"] == '{"input":"c"}'


async def test_in_a_run_the_sample_that_missed_is_named(
    proxy: StartProxy, provider: FakeProvider, client: httpx.AsyncClient, enter: Open
) -> None:
    """Whether it was fetched or could not be."""
    live = await proxy(admin=TOKENS)
    ask = asker(client, live)
    told = [await ask(own("run=a")) for _ in range(2)]
    await live.app.switch.set(Mode.OFFLINE)
    failed = await ask(own("run=a"))
    third, second, first = (await enter(live).get("/why")).json()["requests"]
    assert [first["id"], second["id"]] == [each.headers["x-llm-cache-id"] for each in told]
    assert third["id"] in failed.json()["error"]["message"]
    assert third["reasons"] == ["offline", "offline mode"]
    assert third["nearest"][0]["differences"] == [{"path": "sample", "stored": 1, "asked": 2}]


@pytest.fixture
def clients_of(
    proxy: StartProxy, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], Awaitable[LiveProxy]]:
    """`await clients_of()`: a proxy with the clients alice and bob, who share entries."""

    async def start() -> LiveProxy:
        for name in ("alice", "bob"):
            monkeypatch.setenv(f"TOKEN_{name}", f"token-of-{name}-0123456789")
        return await proxy(
            admin=TOKENS,
            clients={name: {"token_env": f"TOKEN_{name}"} for name in ("alice", "bob")},
            cache={"scope": "client"},
        )

    return start


async def test_a_client_sees_its_own_only(
    clients_of: Callable[[], Awaitable[LiveProxy]], client: httpx.AsyncClient, enter: Open
) -> None:
    """Its requests, its entries; and no figures' token any."""
    live = await clients_of()
    for name in ("alice", "bob"):
        headers = {"authorization": f"Bearer token-of-{name}-0123456789"}
        await asker(client, live)(headers, prompt=f"I am {name}")
    alice = enter(live, "token-of-alice-0123456789")
    (seen,) = (await alice.get("/why")).json()["requests"]
    assert (seen["client"], "I am alice" in seen["prompt"]) == ("alice", True)
    told = await explained(alice, {}, prompt="I am bo")
    assert [each["differences"][0]["stored"] for each in told["nearest"]] == ["I am alice"]
    assert '"scope":"this credential"' in told["llm_string"]
    assert len((await enter(live).get("/why")).json()["requests"]) == 2
    reader = enter(live, READ)
    assert (await reader.get("/why")).status_code == 403
    assert (await reader.post("/explain", json={"body": {}})).status_code == 403


async def test_the_mode_is_read_and_set(
    proxy: StartProxy, client: httpx.AsyncClient, enter: Open
) -> None:
    """By who may do all; who sees figures may look."""
    live = await proxy(admin=TOKENS)
    admin, reader = enter(live), enter(live, READ)
    assert (await reader.get("/mode")).json() == {"mode": "normal", "everywhere": True}
    assert (await reader.put("/mode", json={"mode": "offline"})).status_code == 403
    assert (await admin.put("/mode", json={"mode": "offline"})).json()["mode"] == "offline"
    assert (await asker(client, live)()).status_code == 424
    assert (await admin.put("/mode", json={"mode": "loud"})).status_code == 400
    assert (await reader.get("/mode")).json()["mode"] == "offline"
