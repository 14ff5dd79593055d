"""The command as users run it: processes that are told to stop, killed, doubled, misconfigured."""

from __future__ import annotations

import asyncio
import os
import pty
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.fakes.chat import MINE, PATH, asking, words
from tests.fakes.oracle import expected
from tests.fakes.process import Launch, ProxyProcess, environment
from tests.fakes.provider import Answer, FakeProvider, Gate
from tests.fakes.raw_client import Connect, RawClient

NUMBERS = count()


@pytest_asyncio.fixture
async def launch(tmp_path: Path, provider: FakeProvider) -> AsyncIterator[Launch]:
    """`await launch("--cache", url)`: the command before the provider, once it listens."""
    async with AsyncExitStack() as stack:

        async def start(*arguments: str, up: bool = True) -> ProxyProcess:
            upstream = () if "--upstream" in arguments else ("--upstream", provider.base_url)
            process = await ProxyProcess.start(tmp_path, *upstream, *arguments)
            stack.push_async_callback(process.kill)
            if up:
                await process.up()
            return process

        yield start


@pytest.fixture
def file(tmp_path: Path) -> str:
    """The URL of a SQLite file."""
    return f"sqlite:///{tmp_path}/cache.db"


def config(tmp_path: Path, text: str) -> str:
    path = tmp_path / "config.toml"
    path.write_text(text)
    return str(path)


async def ask(
    client: httpx.AsyncClient, process: ProxyProcess, prompt: str = "Tell me a joke", **fields: Any
) -> tuple[str, str]:
    """X-Cache, and the words of the answer, which are the right ones."""
    body = asking(prompt, **fields)
    answer = await client.post(f"{process.base_url}/chat/completions", json=body, headers=MINE)
    assert answer.status_code == 200
    text = words(answer.content)
    assert text == expected(body, credential="Bearer mine")
    return answer.headers["x-cache"], text


async def begun_stream(connect: Connect, process: ProxyProcess, gate: Gate) -> RawClient:
    """A stream whose first event has arrived, and that waits for its second."""
    raw = await connect(process.origin)
    await raw.post(PATH, asking(stream=True), MINE)
    await gate.release()
    await raw.head()
    await raw.chunk()
    await gate.reached()
    return raw


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_a_stream_that_runs_is_finished_before_the_end(
    launch: Launch,
    file: str,
    provider: FakeProvider,
    client: httpx.AsyncClient,
    connect: Connect,
    workers: str,
) -> None:
    """After SIGTERM nobody new is let in, who is in gets his answer, and it is found later."""
    provider.script(Answer(chunk_gate=(gate := Gate())))
    process = await launch("--cache", file, "--workers", workers)
    raw = await begun_stream(connect, process, gate)
    process.terminate()
    await no_more_connections(process)
    await gate.open()
    ending = await raw.rest()
    assert ending.complete
    assert ending.body.endswith(b"data: [DONE]\n\n")
    assert await process.ended() == 0
    assert process.stderr == ""
    assert (await ask(client, await launch("--cache", file)))[0] == "HIT"
    assert len(provider.calls) == 1


async def no_more_connections(process: ProxyProcess) -> None:
    async with asyncio.timeout(5):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", process.port)
            except ConnectionRefusedError:
                return
            writer.close()
            await asyncio.sleep(0.02)


async def test_a_stream_that_outlasts_the_draining_is_cut(
    launch: Launch,
    file: str,
    provider: FakeProvider,
    client: httpx.AsyncClient,
    connect: Connect,
    tmp_path: Path,
) -> None:
    """At the deadline it breaks off, nothing of it is kept, and the exit is a clean one."""
    provider.script(Answer(chunk_gate=(gate := Gate())))
    brief = config(tmp_path, "[server]\ndrain_s = 0.3\n")
    process = await launch("--cache", file, "--config", brief)
    raw = await begun_stream(connect, process, gate)
    process.terminate()
    assert not (await raw.rest()).complete
    assert await process.ended() == 0
    assert "Traceback" not in process.stderr
    assert process.lines[-1]["cut"]
    assert (await ask(client, await launch("--cache", file)))[0] == "MISS"


