"""What no dialect understands is passed through, streamed both ways, as it is."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import os
import resource
from collections.abc import AsyncIterator
from typing import Any

import httpx
import orjson
import pytest

from tests.fakes.chat import MINE, PATH, asking, words
from tests.fakes.live_proxy import StartProxy
from tests.fakes.oracle import expected
from tests.fakes.provider import Answer, FakeProvider, Gate
from tests.fakes.raw_client import Connect
from tests.fakes.raw_upstream import Exchange, RawUpstream, reply, saying

PIECE = os.urandom(2**16)


async def test_other_methods_and_paths(
    proxy: StartProxy, provider: FakeProvider, client: httpx.AsyncClient
) -> None:
    """Method, raw target, headers and credential arrive as sent; the answer comes as it is."""
    live = await proxy()
    for method in ("GET", "DELETE", "PATCH", "PUT", "OPTIONS"):
        answer = await client.request(
            method, f"{live.base_url}/models/ft%3Aa?limit=2", headers=MINE
        )
        told = answer.json()
        assert (answer.status_code, told["method"]) == (200, method)
        assert told["target"] == "/v1/models/ft%3Aa?limit=2"
        assert ["authorization", "Bearer mine"] in told["headers"]
        assert answer.headers["x-cache"] == "BYPASS"
        assert answer.headers["x-request-id"] == f"req_{len(provider.calls)}"
    assert await live.stored() == 0
    await live.settled()


@pytest.mark.parametrize(
    "target",
    [
        "/v1/files/file-a%2Fb%3Ac/content?a=%20&b=+&c&d==",
        "/v1/models/meta-llama/Llama-3%2e1:free?x=1?y=2",
        "/v1/threads//runs/?order=desc&order=asc",
        "/v1/a;b=c/(d)/%E2%82%AC/~e",
    ],
)
async def test_targets_are_forwarded_raw(
    proxy: StartProxy, provider: FakeProvider, connect: Connect, target: str
) -> None:
    """Nothing is decoded, encoded, sorted or cleaned up."""
    live = await proxy()
    raw = await connect(live.origin)
    await raw.send(f"GET {target} HTTP/1.1\r\n", {"host": "h"})
    assert await raw.head() == 200
    assert orjson.loads((await raw.rest()).body)["target"] == target
    assert provider.calls[0].target == target


async def test_a_large_upload_streams(
    proxy: StartProxy, provider: FakeProvider, client: httpx.AsyncClient
) -> None:
    """120 MB of a form go through without being gathered, byte for byte."""
    live, digest = await proxy(), hashlib.sha256()
    pieces = 120 * 2**20 // len(PIECE)

    async def upload() -> AsyncIterator[bytes]:
        for _ in range(pieces):
            digest.update(PIECE)
            yield PIECE

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    answer = await client.post(
        f"{live.base_url}/files",
        content=upload(),
        headers={"content-type": "multipart/form-data; boundary=x"},
    )
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert answer.json()["sha256"] == digest.hexdigest()
    assert answer.json()["size"] == pieces * len(PIECE)
    assert grown < 60 * 2**10, f"{grown} KiB more"  # the fake provider itself keeps 16 MiB
    await live.settled()


@pytest.mark.parametrize(
    ("path", "framed"),
    [
        ("/v1/files", False),
        ("/v1/files", True),
        ("/v1/chat/completions", False),
        ("/v1/chat/completions", True),
    ],
)
async def test_an_upload_arrives_while_it_is_sent(
    proxy: StartProxy, connect: Connect, path: str, framed: bool
) -> None:
    """The provider has the first bytes before the last ones are sent, also of a chat request that
    is too large to be cached."""
    arrived: asyncio.Queue[int] = asyncio.Queue()

    async def script(exchange: Exchange) -> None:
        async for piece in exchange.pieces():
            arrived.put_nowait(len(piece))
        await exchange.say(reply(b"{}"))

    async with RawUpstream(script) as upstream:
        live = await proxy(
            upstream={"base_url": f"{upstream.origin}/v1"},
            server={"max_cacheable_body": 1000},
        )
        raw = await connect(live.origin)
        size = {"content-length": "4000"} if framed else {"transfer-encoding": "chunked"}
        await raw.send(f"POST {path} HTTP/1.1\r\n", {"host": "h", **size})
        piece = b"x" * 2000 if framed else b"7d0\r\n" + b"x" * 2000 + b"\r\n"
        for _ in range(2):
            await raw.send_bytes(piece)
            got = 0
            while got < 2000:
                got += await asyncio.wait_for(arrived.get(), 5)
        await raw.send_bytes(b"" if framed else b"0\r\n\r\n")
        assert await raw.head() == 200
        assert raw.headers["x-cache"] == "BYPASS"
        head = upstream.exchanges[0].head.lower()
        assert (b"content-length: 4000" in head) is framed
        assert (b"transfer-encoding: chunked" in head) is not framed


async def test_a_client_that_leaves_in_mid_upload_ends_it(
    proxy: StartProxy, connect: Connect
) -> None:
    """The provider sees the upload break off, and nothing is left over."""
    begun = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        begun.set()
        await exchange.body()

    async with RawUpstream(script) as upstream:
        live = await proxy(upstream={"base_url": f"{upstream.origin}/v1"})
        raw = await connect(live.origin)
        await raw.send("POST /v1/files HTTP/1.1\r\n", {"host": "h", "content-length": "999999"})
        await raw.send_bytes(PIECE)
        await begun.wait()
        raw.leave()
        await asyncio.wait_for(upstream.until_closed(), 5)
        await live.settled()


async def test_an_answer_before_the_end_of_the_upload(proxy: StartProxy, connect: Connect) -> None:
    """A provider that refuses early is heard, although the rest was never read."""

    async def script(exchange: Exchange) -> None:
        await exchange.say(reply(b'{"error": {}}', b"connection: close", status=b"413 Too Large"))
        await asyncio.sleep(0.05)
        exchange.hang_up()

    async with RawUpstream(script) as upstream:
        live = await proxy(upstream={"base_url": f"{upstream.origin}/v1"})
        raw = await connect(live.origin)
        await raw.send("POST /v1/files HTTP/1.1\r\n", {"host": "h", "content-length": "999999"})
        await raw.send_bytes(PIECE)
        assert await raw.head() == 413
        assert (await raw.rest()).body == b'{"error": {}}'


async def test_binary_answers(
    proxy: StartProxy, provider: FakeProvider, client: httpx.AsyncClient
) -> None:
    """Speech comes as bytes, with its type and length."""
    speech = os.urandom(3_000_000)
    provider.script(Answer(body=speech, headers=[(b"content-type", b"audio/mpeg")]))
    live = await proxy()
    answer = await client.post(f"{live.base_url}/audio/speech", json={"input": "hello"})
    assert answer.content == speech
    assert answer.headers["content-type"] == "audio/mpeg"
    assert answer.headers["content-length"] == str(len(speech))


async def test_events_of_other_paths_are_live(
    proxy: StartProxy, provider: FakeProvider, connect: Connect
) -> None:
    """Each event is there before the provider sends the next, and none is stored."""
    events = [b"event: x\ndata: %d\n\n" % number for number in range(3)]
    provider.script(Answer(chunks=events, chunk_gate=(gate := Gate())))
    live = await proxy()
    raw = await connect(live.origin)
    await raw.post("/v1/responses", {"model": "m", "input": "x", "stream": True}, MINE)
    for number, each in enumerate(events):
        await gate.release()
        if number == 0:
            assert await raw.head() == 200
        assert await raw.chunk() == each
    assert (await raw.rest()).complete
    assert raw.headers["content-type"].startswith("text/event-stream")
    assert await live.stored() == 0


@pytest.mark.parametrize(
    ("said", "status"),
    [
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204),
        (b'HTTP/1.1 304 Not Modified\r\netag: "x"\r\ncontent-length: 99\r\n\r\n', 304),
        (reply(b"", b"location: https://elsewhere.test/x", status=b"307 Go"), 307),
        (reply(b"moved", b"location: /v1/other", status=b"301 Go"), 301),
        (reply(b"", b"x-odd: a\x01b"), 200),
        (reply(b"x", status=b"599 Odd"), 599),
    ],
)
async def test_odd_answers_come_as_they_are(
    proxy: StartProxy, connect: Connect, said: bytes, status: int
) -> None:
    """Empty ones keep their status, redirects are not followed; the connection goes on."""
    async with RawUpstream(saying(said)) as upstream:
        live = await proxy(upstream={"base_url": f"{upstream.origin}/v1"})
        raw = await connect(live.origin)
        head, _, body = said.partition(b"\r\n\r\n")
        for _ in range(2):
            await raw.send("GET /v1/models HTTP/1.1\r\n", {"host": "h"})
            assert await raw.head() == status
            if status in (204, 304):
                assert raw.headers.keys().isdisjoint({"transfer-encoding", "content-length"})
                continue
            assert (await raw.rest()).body == body
            assert f"location: {raw.headers.get('location', '')}" in head.decode() + "location: "


@pytest.mark.parametrize(
    "said",
    [
        reply(b"x", status=b"999 Odd"),
        reply(b"x", status=b"101 Switching Protocols"),
        reply(b"x", b"x (odd): b"),
        b"no HTTP at all\r\n\r\n",
    ],
)
async def test_answers_that_are_none(proxy: StartProxy, connect: Connect, said: bytes) -> None:
    """What cannot be passed on is the provider's fault, and said so."""
    async with RawUpstream(saying(said)) as upstream:
        live = await proxy(upstream={"base_url": f"{upstream.origin}/v1"})
        raw = await connect(live.origin)
        for line in ("GET /v1/models HTTP/1.1\r\n", f"POST {PATH} HTTP/1.1\r\n"):
            body = b"" if line.startswith("GET") else orjson.dumps(asking())
            await raw.send(line, {"host": "h", "content-length": str(len(body))}, body)
            assert await raw.head() == 502
            error = orjson.loads((await raw.rest()).body)["error"]
            assert error["type"] == "llm_cache_proxy_error"


