"""Several workers of one command: their counters add up, in Prometheus and in the figures."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.fakes.admin import FULL, bearing
from tests.fakes.chat import MINE, asking
from tests.fakes.process import ProxyProcess
from tests.fakes.prometheus import samples
from tests.fakes.provider import FakeProvider

REQUESTS = 24
# Sums are written each second.
PATIENCE_S = 20.0


@pytest_asyncio.fixture
async def workers(
    tmp_path: Path, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[ProxyProcess]:
    """Two workers before the provider, with a file for a cache."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    tempfile.tempdir = None
    config = tmp_path / "config.toml"
    config.write_text(f'[admin]\ntoken = "{FULL}"\n')
    process = await ProxyProcess.start(
        tmp_path,
        *("--upstream", provider.base_url, "--workers", "2", "--config", str(config)),
        *("--cache", f"sqlite:///{tmp_path}/cache.db"),
    )
    async with AsyncExitStack() as stack:
        stack.push_async_callback(process.kill)
        await process.up()
        yield process
    tempfile.tempdir = None


async def asked(process: ProxyProcess, times: int) -> None:
    """Ask, each time over a connection of its own: so both workers are asked."""
    for number in range(times):
        async with httpx.AsyncClient(trust_env=False, timeout=20) as client:
            body = asking(f"question {number % 4}")
            url = f"{process.base_url}/chat/completions"
            assert (await client.post(url, json=body, headers=MINE)).status_code == 200


async def page(process: ProxyProcess) -> dict[str, float]:
    async with httpx.AsyncClient(trust_env=False, timeout=20) as client:
        return samples(await client.get(f"{process.origin}/metrics"))


def requests_of(found: dict[str, float]) -> float:
    return sum(it for name, it in found.items() if "proxy_requests_total" in name)


async def counted(process: ProxyProcess, requests: int) -> dict[str, float]:
    """The page, once it tells of so many requests; never of more."""
    async with asyncio.timeout(PATIENCE_S):
        while requests_of(found := await page(process)) != requests:
            assert requests_of(found) < requests
            await asyncio.sleep(0.1)
    return found


async def stats(process: ProxyProcess) -> dict[str, Any]:
    async with httpx.AsyncClient(trust_env=False, timeout=20, headers=bearing(FULL)) as client:
        told: dict[str, Any] = (await client.get(f"{process.origin}/admin/stats")).json()
        return told


def left(folder: Path, names: str) -> list[Path]:
    return list(folder.glob(names))


def worker_ids(folder: Path) -> set[int]:
    """Of those that have counted something: each leaves files with its number."""
    return {int(path.stem.rpartition("_")[2]) for path in left(folder, "*/counter_*.db")}


async def test_counters_of_workers_add_up(workers: ProxyProcess, tmp_path: Path) -> None:
    """Whichever is asked tells of both; what a killed one counted stays, what it held is gone."""
    await asked(workers, REQUESTS)
    found = await counted(workers, REQUESTS)
    assert found["llm_cache_proxy_stored_total"] == 4
    assert found["llm_cache_proxy_cache_entries"] == 4
    both = worker_ids(tmp_path)
    assert len(both) == 2

    os.kill(min(both), signal.SIGKILL)
    await asked_until_replaced(workers, both, tmp_path)
    assert not left(tmp_path, f"*/gauge_livesum_{min(both)}.db")
    after = await page(workers)
    assert requests_of(after) >= REQUESTS
    assert after["llm_cache_proxy_flights"] == 0


async def asked_until_replaced(process: ProxyProcess, both: set[int], folder: Path) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not worker_ids(folder) - both:
            try:
                await asked(process, 1)
            except httpx.TransportError:  # the one that was just killed had it
                continue
            await asyncio.sleep(0.05)


async def test_figures_of_workers_add_up(workers: ProxyProcess, tmp_path: Path) -> None:
    """In the cache too; and at the end nothing is left but the cache."""
    await asked(workers, REQUESTS)
    async with asyncio.timeout(PATIENCE_S):
        while (told := await stats(workers))["requests"] < REQUESTS:  # noqa: ASYNC110 - as a reader does
            await asyncio.sleep(0.1)
    assert told["requests"] == told["hits"] + told["misses"] == REQUESTS
    assert told["covers"] == "all processes"
    workers.terminate()
    assert await workers.ended() == 0
    assert not left(tmp_path, "llm-cache-proxy-*")
