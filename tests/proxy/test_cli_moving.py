"""`export`, `import`, `warm`, of proxies that run."""

from __future__ import annotations

import asyncio
from asyncio.subprocess import PIPE
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from cache_backends import SQLiteCache
from tests.fakes.admin import READ, TOKENS, AdminClient
from tests.fakes.chat import MINE, YOURS, asker, asking
from tests.fakes.commands import Commands
from tests.fakes.live_proxy import LiveProxy, StartProxy
from tests.fakes.managed import tiered
from tests.fakes.provider import Answer

Start = Callable[..., Awaitable[LiveProxy]]

ENDS_S = 30.0


@pytest.fixture
def start(proxy: StartProxy, tmp_path: Path) -> Start:
    """`await start("a")`: a proxy before a file of that name."""

    async def before(name: str, **sections: Any) -> LiveProxy:
        cache = {"scope_secret": "the same for both", "lookup_timeout_s": 5}
        sections["cache"] = cache | sections.get("cache", {})
        return await proxy(tiered(SQLiteCache(tmp_path / name)), admin=TOKENS, **sections)

    return before


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cursor after every two entries of an export."""
    monkeypatch.setattr("proxy.catalogue.BATCH", 2)


async def fill(client: httpx.AsyncClient, live: LiveProxy, *prompts: str) -> None:
    for prompt in prompts:
        await asker(client, live)(prompt=prompt)


async def test_entries_move(start: Start, client: httpx.AsyncClient, tmp_path: Path) -> None:
    """Out of one proxy into a file, which only its owner can read, and into another."""
    old, new = await start("old"), await start("new")
    await fill(client, old, "one", "two")
    path = tmp_path / "moved.ndjson"
    file = str(path)
    told = await Commands(old.origin).json("export", file)
    assert told == {"exported": 2, "file": file}
    assert path.stat().st_mode & 0o777 == 0o600
    sums = await Commands(new.origin).json("import", file)
    assert (sums["lines"], sums["imported"], sums["failed"]) == (3, 2, [])
    assert "skipped\t2\n" in await Commands(new.origin).done("import", file)
    assert (await asker(client, new)(prompt="one")).headers["x-cache"] == "HIT"


async def test_an_export_is_what_the_api_says(start: Start, client: httpx.AsyncClient) -> None:
    """Piped on without a file, and by filters."""
    live = await start("old")
    await fill(client, live, "one", "two")
    run = Commands(live.origin)
    async with AdminClient(live.origin) as admin:
        assert await run.done("export") == (await admin.get("/export")).text
        some = await admin.get("/export", params={"text": "two"})
    assert await run.done("export", "-", "--text", "two") == some.text


async def test_entries_that_nobody_would_find(
    start: Start, client: httpx.AsyncClient, tmp_path: Path
) -> None:
    """As the secret is another there, or all share: that is said, with the way out."""
    old, new = await start("old"), await start("new", cache={"scope_secret": "another one"})
    shared = await start("shared", cache={"scope": "shared"})
    await fill(client, old, "one")
    file = str(tmp_path / "moved.ndjson")
    await Commands(old.origin).done("export", file)
    for each in (new, shared):
        result = await Commands(each.origin)("import", file)
        assert result.exit_code == 0
        assert "--scope" in result.stderr
    again = await Commands(shared.origin)("import", file, "--scope", "shared")
    assert again.stderr == ""


async def test_a_pipe_from_one_to_another(start: Start, client: httpx.AsyncClient) -> None:
    """As `export | import -`; for others, if they are named."""
    old, new = await start("old"), await start("new")
    await fill(client, old, "one")
    lines = (await Commands(old.origin).done("export")).encode()
    run = Commands(new.origin, more={"THEIRS": "yours"})
    said = "import", "-", "--scope", "credential"
    refused = await run(*said)
    assert refused.exit_code == 2
    assert "--key-env" in refused.stderr
    process = await run.start(*said, "--key-env", "THEIRS", stdin=PIPE, stdout=PIPE)
    async with asyncio.timeout(ENDS_S):
        out, _ = await process.communicate(lines)
    assert (process.returncode, out.partition(b"\n")[0]) == (0, b"imported\t1")
    assert (await asker(client, new)(YOURS, prompt="one")).headers["x-cache"] == "HIT"
    assert (await asker(client, new)(MINE, prompt="one")).headers["x-cache"] == "MISS"


@pytest.mark.usefixtures("small_pages")
@pytest.mark.parametrize("cut", [1, 200, 3000, 6000, -20, -1])
async def test_an_export_that_broke_off_goes_on(
    start: Start, client: httpx.AsyncClient, tmp_path: Path, cut: int
) -> None:
    """Wherever: it ends as if it had not."""
    live = await start("old")
    await fill(client, live, *"abcde")
    run = Commands(live.origin)
    file = tmp_path / "moved.ndjson"
    await run.done("export", str(file))
    whole = file.read_bytes()
    again = await run("export", str(file))
    assert again.exit_code == 2
    assert "--resume" in again.stderr
    file.write_bytes(whole[:cut])
    assert (await run.json("export", str(file), "--resume"))["exported"] == 5
    assert file.read_bytes() == whole
    assert (await run.json("export", str(file), "--resume"))["exported"] == 5
    assert file.read_bytes() == whole


@pytest.mark.parametrize("text", ["Dear Ada,\n", "Dear Ada", "{}"])
async def test_a_file_of_something_else_is_left_alone(
    start: Start, tmp_path: Path, text: str
) -> None:
    """--resume goes on with exports only."""
    live = await start("old")
    file = tmp_path / "letters.txt"
    file.write_text(text)
    result = await Commands(live.origin)("export", str(file), "--resume")
    assert (result.exit_code, file.read_text()) == (2, text)


async def test_an_export_that_breaks_off_says_so(
    start: Start, client: httpx.AsyncClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what came in the file, the exit code 3, and how to go on."""
    live = await start("old")
    await fill(client, live, "one")

    monkeypatch.setattr("proxy.routes.admin_transfer.export", half_an_export)
    file = tmp_path / "moved.ndjson"
    result = await Commands(live.origin)("export", str(file))
    assert result.exit_code == 3
    assert "--resume" in result.stderr
    assert file.read_bytes() == b'{"v":1}\n'


