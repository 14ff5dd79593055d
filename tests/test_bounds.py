"""What callers and providers send does not pile up."""

from __future__ import annotations

import httpx
import orjson
import pytest

from tests.fakes.chat import MINE, PATH, asking
from tests.fakes.live_proxy import StartProxy
from tests.fakes.provider import Answer, FakeProvider


async def test_a_request_whose_answer_has_grown_is_read_anew(
    proxy: StartProxy, provider: FakeProvider, client: httpx.AsyncClient
) -> None:
    """It was remembered for the size of another answer."""
    live = await proxy()
    choice = {"index": 0, "message": {"content": "x" * 50_000}, "finish_reason": "stop"}
    provider.script(Answer(), Answer(body=orjson.dumps({"choices": [choice]})))

    async def ask(**headers: str) -> str:
        url = live.origin + PATH
        told = await client.post(url, json=asking(), headers=MINE | headers)
        return told.headers["x-cache"]

    assert [await ask() for _ in range(3)] == ["MISS", "HIT", "HIT"]
    memo = live.app._llm._memo
    assert len(memo) == 1
    assert await ask(**{"cache-control": "no-cache"}) == "MISS"
    assert await ask() == "HIT"
    assert len(memo) == 0
    await live.settled()


async def test_of_a_long_name_only_the_beginning_is_logged(
    proxy: StartProxy, client: httpx.AsyncClient, capsys: pytest.CaptureFixture[str]
) -> None:
    """A model may be called anything, at any length."""
    live = await proxy()
    url, body = live.origin + PATH, asking() | {"model": "m" * 100_000}
    assert (await client.post(url, json=body, headers=MINE)).status_code == 200
    await client.get(f"{live.base_url}/{'p' * 5_000}", headers=MINE)
    live.app.journal.close()
    assert [len(line) < 1_000 for line in capsys.readouterr().out.splitlines()] == [True, True]
