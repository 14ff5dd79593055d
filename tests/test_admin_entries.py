"""Entries over the admin API, before a SQLite file: listed, changed, corrected, purged."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from cache_backends import MemoryCache, SQLiteCache, TieredCache
from tests.fakes.admin import FULL, READ, TOKENS, AdminClient
from tests.fakes.chat import MINE, asker, asking, own, words
from tests.fakes.clock import FakeClock
from tests.fakes.live_proxy import LiveProxy, StartProxy
from tests.fakes.oracle import expected
from tests.fakes.provider import Answer, FakeProvider

ALICE, BOB = "alices-token-0123456789", "bobs-token-0123456789"
Open = Callable[..., Awaitable[tuple[LiveProxy, AdminClient]]]


@pytest_asyncio.fixture
async def opened(
    proxy: StartProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Open]:
    """`live, admin = await opened(cache={"ttl": 60})`: a proxy before a file, and its operator."""
    monkeypatch.setenv("ALICE", ALICE)
    monkeypatch.setenv("BOB", BOB)
    clients: list[AdminClient] = []

    async def start(
        clock: Callable[[], float] = time.time, **sections: Any
    ) -> tuple[LiveProxy, AdminClient]:
        file = SQLiteCache(str(tmp_path / "cache.db"), clock=clock)
        memory = MemoryCache(max_bytes=2**26, clock=clock)
        backend = TieredCache(memory, file, lease=0.1, clock=clock)
        sections["cache"] = {"lookup_timeout_s": 5} | sections.get("cache", {})
        live = await proxy(backend, clock, admin=TOKENS, **sections)
        while live.app.store.scope_secret is None:  # noqa: ASYNC110 - the machine may be busy
            await asyncio.sleep(0.01)
        clients.append(AdminClient(live.origin))
        return live, clients[-1]

    yield start
    for each in clients:
        await each.aclose()


async def listed(admin: AdminClient, **query: Any) -> list[dict[str, Any]]:
    answer = await admin.get("/entries", params=query)
    assert answer.status_code == 200, answer.text
    entries: list[dict[str, Any]] = answer.json()["entries"]
    return entries


async def prompts(admin: AdminClient, **query: Any) -> set[str]:
    """The questions of all entries that fit."""
    rows = await listed(admin, **query)
    return {asked(row) for row in rows}


def asked(row: dict[str, Any]) -> str:
    """The beginning of the question."""
    return str(row["prompt_preview"]).partition('"content":"')[2][:3]


async def test_an_entry_is_listed_and_shown(opened: Open, client: httpx.AsyncClient) -> None:
    """With what it is of, what making it cost, and the whole question and answer."""
    live, admin = await opened(cache={"ttl": 60})
    body = (await asker(client, live)(own("tags=(a b), namespace=evals"))).json()
    (row,) = await listed(admin)
    assert {"provider": "openai", "dialect": "chat", "model": "m"}.items() <= row.items()
    assert {"namespace": "evals", "client": "", "tags": ["a", "b"]}.items() <= row.items()
    assert {"hits": 0, "pinned": False}.items() <= row.items()
    assert row["prompt_preview"].startswith('{"messages":[')
    assert row["stored_at"].endswith("Z")
    assert row["stored_at"] < row["expires_at"]
    shown = (await admin.get(f"/entries/{row['id']}")).json()
    assert row.items() <= shown.items()
    (generation,) = shown["generations"]
    assert generation["text"] == body["choices"][0]["message"]["content"]
    assert generation["message"] == body["choices"][0]["message"]
    assert shown["made_by"]["output_tokens"] == body["usage"]["completion_tokens"]
    assert shown["made_by"]["seconds"] > 0
    assert (shown["llm_string"][0], shown["corrected"]) == ("{", None)


async def test_filters_choose(opened: Open, client: httpx.AsyncClient) -> None:
    """Each by itself, and all together."""
    live, admin = await opened()
    ask = asker(client, live)
    await ask(own("tags=(t), namespace=n, ttl=0.001"), prompt="one")
    await ask(prompt="two" * 1000, model="other")
    await ask(own("ttl=60"), prompt="six Ärger")
    await ask(own("ttl=60"), prompt="six Ärger")
    await live.settled()
    rows = {asked(row): row for row in await listed(admin)}
    first, large = rows["one"], rows["two"]
    for query, found in (
        ({"model": "other"}, {"two"}),
        ({"tag": "t"}, {"one"}),
        ({"namespace": "n"}, {"one"}),
        ({"dialect": "chat", "provider": "openai"}, {"one", "two", "six"}),
        ({"dialect": "messages"}, set()),
        ({"text": "ärger"}, {"six"}),
        ({"expired": "true"}, {"one"}),
        ({"expired": "false"}, {"two", "six"}),
        ({"min_bytes": large["bytes"]}, {"two"}),
        ({"max_bytes": large["bytes"] - 1, "namespace": ""}, {"six"}),
        ({"stored_after": first["stored_at"], "model": "m"}, {"six", "one"}),
        ({"stored_before": large["stored_at"], "expired": "true", "tag": "t"}, {"one"}),
        ({"stored_before": "1700000000.5"}, set()),
        ({"stored_after": "2026-01-31T12:00:00+00:00", "model": "other"}, {"two"}),
    ):
        assert await prompts(admin, **query) == found, query


async def test_pages_follow_each_other(opened: Open, client: httpx.AsyncClient) -> None:
    """By their cursors, each entry once, also while one comes and one goes."""
    live, admin = await opened()
    ask = asker(client, live)
    for number in range(7):
        await ask(prompt=f"p-{number}")
    seen: list[str] = []
    query: dict[str, Any] = {"limit": 3}
    for turn in range(3):
        page = (await admin.get("/entries", params=query)).json()
        seen += [row["id"] for row in page["entries"]]
        query["cursor"] = page["next_cursor"]
        if turn == 0:
            await ask(prompt="p-new")
            await admin.delete(f"/entries/{seen[0]}")
    assert query["cursor"] is None
    assert len(seen) == len(set(seen)) == 7


async def test_an_entry_is_deleted_for_good(opened: Open, client: httpx.AsyncClient) -> None:
    """The next who asks is a miss; a second delete finds nothing."""
    live, admin = await opened()
    ask = asker(client, live)
    entry = (await ask()).headers["x-llm-cache-id"]
    assert (await ask()).headers["x-cache"] == "HIT"
    assert (await admin.delete(f"/entries/{entry}")).json() == {"deleted": 1}
    assert (await ask()).headers["x-cache"] == "MISS"
    for unknown in ("0" * 64, "no-id", "%00", entry.upper()):
        for method in ("GET", "DELETE"):
            answer = await admin.request(method, f"/entries/{unknown}")
            assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


async def test_what_fits_is_deleted_and_nothing_else(
    opened: Open, client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    """A dry run counts the same; who deleted what is logged, but no words of prompts."""
    live, admin = await opened()
    ask = asker(client, live)
    for number in range(4):
        await ask(prompt=f"p-{number} secret", model=f"m{number % 2}")
    with caplog.at_level(logging.INFO, "proxy.admin"):
        for query, count in (({"model": "m0"}, 2), ({"text": "p-1 secret"}, 1), ({}, 1)):
            doomed = await admin.delete("/entries", params=query | {"dry_run": "true"})
            assert doomed.json() == {"would_delete": count}
            assert (await admin.delete("/entries", params=query)).json() == {"deleted": count}
    assert await listed(admin) == []
    assert 'admin.token deleted 2 entries: {"model":"m0"}' in caplog.text
    assert "deleted 1 entries: all" in caplog.text
    assert "secret" not in caplog.text


async def test_many_are_purged_by_what_only_a_listing_knows(
    opened: Open, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In batches; nothing is left."""
    monkeypatch.setattr("proxy.catalogue.BATCH", 3)
    live, admin = await opened()
    ask = asker(client, live)
    for number in range(10):
        await ask(prompt=f"ask-{number}", model="m" if number else "other")
    assert (await admin.delete("/entries", params={"text": "ASK-", "model": "m"})).json() == {
        "deleted": 9
    }
    assert [row["model"] for row in await listed(admin)] == ["other"]


