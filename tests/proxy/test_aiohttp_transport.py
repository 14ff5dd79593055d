"""What goes over the wire and what comes of it, seen from a raw socket at the other end."""

from __future__ import annotations

import asyncio
import gzip
import random
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import httpx
import pytest
import pytest_asyncio

from proxy import aiohttp_exchange, aiohttp_transport
from proxy.aiohttp_transport import AiohttpTransport
from proxy.environment import Environment
from tests.fakes.raw_upstream import Exchange, RawUpstream, reply, saying

LOCALHOST_PEM = str(Path(__file__).parents[1] / "fakes" / "localhost.pem")

Send = Callable[..., Awaitable[httpx.Response]]


@pytest_asyncio.fixture
async def transport() -> AsyncIterator[AiohttpTransport]:
    it = AiohttpTransport(environment=Environment())
    yield it
    await it.aclose()


@pytest.fixture(params=["long", "short"])
def send(transport: AiohttpTransport, request: pytest.FixtureRequest) -> Send:
    """`await send(url, headers=..., body=..., target=..., connect=..., read=..., idle=...)`: by
    httpx's interface, or by the short way where that can be gone."""
    return sender(transport) if request.param == "long" else short_sender(transport)


def short_sender(transport: AiohttpTransport) -> Send:
    long = sender(transport)

    async def send(
        url: str,
        *,
        method: str = "POST",
        headers: list[tuple[bytes, bytes]] | None = None,
        body: bytes | AsyncIterator[bytes] | httpx.AsyncByteStream = b"{}",
        target: bytes | None = None,
        **timeout: float,
    ) -> httpx.Response:
        reply = None
        if method == "POST" and isinstance(body, bytes):
            at = httpx.URL(url)
            framed = [*(headers or []), (b"Content-Length", b"%d" % len(body))]
            origin = (at.scheme, at.raw_host, at.port)
            reply = await transport.post(origin, target or at.raw_path, framed, body, timeout)
        if reply is None:
            return await long(
                url, method=method, headers=headers, body=body, target=target, **timeout
            )
        return httpx.Response(reply.status, headers=list(reply.headers), stream=reply)

    return send


def sender(transport: AiohttpTransport) -> Send:
    async def send(
        url: str,
        *,
        method: str = "POST",
        headers: list[tuple[bytes, bytes]] | None = None,
        body: bytes | AsyncIterator[bytes] | httpx.AsyncByteStream = b"{}",
        target: bytes | None = None,
        **timeout: float,
    ) -> httpx.Response:
        stream = (
            body
            if isinstance(body, httpx.AsyncByteStream)
            else httpx.Request(method, url, content=body).stream
        )
        extensions = {"timeout": timeout} | ({} if target is None else {"target": target})
        return await transport.handle_async_request(
            httpx.Request(method, url, headers=headers or [], stream=stream, extensions=extensions)
        )

    return send


async def read(response: httpx.Response) -> bytes:
    assert isinstance(response.stream, httpx.AsyncByteStream)
    try:
        return b"".join([chunk async for chunk in response.stream])
    finally:
        await response.stream.aclose()


async def test_path_and_query_go_out_as_they_are(send: Send) -> None:
    """Nothing is quoted, unquoted, joined or resolved on the way."""
    target = b"/v1/a%3Ab//c/%2e%2e/./d?q=%20+&k=%7B%7d&&x"
    async with RawUpstream(saying(reply(b"ok"))) as upstream:
        await read(await send(upstream.origin, target=target))
    assert upstream.exchanges[0].lines[0] == b"POST " + target + b" HTTP/1.1"


async def test_only_the_given_headers_go_out(send: Send) -> None:
    """Order, duplicates and spelling stay; only Host and the length of the body are added."""
    headers = [(b"x-one", b"1"), (b"accept", b"b"), (b"x-one", b"2"), (b"Zulu", "\xe9".encode())]
    async with RawUpstream(saying(reply(b"ok"))) as upstream:
        await read(await send(upstream.origin + "/v1", headers=headers))
    host = b"Host: " + upstream.origin.removeprefix("http://").encode()
    given = [b"x-one: 1", b"accept: b", b"x-one: 2", "Zulu: \xe9".encode()]
    assert upstream.exchanges[0].lines[1:] == [host, *given, b"Content-Length: 2"]


