"""Requests to providers and their answers: headers, encodings, limits, failures."""

from __future__ import annotations

import asyncio
import gzip
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Callable

import httpx
import pytest
import pytest_asyncio

from proxy.aiohttp_transport import AiohttpTransport
from proxy.environment import Environment
from proxy.errors import BadRequest, ProxyError, UpstreamFailure, UpstreamTimeout
from proxy.models import Headers
from proxy.upstream import Arrival, Limits, Upstream
from tests.fakes.raw_upstream import Exchange, RawUpstream, reply, saying

URL = "https://api.openai.com/v1/chat/completions"


@pytest_asyncio.fixture
async def upstream() -> AsyncIterator[Upstream]:
    it = Upstream(AiohttpTransport(environment=Environment()))
    yield it
    await it.aclose()


@pytest_asyncio.fixture
async def hasty() -> AsyncIterator[Upstream]:
    """An upstream that waits for a quarter of a second."""
    limits = Limits(connect_s=0.25, first_byte_s=0.25, idle_s=0.25)
    it = Upstream(AiohttpTransport(environment=Environment()), limits)
    yield it
    await it.aclose()


def mocked(answer: httpx.Response | Exception, seen: list[httpx.Request] | None = None) -> Upstream:
    """An upstream whose transport answers so."""

    def handler(request: httpx.Request) -> httpx.Response:
        if seen is not None:
            seen.append(request)
        if isinstance(answer, Exception):
            raise answer
        return answer

    return Upstream(httpx.MockTransport(handler))


async def post(upstream: Upstream, url: str = URL, *, decode: bool = True) -> Arrival:
    headers = [(b"accept-encoding", b"br"), (b"authorization", b"Bearer sk-secret")]
    return await upstream.send("POST", url, headers, b"{}", decode=decode)


async def read(arrival: Arrival) -> bytes:
    return b"".join([chunk async for chunk in arrival.chunks()])


