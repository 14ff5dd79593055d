"""Nobody can tell whether an answer came from the hit lane."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import pytest
import pytest_asyncio

from tests.fakes.clock import FakeClock
from tests.fakes.live_proxy import LiveProxy, StartProxy
from tests.fakes.provider import FakeProvider
from tests.fakes.shapes import CUTTINGS, LAST, SHAPES, Shape

# New with each answer, or each provider's.
OWN = (
    (rb"date: [^\r]*", b"date: ..."),
    (rb"(request-id): req_[0-9a-f]*", rb"\1: req_..."),
    (rb"(x-llm-cache-id): [0-9a-f]*", rb"\1: ..."),
    (rb"127.0.0.1:\d+", b"127.0.0.1:..."),
    (rb"dur=[0-9.]+", b"dur=..."),
)
PATIENCE_S = 5.0
SETTINGS = {"cache": {"scope_secret": "s", "ttl": 60}}


@pytest_asyncio.fixture
async def other_provider() -> AsyncIterator[FakeProvider]:
    """It counts calls as the first does, and so says the same."""
    fake = FakeProvider()
    await fake.start()
    yield fake
    await fake.stop()


async def told(live: LiveProxy, pieces: list[bytes]) -> bytes:
    """All that is answered to these pieces, until the connection ends."""
    url = urlsplit(live.origin)
    reader, writer = await asyncio.open_connection(url.hostname, url.port)
    said = b""
    try:
        async with asyncio.timeout(PATIENCE_S):
            for piece in pieces:
                writer.write(piece)
                await asyncio.sleep(0)  # so that the server reads it
                await asyncio.sleep(0)
            while part := await reader.read(2**20):
                said += part
    except ConnectionError:
        said += b"(reset)"
    finally:
        writer.close()
    for pattern, name in OWN:
        said = re.sub(pattern, name, said)
    return said


@pytest.mark.parametrize("shape", SHAPES, ids=[shape.name for shape in SHAPES])
async def test_an_answer_from_the_lane_is_that_of_the_full_path(
    proxy: StartProxy, other_provider: FakeProvider, shape: Shape
) -> None:
    """However the request is put into bytes, and however these arrive; and the lane is where the
    answers came from, or must not."""
    clock = FakeClock()
    lane = await proxy(clock=clock, server={"hit_lane": True}, **SETTINGS)
    apart = {"base_url": other_provider.base_url}
    full = await proxy(clock=clock, server={"hit_lane": False}, upstream=apart, **SETTINGS)
    for pieces in [[shape.raw, LAST]] * 2 + [cut(shape.raw) for cut in CUTTINGS.values()]:
        clock.advance(1.5)
        assert await told(lane, pieces) == await told(full, pieces)
    assert full.app.lane.served == 0
    if shape.repeats is not None:
        assert (lane.app.lane.served >= 5) is shape.repeats