async def test_head(proxy: StartProxy, connect: Connect) -> None:
    """The length of what is not sent is told, and the connection goes on."""
    said = b"HTTP/1.1 200 OK\r\ncontent-length: 1234\r\ncontent-type: x/y\r\n\r\n"
    async with RawUpstream(saying(said)) as upstream:
        live = await proxy(upstream={"base_url": f"{upstream.origin}/v1"})
        raw = await connect(live.origin)
        for _ in range(2):
            await raw.send("HEAD /v1/files/f/content HTTP/1.1\r\n", {"host": "h"})
            assert await raw.head() == 200
            assert raw.headers["content-length"] == "1234"


async def test_compressed_answers_stay_compressed(
    proxy: StartProxy, provider: FakeProvider, connect: Connect
) -> None:
    """Who asked for gzip gets the provider's bytes, not ones that were packed anew."""
    packed = gzip.compress(b"a file " * 1000)
    said = Answer(body=packed, headers=[(b"content-encoding", b"gzip")])
    provider.script(said)
    live = await proxy()
    raw = await connect(live.origin)
    headers = {"host": "h", "accept-encoding": "gzip, br"}
    await raw.send("GET /v1/files/f/content HTTP/1.1\r\n", headers)
    assert await raw.head() == 200
    assert raw.headers["content-encoding"] == "gzip"
    assert (await raw.rest()).body == packed
    assert provider.calls[0].header(b"accept-encoding") == "gzip, br"