async def test_a_get_has_no_body_and_no_length(send: Send) -> None:
    """A request without a body is its head."""
    async with RawUpstream(saying(reply(b"ok"))) as upstream:
        await read(await send(upstream.origin + "/models", method="GET", body=b""))
    assert len(upstream.exchanges[0].lines) == 2


@pytest.mark.parametrize("value", [b"caf\xe9", b"a\r\nx-evil: 1", b"a\x00b"])
async def test_headers_that_cannot_be_sent_are_refused(send: Send, value: bytes) -> None:
    """Nothing is dropped from a header in silence, and nothing is smuggled into it."""
    async with RawUpstream(saying(reply(b"ok"))) as upstream:
        with pytest.raises(httpx.LocalProtocolError):
            await send(upstream.origin, headers=[(b"x-name", value)])
        assert await read(await send(upstream.origin)) == b"ok"
    assert len(upstream.exchanges) == 1


async def test_response_headers_come_as_bytes(send: Send) -> None:
    """Values that are no UTF-8, long ones and repeated names arrive as they were sent."""
    lines = (
        b"x-name: caf\xe9",
        b"set-cookie: a=1",
        b"set-cookie: b=2",
        b"x-long: " + b"l" * 60_000,
    )
    async with RawUpstream(saying(reply(b"ok", *lines))) as upstream:
        response = await send(upstream.origin)
        await read(response)
    assert response.headers.raw[1:] == [tuple(line.split(b": ")) for line in lines]


async def test_cookies_are_not_kept(send: Send) -> None:
    """What the provider sets for one caller does not go out with the next request."""
    async with RawUpstream(saying(reply(b"ok", b"set-cookie: session=alice; Path=/"))) as upstream:
        await read(await send(upstream.origin))
        await read(await send(upstream.origin))
    assert b"cookie" not in upstream.exchanges[1].head.lower()


