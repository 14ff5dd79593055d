"""Where commands find the proxy and its token, and how they end where that goes wrong."""

from __future__ import annotations

import asyncio
import json
import socket
from asyncio.subprocess import PIPE
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from proxy.cli.remote import Place
from proxy.errors import ConfigError
from proxy.local_token import local_token, token_path
from tests.fakes.admin import FULL, TOKENS
from tests.fakes.chat import asker
from tests.fakes.commands import Commands
from tests.fakes.live_proxy import StartProxy
from tests.fakes.server import Serve

NOWHERE = "http://127.0.0.1:1"
ENDS_S = 30.0
MANAGING = [
    *(("stats",), ("ls",), ("show", "f" * 64), ("rm", "f" * 64), ("purge", "--yes")),
    *(("pin", "f" * 64), ("export",), ("import", "/dev/null"), ("warm", "/dev/null")),
    *(("why",), ("mode",), ("mode", "offline"), ("tail",)),
]


@pytest.fixture(autouse=True)
def own_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("LLM_CACHE_PROXY_URL", "LLM_CACHE_PROXY_ADMIN__TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))


def name_of(arguments: tuple[str, ...]) -> str:
    return " ".join(arguments)[:12]


@pytest.mark.parametrize("arguments", MANAGING, ids=name_of)
async def test_no_proxy(arguments: tuple[str, ...]) -> None:
    """3, and how to start one, in a line."""
    result = await Commands(NOWHERE)(*arguments)
    assert (result.exit_code, result.stdout) == (3, "")
    assert f"no proxy answers at {NOWHERE} (Connection refused)" in result.stderr
    assert "llm-cache-proxy serve" in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("arguments", MANAGING, ids=name_of)
async def test_a_wrong_token(proxy: StartProxy, arguments: tuple[str, ...]) -> None:
    """1, and where a token comes from; the wrong one is not shown."""
    live = await proxy(admin=TOKENS)
    result = await Commands(live.origin, "no-token-of-this-proxy")(*arguments)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "LLM_CACHE_PROXY_ADMIN__TOKEN" in result.stderr
    assert "no-token-of-this-proxy" not in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("arguments", [("stats",), ("import", "/dev/null"), ("tail",)])
async def test_another_program(serve: Serve, arguments: tuple[str, ...]) -> None:
    """3: what answers there is not this proxy."""

    async def page(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"<html>"})

    result = await Commands(await serve(page, lifespan="off"))(*arguments)
    assert result.exit_code == 3
    assert "is not llm-cache-proxy" in result.stderr


async def test_the_token_of_this_machine_is_found(proxy: StartProxy) -> None:
    """What was made for it opens the proxies on it, with nothing to be said."""
    live = await proxy()
    assert await Commands(live.origin, token="").done("mode") == "normal\n"


async def test_a_token_may_be_given(proxy: StartProxy, tmp_path: Path) -> None:
    """As an option, which counts most; or in the settings with which the proxy was started."""
    live = await proxy(admin=TOKENS)
    config = tmp_path / "config.toml"
    config.write_text(f'[admin]\ntoken = "{FULL}"\n')
    wrong, unsaid = Commands(NOWHERE, "wrong"), Commands(live.origin, token="")
    assert await wrong.done("mode", "--url", live.origin, "--token", FULL) == "normal\n"
    assert await unsaid.done("mode", "--config", str(config)) == "normal\n"
    assert (await unsaid("mode")).exit_code == 1


async def test_the_settings_say_where(proxy: StartProxy, tmp_path: Path) -> None:
    """Unless something else is said, the proxy is where `serve` listens with them."""
    live = await proxy(admin=TOKENS)
    config = tmp_path / "config.toml"
    config.write_text(f"[server]\nport = {live.origin.rpartition(':')[2]}\n")
    run = Commands("", FULL)
    assert await run.done("mode", "--config", str(config)) == "normal\n"
    refused = await run("mode", "--config", str(tmp_path / "absent.toml"))
    assert (refused.exit_code, refused.stdout) == (2, "")


def test_where_the_admin_api_is(tmp_path: Path) -> None:
    """At the listener of its own, if there is one."""
    config = tmp_path / "config.toml"
    config.write_text('[ops]\nport = 9\nhost = "0.0.0.0"\n')
    assert Place.find(config, token="t").url == "http://127.0.0.1:9"
    assert Place.find(token="t").url == "http://127.0.0.1:8484"


@pytest.mark.parametrize("ending", ["", "/", "/v1", "/v1/", "/admin", "/admin/"])
def test_a_url_as_people_paste_it(ending: str) -> None:
    """A client's base URL, or the dashboard's."""
    assert Place.find(url=f"https://cache.test:1{ending}", token="t").url == "https://cache.test:1"


