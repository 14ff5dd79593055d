"""`stats`, `mode`, `tail`, of a proxy that runs."""

from __future__ import annotations

import asyncio
import signal
from asyncio.subprocess import PIPE

import httpx
import orjson
import pytest

from proxy.cli.events import events, line_of
from tests.fakes.admin import READ, TOKENS, AdminClient
from tests.fakes.chat import asker
from tests.fakes.commands import Commands
from tests.fakes.live_proxy import LiveProxy, StartProxy

STARTS_S = 20.0


@pytest.fixture
async def live(proxy: StartProxy, client: httpx.AsyncClient) -> LiveProxy:
    """A proxy that has seen a miss, a hit and a bypass."""
    live = await proxy(admin=TOKENS)
    for headers in ({}, {}, {"cache-control": "no-store"}):
        await asker(client, live)({"authorization": "Bearer mine"} | headers)
    return live


async def test_stats_prints_what_the_api_says(live: LiveProxy) -> None:
    """As JSON; and as lines of name and value. The token that reads figures will do."""
    run = Commands(live.origin, READ)
    async with AdminClient(live.origin) as admin:
        figures = (await admin.get("/stats")).json()
    assert await run.json("stats") == figures
    lines = dict(line.split("\t") for line in (await run.done("stats")).splitlines())
    assert (lines["hits"], lines["misses"]) == ("1", "1")
    assert lines["bypasses_by_reason.no-store"] == "1"
    assert lines["by_model.m.requests"] == "3"


async def test_stats_on_a_terminal(live: LiveProxy) -> None:
    """In words, with a table of models."""
    status, shown = await Commands(live.origin).on_terminal("stats")
    assert status == 0
    assert "50.0%" in shown
    assert "1 no-store" in shown
    assert "tokens saved" in shown


async def test_mode(live: LiveProxy) -> None:
    """Is told, and set; `auto` is another word for normal."""
    run = Commands(live.origin)
    assert await run.done("mode") == "normal\n"
    assert await run.json("mode", "offline") == {"mode": "offline", "everywhere": True}
    assert await run.done("mode") == "offline\n"
    assert await run.done("mode", "auto") == "normal\n"


async def test_a_mode_that_cannot_be_set(live: LiveProxy) -> None:
    """One that is none, and with a token that only reads."""
    result = await Commands(live.origin)("mode", "sideways")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "offline" in result.stderr
    refused = await Commands(live.origin, READ)("mode", "offline")
    assert refused.exit_code == 1
    assert "admin.token" in refused.stderr


@pytest.mark.parametrize("arguments", [("tail",), ("tail", "--json")])
async def test_tail(live: LiveProxy, client: httpx.AsyncClient, arguments: tuple[str, ...]) -> None:
    """Tells each request at once, also into a pipe; Ctrl-C ends it without a word."""
    process = await Commands(live.origin).start(*arguments, stdout=PIPE, stderr=PIPE)
    async with asyncio.timeout(STARTS_S):
        lines = await first_lines(process, client, live)
        process.send_signal(signal.SIGINT)
        assert (await process.communicate())[1] == b""
    assert process.returncode == 130
    if "--json" in arguments:
        assert {orjson.loads(line)["outcome"] for line in lines} == {"HIT"}
    else:
        assert all(b"  HIT  " in line for line in lines)


async def first_lines(
    process: asyncio.subprocess.Process, client: httpx.AsyncClient, live: LiveProxy
) -> list[bytes]:
    """Ask until it tells of something: only then it surely listens."""
    assert process.stdout is not None
    reading = asyncio.create_task(process.stdout.readline())
    while not reading.done():
        await asker(client, live)()
        await asyncio.wait({reading}, timeout=0.1)
    return [reading.result()]


def test_events_are_read_in_whatever_pieces() -> None:
    """Comments are none."""
    told = b': listening\n\ndata: {"a":1}\n\n: alive\n\ndata: {"b":2}\n\n'
    for size in range(1, len(told)):
        pieces = [told[at : at + size] for at in range(0, len(told), size)]
        assert list(events(pieces)) == [{"a": 1}, {"b": 2}]


def test_a_line_of_a_newer_proxy() -> None:
    """What it tells beyond what is known here is left out; what was dropped is said."""
    told = {"time": "2026-01-31T12:00:00.000Z", "event": "request", "path": "/v1/x", "new": 1}
    line = line_of(told | {"outcome": "ERROR", "status": 502, "model": "a\x1b[2J"}, colour=False)
    assert "ERROR 502" in line
    assert "\x1b" not in line
    assert "7 more" in line_of({"event": "dropped", "count": 7}, colour=False)
