"""How Anthropic tells a message as events: written from the API reference, not from the proxy."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import orjson

from tests.fakes.oracle import pieces

_Event = dict[str, Any]

_PADDED_TO = 16  # spaces within the braces round the length of an event up, so that it tells less
_FRAGMENT = 7  # characters of a tool's input in one event
# What is known, and told, in the end only.
_CLOSING = ("stop_reason", "stop_sequence", "stop_details", "container")
_CLOSING_USAGE = ("output_tokens_details", "server_tool_use")
_CLOSING_BESIDE = ("context_management",)
# The usage that is told again in the end, as sums of all that was used.
_SUMS = (
    *("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens", "output_tokens"),
    *_CLOSING_USAGE,
)


def stream(message: dict[str, Any]) -> list[bytes]:
    """A message of any kind as the events that stream it, each as one chunk."""
    return [event(each) for each in _events(message)]


def event(value: dict[str, Any]) -> bytes:
    """One event, as Anthropic writes it: named like its object."""
    data = orjson.dumps(value)
    padding = b" " * (-len(data) % _PADDED_TO)
    return b"event: %b\ndata: %b%b}\n\n" % (value["type"].encode(), data[:-1], padding)


def error_event(error: dict[str, Any], at: int) -> bytes:
    """The event in place of the last one when a message fails under way."""
    return event({"type": "error", "error": {"type": "overloaded_error", **error}})


def _events(message: dict[str, Any]) -> Iterator[_Event]:
    yield {"type": "message_start", "message": _begun(message)}
    for at, block in enumerate(message["content"]):
        yield {"type": "content_block_start", "index": at, "content_block": _begun_block(block)}
        if not at:
            yield {"type": "ping"}
        for delta in _deltas(block):
            yield {"type": "content_block_delta", "index": at, "delta": delta}
        yield {"type": "content_block_stop", "index": at}
    yield {
        "type": "message_delta",
        "delta": _only(_CLOSING, message),
        "usage": _only(_SUMS, message["usage"]),
        **_only(_CLOSING_BESIDE, message),
    }
    yield {"type": "message_stop"}


def _begun(message: dict[str, Any]) -> dict[str, Any]:
    begun = {name: value for name, value in message.items() if name not in _CLOSING_BESIDE}
    none = dict.fromkeys(_only(_CLOSING, message))
    usage = {name: each for name, each in message["usage"].items() if name not in _CLOSING_USAGE}
    return {**begun, "content": [], **none, "usage": {**usage, "output_tokens": 1}}


def _begun_block(block: dict[str, Any]) -> dict[str, Any]:
    """A block of which nothing is said yet; one of a kind that is not told in parts is whole."""
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
    """A tool's input as it is written: nothing at first, and nothing more where there is none."""
    written = json.dumps(value, ensure_ascii=False) if value else ""
    return ["", *(written[at : at + _FRAGMENT] for at in range(0, len(written), _FRAGMENT))]


def _only(names: tuple[str, ...], value: dict[str, Any]) -> dict[str, Any]:
    return {name: value[name] for name in names if name in value}
