"""What FakeProvider says: a keyed hash of what was asked, so that every wrong hit and leak shows.

A test that knows the request and the credential knows the answer. How a request is told apart from
another is written here anew, and not taken from the proxy: `stream` and `stream_options` say how
to tell the answer, and the order of the top level's fields says nothing. Of what `/responses` and
`/messages` take, the same holds for the fields by which their references change nobody's words.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import struct
from collections.abc import Iterator
from typing import Any

import orjson

_SECRET = b"known to the fake provider and the tests"
_HOW_IT_IS_TOLD = ("stream", "stream_options")
# Who asks and for what, what it costs, and where a prompt's beginning is kept ready.
_BESIDE_THE_POINT = {
    "/responses": (
        *("user", "safety_identifier", "metadata", "store", "service_tier"),
        *("prompt_cache_key", "prompt_cache_retention", "prompt_cache_options"),
    ),
    "/messages": ("metadata", "service_tier", "cache_control"),
}
_MARKED = ("system", "messages", "tools", "input")  # the fields in which a prompt is marked
_MARKS = ("cache_control", "prompt_cache_breakpoint")
_OPAQUE = ("input", "input_schema", "parameters")  # below the marked ones: a tool's own words
WORDS = 12
_DIMENSIONS = 8


def expected(
    body: bytes | dict[str, Any],
    *,
    credential: str = "",
    path: str = "/v1/chat/completions",
    choice: int = 0,
) -> str:
    """The text that answers this body, sent with this credential (a header's value)."""
    asked = _to_the_point(orjson.loads(body) if isinstance(body, bytes) else body, path)
    digest = _digest(_levelled(asked), credential.encode(), path.encode(), b"%d" % choice)
    return " ".join(digest[at : at + 2].hex() for at in range(0, 2 * WORDS, 2))


def expected_vector(item: Any, body: dict[str, Any], *, credential: str = "") -> list[float]:
    """The embedding of one input, whatever else is in the batch. Its numbers fit a float32."""
    rest = {name: body[name] for name in body if name not in ("input", "encoding_format")}
    digest = _digest(orjson.dumps(item), _levelled(rest), credential.encode())
    return [byte / 128 - 1 for byte in digest[:_DIMENSIONS]]


def tokens(value: Any) -> int:
    """What the fake provider bills for a text, a list of token ids, or anything else."""
    if isinstance(value, list):
        return len(value)
    return len(value.split()) if isinstance(value, str) else len(orjson.dumps(value)) // 4


def chat_answer(body: dict[str, Any], credential: str, path: str, number: int) -> dict[str, Any]:
    """A chat completion; its id and time differ from call to call, as a provider's do."""
    return {
        "id": f"chatcmpl-{number}",
        "object": "chat.completion",
        "created": 1_700_000_000 + number,
        "model": f"{body.get('model')}-2026-01-01",
        "choices": [
            {
                "index": choice,
                "message": {
                    "role": "assistant",
                    "content": expected(body, credential=credential, path=path, choice=choice),
                    "refusal": None,
                },
                "logprobs": None,
                "finish_reason": "stop",
            }
            for choice in range(body.get("n") or 1)
        ],
        "usage": _usage(tokens(body.get("messages")), WORDS * (body.get("n") or 1)),
        "system_fingerprint": "fp_fake",
    }


def chat_chunks(answer: dict[str, Any], *, usage: bool) -> Iterator[dict[str, Any]]:
    """The chunks that stream a chat completion of texts, a word at a time."""
    for choice in answer["choices"]:
        role: dict[str, Any] = {"role": "assistant", "content": ""}
        yield _chunk(answer, usage, choice["index"], role)
        for piece in pieces(choice["message"]["content"]):
            yield _chunk(answer, usage, choice["index"], {"content": piece})
        yield _chunk(answer, usage, choice["index"], {}, choice["finish_reason"])
    if usage:
        yield {**_chunk_head(answer), "choices": [], "usage": answer["usage"]}


def completion_answer(
    body: dict[str, Any], credential: str, path: str, number: int
) -> dict[str, Any]:
    """A text completion: `n` choices for each prompt of a list."""
    prompt = body.get("prompt")
    prompts = len(prompt) if isinstance(prompt, list) and isinstance(prompt[0], str | list) else 1
    choices = prompts * (body.get("n") or 1)
    return {
        "id": f"cmpl-{number}",
        "object": "text_completion",
        "created": 1_700_000_000 + number,
        "model": f"{body.get('model')}-2026-01-01",
        "choices": [
            {
                "text": expected(body, credential=credential, path=path, choice=choice),
                "index": choice,
                "logprobs": None,
                "finish_reason": "stop",
            }
            for choice in range(choices)
        ],
        "usage": _usage(tokens(prompt), WORDS * choices),
    }


def completion_chunks(answer: dict[str, Any], *, usage: bool) -> Iterator[dict[str, Any]]:
    """The chunks that stream a text completion, a word at a time."""
    head = {name: answer[name] for name in ("id", "object", "created", "model")}
    none = {"usage": None} if usage else {}
    for choice in answer["choices"]:
        for piece in pieces(choice["text"]):
            told = {**choice, "text": piece, "finish_reason": None}
            yield {**head, "choices": [told], **none}
        yield {**head, "choices": [{**choice, "text": ""}], **none}
    if usage:
        yield {**head, "choices": [], "usage": answer["usage"]}


def embeddings_answer(body: dict[str, Any], credential: str) -> dict[str, Any]:
    """Embeddings for every input, as floats or base64."""
    items = embedding_inputs(body.get("input"))
    vectors = [expected_vector(item, body, credential=credential) for item in items]
    told = [_base64(each) for each in vectors] if _wants_base64(body) else vectors
    total = sum(tokens(item) for item in items)
    return {
        "object": "list",
        "data": [
            {"object": "embedding", "index": at, "embedding": vector}
            for at, vector in enumerate(told)
        ],
        "model": body.get("model"),
        "usage": {"prompt_tokens": total, "total_tokens": total},
    }


def embedding_inputs(value: Any) -> list[Any]:
    """The inputs of a batch: a list of numbers is one input."""
    if isinstance(value, list) and value and isinstance(value[0], str | list):
        return value
    return [value]


def event(value: dict[str, Any] | str) -> bytes:
    """One event of a stream, as OpenAI writes it."""
    return b"data: " + (value.encode() if isinstance(value, str) else orjson.dumps(value)) + b"\n\n"


def events(body: bytes) -> list[dict[str, Any]]:
    """The objects of a stream, without `[DONE]`."""
    lines = body.split(b"\n")
    return [orjson.loads(line[6:]) for line in lines if line.startswith(b"data: {")]


def _digest(*parts: bytes) -> bytes:
    message = b"".join(b"%d:%b" % (len(part), part) for part in parts)
    return hmac.digest(_SECRET, message, hashlib.sha256)


def _levelled(body: dict[str, Any]) -> bytes:
    asked = {name: body[name] for name in sorted(body) if name not in _HOW_IT_IS_TOLD}
    return orjson.dumps(asked)


def _to_the_point(body: dict[str, Any], path: str) -> dict[str, Any]:
    """The body without what says nothing; of chat all counts."""
    beside = next((_BESIDE_THE_POINT[end] for end in _BESIDE_THE_POINT if path.endswith(end)), None)
    if beside is None:
        return body
    return {
        name: _unmarked(value) if name in _MARKED else value
        for name, value in body.items()
        if name not in beside
    }


def _unmarked(value: Any) -> Any:
    if isinstance(value, list):
        return [_unmarked(each) for each in value]
    if not isinstance(value, dict):
        return value
    return {
        name: each if name in _OPAQUE else _unmarked(each)
        for name, each in value.items()
        if name not in _MARKS
    }


def pieces(text: str) -> list[str]:
    """A text as its words, which join to it."""
    words = text.split(" ")
    return [words[0], *(f" {word}" for word in words[1:])]


def _chunk_head(answer: dict[str, Any]) -> dict[str, Any]:
    names = ("id", "created", "model", "system_fingerprint")
    return {**{name: answer[name] for name in names}, "object": "chat.completion.chunk"}


def _chunk(
    answer: dict[str, Any],
    usage: bool,
    index: int,
    delta: dict[str, Any],
    finish_reason: str | None = None,
) -> dict[str, Any]:
    choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
    none = {"usage": None} if usage else {}
    return {**_chunk_head(answer), "choices": [choice], **none}


def _usage(prompt: int, completion: int) -> dict[str, Any]:
    total = prompt + completion
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": total}


def _wants_base64(body: dict[str, Any]) -> bool:
    return body.get("encoding_format") == "base64"


def _base64(vector: list[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
