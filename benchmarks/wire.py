"""What is asked and answered in all measurements, as bytes on the wire."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

REQUEST_BYTES = 700
ANSWER_BYTES = 1000
PATH = "/v1/chat/completions"

# An SDK's headers; a proxy that forgets some of them is not faster for it.
_HEAD = (
    f"POST {PATH} HTTP/1.1\r\n"
    "Host: 127.0.0.1\r\n"
    "Accept: application/json\r\n"
    "Accept-Encoding: gzip, deflate\r\n"
    "Content-Type: application/json\r\n"
    "User-Agent: OpenAI/Python 3.51.0\r\n"
    "X-Stainless-Lang: python\r\n"
    "X-Stainless-Retry-Count: 0\r\n"
    "Authorization: Bearer sk-benchmark\r\n"
    "Content-Length: {length}\r\n\r\n"
)

NextRequest = Callable[[], bytes]


def request(prompt: str, **fields: object) -> bytes:
    """A whole request of about 700 bytes of body."""
    body = _body(prompt, fields)
    body = _body(prompt + "." * (REQUEST_BYTES - len(body)), fields)
    return _HEAD.format(length=len(body)).encode() + body


def in_turn(prompts: int) -> NextRequest:
    """The same questions over and over."""
    requests = [request(f"question {number} ") for number in range(prompts)]
    position = -1

    def following() -> bytes:
        nonlocal position
        position = (position + 1) % prompts
        return requests[position]

    return following


def never_twice(name: str) -> NextRequest:
    """A new question each time."""
    head, _, tail = request(f"{name} {0:010}").partition(b"0000000000")
    number = 0

    def following() -> bytes:
        nonlocal number
        number += 1
        return b"%b%010d%b" % (head, number, tail)

    return following


def answer() -> bytes:
    """A chat completion of about 1 kB."""
    body = _completion("")
    return _completion("a" * (ANSWER_BYTES - len(body)))


def stream_request(prompt: str, chunks: int, interval_s: float) -> bytes:
    """A request for a stream; the model's name tells the provider how to stream."""
    return request(f"{prompt} ", model=f"stream:{chunks}:{interval_s}", stream=True)


def events(prompt: str, chunks: int, *, usage: bool) -> Iterator[bytes]:
    """The events of a streamed answer; each repeats the prompt, so that a mix-up shows."""
    none = {"usage": None} if usage else {}
    for number in range(chunks):
        yield _event({"content": f"{prompt} {number} "}, None, none)
    yield _event({}, "stop", none)
    if usage:
        yield _data({**_chunk_head(), "choices": [], "usage": _usage()})
    yield b"data: [DONE]\n\n"


def _body(prompt: str, fields: dict[str, object]) -> bytes:
    asked = {
        "model": "gpt-5-mini",
        "messages": [
            {"role": "system", "content": "You are a helpful assistant."},
            {"role": "user", "content": prompt},
        ],
        "temperature": 0.7,
        **fields,
    }
    return json.dumps(asked, separators=(",", ":")).encode()  # as OpenAI's clients write it


def _completion(text: str) -> bytes:
    message: dict[str, object] = {"role": "assistant", "content": text, "refusal": None}
    told = {
        "id": "chatcmpl-benchmark",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": "gpt-5-mini-2026-01-01",
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}],
        "usage": _usage(),
        "service_tier": "default",
        "system_fingerprint": "fp_benchmark",
    }
    return json.dumps(told).encode()


def _usage() -> dict[str, int]:
    return {"prompt_tokens": 170, "completion_tokens": 150, "total_tokens": 320}


def _event(delta: dict[str, str], reason: str | None, more: dict[str, None]) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": reason}
    return _data({**_chunk_head(), "choices": [choice], **more})


def _chunk_head() -> dict[str, object]:
    return {
        "id": "chatcmpl-benchmark",
        "object": "chat.completion.chunk",
        "created": 1_700_000_000,
        "model": "gpt-5-mini-2026-01-01",
    }


def _data(value: dict[str, object]) -> bytes:
    return b"data: " + json.dumps(value, separators=(",", ":")).encode() + b"\n\n"
