"""What is refused, waited for and cut at the level of connections, over real sockets."""

from __future__ import annotations

import ast
import asyncio
import inspect
import textwrap
from pathlib import Path
from typing import Any

import orjson
import pytest
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from proxy import lane_protocol, protocol
from proxy.protocol import OF_CONFIG, OF_CYCLE, OF_FLOW, OF_PROTOCOL, OF_STATE, Protocol
from proxy.routes.caller import ABORT_EXTENSION, LEAVING_EXTENSION, SEND_TIMEOUT
from tests.fakes.raw_client import Connect, RawClient
from tests.fakes.server import Serve

GET = b"GET / HTTP/1.1\r\nhost: h\r\n\r\n"
H2C = b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQ\r\n"


def names_in(path: Path) -> set[str]:
    """All names and attributes in a module's source."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    attributes = {node.attr for node in nodes if isinstance(node, ast.Attribute)}
    return attributes | {node.name for node in nodes if isinstance(node, ast.FunctionDef)}


async def test_uvicorn_has_what_is_relied_on(serve: Serve, connect: Connect) -> None:
    """The version that is installed still has its internals, where they were and at work."""
    seen: list[Any] = []

    class Looking(HttpToolsProtocol):
        def on_response_complete(self) -> None:
            seen.extend((self, self.cycle, self.flow, self.config, self.server_state))
            super().on_response_complete()

    raw = await connect(await serve(echo, http=Looking, lifespan="off"))
    await raw.send_bytes(GET)
    await answer(raw)
    relied_on = (OF_PROTOCOL, OF_CYCLE, OF_FLOW, OF_CONFIG, OF_STATE)
    for thing, names in zip(seen, relied_on, strict=True):
        missing = [name for name in names if not hasattr(thing, name)]
        assert not missing, f"{type(thing)} has no {missing}"


def test_what_is_relied_on_is_listed() -> None:
    """What is used of uvicorn's protocol, here and in the lane; no more and no less."""
    used = names_in(Path(protocol.__file__)) | names_in(Path(lane_protocol.__file__))
    listed = {*OF_PROTOCOL, *OF_CYCLE, *OF_FLOW, *OF_CONFIG, *OF_STATE}
    assert listed <= used
    of_uvicorn = vars(HttpToolsProtocol).keys() | _set_by(HttpToolsProtocol)
    assert {name for name in used & of_uvicorn if not name.startswith("__")} <= listed | PUBLIC


# Of asyncio's protocols and httptools' parsers, which are documented.
PUBLIC = {"on_body", "on_header", "on_url"}


def _set_by(owner: type) -> set[str]:
    """The attributes that its methods set on `self`."""
    nodes = ast.walk(ast.parse(textwrap.dedent(inspect.getsource(owner))))
    return {
        node.attr
        for node in nodes
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
    }


class Impatient(Protocol):
    """Deadlines that a test can wait for."""

    head_deadline_s = 0.1


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Says which request it was, and what its body was."""
    assert scope["type"] == "http"
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body += message["body"]
        more = message["more_body"]
    said = b"%b %b" % (scope["raw_path"], body)
    head = [(b"content-length", b"%d" % len(said))]
    await send({"type": "http.response.start", "status": 200, "headers": head})
    await send({"type": "http.response.body", "body": said})


def dripping(pieces: int, pause_s: float = 0.0, *, cut: bool = False) -> Any:
    """An app that answers in pieces without a length, and may cut them short."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for number in range(pieces):
            await send({"type": "http.response.body", "body": b"%d," % number, "more_body": True})
            await asyncio.sleep(pause_s)
        if cut:
            scope["extensions"][ABORT_EXTENSION]["abort"]()
            return
        await send({"type": "http.response.body", "body": b""})

    return app


async def answer(raw: RawClient) -> bytes:
    await raw.head()
    ending = await raw.rest()
    assert ending.complete
    return ending.body


async def to_the_end(raw: RawClient) -> bytes:
    """All bytes until the connection is closed."""
    body = b""
    async with asyncio.timeout(5):
        while part := await raw.read(2**16):
            body += part
    return body