async def test_a_kill_leaves_no_wrong_entry(
    launch: Launch, file: str, provider: FakeProvider, client: httpx.AsyncClient
) -> None:
    """Three times killed under load; whatever was kept is whole, and the next start is quiet."""
    provider.always = Answer(chunk_delay_s=0.001)
    for number in range(3):
        process = await launch("--cache", file)
        load = [asyncio.create_task(hammer(client, process, each)) for each in range(16)]
        await provider.received(100 * (number + 1))
        await process.kill()
        await asyncio.gather(*load)
    process = await launch("--cache", file)
    known = {call.json()["messages"][0]["content"] for call in provider.calls}
    outcomes = [(await ask(client, process, prompt))[0] for prompt in known]
    assert set(outcomes) == {"HIT", "MISS"}
    assert outcomes.count("MISS") <= 3 * 16  # what was under way
    assert process.stderr == ""


async def hammer(client: httpx.AsyncClient, process: ProxyProcess, number: int) -> None:
    """Ask until nobody answers; every answer that is there is right."""
    while True:
        try:
            await ask(client, process, f"prompt {next(NUMBERS)}", stream=bool(number % 2))
        except httpx.TransportError:
            return


async def test_workers_share_a_file(
    launch: Launch, file: str, provider: FakeProvider, client: httpx.AsyncClient
) -> None:
    """Two of them serve one port, and what one has fetched the other knows."""
    process = await launch("--cache", file, "--workers", "2")
    prompts = [f"prompt {number}" for number in range(10)]
    for prompt in prompts:
        await ask(client, process, prompt)
    outcomes = []
    for prompt in prompts * 4:
        async with httpx.AsyncClient(trust_env=False) as fresh:  # another connection each time
            outcomes.append((await ask(fresh, process, prompt))[0])
    assert set(outcomes) == {"HIT"}
    assert len(provider.calls) == 10
    process.terminate()
    assert await process.ended() == 0
    assert process.stderr == ""


async def test_two_proxies_share_a_file(
    launch: Launch, file: str, provider: FakeProvider, client: httpx.AsyncClient
) -> None:
    """Entries of one, isolated by credential, are the other's too."""
    first, second = await asyncio.gather(launch("--cache", file), launch("--cache", file))
    for number in range(20):
        one, other = (first, second) if number % 2 else (second, first)
        assert (await ask(client, one, f"prompt {number}"))[0] == "MISS"
        assert (await ask(client, other, f"prompt {number}"))[0] == "HIT"
    assert first.stderr == second.stderr == ""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--cache", "memory://", "--workers", "2"), "workers cannot share a cache in memory"),
        (("--cache", "nothing"), "cache.url: "),
        (("--upstream", "ftp://a"), "upstream.base_url: "),
        (("--host", "192.0.2.1"), "server.host: 192.0.2.1"),
    ],
)
async def test_what_cannot_be_used_is_one_line(
    launch: Launch, arguments: tuple[str, ...], said: str
) -> None:
    """It is on stderr, and the exit code says that it is the user's to mend."""
    process = await launch(*arguments, up=False)
    assert await process.ended() == 2
    assert said in process.stderr
    assert process.stderr.count("\n") == 1
    assert process.stdout == ""