@pytest.mark.parametrize("url", ["cache.test", "ftp://a", "http://", "http://me:secret@a", "/x"])
def test_a_url_that_is_none(url: str) -> None:
    """Is wrong usage; what may be a password in it is not shown."""
    with pytest.raises(ConfigError, match="--url: expected") as told:
        Place.find(url=url, token="t")
    assert "secret" not in str(told.value)


def test_the_token_of_this_machine_stays_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is sent to no other, and neither token is shown."""
    made = local_token()
    assert Place.find(url="http://localhost:1").token == made
    assert Place.find(url="http://cache.test:1").token is None
    monkeypatch.setenv("LLM_CACHE_PROXY_ADMIN__TOKEN", FULL)
    place = Place.find(url="http://cache.test:1")
    assert place.token == FULL
    assert FULL not in repr(place)


def test_a_token_that_others_can_read() -> None:
    """Is not taken, and the way out is told."""
    local_token()
    token_path().chmod(0o644)
    with pytest.raises(ConfigError, match="remove it; or set LLM_CACHE_PROXY_ADMIN__TOKEN"):
        Place.find()


def test_finding_makes_no_token() -> None:
    """Who only asks leaves nothing behind."""
    assert Place.find().token is None
    assert not token_path().exists()


@pytest.mark.parametrize("token", ["schlüssel", "a\nb"])
def test_a_token_that_cannot_be_one(token: str) -> None:
    """Is wrong usage, not a fault."""
    with pytest.raises(ConfigError, match="ASCII"):
        Place.find(url=NOWHERE, token=token)


@pytest.mark.parametrize(
    "arguments",
    [
        ("ls", "--limit", "0"),
        ("ls", "--no-such-filter"),
        ("show",),
        ("why", "--last", "many"),
        ("no-such-command",),
        ("export", "-", "--resume"),
    ],
)
async def test_wrong_usage(arguments: tuple[str, ...]) -> None:
    """2, before any proxy is asked."""
    result = await Commands(NOWHERE)(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")


@pytest.mark.parametrize(
    "arguments", [("ls", "--limit", "1000"), ("export",), ("stats",), ("tail",)], ids=name_of
)
async def test_a_pipe_that_is_closed(
    proxy: StartProxy, client: httpx.AsyncClient, arguments: tuple[str, ...]
) -> None:
    """As by `| head`: the command ends without a word, as if by SIGPIPE."""
    live = await proxy(admin=TOKENS)
    ask = asker(client, live)
    await asyncio.gather(*(ask(prompt=f"{number} {'x' * 2000}") for number in range(50)))
    ours, theirs = socket.socketpair()
    process = await Commands(live.origin).start(*arguments, stdout=theirs, stderr=PIPE)
    theirs.close()
    ours.close()
    async with asyncio.timeout(ENDS_S):
        ending = asyncio.create_task(process.communicate())
        while not ending.done():  # what `tail` could tell of
            await ask()
            await asyncio.wait({ending}, timeout=0.1)
    assert (process.returncode, ending.result()[1]) == (141, b"")


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_shell_completion(shell: str, completing: Callable[..., str]) -> None:
    """A script that defines it, and what it asks for."""
    script = completing(f"source_{shell}")
    assert "llm-cache-proxy" in script
    commands = completing(f"complete_{shell}", "llm-cache-proxy p")
    assert ("purge" in commands, "pin" in commands, "show" in commands) == (True, True, False)
    assert "offline" in completing(f"complete_{shell}", "llm-cache-proxy mode o")


@pytest.fixture
def completing() -> Callable[..., str]:
    """What the command prints where a shell asks it for completions of a line."""

    def ask(what: str, line: str = "") -> str:
        env = {
            "_LLM_CACHE_PROXY_COMPLETE": what,
            "_TYPER_COMPLETE_ARGS": line,
            "COMP_WORDS": line,
            "COMP_CWORD": str(len(line.split()) - 1),
        }

        async def run() -> str:
            process = await Commands(NOWHERE, more=env).start(stdout=PIPE)
            async with asyncio.timeout(ENDS_S):
                out, _ = await process.communicate()
            return out.decode()

        return asyncio.run(run())

    return ask


async def test_json_moves_no_cursor(proxy: StartProxy, client: httpx.AsyncClient) -> None:
    """What some terminals take for commands is escaped, and is still what was said."""
    live = await proxy(admin=TOKENS)
    await asker(client, live)(prompt="\x9b2J\x7f")
    shown = await Commands(live.origin).done("ls", "--json")
    assert not {"\x9b", "\x7f"} & set(shown)
    assert "\x9b2J\x7f" in json.loads(shown)["entries"][0]["prompt_preview"]