@pytest.mark.parametrize("end", [b"", b"\r\n\r\n"])
async def test_a_head_above_the_limit_is_refused(
    serve: Serve, connect: Connect, end: bytes
) -> None:
    """Whether it is whole or goes on and on: 431 in the format of errors, then the end."""
    raw = await connect(await serve(echo, http=Protocol, lifespan="off"))
    await raw.send_bytes(b"GET / HTTP/1.1\r\nx-long: " + b"x" * Protocol.max_head_bytes + end)
    assert await raw.head() == 431
    error = orjson.loads(await to_the_end(raw))["error"]
    assert error["type"] == "llm_cache_proxy_error"
    assert "64 KiB" in error["message"]


async def test_a_head_below_the_limit_passes(serve: Serve, connect: Connect) -> None:
    """Many headers are nobody's business, and a long body is no head."""
    raw = await connect(await serve(echo, http=Protocol, lifespan="off"))
    long = {"host": "h", "x-long": "x" * (Protocol.max_head_bytes - 200)}
    for body in (b"", b"y" * 3 * Protocol.max_head_bytes):
        await raw.send("POST / HTTP/1.1\r\n", {**long, "content-length": str(len(body))}, body)
        assert await answer(raw) == b"/ " + body


async def test_a_refusal_reaches_one_who_goes_on_sending(serve: Serve, connect: Connect) -> None:
    """What comes after the refusal is thrown away: a reset would take the refusal with it."""
    raw = await connect(await serve(echo, http=Protocol, lifespan="off"))
    await raw.send_bytes(b"no HTTP at all\r\n")
    for _ in range(20):
        await raw.send_bytes(b"x" * 2**16)
    assert await raw.head() == 400
    assert raw.headers["content-type"] == "application/json"
    assert orjson.loads(await to_the_end(raw))["error"]["code"] == "bad_request"


@pytest.mark.parametrize("begun", [b"", b"\r\n", b"GET / HT", GET + b"GET / HT"])
async def test_who_takes_long_for_a_head_is_let_go(
    serve: Serve, connect: Connect, begun: bytes
) -> None:
    """A connection that sends nothing, or no more, or a head that does not end, is closed."""
    raw = await connect(await serve(echo, http=Impatient, lifespan="off"))
    await raw.send_bytes(begun)
    assert (await to_the_end(raw)).count(b"HTTP/1.1 200 OK") == begun.count(GET)


async def test_bytes_that_trickle_do_not_extend_the_deadline(
    serve: Serve, connect: Connect
) -> None:
    """The whole head has one limit, however many bytes keep coming."""
    raw = await connect(await serve(echo, http=Impatient, lifespan="off"))

    async def trickle() -> None:
        await raw.send_bytes(b"GET /")
        while True:
            await raw.send_bytes(b"x")
            await asyncio.sleep(0.02)

    with pytest.raises(ConnectionError):
        await asyncio.wait_for(trickle(), 5)


@pytest.mark.parametrize("stray", [b"", b"\r\n"])
async def test_an_idle_connection_has_its_own_limit(
    serve: Serve, connect: Connect, stray: bytes
) -> None:
    """Not the head's deadline ends it but the keep-alive, also after an empty line."""
    origin = await serve(echo, http=Impatient, lifespan="off", timeout_keep_alive=0.4)
    raw = await connect(origin)
    await raw.send_bytes(GET)
    assert await answer(raw) == b"/ "
    await asyncio.sleep(0.2)
    await raw.send_bytes(GET)
    assert await answer(raw) == b"/ "
    await raw.send_bytes(stray)
    assert await to_the_end(raw) == b""


async def test_a_body_that_does_not_come_ends_the_connection(
    serve: Serve, connect: Connect
) -> None:
    """Who announces a body and falls silent is idle too."""
    raw = await connect(await serve(echo, http=Protocol, lifespan="off", timeout_keep_alive=0.1))
    await raw.send("POST / HTTP/1.1\r\n", {"host": "h", "content-length": "10"}, b"five ")
    assert await to_the_end(raw) == b""


