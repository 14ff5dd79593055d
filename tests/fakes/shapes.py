"""Requests as clients, and others, put them into bytes; and the ways in which those may arrive."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, NamedTuple

import orjson

from tests.fakes.chat import PATH, asking

# What may follow any of them: its answer is the last on the connection.
LAST = b"GET /nowhere HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n"

SDK = {
    "accept": "application/json",
    "accept-encoding": "gzip, deflate",
    "connection": "keep-alive",
    "user-agent": "OpenAI/Python 2.0.0",
    "x-stainless-arch": "x64",
    "x-stainless-async": "false",
    "x-stainless-lang": "python",
    "x-stainless-os": "Linux",
    "x-stainless-package-version": "2.0.0",
    "x-stainless-read-timeout": "600",
    "x-stainless-retry-count": "0",
    "x-stainless-runtime": "CPython",
    "x-stainless-runtime-version": "3.11.7",
}


class Shape(NamedTuple):
    """A request. `repeats`: may it be answered from the lane once it has been, and was it so
    here? `None`: it may be or not."""

    name: str
    raw: bytes
    repeats: bool | None = False


def post(
    body: bytes | None = None,
    *,
    path: str = PATH,
    method: str = "POST",
    version: str = "1.1",
    **headers: str | None,
) -> bytes:
    """A request; `None` leaves a header out, `_` in a name stands for `-`."""
    body = orjson.dumps(asking("hi")) if body is None else body
    told: dict[str, str | None] = {
        "host": "h",
        "authorization": "Bearer mine",
        "content-type": "application/json",
        "content-length": str(len(body)),
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    lines = [f"{name}: {value}\r\n" for name, value in told.items() if value is not None]
    return f"{method} {path} HTTP/{version}\r\n{''.join(lines)}\r\n".encode() + body


def chunked(body: bytes) -> bytes:
    return b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)


def _chat(prompt: str = "hi", **fields: Any) -> bytes:
    return orjson.dumps(asking(prompt, **fields))


def _line(raw: bytes, old: bytes, new: bytes) -> bytes:
    assert old in raw
    return raw.replace(old, new, 1)


HI = _chat()
_INPUTS = orjson.dumps({"model": "e", "input": ["one", "two", "three"]})

SHAPES = (
    Shape("plain", post(), True),
    Shape("headers of an SDK", post(**SDK), True),
    Shape("another body", post(_chat("two")), True),
    Shape("a long body", post(_chat("x" * 3000)), True),
    Shape("spaces in the body", post(b" " + HI + b"\n"), True),
    Shape("beyond ASCII", post(_chat("grüß dich")), True),
    Shape("events", post(_chat(stream=True)), True),
    Shape(
        "events with usage", post(_chat(stream=True, stream_options={"include_usage": True})), True
    ),
    Shape("two choices", post(_chat(n=2)), True),
    Shape("seed", post(_chat(seed=7)), True),
    Shape("what is echoed", post(_chat(metadata={"run": "7"})), True),
    Shape("embeddings", post(_INPUTS, path="/v1/embeddings"), True),
    Shape("responses", post(b'{"model":"m","input":"hi"}', path="/v1/responses"), None),
    Shape("completions", post(b'{"model":"m","prompt":"hi"}', path="/v1/completions"), True),
    Shape("another caller", post(authorization="Bearer yours"), True),
    Shape("a query", post(path=f"{PATH}?api-version=1"), True),
    Shape("directives in the path", post(path=f"/~namespace=a{PATH}"), True),
    Shape("keep-alive", post(connection="Keep-Alive"), True),
    Shape("capitals", _line(post(), b"content-length", b"Content-Length"), True),
    Shape("no space after colons", post().replace(b": ", b":", 4), True),
    Shape("a namespace", post(llm_cache_control="namespace=b"), True),
    Shape("QUERY", post(method="QUERY"), True),
    Shape("no-cache", post(cache_control="no-cache")),
    Shape("no-store", post(cache_control="no-store")),
    Shape("max-age", post(cache_control="max-age=100")),
    Shape("min-fresh", post(cache_control="min-fresh=10")),
    Shape("max-stale", post(cache_control="max-stale")),
    Shape("only-if-cached", post(cache_control="only-if-cached")),
    Shape("only-if-cached, not stored", post(_chat("never"), cache_control="only-if-cached")),
    Shape("a control that is wrong", post(llm_cache_control="nonsense")),
    Shape("a sample", post(llm_cache_control="sample=2"), True),
    Shape("close", post(connection="close")),
    Shape("HTTP/1.0", post(version="1.0")),
    Shape("HTTP/1.0 keep-alive", post(version="1.0", connection="keep-alive")),
    Shape("chunks", post(b"", content_length=None, transfer_encoding="chunked") + chunked(HI)),
    Shape("expectation", post(expect="100-continue")),
    Shape("an offer of HTTP/2", post(connection="Upgrade, HTTP2-Settings", upgrade="h2c")),
    Shape("trailers", post(te="trailers")),
    Shape("compressed", post(content_encoding="gzip")),
    Shape("line ends before it", b"\r\n\r\n" + post()),
    Shape("absolute target", post(path=f"http://h{PATH}")),
    Shape("GET", post(b"", method="GET", path="/v1/models", content_length=None)),
    Shape("HEAD", post(b"", method="HEAD", path="/v1/models", content_length=None)),
    Shape("no body", post(b"")),
    Shape("no JSON", post(b"{")),
    Shape("two lengths", _line(post(), b"host: h\r\n", b"host: h\r\ncontent-length: 1\r\n")),
    Shape("length and chunks", post(transfer_encoding="chunked")),
    Shape("two hosts", _line(post(), b"host: h\r\n", b"host: h\r\nhost: g\r\n")),
    Shape("no host", post(host=None)),
    Shape("a folded line", _line(post(), b"host: h\r\n", b"host: h\r\nx-folded: a\r\n b\r\n")),
    Shape("bare line feeds", post().replace(b"\r\n", b"\n")),
    Shape("no HTTP", b"nonsense\r\n\r\n"),
)


def _random(raw: bytes) -> list[bytes]:
    dice = random.Random(raw)
    ends = sorted(dice.randrange(1, len(raw)) for _ in range(5))
    return [raw[start:end] for start, end in zip([0, *ends], [*ends, len(raw)], strict=True)]


def _head_and_body(raw: bytes) -> list[bytes]:
    head, end, body = raw.partition(b"\r\n\r\n")
    return [head + end, body]


CUTTINGS: dict[str, Callable[[bytes], list[bytes]]] = {
    "whole": lambda raw: [raw, LAST],
    "bytes": lambda raw: [*(raw[at : at + 1] for at in range(len(raw))), LAST],
    "head and body": lambda raw: [*_head_and_body(raw), LAST],
    "random": lambda raw: [*_random(raw), LAST],
    "pipelined": lambda raw: [raw * 3 + LAST],
}