async def test_an_error_in_the_config_names_its_line(launch: Launch, tmp_path: Path) -> None:
    """File, line, setting and the way out."""
    path = config(tmp_path, '[server]\nport = 0\n\n[cache]\nurll = "memory://"\n')
    process = await launch("--config", path, up=False)
    assert await process.ended() == 2
    assert process.stderr == (
        f"llm-cache-proxy: {path}:5: cache.urll: there is no such setting; did you mean url?\n"
    )


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("which", ["server", "ops"])
async def test_a_port_that_is_taken(
    launch: Launch, tmp_path: Path, file: str, which: str, workers: str
) -> None:
    """One line names it, and nothing is announced."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        arguments = ["--cache", file, "--workers", workers, "--port", "0"]
        if which == "ops":
            arguments += ["--config", config(tmp_path, f"[ops]\nport = {port}\n")]
        else:
            arguments[-1] = str(port)
        process = await launch(*arguments, up=False)
        assert await process.ended() == 2
    assert process.stderr == (
        f"llm-cache-proxy: {which}.port: {port} is taken by another program at 127.0.0.1; "
        "choose another\n"
    )
    assert process.stdout == ""


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_probes_have_a_port_of_their_own(
    launch: Launch, tmp_path: Path, file: str, client: httpx.AsyncClient, workers: str
) -> None:
    """With [ops] the data port knows nothing of health, and the other of nothing else."""
    path = config(tmp_path, "[ops]\nport = 0\n")
    process = await launch("--cache", file, "--config", path, "--workers", workers)
    ops = process.lines[0]["ops_url"]
    await ready(client, ops)
    assert (await client.get(f"{ops}/healthz")).json() == {"status": "ok"}
    assert (await client.get(f"{ops}/v1/models")).status_code == 404
    for path in ("/healthz", "/readyz"):
        assert (await client.get(process.origin + path)).status_code == 404
    assert (await client.get(f"{process.origin}/v1/models")).status_code == 200


async def ready(client: httpx.AsyncClient, ops: str) -> None:
    """Wait as Kubernetes does; a state but "starting" would be wrong."""
    async with asyncio.timeout(20):
        while True:
            try:
                state = (await client.get(f"{ops}/readyz")).json()["status"]
            except httpx.ConnectError:
                state = "starting"  # a worker that does not listen yet
            if state == "ready":
                return
            assert state == "starting"
            await asyncio.sleep(0.02)


async def test_readiness_ends_with_the_draining(
    launch: Launch,
    provider: FakeProvider,
    client: httpx.AsyncClient,
    connect: Connect,
    tmp_path: Path,
) -> None:
    """While what runs is finished, the process is alive and not ready."""
    provider.script(Answer(chunk_gate=(gate := Gate())))
    path = config(tmp_path, "[ops]\nport = 0\n")
    process = await launch("--cache", "memory://", "--config", path)
    await ready(client, ops := process.lines[0]["ops_url"])
    raw = await begun_stream(connect, process, gate)
    process.terminate()
    await no_more_connections(process)
    assert (await client.get(f"{ops}/healthz")).status_code == 200
    unready = await client.get(f"{ops}/readyz")
    assert (unready.status_code, unready.json()) == (503, {"status": "draining"})
    await gate.open()
    assert (await raw.rest()).complete
    assert await process.ended() == 0


async def test_off_a_terminal_there_are_json_lines_only(
    launch: Launch, client: httpx.AsyncClient
) -> None:
    """One when it listens, one for each request; neither prompt, answer nor key is in them."""
    process = await launch("--cache", "memory://")
    answers = [(await ask(client, process))[1] for _ in range(2)]
    process.terminate()
    assert await process.ended() == 0
    listening, _, miss, hit = process.lines[:1] + process.lines
    assert listening["url"] == process.base_url
    assert [miss["outcome"], hit["outcome"]] == ["MISS", "HIT"]
    assert miss["model"] == hit["model"] == "m"
    for secret in ("joke", "mine", answers[0]):
        assert secret not in process.stdout + process.stderr


async def test_on_a_terminal_it_speaks_to_people(
    provider: FakeProvider, client: httpx.AsyncClient
) -> None:
    """How to point a client at it, a line for each request, and on Ctrl-C what was saved."""
    ours, theirs = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "proxy", "serve", "--port", "0", "--cache", "memory://"),
        *("--upstream", provider.base_url),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment(TERM="xterm", COLUMNS="120"),
    )
    os.close(theirs)
    screen = Screen(ours)
    try:
        banner = await screen.until("Ctrl-C stops")
        base_url = banner.partition("OPENAI_BASE_URL=")[2].split()[0]
        for _ in range(2):
            await client.post(f"{base_url}/chat/completions", json=asking(), headers=MINE)
        await screen.until("HIT")
        process.send_signal(signal.SIGINT)
        assert await asyncio.wait_for(process.wait(), 10) == 0
        shown = await screen.until("of waiting.")
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        screen.close()
    assert "2 requests: 1 HIT, 1 MISS" in shown
    assert "MISS" in shown
    assert "listening" not in shown
    assert "Tell me" not in shown


class Screen:
    """What is printed on a terminal, without colours."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._shown = b""
        self._more = asyncio.Event()
        asyncio.get_running_loop().add_reader(descriptor, self._read)

    def _read(self) -> None:
        try:
            self._shown += os.read(self._descriptor, 2**16)
        except OSError:  # the other end is closed
            asyncio.get_running_loop().remove_reader(self._descriptor)
        self._more.set()

    async def until(self, said: str) -> str:
        async with asyncio.timeout(20):
            while said not in self._text:
                self._more.clear()
                await self._more.wait()
        return self._text

    @property
    def _text(self) -> str:
        parts = self._shown.decode().split("\x1b[")
        return parts[0] + "".join(part.partition("m")[2] for part in parts[1:])

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._descriptor)
        os.close(self._descriptor)
