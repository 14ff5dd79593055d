"""Each worker knows what the others missed."""

from __future__ import annotations

from pathlib import Path

import httpx

from tests.fakes.admin import FULL, bearing
from tests.fakes.chat import MINE, asking
from tests.fakes.provider import FakeProvider
from tests.fakes.replicas import SharedStore, replicas


async def test_any_worker_tells_of_the_misses_of_all(
    tmp_path: Path, provider: FakeProvider
) -> None:
    """Whichever is asked, by list or by id."""
    store = SharedStore(f"sqlite:///{tmp_path}/cache.db", {})
    config = f'[server]\nworkers = 2\n[admin]\ntoken = "{FULL}"\n{store.config("")}'
    ids = set()
    async with replicas(tmp_path, provider.base_url, config) as (process,):
        for number in range(8):
            async with httpx.AsyncClient(trust_env=False) as client:  # another connection
                url = f"{process.base_url}/chat/completions"
                told = await client.post(url, json=asking(f"Joke {number}"), headers=MINE)
                ids.add(told.headers["x-llm-cache-id"])
        for wanted in sorted(ids):
            async with httpx.AsyncClient(trust_env=False, headers=bearing(FULL)) as admin:
                whys = (await admin.get(f"{process.origin}/admin/why")).json()["requests"]
                assert {why["id"] for why in whys} == ids
                assert [why["time"] for why in whys] == sorted(
                    (why["time"] for why in whys), reverse=True
                )
                one = await admin.get(f"{process.origin}/admin/why/{wanted}")
                assert one.json()["id"] == wanted