async def test_a_compressed_request_is_not_read(
    proxy: StartProxy, provider: FakeProvider, client: httpx.AsyncClient
) -> None:
    """It goes to the provider as it is, and says that it did."""
    live = await proxy()
    packed = gzip.compress(orjson.dumps(asking()))
    for _ in range(2):
        answer = await client.post(
            f"{live.base_url}/chat/completions",
            content=packed,
            headers={**MINE, "content-encoding": "gzip", "content-type": "application/json"},
        )
        assert answer.headers["x-cache"] == "BYPASS"
        assert "Content-Encoding" in answer.headers["cache-status"]
    assert [call.body for call in provider.calls] == [packed] * 2
    assert provider.calls[0].header(b"content-encoding") == "gzip"
    assert await live.stored() == 0


async def test_a_body_above_the_limit_goes_past_the_cache(
    proxy: StartProxy, provider: FakeProvider, client: httpx.AsyncClient
) -> None:
    """A chat request that is too large is answered all the same, plain and streamed."""
    live = await proxy(server={"max_cacheable_body": 1000})
    long = "long " * 1000
    for stream in (False, True, True):
        asked = asking(long, stream=stream)
        answer = await client.post(f"{live.base_url}/chat/completions", json=asked, headers=MINE)
        assert answer.headers["x-cache"] == "BYPASS"
        assert words(answer.content) == expected(asked, credential="Bearer mine")
    assert len(provider.calls) == 3
    assert await live.stored() == 0


