"""Messages as Anthropic tells them, whole or as events, and requests for them as the tests send
them.

Written from the API reference and not from the proxy: `stream` is the second opinion on how any
message is told as events.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import orjson

from tests.fakes.oracle import WORDS, expected, pieces, tokens

PATH = "/v1/messages"
COUNT_PATH = "/v1/messages/count_tokens"

Message = dict[str, Any]
_Event = dict[str, Any]

_PADDED_TO = 16  # the provider pads its events with spaces, so that lengths tell less
_FRAGMENT = 9  # characters of a tool's input in one event
# The usage that is told again, and then as it is in the end, by `message_delta`.
_TOLD_AGAIN = (
    *("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens"),
    *("output_tokens", "output_tokens_details", "server_tool_use"),
)
_ERRORS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}


def asking(prompt: str = "Tell me a joke", **fields: Any) -> dict[str, Any]:
    """The body of a request; `stream=True` for events."""
    said = [{"role": "user", "content": prompt}]
    return {"model": "m", "max_tokens": 100, "messages": said, **fields}


def saying(
    *content: dict[str, Any],
    asked: dict[str, Any] | None = None,
    number: int = 1,
    **fields: Any,
) -> Message:
    """A whole message with this content, as it answers what was asked; `fields` replace others."""
    body = asked or asking()
    return {
        "id": f"msg_{number}",
        "type": "message",
        "role": "assistant",
        "model": f"{body.get('model')}-20260101",
        "content": list(content),
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": _usage(input_tokens(body), WORDS),
        **fields,
    }


def text(said: str, **fields: Any) -> dict[str, Any]:
    """A block of text."""
    return {"type": "text", "text": said, **fields}


def answer(asked: dict[str, Any], credential: str, path: str, number: int) -> Message:
    """What the oracle says; its id differs from call to call, as a provider's does."""
    said = expected(asked, credential=credential, path=path)
    return saying(text(said), asked=asked, number=number)


def count(asked: dict[str, Any], credential: str, path: str, number: int) -> dict[str, Any]:
    """The answer of `/messages/count_tokens`: what the message's usage would say."""
    return {"input_tokens": input_tokens(asked)}


def input_tokens(asked: dict[str, Any]) -> int:
    """What the fake provider bills for a request."""
    return sum(tokens(asked[name]) for name in ("system", "messages", "tools") if name in asked)


def told(asked: dict[str, Any], message: Message) -> list[bytes]:
    """The message as the events that this request gets."""
    return stream(message)


def stream(message: Message) -> list[bytes]:
    """A message of any kind as the events that stream it, each as one chunk."""
    return [event(each) for each in _events(message)]


def event(value: dict[str, Any]) -> bytes:
    """One event, as Anthropic writes it: named, and padded within the object's braces."""
    data = orjson.dumps(value)
    padding = b" " * (-len(data) % _PADDED_TO)
    return b"event: %b\ndata: %b%b}\n\n" % (value["type"].encode(), data[:-1], padding)


def error(told: dict[str, Any] | None, status: int, number: int) -> dict[str, Any]:
    """The body of a refusal; its `request_id` is the one of the header `request-id`."""
    default = {"type": _ERRORS.get(status, "api_error"), "message": f"status {status}"}
    return {"type": "error", "error": default | (told or {}), "request_id": f"req_{number}"}


def error_event(error: dict[str, Any], at: int) -> bytes:
    """The event in place of the last one when a message fails under way."""
    return event({"type": "error", "error": {"type": "overloaded_error", **error}})


def headers(number: int) -> dict[bytes, bytes]:
    """What Anthropic's answers have beside their body."""
    limits = {
        b"requests-limit": b"1000",
        b"requests-remaining": b"%d" % (1000 - number),
        b"requests-reset": b"2026-01-01T00:00:00Z",
        b"tokens-remaining": b"90000",
    }
    return {
        b"request-id": b"req_%d" % number,
        b"anthropic-organization-id": b"00000000-0000-4000-8000-000000000000",
        **{b"anthropic-ratelimit-" + name: value for name, value in limits.items()},
    }


