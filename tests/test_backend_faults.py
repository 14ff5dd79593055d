"""A served proxy and its cache in Redis or Postgres, with a network between them that breaks."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from proxy.store import Breaker
from tests.fakes.callers import Callers
from tests.fakes.fault_proxy import FaultProxy
from tests.fakes.live_proxy import StartProxy
from tests.fakes.provider import Answer, FakeProvider, Gate

QUIET = {"log_level": "warning"}
BREAK: dict[str, Callable[[FaultProxy], None]] = {
    "refuse": FaultProxy.refuse,
    "hang": FaultProxy.hang,
    "reset": FaultProxy.reset,
    "garbage": FaultProxy.garbage,
    "slow": lambda faults: faults.slow(0.5),
}
REASONS = (
    r"cache (lookup|save|reading of purges) (took too long|failed: (redis|postgresql)://127.+)"
)


@pytest.fixture(params=["redis", "postgres"])
def faults(request: pytest.FixtureRequest, fault_proxy: Callable[[str], FaultProxy]) -> FaultProxy:
    """The network to a server that all tests share."""
    return fault_proxy(request.getfixturevalue(f"{request.param}_url"))


@pytest.fixture(params=[0, 2**26], ids=["alone", "behind memory"])
def backend(request: pytest.FixtureRequest, faults: FaultProxy, fresh_name: str) -> dict[str, Any]:
    """The settings of a cache by way of that network."""
    place = "prefix" if faults.url.startswith("redis") else "schema"
    return {"url": faults.url, "options": {place: fresh_name}, "memory_bytes": request.param}


@pytest.mark.parametrize("fault", BREAK)
async def test_whatever_the_network_does_answers_stay_right(
    proxy: StartProxy,
    provider: FakeProvider,
    client: httpx.AsyncClient,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    faults: FaultProxy,
    backend: dict[str, Any],
    fault: str,
) -> None:
    """They wait for a lookup at first and then no more; once repaired, the cache is in use again.

    /readyz says what is wrong; so does the log, once, and it names no password.
    """
    monkeypatch.setattr(Breaker, "RETRY_S", 0.3)
    live = await proxy(cache=backend, server=QUIET)
    callers = Callers(client, live)
    await callers.known()
    assert await callers.trouble() == ""
    BREAK[fault](faults)
    assert re.fullmatch(REASONS, await callers.troubled())
    callers.waited_no_longer_than_told()
    await callers.without_waiting()
    faults.pass_on()
    await callers.recovered()
    await callers.known()
    await live.settled()
    said = [each.getMessage() for each in caplog.records if each.name == "proxy.store"]
    assert 1 <= len([each for each in said if each.startswith("the cache is skipped: ")]) <= 2
    assert said.count("the cache answers again") == len(said) / 2
    assert "secret" not in caplog.text
    assert "never retrieved" not in caplog.text


async def test_connections_that_died_without_a_word_are_replaced(
    proxy: StartProxy,
    provider: FakeProvider,
    client: httpx.AsyncClient,
    faults: FaultProxy,
    backend: dict[str, Any],
) -> None:
    """A firewall has forgotten them: right answers, soon hits, and nobody repairs a thing."""
    live = await proxy(cache=backend, server=QUIET)
    callers = Callers(client, live)
    await callers.known()
    await callers.crowd()
    faults.lose()
    await callers.crowd()
    callers.waited_no_longer_than_told()
    await callers.recovered()
    await live.settled()


@pytest.mark.parametrize("fault", ["refuse", "hang"])
async def test_a_cache_that_is_down_at_the_start_joins_when_it_comes(
    proxy: StartProxy,
    provider: FakeProvider,
    client: httpx.AsyncClient,
    monkeypatch: pytest.MonkeyPatch,
    faults: FaultProxy,
    backend: dict[str, Any],
    fault: str,
) -> None:
    """Until then requests go past it, and nobody waits."""
    monkeypatch.setattr("proxy.application.REOPEN_S", 0.1)
    BREAK[fault](faults)
    live = await proxy(cache=backend, server=QUIET)
    callers = Callers(client, live)
    assert set(await callers.crowd()) == {"BYPASS"}
    assert (await callers.trouble()).startswith(("cache opening", "it is being opened"))
    faults.pass_on()
    await callers.recovered()
    await live.settled()


async def test_who_asks_the_same_at_once_shares_a_fetch_while_the_cache_is_down(
    proxy: StartProxy,
    provider: FakeProvider,
    client: httpx.AsyncClient,
    faults: FaultProxy,
    backend: dict[str, Any],
) -> None:
    """That purges cannot be read is no reason to ask the provider 20 times, within a lease."""
    live = await proxy(cache=backend | {"memory_lease_s": 10.0}, server=QUIET)
    callers = Callers(client, live)
    await callers.known()
    calls = len(provider.calls)
    faults.hang()
    provider.always = Answer(gate=(gate := Gate()))
    asked = [asyncio.create_task(callers.ask("same", stream=True)) for _ in range(20)]
    await live.listening(20)
    await gate.open()
    await asyncio.gather(*asked)
    assert len(provider.calls) == calls + 1
    faults.pass_on()
    await live.settled()
