"""`ls`, `show`, `rm`, `purge`, `pin`, of a proxy that runs."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import orjson
import pytest

from cache_backends import NullCache
from tests.fakes.admin import TOKENS, AdminClient
from tests.fakes.chat import asker
from tests.fakes.commands import Commands
from tests.fakes.live_proxy import LiveProxy, StartProxy
from tests.fakes.provider import Answer

Filled = Callable[..., Awaitable[LiveProxy]]


@pytest.fixture
def filled(proxy: StartProxy, client: httpx.AsyncClient) -> Filled:
    """`await filled("one", "two")`: a proxy with entries of these prompts."""

    async def start(*prompts: str, **fields: Any) -> LiveProxy:
        live = await proxy(admin=TOKENS)
        for prompt in prompts:
            await asker(client, live)(prompt=prompt, **fields)
        return live

    return start


async def ids(live: LiveProxy) -> list[str]:
    async with AdminClient(live.origin) as admin:
        listed = (await admin.get("/entries")).json()["entries"]
    return [each["id"] for each in listed]


async def test_ls_prints_what_the_api_says(filled: Filled) -> None:
    """As JSON, filters and all."""
    live = await filled("one", "two")
    run = Commands(live.origin)
    async with AdminClient(live.origin) as admin:
        assert await run.json("ls") == (await admin.get("/entries")).json()
        said = {"text": "two", "max_bytes": "100000", "expired": "false"}
        listing = (await admin.get("/entries", params=said)).json()
    assert await run.json("ls", "--text", "two", "--max-bytes", "100000", "--fresh") == listing
    assert len(listing["entries"]) == 1
    assert await run.json("ls", "--model", "other") == {"entries": [], "next_cursor": None}


async def test_ls_goes_on_over_pages(filled: Filled, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until it has as many as are wanted; from its cursor it goes on."""
    monkeypatch.setattr("proxy.cli.entries.PAGE", 2)
    live = await filled(*"abcde")
    run = Commands(live.origin)
    first = await run.json("ls", "--limit", "3")
    assert [each["id"] for each in first["entries"]] == (await ids(live))[:3]
    rest = await run.json("ls", "--cursor", first["next_cursor"])
    assert [each["id"] for each in rest["entries"]] == (await ids(live))[3:]


async def test_ls_without_a_terminal(filled: Filled) -> None:
    """A line for each, whole ids, tabs between fields: nothing in a prompt makes another line."""
    live = await filled("a\ttab\nand \x1b[31m a line", "two")
    lines = (await Commands(live.origin).done("ls")).splitlines()
    assert [line.split("\t")[0] for line in lines] == await ids(live)
    assert [line.count("\t") for line in lines] == [12, 12]
    assert "\x1b" not in "".join(lines)


async def test_ls_on_a_terminal(filled: Filled) -> None:
    """A table that fits, with what was asked last; no text of others moves the cursor."""
    live = await filled("Tell me \x9b2J a joke", "hi", model="gpt-4o")
    status, shown = await Commands(live.origin).on_terminal("ls")
    assert status == 0
    lines = [line for line in shown.splitlines() if "gpt-4o" in line]
    assert [line.partition(" ")[0] for line in lines] == [each[:12] for each in await ids(live)]
    assert "hi" in lines[0]
    assert "Tell me" in lines[1]
    assert "\x9b" not in shown
    assert all(len(re.sub("\x1b[^m]*m", "", line)) <= 80 for line in lines)


async def test_show(filled: Filled) -> None:
    """An entry by its id or the beginning of it: as the API tells it, or to be read."""
    live = await filled("Tell me a joke")
    run = Commands(live.origin)
    (entry_id,) = await ids(live)
    async with AdminClient(live.origin) as admin:
        entry = (await admin.get(f"/entries/{entry_id}")).json()
    assert await run.json("show", entry_id) == entry
    assert await run.json("show", entry_id[:8].upper()) == entry
    shown = await run.done("show", entry_id)
    assert f"id\t{entry_id}\n" in shown
    assert "Tell me a joke" in shown
    assert entry["generations"][0]["text"] in shown


async def test_a_tool_call_is_shown(proxy: StartProxy, client: httpx.AsyncClient) -> None:
    """Where an answer is more than its text, all of it is shown."""
    live = await proxy(admin=TOKENS)
    call = {"id": "c", "type": "function", "function": {"name": "look_up", "arguments": "{}"}}
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    choice = {"index": 0, "finish_reason": "tool_calls", "message": message}
    live.provider.script(Answer(body=orjson.dumps({"choices": [choice]})))
    await asker(client, live)()
    (entry_id,) = await ids(live)
    assert (
        "look_up" in (await Commands(live.origin).done("show", entry_id)).partition("\nanswer\n")[2]
    )