def events(body: bytes) -> list[dict[str, Any]]:
    """The objects of a stream."""
    lines = body.splitlines()
    return [orjson.loads(line[6:]) for line in lines if line.startswith(b"data: {")]


def words(body: bytes) -> str:
    """All the text of an answer, told as JSON or as events."""
    if body.startswith(b"event: "):
        deltas = [each["delta"] for each in events(body) if each["type"] == "content_block_delta"]
        return "".join(each["text"] for each in deltas if each["type"] == "text_delta")
    blocks = orjson.loads(body)["content"]
    return "".join(block["text"] for block in blocks if block["type"] == "text")


def _usage(before: int, after: int) -> dict[str, Any]:
    return {
        "input_tokens": before,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
        "output_tokens": after,
        "service_tier": "standard",
    }


def _events(message: Message) -> Iterator[_Event]:
    yield {"type": "message_start", "message": _begun(message)}
    for at, block in enumerate(message["content"]):
        whole = _begun_block(block)
        yield {"type": "content_block_start", "index": at, "content_block": whole}
        if not at:
            yield {"type": "ping"}
        for delta in _deltas(block):
            yield {"type": "content_block_delta", "index": at, "delta": delta}
        yield {"type": "content_block_stop", "index": at}
    yield _ending(message)
    yield {"type": "message_stop"}


def _begun(message: Message) -> Message:
    usage = {name: value for name, value in message["usage"].items() if name not in _LATE}
    begun = {name: value for name, value in message.items() if name != "context_management"}
    none = {name: None for name in _CLOSING if name in message}
    return {**begun, "content": [], **none, "usage": {**usage, "output_tokens": 1}}


def _ending(message: Message) -> _Event:
    delta = {name: message[name] for name in _CLOSING if name in message}
    usage = {name: message["usage"][name] for name in _TOLD_AGAIN if name in message["usage"]}
    edits = {name: message[name] for name in ("context_management",) if name in message}
    return {"type": "message_delta", "delta": delta, "usage": usage, **edits}


_CLOSING = ("stop_reason", "stop_sequence", "stop_details", "container")  # told in the end
_LATE = ("output_tokens_details", "server_tool_use")  # usage that nobody knows at the start


def _begun_block(block: dict[str, Any]) -> dict[str, Any]:
    """A block of which nothing is said yet; one that has no deltas comes whole."""
    match block["type"]:
        case "text":
            return {**block, "text": "", **({"citations": []} if block.get("citations") else {})}
        case "thinking":
            return {**block, "thinking": "", "signature": ""}
        case "tool_use" | "server_tool_use" | "mcp_tool_use":
            return {**block, "input": {}}
    return block


def _deltas(block: dict[str, Any]) -> Iterator[dict[str, Any]]:
    match block["type"]:
        case "text":
            yield from ({"type": "text_delta", "text": each} for each in _said(block["text"]))
            for each in block.get("citations") or ():
                yield {"type": "citations_delta", "citation": each}
        case "thinking":
            for each in _said(block["thinking"]):
                yield {"type": "thinking_delta", "thinking": each}
            yield {"type": "signature_delta", "signature": block["signature"]}
        case "tool_use" | "server_tool_use" | "mcp_tool_use":
            for each in _fragments(block["input"]):
                yield {"type": "input_json_delta", "partial_json": each}


def _said(value: str) -> list[str]:
    return [each for each in pieces(value) if each]


def _fragments(value: dict[str, Any]) -> list[str]:
    """A tool's input as it is written: first nothing, and no more than that for no input."""
    written = json.dumps(value, ensure_ascii=False) if value else ""
    return ["", *(written[at : at + _FRAGMENT] for at in range(0, len(written), _FRAGMENT))]