async def test_one_who_sends_ahead_is_not_late_while_he_is_answered(
    serve: Serve, connect: Connect
) -> None:
    """Half of the next head does not cut the answer that is on its way."""
    raw = await connect(await serve(dripping(5, 0.05), http=Impatient, lifespan="off"))
    await raw.send_bytes(GET + b"GET / HT")
    assert await answer(raw) == b"0,1,2,3,4,"
    await raw.send_bytes(b"TP/1.1\r\nhost: h\r\n\r\n")
    assert await answer(raw) == b"0,1,2,3,4,"


async def test_pipelined_requests_are_answered_in_order(serve: Serve, connect: Connect) -> None:
    """Also where they are cut into pieces anywhere."""
    raw = await connect(await serve(echo, http=Protocol, lifespan="off"))
    asked = b"".join(
        b"POST /%d HTTP/1.1\r\nhost: h\r\ncontent-length: 2\r\n\r\n%02d" % (number, number)
        for number in range(50)
    )
    for start in range(0, len(asked), 777):
        await raw.send_bytes(asked[start : start + 777])
    told = [await answer(raw) for _ in range(50)]
    assert told == [b"/%d %02d" % (number, number) for number in range(50)]


async def test_nonsense_behind_a_pipeline_gets_into_no_answer(
    serve: Serve, connect: Connect
) -> None:
    """The answer that is on its way is cut; the refusal would be taken for the rest of it."""
    raw = await connect(await serve(dripping(3, 0.1), http=Protocol, lifespan="off"))
    await raw.send_bytes(GET)
    assert await raw.head() == 200
    await raw.send_bytes(GET + b"no HTTP at all\r\n\r\n")
    ending = await raw.rest()
    assert not ending.complete
    assert b"0,1,2,".startswith(ending.body)


async def test_a_caller_is_seen_to_leave_after_a_large_body(serve: Serve, connect: Connect) -> None:
    """Reading is not left paused once all of it has come."""
    asked, left = asyncio.Event(), asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scope["extensions"][LEAVING_EXTENSION]["add"](left.set)
        while (await receive())["more_body"]:
            pass
        asked.set()
        await left.wait()

    raw = await connect(await serve(app, http=Protocol, lifespan="off"))
    await raw.send("POST / HTTP/1.1\r\n", {"host": "h", "content-length": str(2**20)})
    await raw.send_bytes(b"x" * 2**20)
    await asyncio.wait_for(asked.wait(), 5)
    raw.leave()
    await asyncio.wait_for(left.wait(), 5)


@pytest.mark.parametrize("size", [1, 7, 10_000])
@pytest.mark.parametrize(
    "framed",
    [b"content-length: 4\r\n\r\nbody", b"transfer-encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n"],
)
async def test_an_offer_of_http_2_is_not_taken_up(
    serve: Serve, connect: Connect, framed: bytes, size: int
) -> None:
    """The request is answered as if nothing had been offered, its body whole, and so is the next:
    Java's client offers it each time."""
    raw = await connect(await serve(echo, http=Protocol, lifespan="off"))
    asked = b"POST /%d HTTP/1.1\r\nhost: h\r\n" + H2C + framed
    plain = b"POST /%d HTTP/1.1\r\nhost: h\r\n" + framed
    sent = asked % 1 + asked % 2 + plain % 3 + GET.replace(b"host", H2C + b"host") + plain % 5
    for start in range(0, len(sent), size):
        await raw.send_bytes(sent[start : start + size])
    told = [await answer(raw) for _ in range(5)]
    assert told == [b"/1 body", b"/2 body", b"/3 body", b"/ ", b"/5 body"]