async def pieces(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


async def test_an_answer_comes_with_its_head() -> None:
    """Status, headers in lower case, the announced length and the body."""
    answer = httpx.Response(429, headers={"X-Id": "7", "Connection": "close"}, content=b"slow")
    arrival = await post(mocked(answer))
    assert arrival.head == (429, [(b"x-id", b"7"), (b"content-length", b"4")])
    assert (arrival.length, arrival.opaque, await read(arrival)) == (4, False, b"slow")


async def test_a_request_to_be_recorded_asks_for_no_encoding() -> None:
    """The caller's wish is replaced: what he can decode, the proxy may not."""
    seen: list[httpx.Request] = []
    await post(mocked(httpx.Response(200), seen))
    await post(mocked(httpx.Response(200), seen), decode=False)
    asked = [request.headers["accept-encoding"] for request in seen]
    assert asked == ["identity", "br"]


async def test_the_body_is_framed_anew() -> None:
    """The caller's framing headers count for nothing; bytes have their length."""
    seen: list[httpx.Request] = []
    headers: Headers = [(b"content-length", b"99"), (b"transfer-encoding", b"chunked")]
    await mocked(httpx.Response(200), seen).send("POST", URL, headers, b"abc", decode=False)
    assert seen[0].headers.raw == [(b"content-length", b"3")]
    assert seen[0].content == b"abc"


async def test_path_and_query_reach_the_wire_raw(upstream: Upstream) -> None:
    """Also what httpx would level: dots, slashes, needless escapes."""
    async with RawUpstream(saying(reply(b"ok"))) as server:
        await read(await post(upstream, server.origin + "/v1/../x//%41%2f?a=%3a&b=[1]"))
        await read(await post(upstream, server.origin + "?q"))
    lines = [exchange.lines[0] for exchange in server.exchanges]
    assert lines == [b"POST /v1/../x//%41%2f?a=%3a&b=[1] HTTP/1.1", b"POST /?q HTTP/1.1"]


@pytest.mark.parametrize("tail", ["/a b", "/a\nb", "/\xe9", "/\x00"])
async def test_paths_that_cannot_be_sent_are_the_callers_fault(tail: str) -> None:
    """They never reach a provider."""
    with pytest.raises(BadRequest):
        await post(mocked(httpx.Response(200)), URL + tail)


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
async def test_an_answer_compressed_all_the_same_is_made_plain(encoding: str) -> None:
    """Head and length then speak of the plain body."""
    packed = {"gzip": gzip.compress(b"hello"), "deflate": zlib.compress(b"hello")}[encoding]
    headers = {"content-encoding": encoding, "content-length": str(len(packed))}
    answer = httpx.Response(200, headers=headers, content=pieces(packed))
    arrival = await post(mocked(answer))
    assert (arrival.head.headers, arrival.length) == ([], None)
    assert await read(arrival) == b"hello"


async def test_an_unknown_encoding_is_told() -> None:
    """It is passed on with its header, for the caller; nobody may record it."""
    answer = httpx.Response(200, headers={"content-encoding": "br"}, content=pieces(b"\x0b"))
    arrival = await post(mocked(answer))
    assert arrival.opaque
    assert arrival.head.header(b"content-encoding") == b"br"
    assert await read(arrival) == b"\x0b"


async def test_what_is_passed_through_stays_as_it_is() -> None:
    """Raw bytes keep the headers that describe them."""
    packed = gzip.compress(b"hello")
    headers = {"content-encoding": "gzip", "content-length": str(len(packed))}
    arrival = await post(
        mocked(httpx.Response(200, headers=headers, content=pieces(packed))), decode=False
    )
    assert (arrival.head.header(b"content-encoding"), arrival.opaque) == (b"gzip", False)
    assert arrival.length == len(packed) == len(await read(arrival))


async def test_a_damaged_encoding_is_a_failure() -> None:
    """Neither what is no gzip nor gzip without its end passes for an answer."""
    for body in (b"{}", gzip.compress(b"hello")[:-1]):
        answer = httpx.Response(200, headers={"content-encoding": "gzip"}, content=pieces(body))
        arrival = await post(mocked(answer))
        with pytest.raises(UpstreamFailure, match=r"api\.openai\.com"):
            await read(arrival)


async def test_a_bomb_never_lies_in_memory_whole(upstream: Upstream) -> None:
    """200 MB out of 200 kB pass in small pieces."""
    packer = zlib.compressobj(9, wbits=zlib.MAX_WBITS + 16)
    bomb = b"".join([packer.compress(bytes(2**20)) for _ in range(200)]) + packer.flush()
    async with RawUpstream(saying(reply(bomb, b"content-encoding: gzip"))) as server:
        arrival = await post(upstream, server.origin)
        tracemalloc.start()
        total = sum([len(chunk) async for chunk in arrival.chunks()])
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert total == 200 * 2**20
    assert peak < 2 * 2**20


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 204), ("GET", 304)])
async def test_answers_without_a_body_have_length_zero(method: str, status: int) -> None:
    """Their Content-Length speaks of another answer, and is passed on."""
    answer = httpx.Response(status, headers={"content-length": "5"})
    arrival = await mocked(answer).send(method, URL, [], None, decode=False)
    assert (arrival.length, arrival.head.header(b"content-length")) == (0, b"5")


@pytest.mark.parametrize("status", [101, 103])
async def test_other_protocols_are_refused(upstream: Upstream, status: int) -> None:
    """An upgrade is not passed on, and its connection is closed."""
    with pytest.raises(UpstreamFailure, match=str(status)):
        await post(mocked(httpx.Response(status)))


async def test_an_upgrade_closes_its_connection(upstream: Upstream) -> None:
    """What speaks another protocol does not go back to the pool."""
    switch = b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\nhi"
    async with RawUpstream(saying(switch)) as server:
        with pytest.raises(UpstreamFailure):
            await post(upstream, server.origin)
        await asyncio.wait_for(server.until_closed(), 5)


async def test_informational_answers_are_skipped(upstream: Upstream) -> None:
    """The answer is what comes after early hints."""
    hints = b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n"
    async with RawUpstream(saying(hints, reply(b"ok"))) as server:
        arrival = await post(upstream, server.origin)
        assert (arrival.head.status, await read(arrival)) == (200, b"ok")