async def test_ten_purges_at_once(opened: Open, client: httpx.AsyncClient) -> None:
    """All succeed, and each entry is told as deleted at least once."""
    live, admin = await opened()
    ask = asker(client, live)
    for number in range(5):
        await ask(prompt=f"p-{number}")
    answers = await asyncio.gather(*(admin.delete("/entries") for _ in range(10)))
    assert [answer.status_code for answer in answers] == [200] * 10
    assert sum(answer.json()["deleted"] for answer in answers) >= 5
    assert (await ask(prompt="p-1")).headers["x-cache"] == "MISS"


async def test_a_soft_purge_keeps_what_may_stand_in(
    opened: Open, provider: FakeProvider, client: httpx.AsyncClient
) -> None:
    """Asked again it is fetched anew; if that fails it serves. A second one changes nothing, and
    its life is not longer than it was."""
    clock = FakeClock()
    live, admin = await opened(clock=clock, cache={"ttl": 100, "stale_if_error_s": 1000})
    ask = asker(client, live)
    await ask()
    clock.advance(40)
    soft = {"stale": "true"}
    dry = await admin.delete("/entries", params=soft | {"dry_run": "true"})
    assert dry.json() == {"would_expire": 1}
    assert (await admin.delete("/entries", params=soft)).json() == {"expired": 1}
    (row,) = await listed(admin)
    clock.advance(500)
    assert (await admin.delete("/entries", params=soft)).json() == {"expired": 0}
    assert (await listed(admin))[0] == row
    provider.script(Answer(status=500))
    stale = await ask()
    assert (stale.headers["x-cache"], stale.status_code) == ("STALE", 200)
    clock.advance(501)
    assert await listed(admin) == []
    assert (await ask()).headers["x-cache"] == "MISS"


