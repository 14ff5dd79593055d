"""What an answer repeats of one caller's request is told to no other, also while it is fetched."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import orjson
import pytest

from tests.fakes.chat import MINE
from tests.fakes.live_proxy import StartProxy
from tests.fakes.provider import Answer, FakeProvider, Gate

COMPLETION = {"choices": [{"index": 0, "text": "hi", "finish_reason": "stop"}]}
EMBEDDING = {"data": [{"index": 0, "embedding": [0.5]}]}


@pytest.mark.parametrize(
    ("path", "asked", "told"),
    [
        ("completions", {"model": "m", "prompt": "x"}, COMPLETION),
        ("embeddings", {"model": "m", "input": "x"}, EMBEDDING),
    ],
)
async def test_who_names_another_user_does_not_join(
    proxy: StartProxy,
    provider: FakeProvider,
    client: httpx.AsyncClient,
    path: str,
    asked: dict[str, Any],
    told: dict[str, Any],
) -> None:
    """Where a provider repeats `user`, though its reference does not say so."""
    live = await proxy()
    gate = Gate()
    for user in ("ann", "bob"):
        provider.script(Answer(body=orjson.dumps({**told, "user": user}), gate=gate))

    async def ask(user: str) -> httpx.Response:
        url = f"{live.base_url}/{path}"
        return await client.post(url, json={**asked, "user": user}, headers=MINE)

    ann = asyncio.create_task(ask("ann"))
    await gate.reached(1)
    bob = asyncio.create_task(ask("bob"))
    await asyncio.wait({bob}, timeout=0.1)
    await gate.open()
    assert [each.json()["user"] for each in await asyncio.gather(ann, bob)] == ["ann", "bob"]
    await live.settled()