async def test_no_answer_in_time(hasty: Upstream) -> None:
    """The head must begin within its limit; the connection is not kept."""

    async def script(exchange: Exchange) -> None:
        assert await exchange.body() == b"{}"
        assert await exchange.reader.read() == b""

    async with RawUpstream(script) as server:
        with pytest.raises(UpstreamTimeout, match=r"did not answer within 0\.25 s"):
            await post(hasty, server.origin)
        await asyncio.wait_for(server.until_closed(), 5)


async def test_silence_in_mid_answer() -> None:
    """Between two pieces no more than the idle limit passes; each piece begins it anew."""

    async def script(exchange: Exchange) -> None:
        await exchange.body()
        await exchange.say(b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n")
        for _ in range(4):
            await asyncio.sleep(0.08)
            await exchange.say(b"x")
        assert await exchange.reader.read() == b""

    upstream = Upstream(AiohttpTransport(environment=Environment()), Limits(idle_s=0.25))
    async with RawUpstream(script) as server:
        chunks = (await post(upstream, server.origin)).chunks()
        assert [await anext(chunks) for _ in range(4)] == [b"x"] * 4
        with pytest.raises(UpstreamTimeout, match=r"fell silent for 0\.25 s"):
            await asyncio.wait_for(anext(chunks), 5)
        await upstream.aclose()
        await asyncio.wait_for(server.until_closed(), 5)


async def test_a_slow_caller_is_not_the_providers_fault(hasty: Upstream) -> None:
    """While an upload waits for its caller no limit runs; the answer's begins with its end."""

    async def slow() -> AsyncIterator[bytes]:
        await asyncio.sleep(0.6)
        yield b"a"
        await asyncio.sleep(0.6)
        yield b"b"

    async def script(exchange: Exchange) -> None:
        await exchange.say(reply(await exchange.body()))

    async with RawUpstream(script) as server:
        arrival = await hasty.send("PUT", server.origin, [], slow(), decode=False)
        assert await read(arrival) == b"ab"


async def test_a_provider_that_takes_nothing(hasty: Upstream) -> None:
    """An upload that it does not read ends in time."""

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield bytes(2**16)

    async def script(exchange: Exchange) -> None:
        await asyncio.Event().wait()

    async with RawUpstream(script) as server:
        with pytest.raises(UpstreamTimeout, match="took nothing"):
            await hasty.send("PUT", server.origin, [], endless(), decode=False)


async def test_a_finished_upload_waits_for_its_answer(hasty: Upstream) -> None:
    """After the last piece it is the provider's turn."""

    async def script(exchange: Exchange) -> None:
        await exchange.body()
        await asyncio.Event().wait()

    async with RawUpstream(script) as server:
        with pytest.raises(UpstreamTimeout, match="did not answer"):
            await hasty.send("PUT", server.origin, [], pieces(b"a"), decode=False)


async def test_an_answer_may_begin_before_the_upload_ends(upstream: Upstream) -> None:
    """The rest of the body goes on up while the answer comes down."""
    answered = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield b"a"
        await answered.wait()
        yield b"b"
        yield b"c"

    async def script(exchange: Exchange) -> None:
        await exchange.say(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n")
        await exchange.say(await exchange.body())

    async with RawUpstream(script) as server:
        arrival = await upstream.send("PUT", server.origin, [], body(), decode=False)
        answered.set()
        assert await asyncio.wait_for(read(arrival), 5) == b"abc"


async def test_the_callers_own_failure_is_his_own(upstream: Upstream) -> None:
    """What an upload raises comes out as it is: the provider has done nothing wrong."""

    async def leaving() -> AsyncIterator[bytes]:
        yield b"a"
        raise KeyError("left")

    async with RawUpstream(saying(reply(b"ok"))) as server:
        with pytest.raises(KeyError):
            await upstream.send("PUT", server.origin, [], leaving(), decode=False)
        await asyncio.wait_for(server.until_closed(), 5)


async def test_an_upload_keeps_the_announced_length(upstream: Upstream) -> None:
    """A length that the caller announced goes on; without one the body is chunked."""

    async def script(exchange: Exchange) -> None:
        await exchange.say(reply(await exchange.body()))

    async with RawUpstream(script) as server:
        for headers in ([(b"content-length", b"3")], [(b"transfer-encoding", b"chunked")]):
            arrival = await upstream.send(
                "PUT", server.origin, headers, pieces(b"ab", b"c"), decode=False
            )
            assert await read(arrival) == b"abc"
    framing = [exchange.lines[2:] for exchange in server.exchanges]
    assert framing == [[b"content-length: 3"], [b"Transfer-Encoding: chunked"]]


async def test_cancelling_a_reader_closes_the_connection(upstream: Upstream) -> None:
    """The provider learns that nobody listens any more."""

    async def script(exchange: Exchange) -> None:
        await exchange.body()
        await exchange.say(b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\nx")
        assert await exchange.reader.read() == b""

    async with RawUpstream(script) as server:
        arrival = await post(upstream, server.origin)
        reading = asyncio.create_task(read(arrival))
        await asyncio.sleep(0.01)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        await asyncio.wait_for(server.until_closed(), 5)
    assert "closed" in repr(arrival)


async def test_an_arrival_may_be_closed_twice(upstream: Upstream) -> None:
    """Before, in the middle of and after reading."""
    async with RawUpstream(saying(reply(b"ok"))) as server:
        unread = await post(upstream, server.origin)
        await unread.aclose()
        await unread.aclose()
        arrival = await post(upstream, server.origin)
        assert await read(arrival) == b"ok"
        await arrival.aclose()
        assert await read(await post(upstream, server.origin)) == b"ok"


def every(base: type[Exception]) -> set[type[Exception]]:
    return {base} | {each for sub in base.__subclasses__() for each in every(sub)}


def raised(kind: type[Exception]) -> Exception:
    """An exception of this class that quotes what must not be shown."""
    text = f"{URL}?key=sk-secret"
    request = httpx.Request("GET", text)
    make: dict[type[Exception], Callable[[], Exception]] = {
        httpx.HTTPStatusError: lambda: httpx.HTTPStatusError(
            text, request=request, response=httpx.Response(500)
        ),
        httpx.StreamConsumed: httpx.StreamConsumed,
        httpx.StreamClosed: httpx.StreamClosed,
        httpx.ResponseNotRead: httpx.ResponseNotRead,
        httpx.RequestNotRead: httpx.RequestNotRead,
    }
    return make.get(kind, lambda: kind(text))()


EVERY_FAILURE = [
    each for each in vars(httpx).values() if isinstance(each, type) and issubclass(each, Exception)
]


@pytest.mark.parametrize("kind", EVERY_FAILURE, ids=lambda kind: kind.__name__)
async def test_every_exception_of_httpx_has_a_meaning(kind: type[Exception]) -> None:
    """It becomes one of ours that names the host, a way out, and nothing secret."""
    with pytest.raises(ProxyError) as caught:
        await post(mocked(raised(kind)), f"{URL}?key=sk-secret")
    assert type(caught.value) in (UpstreamFailure, UpstreamTimeout, BadRequest)
    assert (type(caught.value) is UpstreamTimeout) == issubclass(kind, httpx.TimeoutException)
    assert kind is httpx.InvalidURL or "api.openai.com" in str(caught.value)
    assert any(word in str(caught.value) for word in ("try again", "check", "starts with"))
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("kind", EVERY_FAILURE, ids=lambda kind: kind.__name__)
async def test_so_has_every_exception_in_mid_answer(kind: type[Exception]) -> None:
    """What came before it was passed on."""

    async def body() -> AsyncIterator[bytes]:
        yield b"part"
        raise raised(kind)

    chunks = (await post(mocked(httpx.Response(200, content=body())))).chunks()
    assert await anext(chunks) == b"part"
    with pytest.raises(ProxyError) as caught:
        await anext(chunks)
    assert "secret" not in str(caught.value)


async def test_the_systems_own_words_are_told(upstream: Upstream) -> None:
    """Whether a name is wrong, a port closed or a certificate unknown is what people need."""
    async with RawUpstream(saying()) as server:
        pass
    with pytest.raises(UpstreamFailure, match=r"127\.0\.0\.1:\d+ cannot be reached \(.*refused"):
        await post(upstream, server.origin)