async def test_a_soft_purge_gives_an_end_to_what_has_none(
    opened: Open, provider: FakeProvider, client: httpx.AsyncClient
) -> None:
    """It is kept for as long as a stale answer may serve; what is pinned stays fresh."""
    clock = FakeClock()
    live, admin = await opened(clock=clock, cache={"stale_if_error_s": 1000})
    ask = asker(client, live)
    await ask(prompt="one")
    entry = (await ask(prompt="pin")).headers["x-llm-cache-id"]
    await admin.patch(f"/entries/{entry}", json={"pinned": True})
    assert (await admin.delete("/entries", params={"stale": "true"})).json() == {"expired": 1}
    assert await prompts(admin, expired="true") == {"one"}
    clock.advance(999)
    provider.script(Answer(status=500))
    assert (await ask(prompt="one")).headers["x-cache"] == "STALE"
    clock.advance(1)
    assert await prompts(admin) == {"pin"}
    assert (await ask(prompt="pin")).headers["x-cache"] == "HIT"


async def test_a_soft_purge_is_followed_by_one_refresh(
    opened: Open, provider: FakeProvider, client: httpx.AsyncClient
) -> None:
    """And by hits on the new answer."""
    live, admin = await opened()
    ask = asker(client, live)
    await ask()
    await admin.delete("/entries", params={"stale": "true"})
    calls = len(provider.calls)
    outcomes = [(await ask()).headers["x-cache"] for _ in range(3)]
    assert outcomes == ["MISS", "HIT", "HIT"]
    assert len(provider.calls) == calls + 1


async def test_an_entry_is_given_another_end_and_tags(
    opened: Open, client: httpx.AsyncClient
) -> None:
    """From now on; null is without end, and what is not said stays."""
    live, admin = await opened(clock=(clock := FakeClock()), cache={"ttl": 60})
    entry = (await asker(client, live)(own("tags=x"))).headers["x-llm-cache-id"]
    clock.advance(30)
    row = (await admin.patch(f"/entries/{entry}", json={"ttl": 90})).json()
    assert (row["expires_at"], row["tags"]) == ("2027-01-15T08:02:00.000Z", ["x"])
    row = (await admin.patch(f"/entries/{entry}", json={"tags": ["y", "z", "y"]})).json()
    assert (row["expires_at"], row["tags"]) == ("2027-01-15T08:02:00.000Z", ["y", "z"])
    row = (await admin.patch(f"/entries/{entry}", json={"ttl": None})).json()
    assert row["expires_at"] is None
    assert await listed(admin) == [row]
    clock.advance(1e6)
    assert (await asker(client, live)(MINE)).headers["x-cache"] == "HIT"


async def test_changes_at_once_undo_none_of_each_other(
    opened: Open, client: httpx.AsyncClient
) -> None:
    """Of tags, a pin and a correction that are all claimed, all are there."""
    live, admin = await opened()
    path = f"/entries/{(await asker(client, live)()).headers['x-llm-cache-id']}"
    answers = await asyncio.gather(
        admin.patch(path, json={"tags": ["eval"]}),
        admin.put(path, json={"text": "corrected"}),
        admin.delete("/entries", params={"stale": "true"}),
        admin.patch(path, json={"pinned": True}),
    )
    assert [answer.status_code for answer in answers] == [200] * 4
    entry = (await admin.get(path)).json()
    assert (entry["tags"], entry["pinned"]) == (["eval"], True)
    assert (entry["generations"][0]["text"], bool(entry["corrected"])) == ("corrected", True)


