"""The admin API of several workers: whichever is asked speaks for all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import pytest_asyncio

from tests.fakes.admin import READ, TOKENS, AdminClient
from tests.fakes.chat import MINE, asking
from tests.fakes.process import ProxyProcess
from tests.fakes.provider import FakeProvider
from tests.fakes.watching import watching


@pytest_asyncio.fixture
async def served(tmp_path: Path, provider: FakeProvider) -> AsyncIterator[ProxyProcess]:
    """Two workers before one file."""
    config = tmp_path / "config.toml"
    tokens = "".join(f'{name} = "{token}"\n' for name, token in TOKENS.items())
    config.write_text(f"[cache]\nlookup_timeout_s = 5\n[admin]\n{tokens}")
    process = await ProxyProcess.start(
        tmp_path,
        *("--workers", "2", "--upstream", provider.base_url, "--config", str(config)),
        *("--cache", f"sqlite:///{tmp_path}/cache.db"),
    )
    await process.up()
    yield process
    await process.kill()


async def ask(served: ProxyProcess, prompt: str) -> str:
    """X-Cache, at a connection of its own: any worker may answer."""
    async with httpx.AsyncClient(trust_env=False, timeout=30) as one:
        url = f"{served.base_url}/chat/completions"
        answer = await one.post(url, json=asking(prompt), headers=MINE)
        return str(answer.headers["x-cache"])


async def test_events_are_those_of_all_workers(served: ProxyProcess) -> None:
    """Each request is told once, whoever answered it, as soon as they have found each other."""
    async with watching(served.origin, READ) as watcher:
        for turn in range(20):
            asked = [f"{turn} {number}" for number in range(16)]
            for prompt in asked:
                await ask(served, prompt)
            told = await watcher.told_within(2.0)
            if len(told) >= len(asked):
                break
        ids = [each["entry_id"] for each in told]
        assert len(ids) == len(set(ids)) == len(asked)


async def test_a_purge_over_http_is_complete(served: ProxyProcess) -> None:
    """Once it is answered, no worker tells the old answer, though all had it in memory."""
    async with AdminClient(served.origin) as admin:
        for prompt in ("one", "two"):
            while {await ask(served, prompt) for _ in range(8)} != {"HIT"}:
                pass
        assert (await admin.delete("/entries?model=m")).json() == {"deleted": 2}
        outcomes = await asyncio.gather(*(ask(served, "one") for _ in range(16)))
        assert outcomes.count("MISS") + outcomes.count("COLLAPSED") >= 1
        assert await ask(served, "two") == "MISS"
        (entry,) = (await admin.get("/entries?text=two")).json()["entries"]
        await admin.put(f"/entries/{entry['id']}", json={"text": "corrected"})
        for _ in range(16):
            assert await words(served, "two") == "corrected"


async def words(served: ProxyProcess, prompt: str) -> str:
    async with httpx.AsyncClient(trust_env=False, timeout=30) as one:
        url = f"{served.base_url}/chat/completions"
        told = (await one.post(url, json=asking(prompt), headers=MINE)).json()
        return str(told["choices"][0]["message"]["content"])


async def test_all_workers_share_the_token_of_this_machine(
    tmp_path: Path, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is made once, whoever needs it first, and its file is the user's alone."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    process = await ProxyProcess.start(
        tmp_path, "--workers", "2", "--cache", f"sqlite:///{tmp_path}/cache.db"
    )
    try:
        await process.up()
        file = tmp_path / "data" / "llm-cache-proxy" / "admin.token"
        while not file.exists():  # noqa: ASYNC110 - the workers are just starting
            await asyncio.sleep(0.02)
        assert file.stat().st_mode & 0o777 == 0o600
        for _ in range(8):
            async with AdminClient(process.origin, file.read_text().strip()) as admin:
                assert (await admin.get("/config")).status_code == 200
        assert file.read_text().strip() not in process.stdout + process.stderr
    finally:
        await process.kill()
