"""Whatever a caller sends, the answer is clear, it is not the proxy that fails, and nothing that
was stored is lost."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from typing import Any

import httpx
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fakes.chat import MINE, PATH, asking, words
from tests.fakes.live_proxy import LiveProxy, StartProxy
from tests.fakes.oracle import expected
from tests.fakes.provider import Answer, FakeProvider
from tests.fakes.raw_client import Connect

PATHS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings")
VALID: dict[str, dict[str, Any]] = {
    PATHS[0]: {
        "model": "m",
        "messages": [
            {"role": "system", "content": "Be brief"},
            {"role": "user", "content": [{"type": "text", "text": "Tell me a joke"}]},
        ],
        "stream": False,
        "stream_options": None,
        "n": 1,
        "temperature": 0.5,
        "stop": ["x"],
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}],
        "tool_choice": "auto",
        "response_format": {"type": "json_object"},
        "logprobs": True,
        "user": "me",
        "metadata": {"run_id": "1"},
        "seed": 1,
    },
    PATHS[1]: {
        "model": "m",
        "prompt": ["a", "b"],
        "n": 1,
        "best_of": 1,
        "echo": False,
        "user": "u",
    },
    PATHS[2]: {"model": "e", "input": ["a", "b"], "encoding_format": "float", "dimensions": 3},
}
# Providers answer what they cannot read like this; the proxy may leave the judgement to them.
REFUSAL = Answer(status=400, error={"message": "no", "type": "invalid_request_error"})


@pytest.fixture
def no_traceback(caplog: pytest.LogCaptureFixture) -> Callable[[], None]:
    """Fails if an exception was logged."""

    def check() -> None:
        assert not [each for each in caplog.records if each.exc_info]
        assert not [each for each in caplog.records if each.levelno >= logging.ERROR]

    return check


async def still_a_hit(client: httpx.AsyncClient, live: LiveProxy) -> None:
    """What was asked before all that is known."""
    answer = await client.post(f"{live.origin}{PATH}", json=asking(), headers=MINE)
    assert answer.headers["x-cache"] == "HIT"
    assert words(answer.content) == expected(asking(), credential="Bearer mine")


async def stored(client: httpx.AsyncClient, live: LiveProxy) -> None:
    await client.post(f"{live.origin}{PATH}", json=asking(), headers=MINE)


def is_clear(answer: httpx.Response) -> bool:
    """A success, or an error of the caller's in OpenAI's shape that says something."""
    if answer.status_code == 200:
        return True
    error = answer.json()["error"]
    return 400 <= answer.status_code < 500 and bool(error["message"]) and "type" in error


NONSENSE = [
    b"",
    b" ",
    b"{",
    b"[]",
    b"null",
    b'"text"',
    b"7",
    b'{"model": "m"',
    b'{"model": "m"} trailing',
    b"{'model': 'm'}",
    b'{"model": NaN, "messages": []}',
    b"\xff\xfe{\x00}\x00",
    b'{"model": "\xff"}',
    b'{"model": "\\ud800", "messages": []}',
    b"\xef\xbb\xbf{}",
    b"\x00" * 100,
    b"model=m&messages=x",
    b"[" * 300 + b"]" * 300,
    b'{"a":' * 300 + b"1" + b"}" * 300,
    b'{"a":' * 1_100 + b"1" + b"}" * 1_100,
    b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    b"[" * 100_000,
    b'{"model": "m", "messages": ' + b"[" * 1_100 + b"]" * 1_100 + b"}",
    b'{"model": "m", "messages": [{"role": "user", "content": ' + b"9" * 100_000 + b"}]}",
    b'{"model": "m", "seed": 1e999, "messages": [], "prompt": "", "input": ""}',
    b'{"model": "m", "seed": 123456789012345678901234567890, "messages": [], "input": [1]}',
    b'{"model": "m", "model": "n", "messages": [], "prompt": "a", "input": "b"}',
    b'{"messages": [], "messages": {}, "model": 1, "prompt": {}, "input": {}}',
    b'{"model": "' + b"m" * 1_000_000 + b'", "messages": [], "input": "x", "prompt": "y"}',
]


@pytest.mark.parametrize("path", PATHS)
async def test_nonsense(
    proxy: StartProxy,
    provider: FakeProvider,
    client: httpx.AsyncClient,
    path: str,
    no_traceback: Callable[[], None],
) -> None:
    """It is refused by the proxy, or goes to the provider as it came and is refused there."""
    live = await proxy()
    await stored(client, live)
    provider.always = REFUSAL
    for body in NONSENSE:
        before = len(provider.calls)
        answer = await client.post(live.origin + path, content=body, headers=MINE)
        assert is_clear(answer), body[:80]
        for call in provider.calls[before:]:
            assert orjson.loads(call.body) == orjson.loads(body)
    await still_a_hit(client, live)
    assert await live.stored() == 1
    no_traceback()


WRONG: list[Any] = [None, True, 0, -1, 1.5, 10**15, "", "x", [], {}, [None], [[]], [{}], {"": None}]


@pytest.mark.parametrize("path", PATHS)
async def test_wrong_types_of_every_field(
    proxy: StartProxy,
    provider: FakeProvider,
    client: httpx.AsyncClient,
    path: str,
    no_traceback: Callable[[], None],
) -> None:
    """Each known field with each wrong value, at the top and inside of messages."""
    live = await proxy()
    await stored(client, live)
    provider.always = REFUSAL
    bodies = [VALID[path] | {name: wrong} for name in VALID[path] for wrong in WRONG]
    if "messages" in VALID[path]:
        parts = (
            "role",
            "content",
            "name",
            "tool_calls",
            "tool_call_id",
            "refusal",
            "function_call",
        )
        message = {"role": "user", "content": "x"}
        bodies += [
            {"model": "m", "messages": [message | {part: wrong}]}
            for part in parts
            for wrong in WRONG
        ]
        bodies += [
            {"model": "m", "messages": [{"role": "user", "content": [{"type": kind, kind: wrong}]}]}
            for kind in ("text", "image_url", "input_audio", "file", "unknown")
            for wrong in WRONG
        ]
    for some in (bodies[start : start + 20] for start in range(0, len(bodies), 20)):
        told = await asyncio.gather(
            *(client.post(live.origin + path, json=body, headers=MINE) for body in some)
        )
        assert [body for body, each in zip(some, told, strict=True) if not is_clear(each)] == []
    await still_a_hit(client, live)
    assert await live.stored() == 1
    no_traceback()


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ("GET /nobody/v1/models", 404),
        ("POST /chat/completions", 404),
        ("GET /", 404),
        ("GET /v1/../admin", 400),
        ("GET /v1/%2e%2e/admin", 400),
        ("GET /v1/..%2fadmin", 400),
        ("GET /v1/a\\..\\b", 400),
        ("GET /v1/models%00", 400),
        ("GET /v1/models/\x00", 400),
        ("GET /v1/models/\xff", 400),
        ("GET /v1/models?a=\xff", 400),
        ("GET /v1/models#fragment", 200),
        ("GET //v1/models", 404),
        ("GET v1/models", 400),
        ("GET http://elsewhere.test/v1/models", 200),
        ("GET http://elsewhere.test", 400),
        ("CONNECT elsewhere.test:443", 400),
        ("OPTIONS *", 400),
        ("GET /~ttl=soon/v1/models", 400),
        ("GET /~/v1/models", 200),
        ("GET /~ttl=60", 404),
        ("TRACE /v1/models", 200),
        ("BREW /v1/models", 400),
        ("PRI *", 400),
    ],
)
async def test_targets(
    proxy: StartProxy,
    provider: FakeProvider,
    connect: Connect,
    line: str,
    status: int,
    no_traceback: Callable[[], None],
) -> None:
    """Paths that lead nowhere, or out of their place, are refused in words; others go on."""
    live = await proxy()
    raw = await connect(live.origin)
    await raw.send(f"{line} HTTP/1.1\r\n", {"host": "h"})
    assert await raw.head() == status
    told = orjson.loads((await raw.rest()).body)
    if status == 200:
        assert provider.calls[0].target == "/v1/models"
    else:
        assert told["error"]["message"]
        assert told["error"]["type"] == "llm_cache_proxy_error"
        assert not provider.calls
    no_traceback()


@pytest.mark.parametrize(
    "head",
    [
        b"GET /v1/models HTTP/9.9\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\nno colon\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\nx : y\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\n\x00: y\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\nx: a\x00b\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\nx: a\rb\r\n\r\n",
        b"POST /v1/files HTTP/1.1\r\ncontent-length: -1\r\n\r\n",
        b"POST /v1/files HTTP/1.1\r\ncontent-length: 1, 2\r\n\r\nx",
        b"POST /v1/files HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nx",
        b"POST /v1/files HTTP/1.1\r\ncontent-length: 99999999999999999999\r\n\r\nx",
        b"POST /v1/files HTTP/1.1\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n",
        b"POST /v1/files HTTP/1.1\r\ntransfer-encoding: gzip\r\n\r\nx",
        b"POST /v1/chat/completions HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
)
async def test_heads(
    proxy: StartProxy,
    provider: FakeProvider,
    connect: Connect,
    head: bytes,
    no_traceback: Callable[[], None],
) -> None:
    """What is no request, or frames its body in two ways, is refused and ends the connection."""
    live = await proxy()
    raw = await connect(live.origin)
    await raw.send_bytes(head)
    assert await raw.head() == 400
    assert raw.headers["connection"] == "close"
    error = orjson.loads((await raw.rest()).body)["error"]
    assert error["message"]
    assert error["type"] == "llm_cache_proxy_error"
    assert not provider.calls
    no_traceback()


async def test_headers(
    proxy: StartProxy,
    provider: FakeProvider,
    connect: Connect,
    no_traceback: Callable[[], None],
) -> None:
    """Odd headers harm nobody: two Hosts, none, raw bytes, two credentials, a thousand of them."""
    live = await proxy()
    body = orjson.dumps(asking())
    odd = [
        b"host: a\r\nhost: b",
        b"",
        b"host: \xff\xfe\r\nx-\xe4: \xe4",
        b"host: a\r\nauthorization: Bearer a\r\nauthorization: Bearer b\r\napi-key: c",
        b"host: a\r\n" + b"\r\n".join(b"x-%d: y" % number for number in range(1000)),
        b"host: a\r\ncache-control: max-age=-1, \xff, no-cache=x, =, ,,,\r\ncache-control: a=b=c",
        b"host: a\r\naccept: \x80\r\ncontent-type: \x80",
    ]
    for lines in odd:
        raw = await connect(live.origin)
        length = b"\r\ncontent-length: %d\r\n\r\n" % len(body)
        await raw.send_bytes(b"POST %b HTTP/1.1\r\n" % PATH.encode() + lines + length + body)
        status = await raw.head()
        ending = await raw.rest()
        assert ending.complete
        assert status == 200 or orjson.loads(ending.body)["error"]["message"], lines
        assert status in (200, 400, 431), lines
    no_traceback()


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.text(st.characters(exclude_categories=["Cs"]), max_size=8), inner, max_size=4
        )
    ),
    max_leaves=12,
)
FIELDS = sorted({name for body in VALID.values() for name in body})
BODIES = st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=6)


async def sent_all(
    proxy: StartProxy,
    provider: FakeProvider,
    client: httpx.AsyncClient,
    bodies: list[tuple[str, bytes]],
) -> None:
    """Send all of them, hold each answer to `is_clear`, and see that a hit is still one."""
    live = await proxy()
    await stored(client, live)
    provider.always = REFUSAL
    for path, body in bodies:
        answer = await client.post(live.origin + path, content=body, headers=MINE)
        assert is_clear(answer), (path, body, answer.content)
    await still_a_hit(client, live)


def drawn(strategy: st.SearchStrategy[Any], examples: int) -> list[Any]:
    """Examples of a strategy, the same each time: an async test cannot be `given` them."""
    gathered: list[Any] = []

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def gather(example: Any) -> None:
        gathered.append(example)

    gather()
    return gathered


@st.composite
def mutated(draw: st.DrawFn) -> tuple[str, bytes]:
    """A valid body with some bytes changed, lost, doubled or swapped."""
    path = draw(st.sampled_from(PATHS))
    body = bytearray(orjson.dumps(VALID[path]))
    for _ in range(draw(st.integers(1, 4))):
        at, until = sorted(draw(st.integers(0, len(body))) for _ in range(2))
        kind = draw(st.sampled_from(("lose", "double", "change")))
        if kind == "lose":
            del body[at : min(until, at + 20)]
        elif kind == "double":
            body[at:at] = body[at : min(until, at + 20)]
        else:
            body[at : at + 1] = draw(st.binary(min_size=1, max_size=3))
    return path, bytes(body)


async def test_any_json(
    proxy: StartProxy,
    provider: FakeProvider,
    client: httpx.AsyncClient,
    no_traceback: Callable[[], None],
) -> None:
    """Random values of known fields, on every path."""
    bodies = drawn(st.tuples(st.sampled_from(PATHS), st.one_of(BODIES, JSON)), 300)
    await sent_all(
        proxy, provider, client, [(path, json.dumps(body).encode()) for path, body in bodies]
    )
    no_traceback()


async def test_any_mutation(
    proxy: StartProxy,
    provider: FakeProvider,
    client: httpx.AsyncClient,
    no_traceback: Callable[[], None],
) -> None:
    """Random damage to valid bodies."""
    await sent_all(proxy, provider, client, drawn(mutated(), 300))
    no_traceback()