async def test_a_pinned_entry_gets_its_end_back(opened: Open, client: httpx.AsyncClient) -> None:
    """Pinned it has none; a second pin does not forget the first's, and a new ttl waits."""
    live, admin = await opened(cache={"ttl": 60})
    entry = (await asker(client, live)()).headers["x-llm-cache-id"]
    before = (await listed(admin))[0]
    for _ in range(2):
        row = (await admin.patch(f"/entries/{entry}", json={"pinned": True})).json()
        assert (row["pinned"], row["expires_at"]) == (True, None)
    assert (await admin.patch(f"/entries/{entry}", json={"pinned": False})).json() == before
    row = (await admin.patch(f"/entries/{entry}", json={"pinned": True, "ttl": 600})).json()
    assert row["expires_at"] is None
    row = (await admin.patch(f"/entries/{entry}", json={"pinned": False})).json()
    assert row["expires_at"] > before["expires_at"]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_corrected_text_is_what_is_told(
    opened: Open, client: httpx.AsyncClient, stream: bool
) -> None:
    """However it came and however it is asked for; it is marked."""
    live, admin = await opened()
    ask = asker(client, live)
    entry = (await ask(stream=stream)).headers["x-llm-cache-id"]
    shown = (
        await admin.put(f"/entries/{entry}", json={"text": "Zwölf Boxkämpfer, \U0001f600"})
    ).json()
    assert shown["corrected"].endswith("Z")
    assert shown["generations"][0]["message"]["content"] == "Zwölf Boxkämpfer, \U0001f600"
    for told in (await ask(), await ask(stream=True)):
        assert told.headers["x-cache"] == "HIT"
        assert words(told.content) == "Zwölf Boxkämpfer, \U0001f600"


async def test_whole_answers_are_corrected(opened: Open, client: httpx.AsyncClient) -> None:
    """As they are shown, with what is wrong put right."""
    live, admin = await opened()
    ask = asker(client, live)
    entry = (await ask(n=2)).headers["x-llm-cache-id"]
    told = (await admin.get(f"/entries/{entry}")).json()["generations"]
    told[1]["text"] = told[1]["message"]["content"] = "second"
    answer = await admin.put(f"/entries/{entry}", json={"generations": told})
    assert answer.json()["generations"] == told
    hit = (await ask(n=2)).json()
    assert [choice["message"]["content"] for choice in hit["choices"]] == [
        expected(asking(n=2), credential="Bearer mine"),
        "second",
    ]


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"text": "a", "generations": []},
        {"generations": []},
        {"generations": [{"type": "plain", "text": "no message"}]},
        {"generations": [{"type": "chat", "text": "x", "message": {"content": "y"}}]},
        {"generations": [{"type": "other", "text": "x"}]},
        {"text": 1},
        {"text": "\ud800"},
        [],
        None,
    ],
)
async def test_what_could_not_be_told_is_no_correction(
    opened: Open, client: httpx.AsyncClient, said: Any
) -> None:
    """400 says why, and the answer is as it was."""
    live, admin = await opened()
    entry = (await asker(client, live)()).headers["x-llm-cache-id"]
    before = (await admin.get(f"/entries/{entry}")).json()
    headers = {"content-type": "application/json"}
    answer = await admin.put(f"/entries/{entry}", content=json.dumps(said), headers=headers)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["message"]
    assert (await admin.get(f"/entries/{entry}")).json() == before


async def test_an_answer_that_should_be_json_stays_json(
    opened: Open, client: httpx.AsyncClient
) -> None:
    """A slip of the operator's pen would break who asked for it."""
    live, admin = await opened(cache={"unparsable_json": True})
    entry = (await asker(client, live)(response_format={"type": "json_object"})).headers[
        "x-llm-cache-id"
    ]
    answer = await admin.put(f"/entries/{entry}", json={"text": "{'a': 1}"})
    assert answer.status_code == 400
    assert "choices[0].message.content" in answer.json()["error"]["message"]
    assert (await admin.put(f"/entries/{entry}", json={"text": '{"a": 1}'})).status_code == 200


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"ttl": -1},
        {"ttl": "60"},
        {"ttl": True},
        {"tags": "one"},
        {"tags": [""]},
        {"tags": ["x" * 129]},
        {"tags": ["a\nb"]},
        {"tags": [str(n) for n in range(33)]},
        {"pinned": "yes"},
        {"pinned": None},
        {"expires_at": "2030-01-01T00:00:00Z"},
        [],
    ],
)
async def test_a_change_that_makes_no_sense_is_refused(
    opened: Open, client: httpx.AsyncClient, said: Any
) -> None:
    """With the name of the field."""
    live, admin = await opened()
    entry = (await asker(client, live)()).headers["x-llm-cache-id"]
    assert (await admin.patch(f"/entries/{entry}", json=said)).status_code == 400


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=1001",
        "limit=1e3",
        "limit=10&limit=20",
        "cursor=",
        "stored_before=yesterday",
        "stored_after=nan",
        "stored_after=1e300",
        "stored_before=2026-01-31T12:00:00",
        "expired=maybe",
        "min_hits=-1",
        "min_bytes=99999999999999999999",
        "modle=gpt-4o",
        "text=%00%00%00",
        "text=ab",
        f"model={'x' * 1001}",
    ],
)
async def test_a_query_that_makes_no_sense_is_refused(opened: Open, query: str) -> None:
    """400, for listing and purging: what is misspelt must not widen a purge."""
    _, admin = await opened()
    for method in ("GET", "DELETE"):
        answer = await admin.request(method, f"/entries?{query}")
        assert answer.status_code == 400, answer.text
        assert answer.json()["error"]["code"] == "bad_request"


