"""A served proxy and its cache in Redis or Postgres, with a network between them that breaks.

All with and without memory before the cache.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable

import httpx
import pytest

from proxy.store import Breaker
from tests.fakes.callers import Callers, settled, together, with_and_without_memory
from tests.fakes.fault_proxy import FaultProxy
from tests.fakes.live_proxy import StartProxy
from tests.fakes.provider import Answer, FakeProvider, Gate

BREAK: dict[str, Callable[[FaultProxy], None]] = {
    "refuse": FaultProxy.refuse,
    "hang": FaultProxy.hang,
    "reset": FaultProxy.reset,
    "garbage": FaultProxy.garbage,
    "slow": lambda faults: faults.slow(0.5),
}
WHAT = r"cache (opening|lookup|save|reading of purges) "
REASONS = WHAT + r"(took too long|failed: (redis|postgresql)://127.+)|it is being opened"


@pytest.fixture(params=["redis", "postgres"])
def faults(request: pytest.FixtureRequest, fault_proxy: Callable[[str], FaultProxy]) -> FaultProxy:
    """The network to a server that all tests share."""
    return fault_proxy(request.getfixturevalue(f"{request.param}_url"))


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is skipped is tried again soon: the tests need not wait."""
    monkeypatch.setattr(Breaker, "RETRY_S", 0.1)
    monkeypatch.setattr("proxy.application.REOPEN_S", 0.1)


@pytest.mark.parametrize("fault", BREAK)
async def test_whatever_the_network_does_answers_stay_right(
    proxy: StartProxy,
    client: httpx.AsyncClient,
    impatient: None,
    caplog: pytest.LogCaptureFixture,
    faults: FaultProxy,
    fault: str,
) -> None:
    """They wait for a lookup at first and then no more; once repaired, the cache is in use again.

    /readyz says what is wrong; so does the log, once, and it names no password.
    """
    both = await with_and_without_memory(proxy, client, faults.url)
    await together(Callers.known, both)
    assert await together(Callers.trouble, both) == ["", ""]
    BREAK[fault](faults)
    for why in await together(Callers.troubled, both):
        assert re.fullmatch(REASONS, why)
    for callers in both:
        callers.waited_no_longer_than_told()
        await callers.without_waiting()
    faults.pass_on()
    await together(Callers.recovered, both)
    await together(Callers.known, both)
    await settled(both)
    logged_once_each(caplog)


def logged_once_each(caplog: pytest.LogCaptureFixture) -> None:
    """For lookups and for saves of two proxies: that the cache is skipped, and when no more.

    A busy machine may make one of them change its mind; hundreds of requests do not show.
    """
    said = [each.getMessage() for each in caplog.records if each.name == "proxy.store"]
    skipped = [each for each in said if each.startswith("the cache is skipped: ")]
    assert 2 <= len(skipped) <= 8
    assert said.count("the cache answers again") == len(skipped)
    assert "secret" not in caplog.text
    assert "never retrieved" not in caplog.text


async def test_connections_that_died_without_a_word_are_replaced(
    proxy: StartProxy, client: httpx.AsyncClient, impatient: None, faults: FaultProxy
) -> None:
    """A firewall has forgotten them: right answers, soon hits, and nobody repairs a thing."""
    both = await with_and_without_memory(proxy, client, faults.url)
    await together(Callers.known, both)
    await together(Callers.crowd, both)
    faults.lose()
    await together(Callers.crowd, both)
    for callers in both:
        callers.waited_no_longer_than_told()
    await together(Callers.recovered, both)
    await settled(both)


@pytest.mark.parametrize("fault", ["refuse", "hang"])
async def test_a_cache_that_is_down_at_the_start_joins_when_it_comes(
    proxy: StartProxy,
    client: httpx.AsyncClient,
    impatient: None,
    faults: FaultProxy,
    fault: str,
) -> None:
    """Until then requests go past it, and nobody waits."""
    BREAK[fault](faults)
    both = await with_and_without_memory(proxy, client, faults.url)
    for callers in both:
        assert set(await callers.crowd()) == {"BYPASS"}
        assert re.fullmatch(REASONS, await callers.trouble())
    faults.pass_on()
    await together(Callers.recovered, both)
    await settled(both)


@pytest.mark.parametrize("coalesce", ["worker", "cluster"])
async def test_who_asks_the_same_at_once_shares_a_fetch_while_the_cache_hangs(
    proxy: StartProxy,
    provider: FakeProvider,
    client: httpx.AsyncClient,
    faults: FaultProxy,
    coalesce: str,
) -> None:
    """That purges cannot be read is no reason to ask the provider 20 times, within a lease.

    Nor does anybody wait for as long as the cache itself would.
    """
    patient = {"memory_lease_s": 10.0, "options": {"timeout": 60.0}, "coalesce": coalesce}
    both = await with_and_without_memory(proxy, client, faults.url, **patient)
    await together(Callers.known, both)
    calls = len(provider.calls)
    faults.hang()
    provider.always = Answer(gate=(gate := Gate()))
    asked = [
        asyncio.create_task(callers.ask("same", stream=True)) for callers in both for _ in range(20)
    ]
    for callers in both:
        await callers.live.listening(20)
    await gate.open()
    await asyncio.gather(*asked)
    assert len(provider.calls) == calls + 2
    faults.pass_on()
    await settled(both)