@pytest.mark.parametrize("asked", [b"GET / HTTP/1.0\r\n\r\n", b"GET /\r\n\r\n"])
async def test_a_caller_of_http_1_0_gets_no_chunks(
    serve: Serve, connect: Connect, asked: bytes
) -> None:
    """A body without a length ends with the connection."""
    raw = await connect(await serve(dripping(3), http=Protocol, lifespan="off"))
    await raw.send_bytes(asked)
    head, _, body = (await to_the_end(raw)).partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head
    assert b"connection: close" in head
    assert body == b"0,1,2,"


async def test_a_cut_is_no_end_for_a_caller_of_http_1_0(serve: Serve, connect: Connect) -> None:
    """He would take a plain end of the connection for the end of the answer."""
    raw = await connect(await serve(dripping(3, 0.01, cut=True), http=Protocol, lifespan="off"))
    await raw.send_bytes(b"GET / HTTP/1.0\r\n\r\n")
    with pytest.raises(ConnectionResetError):
        await to_the_end(raw)


async def test_nonsense_behind_a_request_cuts_the_answer(serve: Serve, connect: Connect) -> None:
    """An error in the middle of another answer would pass for a part of it."""
    raw = await connect(await serve(dripping(20, 0.01), http=Protocol, lifespan="off"))
    await raw.send_bytes(GET)
    await raw.head()
    await raw.chunk()
    await raw.send_bytes(b"no HTTP at all\r\n\r\n")
    ending = await raw.rest()
    assert not ending.complete
    assert b"HTTP" not in ending.body


class _Hasty:
    """An app that has its server wait for nobody, and says everything at once."""

    def __init__(self, size: int, *, close: bool) -> None:
        self._said = b"x" * size
        self._close = [(b"connection", b"close")] if close else []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            scope["state"][SEND_TIMEOUT] = 0.1
            for told in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{told}.complete"})
            return
        head = [(b"content-length", b"%d" % len(self._said)), *self._close]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        await send({"type": "http.response.body", "body": self._said})


@pytest.mark.parametrize("close", [True, False])
async def test_one_who_takes_nothing_is_cut_off(
    serve: Serve, connect: Connect, close: bool
) -> None:
    """Also once nobody waits for him any more: all that is left to do is to send."""
    lost = asyncio.Event()

    class Telling(Protocol):
        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            lost.set()

    origin = await serve(_Hasty(2**24, close=close), http=Telling)
    raw = await connect(origin, receive_buffer=4096)
    await raw.send_bytes(GET)
    await asyncio.wait_for(lost.wait(), 5)
    await raw.head()
    assert not (await raw.rest()).complete


async def test_one_who_takes_it_slowly_gets_it_all(serve: Serve, connect: Connect) -> None:
    """It takes longer than the patience, but there is always some progress."""
    size = 3 * 2**22
    raw = await connect(await serve(_Hasty(size, close=True), http=Protocol), receive_buffer=2**16)
    await raw.send_bytes(GET)
    await raw.head()
    taken = 0
    while part := await raw.read(2**18):
        taken += len(part)
        await asyncio.sleep(0.01)
    assert taken == size


async def test_a_thousand_headers_are_refused(serve: Serve, connect: Connect) -> None:
    """However short they are."""
    raw = await connect(await serve(echo, http=Protocol, lifespan="off"))
    many = {"host": "h"} | {f"x-{number}": "" for number in range(1000)}
    await raw.send("GET / HTTP/1.1\r\n", many)
    assert await raw.head() == 431
    assert "256 headers" in orjson.loads(await to_the_end(raw))["error"]["message"]


@pytest.mark.parametrize("hosts", [b"", b"host: a\r\nhost: b\r\n", b"host: a\r\nHost: a\r\n"])
async def test_a_request_names_one_host(serve: Serve, connect: Connect, hosts: bytes) -> None:
    """Another proxy on the way may heed another of them."""
    raw = await connect(await serve(echo, http=Protocol, lifespan="off"))
    await raw.send_bytes(b"GET / HTTP/1.1\r\n" + hosts + b"\r\n")
    assert await raw.head() == 400
    assert "one Host" in orjson.loads(await to_the_end(raw))["error"]["message"]