@pytest.mark.parametrize(
    ("id", "status", "said"),
    [
        ("f" * 64, 1, "There is no entry"),
        ("fffffffff", 1, "no entry's id begins with fffffffff"),
        ("fff", 2, "at least the first 6"),
        ("../../mode", 2, "is no id"),
        ("f" * 65, 2, "is no id"),
    ],
)
async def test_an_entry_that_is_not_there(filled: Filled, id: str, status: int, said: str) -> None:
    """Is said in a line on stderr; the exit code tells a wrong id from one that is not there."""
    live = await filled()
    result = await Commands(live.origin)("show", id)
    assert (result.exit_code, result.stdout) == (status, "")
    assert said in result.stderr
    assert result.stderr.count("\n") == 1


async def test_what_is_shortened_must_be_clear(
    filled: Filled, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A beginning that two have is refused; a short one also where not all were looked at."""
    monkeypatch.setattr("proxy.cli.entries.MIN_ID_CHARS", 0)
    live = await filled(*"abcdefghijklmnopqr")  # 18 ids: two begin with the same digit
    run = Commands(live.origin)
    known = await ids(live)
    begin = [each[0] for each in known]
    twice = next(digit for digit in "0123456789abcdef" if begin.count(digit) > 1)
    assert "ids begin with" in (await run("rm", twice)).stderr
    monkeypatch.setattr("proxy.cli.entries.LOOKED_AT", 2)
    assert "give the whole id" in (await run("rm", known[0][:10])).stderr
    assert (await run("rm", known[0][:12])).exit_code == 0
    assert await ids(live) == known[1:]


async def test_rm(filled: Filled) -> None:
    """Those that are there go, whatever becomes of the others; then it exits with 1."""
    live = await filled("one", "two", "three")
    run = Commands(live.origin)
    first, second, third = await ids(live)
    assert await run.json("rm", first) == {"deleted": 1}
    result = await run("rm", "f" * 64, second[:12])
    assert (result.exit_code, result.stdout) == (1, "removed 1 entry\n")
    assert "f" * 64 in result.stderr
    assert await ids(live) == [third]


async def test_purge_wants_to_be_sure(filled: Filled) -> None:
    """Without a terminal it needs --yes; --dry-run counts only."""
    live = await filled("one", "two", "three")
    run = Commands(live.origin)
    refused = await run("purge")
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "--yes" in refused.stderr
    assert await run.json("purge", "--text", "two", "--dry-run") == {"would_delete": 1}
    assert await run.done("purge", "--dry-run") == "would delete 3 entries\n"
    assert len(await ids(live)) == 3
    assert await run.json("purge", "--text", "two", "--yes") == {"deleted": 1}
    assert await run.done("purge", "-y") == "removed 2 entries\n"
    assert await ids(live) == []


async def test_purge_asks_on_a_terminal(filled: Filled) -> None:
    """With the number; whoever does not say yes keeps his entries."""
    live = await filled("one", "two")
    run = Commands(live.origin)
    status, shown = await run.on_terminal("purge", "--text", "two", answer="n")
    assert status == 1
    assert "Remove 1 entry?" in shown
    assert len(await ids(live)) == 2
    status, shown = await run.on_terminal("purge", answer="y")
    assert (status, await ids(live)) == (0, [])
    assert "Remove 2 entries?" in shown
    status, shown = await run.on_terminal("purge")
    assert (status, shown.strip()) == (0, "removed 0 entries")


async def test_a_soft_purge(filled: Filled, client: httpx.AsyncClient) -> None:
    """Expires entries, which are refreshed on next use."""
    live = await filled("one", "two")
    run = Commands(live.origin)
    assert await run.json("purge", "--stale", "--dry-run") == {"would_expire": 2}
    assert await run.done("purge", "--stale", "--yes") == "expired 2 entries\n"
    assert len((await run.json("ls", "--expired"))["entries"]) == 2
    assert (await asker(client, live)(prompt="one")).headers["x-cache"] == "MISS"


async def test_pin(filled: Filled) -> None:
    """Pins, and lets go again."""
    live = await filled("one")
    run = Commands(live.origin)
    (entry_id,) = await ids(live)
    assert await run.done("pin", entry_id[:12]) == f"pinned {entry_id}\n"
    assert (await run.json("show", entry_id))["pinned"] is True
    row = await run.json("pin", "--undo", entry_id)
    assert (row["id"], row["pinned"]) == (entry_id, False)


async def test_a_cache_that_cannot(proxy: StartProxy) -> None:
    """What a kind of cache cannot do it says itself; the exit code is 1."""
    live = await proxy(NullCache(), admin=TOKENS)
    result = await Commands(live.origin)("ls")
    assert (result.exit_code, result.stdout) == (1, "")
    async with AdminClient(live.origin) as admin:
        answer = await admin.get("/entries")
    assert answer.status_code == 501
    assert result.stderr == f"llm-cache-proxy: {answer.json()['error']['message']}\n"
