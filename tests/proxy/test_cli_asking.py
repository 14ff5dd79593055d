"""`explain` and `why`, of a proxy that runs; `explain` by the settings alone is in `test_cli`."""

from __future__ import annotations

from pathlib import Path

import httpx
import orjson
import pytest

from tests.fakes.admin import READ, TOKENS, AdminClient
from tests.fakes.chat import MINE, PATH, asker, asking
from tests.fakes.commands import Commands
from tests.fakes.live_proxy import LiveProxy, StartProxy


@pytest.fixture
async def live(proxy: StartProxy, client: httpx.AsyncClient) -> LiveProxy:
    """A proxy that has an entry."""
    live = await proxy(admin=TOKENS)
    await asker(client, live)(prompt="Tell me a joke")
    return live


@pytest.fixture
def file(tmp_path: Path) -> str:
    """A request that differs a little from the one that is stored."""
    path = tmp_path / "request.json"
    path.write_bytes(orjson.dumps(asking("Tell me a poem", user="me")))
    return str(path)


async def test_explain_asks_the_proxy(live: LiveProxy, file: str) -> None:
    """What would become of a request now, and what is nearest: as the API tells it."""
    result = await Commands(live.origin)(
        "explain", file, "--json", "-H", "Authorization: Bearer mine"
    )
    described = {"path": PATH, "headers": MINE, "body": asking("Tell me a poem", user="me")}
    async with AdminClient(live.origin) as admin:
        told = (await admin.post("/explain", json=described)).json()
    assert orjson.loads(result.stdout) == told
    assert told["outcome"] == "MISS"
    assert [each["path"] for each in told["nearest"][0]["differences"]] == ["messages[0].content"]
    assert live.origin in result.stderr


async def test_explain_for_people(live: LiveProxy, file: str) -> None:
    """The outcome, what is nearest and how that differs; both strings."""
    status, shown = await Commands(live.origin).on_terminal("explain", file)
    assert status == 0
    for said in ("MISS", "names the caller", "messages[0].content", '"Tell me a joke"'):
        assert said in shown


@pytest.mark.parametrize("run", [Commands("http://127.0.0.1:1"), None])
async def test_explain_without_a_proxy(live: LiveProxy, file: str, run: Commands | None) -> None:
    """By the settings alone, if none answers or it does not explain to this token."""
    commands = run or Commands(live.origin, READ)
    told = await commands.json("explain", file)
    assert len(told["ids"]) == 1
    assert told["notes"]


async def test_explain_offline(live: LiveProxy, file: str) -> None:
    """Though a proxy runs."""
    result = await Commands(live.origin)("explain", file, "--json", "--offline")
    assert "ids" in orjson.loads(result.stdout)
    assert live.origin not in result.stderr


async def test_explain_of_a_proxy_that_is_named(file: str) -> None:
    """Nothing else takes its place."""
    result = await Commands("")("explain", file, "--url", "http://127.0.0.1:1")
    assert (result.exit_code, result.stdout) == (3, "")


async def test_what_the_proxy_would_refuse(live: LiveProxy, file: str) -> None:
    """Is said in its words, and the exit code is 1."""
    result = await Commands(live.origin)("explain", file, "--path", "/v1/files")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "passed through" in result.stderr


async def test_why(live: LiveProxy, client: httpx.AsyncClient) -> None:
    """The latest that missed: as the API tells it, and as lines."""
    await asker(client, live)(prompt="Tell me a poem")
    run = Commands(live.origin)
    async with AdminClient(live.origin) as admin:
        told = (await admin.get("/why", params={"last": 1})).json()
        last = told["requests"][0]
        one = (await admin.get(f"/why/{last['id']}")).json()
    assert await run.json("why", "--last", "1") == told
    assert await run.json("why", last["id"]) == one
    assert await run.json("why", last["id"][:10]) == one
    (line,) = (await run.done("why", "--last", "1")).splitlines()
    fields = line.split("\t")
    assert fields[1:4] == [last["id"], "MISS", "200"]
    assert fields[-2:] == [last["nearest"][0]["id"], "messages[0].content"]


async def test_why_on_a_terminal(live: LiveProxy, client: httpx.AsyncClient) -> None:
    """With the reasons and what is nearest."""
    await asker(client, live)(prompt="Tell me a \x9b2J poem")
    status, shown = await Commands(live.origin).on_terminal("why", "--last", "1")
    assert status == 0
    for said in ("MISS", "nothing was stored under this id", "messages[0].content", "a joke"):
        assert said in shown
    assert "\x9b" not in shown


async def test_why_of_what_did_not_miss(live: LiveProxy) -> None:
    """An id that is not remembered, whole or shortened: 1."""
    run = Commands(live.origin)
    for id_said in ("f" * 64, "ffffffff"):
        result = await run("why", id_said)
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr.count("\n") == 1
