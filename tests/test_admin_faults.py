"""The admin API before a cache that fails: it says so, and claims nothing that was not done."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from cache_backends import ManagedCache, SQLiteCache
from cache_backends.base import CacheError
from tests.fakes.admin import TOKENS, AdminClient
from tests.fakes.live_proxy import LiveProxy, StartProxy
from tests.fakes.managed import an_entry, tiered
from tests.fakes.raw_client import Connect

SECRET = "what-was-stored"


@pytest.fixture
def cache(tmp_path: Path) -> ManagedCache:
    return tiered(SQLiteCache(tmp_path / "cache.db"))


@pytest_asyncio.fixture
async def live(proxy: StartProxy, cache: ManagedCache) -> LiveProxy:
    await cache.put_many([an_entry(number) for number in range(3)])
    return await proxy(cache, admin=TOKENS)


async def out_of_reach(*_: Any, **__: Any) -> Any:
    raise CacheError("cache.db: the disk is on fire")


async def never_answers(*_: Any, **__: Any) -> Any:
    await asyncio.sleep(3600)


async def stumbles(*_: Any, **__: Any) -> Any:
    raise KeyError(SECRET)


ASKED = [
    ("GET", "/entries"),
    ("GET", f"/entries/{an_entry(0).key.id}"),
    ("DELETE", "/entries"),
    ("DELETE", "/entries?dry_run=true&model=m"),
    ("DELETE", "/entries?text=answer"),
    ("DELETE", "/entries?stale=true"),
    ("DELETE", f"/entries/{an_entry(0).key.id}"),
    ("GET", "/export"),
]


@pytest.mark.parametrize(
    ("fault", "status", "said"),
    [
        (out_of_reach, 503, "the disk is on fire"),
        (never_answers, 503, "did not do it within 0 s"),
        (stumbles, 500, "its log says why"),
    ],
)
@pytest.mark.parametrize(("method", "path"), ASKED)
async def test_a_fault_is_told(
    live: LiveProxy,
    cache: ManagedCache,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    method: str,
    path: str,
    fault: Callable[..., Awaitable[Any]],
    status: int,
    said: str,
) -> None:
    """With a body, the reason, and nothing of what is stored; not that it was done."""
    for name in ("page", "by_ids", "purge", "amend", "totals"):
        monkeypatch.setattr(cache, name, fault)
    monkeypatch.setattr("proxy.catalogue.READ_S", 0.05)
    monkeypatch.setattr("proxy.catalogue.WRITE_S", 0.05)
    async with AdminClient(live.origin) as admin:
        answer = await admin.request(method, path)
    assert answer.status_code == status
    assert said in answer.json()["error"]["message"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert SECRET not in answer.text + caplog.text
    assert ("KeyError" in caplog.text) == (status == 500)


async def test_a_purge_that_fails_is_not_told_as_done(
    live: LiveProxy, cache: ManagedCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """503, and the entries are still there."""
    async with AdminClient(live.origin) as admin:
        with monkeypatch.context() as patch:
            patch.setattr(cache, "purge", out_of_reach)
            assert (await admin.delete("/entries")).status_code == 503
        assert len((await admin.get("/entries")).json()["entries"]) == 3


async def test_an_export_that_breaks_off_is_cut(
    live: LiveProxy,
    cache: ManagedCache,
    monkeypatch: pytest.MonkeyPatch,
    connect: Connect,
) -> None:
    """Nobody takes a part for the whole."""
    monkeypatch.setattr("proxy.catalogue.READ_BYTES", 1)  # one entry at a time
    by_ids, asked = cache.by_ids, 0

    async def fails_later(ids: list[str]) -> Any:
        nonlocal asked
        asked += 1
        return await (by_ids(ids) if asked < 3 else out_of_reach())

    monkeypatch.setattr(cache, "by_ids", fails_later)
    raw = await connect(live.origin)
    headers = {"host": "127.0.0.1", "authorization": f"Bearer {TOKENS['token']}"}
    await raw.send("GET /admin/export HTTP/1.1\r\n", headers)
    assert await raw.head() == 200
    rest = await raw.rest()
    assert not rest.complete
    assert b'"cursor"' not in rest.body


async def test_an_import_that_fails_says_how_far_it_came(
    live: LiveProxy, cache: ManagedCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it tells how far it is: then by its last line."""
    async with AdminClient(live.origin) as admin:
        lines = (await admin.get("/export")).content
        await admin.delete("/entries")
        monkeypatch.setattr(cache, "put_many", out_of_reach)
        answer = await admin.post("/import", content=lines)
        assert answer.status_code == 503
        assert "0 entries were imported" in answer.json()["error"]["message"]
        told = await admin.post(
            "/import", content=lines, headers={"accept": "application/x-ndjson"}
        )
        assert b"the disk is on fire" in told.content.splitlines()[-1]
        assert b'"done"' not in told.content