async def test_netrc_is_never_read(
    send: Send, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request without a credential goes out without one."""
    (tmp_path / "netrc").write_text("default login me password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    async with RawUpstream(saying(reply(b"ok"))) as upstream:
        await read(await send(upstream.origin))
    assert b"authorization" not in upstream.exchanges[0].head.lower()


async def test_bodies_are_not_decoded(send: Send) -> None:
    """A compressed body comes as it is on the wire."""
    packed = gzip.compress(b"hello")
    async with RawUpstream(saying(reply(packed, b"content-encoding: gzip"))) as upstream:
        assert await read(await send(upstream.origin)) == packed


async def test_redirects_are_passed_on(send: Send) -> None:
    """Where to go next is the caller's to decide."""
    there = reply(b"", b"location: /elsewhere", status=b"307 Temporary Redirect")
    async with RawUpstream(saying(there)) as upstream:
        assert (await send(upstream.origin)).status_code == 307
    assert len(upstream.exchanges) == 1


async def test_chunks_come_as_they_arrive(send: Send) -> None:
    """The first piece is there before the second is sent."""
    told = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await exchange.say(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n")
        await told.wait()
        await exchange.say(b"3\r\ntwo\r\n0\r\n\r\n")

    async with RawUpstream(script) as upstream:
        chunks = aiter((await send(upstream.origin, method="GET", body=b"")).stream)
        assert await anext(chunks) == b"one"
        told.set()
        assert [chunk async for chunk in chunks] == [b"two"]


async def test_connections_are_used_again(send: Send) -> None:
    """Requests one after the other share a connection."""
    async with RawUpstream(saying(reply(b"ok"))) as upstream:
        for _ in range(3):
            assert await read(await send(upstream.origin)) == b"ok"
        assert (upstream.connections, len(upstream.exchanges)) == (1, 3)


def closing_from(number: int, *parts: bytes) -> Callable[[Exchange], Awaitable[None]]:
    """A script that answers, and from this request of a connection on closes after `parts`."""

    async def script(exchange: Exchange) -> None:
        await exchange.body()
        if exchange.number < number:
            return await exchange.say(reply(b"ok"))
        await exchange.say(*parts)
        return exchange.hang_up()

    return script


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_stale_connection_is_replaced(send: Send, method: str) -> None:
    """If the pooled connection turns out closed, the request goes out once more on a new one."""
    async with RawUpstream(closing_from(2)) as upstream:
        await read(await send(upstream.origin, method=method))
        assert await read(await send(upstream.origin, method=method)) == b"ok"
    assert [exchange.number for exchange in upstream.exchanges] == [1, 2, 1]


async def test_all_of_the_pool_may_be_stale(send: Send) -> None:
    """The second try does not go over another connection of the pool."""
    both = asyncio.Barrier(2)

    async def script(exchange: Exchange) -> None:
        await exchange.body()
        if exchange.number == 2:
            return exchange.hang_up()
        if len(upstream.exchanges) <= 2:
            await both.wait()
        return await exchange.say(reply(b"ok"))

    async with RawUpstream(script) as upstream:
        for response in await asyncio.gather(send(upstream.origin), send(upstream.origin)):
            await read(response)
        assert await read(await send(upstream.origin)) == b"ok"
    assert [exchange.number for exchange in upstream.exchanges] == [1, 1, 2, 1]


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_new_connection_that_breaks_is_not_replaced(send: Send, method: str) -> None:
    """A server that closed a fresh connection has seen the request."""
    async with RawUpstream(closing_from(1)) as upstream:
        with pytest.raises(httpx.RemoteProtocolError):
            await send(upstream.origin, method=method)
    assert len(upstream.exchanges) == 1


async def test_a_request_is_repeated_only_once(send: Send) -> None:
    """If the new connection breaks too, the failure is told."""
    answers = iter([reply(b"ok"), b"", b"", b""])

    async def script(exchange: Exchange) -> None:
        await exchange.body()
        answer = next(answers)
        await exchange.say(answer)
        if not answer:
            exchange.hang_up()

    async with RawUpstream(script) as upstream:
        await read(await send(upstream.origin))
        with pytest.raises(httpx.RemoteProtocolError):
            await send(upstream.origin)
    assert len(upstream.exchanges) == 3


async def test_a_request_whose_reply_has_begun_is_not_repeated(send: Send) -> None:
    """One byte of a head is proof that the server was at work."""
    async with RawUpstream(closing_from(2, b"HTTP/1.1 200 OK\r\nx-")) as upstream:
        await read(await send(upstream.origin))
        with pytest.raises(httpx.RemoteProtocolError):
            await send(upstream.origin)
    assert len(upstream.exchanges) == 2


async def test_a_connection_lost_late_was_not_stale(
    send: Send, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that took its time before it closed has worked on the request."""
    for module in (aiohttp_transport, aiohttp_exchange):
        monkeypatch.setattr(module, "STALE_WITHIN_S", 0)
    async with RawUpstream(closing_from(2)) as upstream:
        await read(await send(upstream.origin))
        with pytest.raises(httpx.RemoteProtocolError):
            await send(upstream.origin)
    assert len(upstream.exchanges) == 2


async def counted(pieces: list[bytes]) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


class Once(httpx.AsyncByteStream):
    """A body that is empty when it is read again."""

    def __init__(self) -> None:
        self._pieces = counted([b"a", b"b"])

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._pieces


async def test_an_upload_is_not_repeated(send: Send) -> None:
    """A body that streams is gone once it was read."""
    async with RawUpstream(closing_from(2)) as upstream:
        await read(await send(upstream.origin))
        with pytest.raises((httpx.RemoteProtocolError, httpx.NetworkError)):
            await send(upstream.origin, body=Once())
    assert len(upstream.exchanges) == 2


async def test_an_upload_is_chunked_or_has_its_announced_length(send: Send) -> None:
    """A streamed body is framed by its length if that is known."""
    bodies = []

    async def script(exchange: Exchange) -> None:
        bodies.append(await exchange.body())
        await exchange.say(reply(b"ok"))

    async with RawUpstream(script) as upstream:
        await read(await send(upstream.origin, body=counted([b"ab", b"c"])))
        length = [(b"content-length", b"3")]
        await read(await send(upstream.origin, body=counted([b"ab", b"c"]), headers=length))
    assert bodies == [b"abc", b"abc"]
    assert upstream.exchanges[0].lines[2:] == [b"Transfer-Encoding: chunked"]
    assert upstream.exchanges[1].lines[2:] == [b"content-length: 3"]


async def test_an_upload_waits_for_the_server(send: Send) -> None:
    """No more of an upload is taken than the server reads and the sockets hold."""
    given, total = 0, 100 * 2**20

    async def body() -> AsyncIterator[bytes]:
        nonlocal given
        for _ in range(total // 2**20):
            given += 2**20
            yield bytes(2**20)

    async def script(exchange: Exchange) -> None:
        taken, ahead = 0, 0
        async for piece in exchange.pieces():
            taken += len(piece)
            ahead = max(ahead, given - taken)
        await exchange.say(reply(b"%d %d" % (taken, ahead)))

    async with RawUpstream(script) as upstream:
        length = [(b"content-length", b"%d" % total)]
        answer = await read(await send(upstream.origin, body=body(), headers=length))
    taken, ahead = map(int, answer.split())
    assert taken == total
    assert ahead < 16 * 2**20


async def test_a_large_body_arrives_whole(send: Send) -> None:
    """Bodies beyond one write are cut for the loop's sake only."""
    body = random.Random(1).randbytes(3 * 2**20 + 1)

    async def script(exchange: Exchange) -> None:
        assert await exchange.body() == body
        await exchange.say(reply(b"equal"))

    async with RawUpstream(script) as upstream:
        length = [(b"content-length", b"%d" % len(body))]
        assert await read(await send(upstream.origin, body=body, headers=length)) == b"equal"


async def test_an_early_answer_ends_an_upload(send: Send) -> None:
    """A server that refuses in mid-upload is heard, and the rest is not sent."""
    refusal = reply(b"too large", b"connection: close", status=b"413 Too Large")
    stopped = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        try:
            while True:
                yield bytes(2**16)
                await asyncio.sleep(0.001)
        finally:
            stopped.set()

    async def script(exchange: Exchange) -> None:
        await exchange.say(refusal)
        async for _ in exchange.pieces():
            pass

    async with RawUpstream(script) as upstream:
        response = await send(upstream.origin, body=body())
        assert (response.status_code, await read(response)) == (413, b"too large")
        await asyncio.wait_for(stopped.wait(), 5)
        await asyncio.wait_for(upstream.until_closed(), 5)


CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n"
SHORT = b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc"


@pytest.mark.parametrize(
    "parts",
    [(SHORT,), (CHUNKED,), (CHUNKED + b"5\r\nab",), (CHUNKED, b"zz\r\n"), (CHUNKED + b"-1\r\n",)],
)
async def test_a_reply_cut_short_is_never_whole(send: Send, parts: tuple[bytes, ...]) -> None:
    """A missing rest, a missing last chunk and malformed chunks all raise."""
    async with RawUpstream(closing_from(1, *parts)) as upstream:
        with pytest.raises(httpx.RemoteProtocolError):
            await read(await send(upstream.origin))


async def test_a_malformed_chunk_ends_the_wait_at_once(send: Send) -> None:
    """It raises though the server keeps its connection open."""
    cut = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await exchange.say(CHUNKED)
        await cut.wait()
        await exchange.say(b"HTTP/1.1 502 Bad Gateway\r\n\r\n")
        await exchange.reader.read()

    async with RawUpstream(script) as upstream:
        chunks = aiter((await send(upstream.origin, method="GET", body=b"")).stream)
        assert await anext(chunks) == b"abc"
        cut.set()
        with pytest.raises(httpx.RemoteProtocolError):
            await asyncio.wait_for(anext(chunks), 5)


async def test_a_body_without_length_ends_with_its_connection(send: Send) -> None:
    """A clean close is its end; a reset is a failure."""
    close_delimited = b"HTTP/1.1 200 OK\r\n\r\nabc"
    async with RawUpstream(closing_from(1, close_delimited)) as upstream:
        assert await read(await send(upstream.origin)) == b"abc"

    async def script(exchange: Exchange) -> None:
        await exchange.body()
        await exchange.say(close_delimited)
        await read_first.wait()
        linger = struct.pack("ii", 1, 0)
        sock = exchange.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        exchange.reset()

    read_first = asyncio.Event()
    async with RawUpstream(script) as upstream:
        chunks = aiter((await send(upstream.origin)).stream)
        assert await anext(chunks) == b"abc"
        read_first.set()
        with pytest.raises(httpx.ReadError):
            await anext(chunks)


async def test_a_reply_ends_without_a_close(send: Send) -> None:
    """Length or last chunk is enough; the connection stays."""
    whole = CHUNKED + b"0\r\n\r\n"
    async with RawUpstream(saying(whole)) as upstream:
        for _ in range(2):
            assert await read(await send(upstream.origin)) == b"abc"
        assert (upstream.connections, upstream.open) == (1, 1)


async def test_silence_in_mid_reply_raises(send: Send) -> None:
    """Between two pieces `idle` counts, however long the head may take."""

    async def script(exchange: Exchange) -> None:
        await exchange.body()
        await asyncio.sleep(0.15)
        await exchange.say(SHORT)
        await exchange.reader.read()

    async with RawUpstream(script) as upstream:
        response = await send(upstream.origin, read=60, idle=0.05)
        with pytest.raises(httpx.ReadTimeout):
            await asyncio.wait_for(read(response), 5)


async def test_a_head_that_does_not_come_raises(send: Send) -> None:
    """The wait for it begins when the body is written, and the connection is given up."""

    async def slow() -> AsyncIterator[bytes]:
        await asyncio.sleep(0.3)
        yield b"a"

    async def script(exchange: Exchange) -> None:
        told.append(await exchange.body())
        assert await exchange.reader.read() == b""

    told: list[bytes] = []
    async with RawUpstream(script) as upstream:
        with pytest.raises(httpx.ReadTimeout):
            await send(upstream.origin, body=slow(), read=0.1)
        await asyncio.wait_for(upstream.until_closed(), 5)
    assert told == [b"a"]


async def test_what_is_not_http_is_told_without_its_words(send: Send) -> None:
    """Neither the URL, which may hold a key, nor the reply is in the traceback."""
    async with RawUpstream(closing_from(1, b"SSH-2.0 secret\r\n\r\n")) as upstream:
        with pytest.raises(httpx.RemoteProtocolError) as caught:
            await send(upstream.origin, target=b"/?key=secret")
    assert caught.value.__cause__ is None
    assert "secret" not in str(caught.value)


async def test_a_refused_connection(send: Send) -> None:
    """No connection is a ConnectError, with the system's reason as its cause's cause."""
    async with RawUpstream(saying()) as upstream:
        pass
    with pytest.raises(httpx.ConnectError) as caught:
        await send(upstream.origin)
    assert caught.value.__cause__ is not None
    assert isinstance(caught.value.__cause__.__cause__, ConnectionRefusedError)


async def test_a_place_in_the_pool_is_waited_for_as_long_as_told() -> None:
    """With all connections in use, the next request gives up in time and leaves nothing behind."""
    transport = AiohttpTransport(max_connections=1, environment=Environment())
    send, gave_up = sender(transport), asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await exchange.body()
        await exchange.say(SHORT)
        await gave_up.wait()
        await exchange.say(b"defghij")

    async with RawUpstream(script) as upstream:
        response = await send(upstream.origin)
        with pytest.raises(httpx.ConnectTimeout):
            await send(upstream.origin, connect=0.02)
        gave_up.set()
        assert await read(response) == b"abcdefghij"
        assert await read(await send(upstream.origin, connect=5)) == b"abcdefghij"
    await transport.aclose()


async def test_more_than_a_hundred_connections_at_once(send: Send) -> None:
    """Unless told otherwise the pool has no limit."""
    everyone = asyncio.Barrier(120)

    async def script(exchange: Exchange) -> None:
        await exchange.body()
        await everyone.wait()
        await exchange.say(reply(b"ok"))

    async with RawUpstream(script) as upstream:
        responses = await asyncio.gather(*(send(upstream.origin) for _ in range(120)))
        assert {await read(response) for response in responses} == {b"ok"}


async def test_a_reply_left_early_closes_its_connection(send: Send) -> None:
    """The provider learns at once that nobody listens any more."""

    async def script(exchange: Exchange) -> None:
        await exchange.body()
        await exchange.say(CHUNKED)
        assert await exchange.reader.read() == b""

    async with RawUpstream(script) as upstream:
        response = await send(upstream.origin)
        await response.stream.aclose()
        await asyncio.wait_for(upstream.until_closed(), 5)


async def test_closing_wakes_a_reader(send: Send) -> None:
    """Who reads while another closes gets an error, not silence."""
    async with RawUpstream(saying(CHUNKED)) as upstream:
        response = await send(upstream.origin)
        reading = asyncio.create_task(read(response))
        await asyncio.sleep(0.01)
        await response.stream.aclose()
        with pytest.raises(httpx.ReadError):
            await asyncio.wait_for(reading, 5)


async def test_cancelled_requests_leave_nothing_behind() -> None:
    """After 200 cancellations at random moments the pool works and each answer is one's own."""
    rng = random.Random(7)
    transport = AiohttpTransport(max_connections=10, environment=Environment())
    send = sender(transport)

    async def script(exchange: Exchange) -> None:
        body = await exchange.body()
        await asyncio.sleep(rng.random() / 200)
        await exchange.say(reply(body * 2)[:-1])
        await asyncio.sleep(rng.random() / 200)
        await exchange.say(body[-1:])

    async def ask(number: int) -> bytes:
        body = b"%04d" % number
        length = [(b"content-length", b"4")]
        return await read(await send(upstream.origin, body=body, headers=length))

    async with RawUpstream(script) as upstream:
        tasks = []
        for number in range(400):
            tasks.append(asyncio.create_task(ask(number)))
            if number % 2:
                asyncio.get_running_loop().call_later(rng.random() / 50, tasks[-1].cancel)
            if number % 20 == 0:
                await asyncio.sleep(0.005)
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(results[n] == b"%04d" % n * 2 for n in range(0, 400, 2))
        assert sum(isinstance(result, asyncio.CancelledError) for result in results) > 50
        assert await asyncio.gather(*map(ask, range(10))) == [b"%04d" % n * 2 for n in range(10)]
        await transport.aclose()
        await asyncio.wait_for(upstream.until_closed(), 5)


async def test_a_closed_transport_refuses(transport: AiohttpTransport, send: Send) -> None:
    """After `aclose` there are no connections and none is made."""
    async with RawUpstream(saying(reply(b"ok"))) as upstream:
        await read(await send(upstream.origin))
        await transport.aclose()
        with pytest.raises(httpx.TransportError):
            await send(upstream.origin)
        await asyncio.wait_for(upstream.until_closed(), 5)


async def test_requests_go_through_the_proxy() -> None:
    """Plain HTTP is asked of the proxy with the whole URL; its credential goes to it alone."""
    async with RawUpstream(saying(reply(b"ok"))) as proxy:
        url = proxy.origin.replace("http://", "http://me:pw@")
        transport = AiohttpTransport(environment=Environment({"http": url}))
        response = await sender(transport)("http://provider.test", target=b"/v1//a%3Ab?q=1")
        assert await read(response) == b"ok"
        await transport.aclose()
    lines = proxy.exchanges[0].lines
    assert lines[0] == b"POST http://provider.test/v1//a%3Ab?q=1 HTTP/1.1"
    assert b"Host: provider.test" in lines
    assert b"Proxy-Authorization: Basic bWU6cHc=" in lines


async def test_a_proxy_that_refuses_is_named_as_such() -> None:
    """The failure is the proxy's, not the provider's."""
    refusal = reply(b"", status=b"407 Proxy Authentication Required")
    async with RawUpstream(saying(refusal)) as proxy:
        transport = AiohttpTransport(environment=Environment({"https": proxy.origin}))
        with pytest.raises(httpx.ProxyError):
            await sender(transport)("https://provider.test/v1")
        await transport.aclose()
    assert proxy.exchanges[0].lines[0] == b"CONNECT provider.test:443 HTTP/1.1"


async def test_certificates_are_checked() -> None:
    """An unknown authority is refused; one that the environment names is trusted."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(LOCALHOST_PEM)
    named = Environment(certificates=("REQUESTS_CA_BUNDLE", LOCALHOST_PEM))
    async with RawUpstream(saying(reply(b"ok")), ssl=context) as upstream:
        strict, trusting = (
            AiohttpTransport(environment=Environment()),
            AiohttpTransport(environment=named),
        )
        with pytest.raises(httpx.ConnectError):
            await sender(strict)(upstream.origin)
        assert await read(await sender(trusting)(upstream.origin)) == b"ok"
        await strict.aclose()
        await trusting.aclose()
