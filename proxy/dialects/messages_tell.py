"""A message told as a stream: the body taken apart to events.

Source: Anthropic's API reference, "Streaming Messages". Merging the events again gives the body.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import orjson

from proxy import sse

# A text is told in pieces of this size: about five words.
PIECE_CHARS = 24

_Event = dict[str, Any]

# What nobody knows before the message has ended, and how the last event tells it.
_CLOSING = frozenset(
    {"stop_reason", "stop_sequence", "stop_details", "container", "safeguard_results"}
)
_BESIDE = frozenset({"context_management"})
# The usage that the last event tells; what of it the first does not tell.
_COUNTED = frozenset(
    {
        "cache_creation_input_tokens",
        "cache_read_input_tokens",
        "fallback_credit",
        "input_tokens",
        "iterations",
        "output_tokens",
        "output_tokens_details",
        "server_tool_use",
    }
)
_COUNTED_LATE = frozenset(
    {"fallback_credit", "iterations", "output_tokens_details", "server_tool_use"}
)
_TOOLS = ("tool_use", "server_tool_use", "mcp_tool_use")


def tell(body: dict[str, Any], told: dict[str, Any] | None = None) -> bytes:
    """Tell a body as a stream; what `told` says of it as the provider told it."""
    told = told or {"opening": _opening(body), "ending": _ending(body), "inputs": {}}
    events = _events(body["content"], told)
    return sse.encode_named((event["type"].encode(), orjson.dumps(event)) for event in events)


def _events(content: list[dict[str, Any]], told: dict[str, Any]) -> Iterator[_Event]:
    yield {"type": "message_start", "message": {**told["opening"], "content": []}}
    for index, block in enumerate(content):
        begun, *deltas = _parts(block, _input(block, told["inputs"], str(index)))
        yield {"type": "content_block_start", "index": index, "content_block": begun}
        if not index:
            yield {"type": "ping"}
        for delta in deltas:
            yield {"type": "content_block_delta", "index": index, "delta": delta}
        yield {"type": "content_block_stop", "index": index}
    yield {"type": "message_delta", **told["ending"]}
    yield {"type": "message_stop"}


def _opening(body: dict[str, Any]) -> dict[str, Any]:
    """A message that says nothing yet."""
    opening = {
        name: None if name in _CLOSING else value
        for name, value in body.items()
        if name not in _BESIDE and name != "content"
    }
    if isinstance(usage := body.get("usage"), dict):
        begun = {name: value for name, value in usage.items() if name not in _COUNTED_LATE}
        if type(begun.get("output_tokens")) is int:
            begun["output_tokens"] = min(begun["output_tokens"], 1)
        opening["usage"] = begun
    return opening


def _ending(body: dict[str, Any]) -> dict[str, Any]:
    ending = {name: body[name] for name in body if name in _BESIDE}
    ending["delta"] = {name: body[name] for name in body if name in _CLOSING}
    if isinstance(usage := body.get("usage"), dict):
        ending["usage"] = {name: usage[name] for name in usage if name in _COUNTED}
    return ending


def _input(block: dict[str, Any], inputs: dict[str, Any], place: str) -> Any:
    """A tool's input as text; `None` if the block begins with it."""
    if block.get("type") not in _TOOLS:
        return None
    return inputs[place] if place in inputs else written(block.get("input"))


def _parts(block: dict[str, Any], arguments: Any) -> Iterator[dict[str, Any]]:
    """How a block begins, then its deltas. What has none, known or not, begins whole."""
    match block:
        case {"type": "text", "text": str(text)}:
            yield from _text(block, text)
        case {"type": "thinking", "thinking": str(thinking)}:
            yield from _thinking(block, thinking)
        case {"input": _} if isinstance(arguments, str):
            yield {**block, "input": {}}
            for piece in ["", *_cut(arguments)]:
                yield {"type": "input_json_delta", "partial_json": piece}
        # With a signature it begins whole: so clients read it.
        case {"type": "compaction", "content": content} if not block.get("signature"):
            late = {name: block[name] for name in ("encrypted_content",) if name in block}
            yield {name: value for name, value in block.items() if name not in late} | {
                "content": None
            }
            yield {"type": "compaction_delta", "content": content, **late}
        case _:
            yield block


def _text(block: dict[str, Any], text: str) -> Iterator[dict[str, Any]]:
    citations = block.get("citations")
    one_by_one = isinstance(citations, list) and all(isinstance(each, dict) for each in citations)
    yield {**block, "text": "", **({"citations": []} if one_by_one else {})}
    for piece in _cut(text):
        yield {"type": "text_delta", "text": piece}
    for citation in citations or () if one_by_one else ():
        yield {"type": "citations_delta", "citation": citation}


def _thinking(block: dict[str, Any], thinking: str) -> Iterator[dict[str, Any]]:
    signature = block.get("signature")
    signed = isinstance(signature, str) and signature != ""
    yield {**block, "thinking": "", **({"signature": ""} if signed else {})}
    for piece in _cut(thinking):
        yield {"type": "thinking_delta", "thinking": piece}
    if signed:
        yield {"type": "signature_delta", "signature": signature}


def written(arguments: Any) -> str | None:
    """A tool's input as Anthropic's models write it: nothing if empty; `None` if it is no input."""
    if not isinstance(arguments, dict):
        return None
    return json.dumps(arguments, ensure_ascii=False) if arguments else ""


def _cut(text: str) -> list[str]:
    return [text[start : start + PIECE_CHARS] for start in range(0, len(text), PIECE_CHARS)]
