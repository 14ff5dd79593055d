"""What is asked and answered in all measurements, as bytes on the wire."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import count, cycle
from typing import NamedTuple

REQUEST_BYTES = 700
ANSWER_BYTES = 1000
PATH = "/v1/chat/completions"
MODEL = "gpt-4.1-mini"

# What no client leaves out.
PLAIN = (
    "Host: 127.0.0.1",
    "Accept: application/json",
    "Content-Type: application/json",
    "User-Agent: OpenAI/Python 3.51.0",
    "Authorization: Bearer sk-benchmark",
)
# With Content-Length the twenty that OpenAI's Python client can send.
SDK = (
    *PLAIN,
    "Accept-Encoding: gzip, deflate",
    "Connection: keep-alive",
    "OpenAI-Organization: org-benchmark",
    "OpenAI-Project: proj_benchmark",
    "OpenAI-Beta: assistants=v2",
    "X-Stainless-Lang: python",
    "X-Stainless-Package-Version: 3.51.0",
    "X-Stainless-OS: Linux",
    "X-Stainless-Arch: x64",
    "X-Stainless-Runtime: CPython",
    "X-Stainless-Runtime-Version: 3.11.7",
    "X-Stainless-Async: async:asyncio",
    "X-Stainless-Retry-Count: 0",
    "X-Stainless-Read-Timeout: 600",
)
_NUMBER = "000000000"
_PIECE = 24
_TALK = "Tell me, in a few words, what the reports of the last 12 months (all of them) have said; "

NextRequest = Callable[[], bytes]


class Asking(NamedTuple):
    """Requests that differ in a number of nine digits only: `different` of them, or all (0)."""

    model: str
    before: bytes
    after: bytes
    different: int

    def request(self, number: int) -> bytes:
        return b"%b%09d%b" % (self.before, number, self.after)

    def word(self, number: int) -> bytes:
        """What the answer to this request has in it, and that to no other."""
        _, _, name = self.before.rpartition(b'"')
        return b"%b%09d" % (name, number)

    def following(self) -> NextRequest:
        """The same over and over, in turn; or a new one each time."""
        if not self.different:
            numbers = count()
            return lambda: self.request(next(numbers))
        every = cycle([self.request(number) for number in range(self.different)])
        return lambda: next(every)


def asking(
    name: str,
    different: int = 1,
    *,
    size: int = REQUEST_BYTES,
    headers: tuple[str, ...] = PLAIN,
    model: str = MODEL,
    **fields: object,
) -> Asking:
    """Requests with bodies of `size` bytes. The model tells the provider what to answer.

    "answer:BYTES:SECONDS" is an answer of a size, after a while; "stream:CHUNKS:SECONDS" a stream
    with as many pauses.
    """
    sent = request(f"{name}-{_NUMBER}", size=size, headers=headers, model=model, **fields)
    before, _, after = sent.partition(_NUMBER.encode())
    return Asking(model, before, after, different)


def request(
    prompt: str,
    *,
    size: int = REQUEST_BYTES,
    headers: tuple[str, ...] = PLAIN,
    model: str = MODEL,
    **fields: object,
) -> bytes:
    """A whole request; the prompt is made as long as the body's size asks for."""
    missing = size - len(_body(f"{prompt} ", model, fields))
    talk = (_TALK * (1 + missing // len(_TALK)))[:missing] if missing > 0 else ""
    body = _body(f"{prompt} {talk}", model, fields)
    lines = (f"POST {PATH} HTTP/1.1", *headers, f"Content-Length: {len(body)}", "", "")
    return "\r\n".join(lines).encode() + body


def word_of(body: bytes) -> bytes:
    """The first word of the prompt of a request."""
    begin = body.find(b'"role":"user","content":"') + 25
    return body[begin : body.find(b" ", begin)]


def answer(word: str, size: int = ANSWER_BYTES) -> bytes:
    """A chat completion that begins with this word."""
    missing = size - len(_completion(f"{word} "))
    return _completion(f"{word} " + "a" * missing)


def whole(model: str, word: str) -> bytes:
    """The body of an answer, also of one that is streamed."""
    what, *numbers = model.split(":")
    if what == "stream":
        return b"".join(events(word, int(numbers[0]), usage=False))
    return answer(word, int(numbers[0]) if numbers else ANSWER_BYTES)


def stream_request(prompt: str, chunks: int, interval_s: float) -> bytes:
    return request(prompt, model=f"stream:{chunks}:{interval_s}", stream=True)


def events(prompt: str, chunks: int, *, usage: bool) -> Iterator[bytes]:
    """The events of a streamed answer; each repeats the prompt, so that a mix-up shows."""
    none = {"usage": None} if usage else {}
    yield _event({"role": "assistant", "content": ""}, None, none)
    for number in range(chunks):
        yield _event({"content": piece(prompt, number)}, None, none)
    yield _event({}, "stop", none)
    if usage:
        yield _data({**_chunk_head(), "choices": [], "usage": _usage()})
    yield b"data: [DONE]\n\n"


def piece(prompt: str, number: int) -> str:
    """What a chunk says: as much as the proxy puts into one, so that a hit has as many chunks."""
    return f"{prompt} {number} ".ljust(_PIECE, ".")


def _body(prompt: str, model: str, fields: dict[str, object]) -> bytes:
    asked = {
        "model": model,
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
        "model": "gpt-4.1-mini-2025-04-14",
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}],
        "usage": _usage(),
        "service_tier": "default",
        "system_fingerprint": "fp_benchmark",
    }
    return json.dumps(told, separators=(",", ":")).encode()


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
        "model": "gpt-4.1-mini-2025-04-14",
    }


def _data(value: dict[str, object]) -> bytes:
    return b"data: " + json.dumps(value, separators=(",", ":")).encode() + b"\n\n"