async def half_an_export(*_: Any, **__: Any) -> Any:
    yield b'{"v":1}\n'
    yield b'{"v":1,"pro'


async def test_lines_that_are_none(start: Start, tmp_path: Path) -> None:
    """Are told with their numbers, and the exit code is 1; the others are imported."""
    run = Commands((await start("new")).origin)
    file = tmp_path / "torn.ndjson"
    file.write_bytes(b'torn\n{"v":1}\n')
    result = await run("import", str(file))
    assert result.exit_code == 1
    assert result.stderr.startswith("llm-cache-proxy: line 1: ")
    assert result.stdout.startswith("imported\t0\n")
    sums = orjson.loads((await run("import", str(file), "--json")).stdout)
    assert [each["line"] for each in sums["failed"]] == [1, 2]


async def test_what_cannot_be_imported(start: Start, tmp_path: Path) -> None:
    """A file that is not there, a scope that is none, a token that only reads: a line each."""
    live = await start("new")
    (tmp_path / "empty").write_bytes(b"")
    empty = str(tmp_path / "empty")
    run, reader = Commands(live.origin), Commands(live.origin, READ)
    absent = await run("import", str(tmp_path / "absent"))
    assert (absent.exit_code, "No such file" in absent.stderr) == (2, True)
    scope = await run("import", empty, "--scope", "everyone")
    assert (scope.exit_code, "scope" in scope.stderr) == (1, True), scope.stderr
    refused = await reader("import", empty)
    assert (refused.exit_code, "admin.token" in refused.stderr) == (1, True)
    assert all(each.stderr.count("\n") == 1 for each in (absent, scope, refused))


async def test_warm(start: Start, client: httpx.AsyncClient, tmp_path: Path) -> None:
    """Asks each line with the key of a variable; what failed is told by its line."""
    live = await start("new")
    file = tmp_path / "asked.ndjson"
    lines = [orjson.dumps(asking(prompt)) for prompt in ("one", "two")]
    file.write_bytes(b"\n".join([*lines, b"torn"]))
    run = Commands(live.origin, more={"MY_KEY": "mine"})
    result = await run("warm", str(file), "--key-env", "MY_KEY", "--concurrency", "1")
    assert result.exit_code == 1
    assert result.stdout == "lines\t3\nMISS\t2\nfailed\t1\n"
    assert result.stderr.startswith("llm-cache-proxy: line 3: not JSON")
    assert (await asker(client, live)(prompt="one")).headers["x-cache"] == "HIT"
    assert "mine" not in result.output


async def test_warm_tells_by_the_line(start: Start, tmp_path: Path) -> None:
    """With --json, as the API does, and errors of providers too, whatever they have in them."""
    live = await start("new")
    live.provider.script(Answer(status=429, error={"message": "slow\u2028down"}))
    file = tmp_path / "asked.ndjson"
    file.write_bytes(orjson.dumps(asking("one")))
    result = await Commands(live.origin)("warm", str(file), "--json")
    first, last = map(orjson.loads, filter(None, result.stdout.split("\n")))
    assert (first["line"], first["status"], first["error"]) == (1, 429, "slow\u2028down")
    assert (last["lines"], last["failed"]) == (1, 1)
    assert result.exit_code == 1


async def test_warm_needs_its_key(start: Start) -> None:
    """A variable that is not set is wrong usage."""
    live = await start("new")
    result = await Commands(live.origin)("warm", "-", "--key-env", "MY_OWN_KEY", given=b"")
    assert result.exit_code == 2
    assert "MY_OWN_KEY is not set" in result.stderr


async def test_neither_side_waits_for_the_other(start: Start, tmp_path: Path) -> None:
    """What a proxy tells while a long file is sent fills no pipe on the way."""
    live = await start("new")
    file = tmp_path / "long.ndjson"
    file.write_bytes(b'{"model": "m", "bad": \n' * 100_000)
    async with asyncio.timeout(ENDS_S):
        result = await Commands(live.origin)("warm", str(file), "--json")
    assert result.stdout.count("\n") == 100_001


async def test_long_work_shows_a_bar_on_a_terminal(
    start: Start, client: httpx.AsyncClient, tmp_path: Path
) -> None:
    """And where standard error is none, nothing."""
    live = await start("old")
    await fill(client, live, "one")
    file = str(tmp_path / "moved.ndjson")
    status, shown = await Commands(live.origin).on_terminal("export", file)
    assert status == 0
    assert "1/1" in shown
    status, shown = await Commands(live.origin).on_terminal("import", file)
    assert status == 0
    assert "skipped" in shown
    assert (await Commands(live.origin)("import", file)).stderr == ""
