"""What entries say of their keys, so that those with one equal string can be found."""

from __future__ import annotations

from collections.abc import Sequence

import httpx

from cache_backends import MemoryCache
from cache_backends.base import Entry, digest
from tests.fakes.chat import MINE, asker
from tests.fakes.live_proxy import StartProxy


class Kept(MemoryCache):
    """A memory that tells what it was given."""

    def __init__(self) -> None:
        super().__init__(max_bytes=2**20)
        self.given: list[Entry] = []

    async def put_many(self, entries: Sequence[Entry]) -> None:
        self.given += entries
        await super().put_many(entries)


def test_a_digest_is_sixteen_hex_digits() -> None:
    """Of any text, and for ever the same: it lies in stores."""
    assert digest("") == "e4a6a0577479b2b4"
    assert digest("caf\u00e9") != digest("cafe")


async def test_entries_have_the_digests_of_both_strings(
    proxy: StartProxy, client: httpx.AsyncClient
) -> None:
    """Other parameters lead to another llm_digest beside the same prompt_digest."""
    live = await proxy(backend=(cache := Kept()))
    ask = asker(client, live)
    await ask()
    await ask(temperature=0.5)
    warm, cool = cache.given
    assert warm.about["prompt_digest"] == cool.about["prompt_digest"] == digest(warm.key.prompt)
    assert warm.about["llm_digest"] != cool.about["llm_digest"] == digest(cool.key.llm_string)


async def test_each_part_of_a_batch_has_its_own(
    proxy: StartProxy, client: httpx.AsyncClient
) -> None:
    """The entry of one input says the digest of that input, also where others were known."""
    live = await proxy(backend=(cache := Kept()))
    url = f"{live.base_url}/embeddings"
    for inputs in (["b"], ["a", "b", "c"]):
        await client.post(url, json={"model": "m", "input": inputs}, headers=MINE)
    assert len(cache.given) == 3
    for entry in cache.given:
        assert entry.about["prompt_digest"] == digest(entry.key.prompt)