@pytest.mark.parametrize("cursor", ["nonsense", "WzEsICJ4Il0", "%ff", "x" * 1999, "_" * 8])
async def test_a_cursor_that_no_page_gave_leads_nowhere(opened: Open, cursor: str) -> None:
    """404, whatever it is."""
    _, admin = await opened()
    for path in ("/entries", "/export"):
        answer = await admin.get(f"{path}?cursor={cursor}")
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", "application/json"),
        (b'{"text": ', "application/json"),
        (b'{"text": "\xff"}', "application/json"),
        (b'{"ttl": NaN, "text": NaN}', "application/json"),
        (b"[" * 100_000, "application/json"),
        (b'{"text": "simple form post", "ttl": 1}', "text/plain"),
        (b'{"text": "none", "ttl": 1}', ""),
    ],
)
@pytest.mark.parametrize("method", ["PUT", "PATCH"])
async def test_a_body_that_cannot_be_read_is_refused(
    opened: Open, client: httpx.AsyncClient, method: str, content: bytes, kind: str
) -> None:
    """Torn, not UTF-8, too deep, or of another type."""
    live, admin = await opened()
    entry = (await asker(client, live)()).headers["x-llm-cache-id"]
    headers = {"content-type": kind} if kind else {}
    answer = await admin.request(method, f"/entries/{entry}", content=content, headers=headers)
    assert answer.status_code == 400, answer.text


async def test_clients_see_and_delete_their_own(opened: Open, client: httpx.AsyncClient) -> None:
    """Others' entries are not there for them; nothing may be changed."""
    named = {"alice": {"token_env": "ALICE"}, "bob": {"token_env": "BOB"}}
    live, admin = await opened(clients=named)
    ask = asker(client, live)
    for name, token in (("alice", ALICE), ("bob", BOB)):
        await ask({"authorization": f"Bearer {token}"}, prompt=name)
    ids = {row["client"]: row["id"] for row in await listed(admin)}
    async with AdminClient(live.origin, ALICE) as alice:
        assert [row["client"] for row in await listed(alice)] == ["alice"]
        assert (await alice.get(f"/entries/{ids['alice']}")).status_code == 200
        for method in ("GET", "DELETE"):
            assert (await alice.request(method, f"/entries/{ids['bob']}")).status_code == 404
        assert (await alice.get("/entries", params={"client": "bob"})).status_code == 403
        for method, said in (("PATCH", {"ttl": 1}), ("PUT", {"text": "x"})):
            answer = await alice.request(method, f"/entries/{ids['alice']}", json=said)
            assert answer.status_code == 403
        assert (await alice.delete("/entries")).json() == {"deleted": 1}
    assert [row["client"] for row in await listed(admin)] == ["bob"]


async def test_who_reads_figures_sees_no_entries(opened: Open, client: httpx.AsyncClient) -> None:
    """Neither lists nor contents, and may change nothing."""
    live, admin = await opened()
    entry = (await asker(client, live)()).headers["x-llm-cache-id"]
    async with AdminClient(live.origin, READ) as reader:
        for method in ("GET", "DELETE", "PATCH", "PUT"):
            for path in ("/entries", f"/entries/{entry}"):
                answer = await reader.request(method, path)
                assert answer.status_code in (403, 405)
    assert len(await listed(admin)) == 1


async def test_a_cache_without_a_list_says_who_has_one(proxy: StartProxy) -> None:
    """501, not an empty list."""
    live = await proxy(cache={"url": "null://"}, admin=TOKENS)
    async with AdminClient(live.origin, FULL) as admin:
        for method, path in (("GET", ""), ("DELETE", ""), ("GET", f"/{'0' * 64}")):
            answer = await admin.request(method, f"/entries{path}")
            assert answer.status_code == 501
            assert "sqlite" in answer.json()["error"]["message"]