@pytest.mark.parametrize(
    ("path", "status"),
    [("/v1/realtime?model=x", 501), ("/openai/v1/realtime", 501), ("/v1/responses", 426)],
)
async def test_websockets_are_refused(
    proxy: StartProxy, provider: FakeProvider, connect: Connect, path: str, status: int
) -> None:
    """With the status, shape and words of an error that tells the way out, and no call.

    On 426, and on nothing else at once, a client that can do with HTTP goes over to it.
    """
    live = await proxy()
    raw = await connect(live.origin)
    upgrade = {
        "host": "h",
        "connection": "Upgrade",
        "upgrade": "websocket",
        "sec-websocket-version": "13",
        "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
    }
    await raw.send(f"GET {path} HTTP/1.1\r\n", upgrade)
    assert await raw.head() == status
    error = orjson.loads((await raw.rest()).body)["error"]
    assert error["type"] == "llm_cache_proxy_error"
    assert "WebSocket" in error["message"]
    assert not provider.calls


async def test_expect_100_continue(
    proxy: StartProxy, provider: FakeProvider, connect: Connect
) -> None:
    """A client that waits for leave to send its body is given it."""
    live = await proxy()
    body = orjson.dumps(asking())
    for path in (PATH, "/v1/files"):
        raw = await connect(live.origin)
        asked = {"host": "h", "expect": "100-continue", "content-length": str(len(body))}
        await raw.send(f"POST {path} HTTP/1.1\r\n", asked)
        assert await raw.head() == 100
        await raw.send_bytes(body)
        assert await raw.head() == 200
        assert (await raw.rest()).complete


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_of_http_1_0(
    proxy: StartProxy, provider: FakeProvider, connect: Connect, stream: bool
) -> None:
    """It is answered without chunks, miss and hit; the end of the connection ends the answer."""
    live = await proxy()
    body = orjson.dumps(asking(stream=stream))
    for outcome in (b"MISS", b"HIT"):
        raw = await connect(live.origin)
        head = {"content-length": str(len(body)), "authorization": MINE["authorization"]}
        await raw.send(f"POST {PATH} HTTP/1.0\r\n", head, body)
        said = b""
        async with asyncio.timeout(5):
            while part := await raw.read(2**16):
                said += part
        head_said, _, body_said = said.partition(b"\r\n\r\n")
        assert b"x-cache: " + outcome in head_said
        assert b"chunked" not in head_said
        assert words(body_said) == expected(asking(), credential="Bearer mine")


async def test_headers_of_one_connection_stay_there(
    proxy: StartProxy, provider: FakeProvider, connect: Connect
) -> None:
    """Hop-by-hop headers, those that Connection names and the proxy's own do not go on."""
    live = await proxy()
    raw = await connect(live.origin)
    sent: dict[str, Any] = {
        "host": "proxy.test",
        "connection": "keep-alive, x-hop",
        "keep-alive": "timeout=5",
        "x-hop": "1",
        "te": "trailers",
        "proxy-authorization": "Basic eDp5",
        "llm-cache-control": "no-store",
        "openai-organization": "org-1",
    }
    await raw.send("GET /v1/models HTTP/1.1\r\n", sent)
    await raw.head()
    names = {name.decode() for name, _ in provider.calls[0].headers}
    assert names.isdisjoint(set(sent) - {"host", "connection", "openai-organization"})
    assert provider.calls[0].header(b"openai-organization") == "org-1"
    assert provider.calls[0].header(b"host") == f"127.0.0.1:{provider.port}"


async def test_a_cut_answer_is_cut(
    proxy: StartProxy, provider: FakeProvider, connect: Connect
) -> None:
    """What breaks off upstream breaks off here, with a length and without."""
    live = await proxy()
    for said in (Answer(body=b"half", content_length=8), Answer(chunks=[b"a"] * 9, cut_after=3)):
        provider.script(said)
        raw = await connect(live.origin)
        await raw.send("GET /v1/files/f/content HTTP/1.1\r\n", {"host": "h"})
        assert await raw.head() == 200
        assert not (await raw.rest()).complete
    await live.settled()
