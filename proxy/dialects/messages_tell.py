"""A message told as a stream: the body taken apart to events.

Source: Anthropic's API reference, "Streaming Messages". Merging the events again gives the body.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import orjson

from proxy import sse
from proxy.dialects.pieces import cut

_Event = dict[str, Any]

# What nobody knows before the message has ended: told by the last event's `delta`, or beside it.
_CLOSING = frozenset(
    {"container", "safeguard_results", "stop_details", "stop_reason", "stop_sequence"}
)
_BESIDE = frozenset({"context_management"})
# The usage that the last event tells, since it may have grown, and what of it the first does not.
_COUNTED_LATE = frozenset(
    {"fallback_credit", "iterations", "output_tokens_details", "server_tool_use"}
)
_COUNTED = _COUNTED_LATE | {
    "cache_creation_input_tokens",
    "cache_read_input_tokens",
    "input_tokens",
    "output_tokens",
}
# Tools whose input comes after they are named. Clients look for that of `mcp_tool_use` at once.
_TOOLS = ("tool_use", "server_tool_use")


def tell(body: dict[str, Any], told: dict[str, Any] | None = None) -> bytes:
    """Tell a body as a stream: with the first and last event, and the inputs of tools, as they
    were `told` before, else as Anthropic tells them."""
    told = told or {"opening": _opening(body), "ending": _ending(body), "inputs": {}}
    events = _events(body["content"], told["opening"], told["ending"], told["inputs"])
    return sse.encode_named((event["type"].encode(), orjson.dumps(event)) for event in events)


def written(block: dict[str, Any]) -> str | None:
    """The input of a tool as Claude writes it, nothing if it is empty; `None`: it begins whole."""
    arguments = block.get("input")
    if block.get("type") not in _TOOLS or not isinstance(arguments, dict):
        return None
    return json.dumps(arguments, ensure_ascii=False) if arguments else ""


def _events(
    content: list[dict[str, Any]],
    opening: dict[str, Any],
    ending: dict[str, Any],
    inputs: dict[str, Any],
) -> Iterator[_Event]:
    yield {"type": "message_start", "message": {**opening, "content": []}}
    for index, block in enumerate(content):
        place = str(index)
        begun, *deltas = _parts(block, inputs[place] if place in inputs else written(block))
        yield {"type": "content_block_start", "index": index, "content_block": begun}
        if index == 0:
            yield {"type": "ping"}
        for delta in deltas:
            yield {"type": "content_block_delta", "index": index, "delta": delta}
        yield {"type": "content_block_stop", "index": index}
    yield {"type": "message_delta", **ending}
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


def _parts(block: dict[str, Any], arguments: str | None) -> Iterator[dict[str, Any]]:
    """How a block begins, then its deltas. What has none, known or not, begins whole."""
    kind = block.get("type")
    if kind == "text" and isinstance(block.get("text"), str):
        yield from _text(block)
    elif kind == "thinking" and isinstance(block.get("thinking"), str):
        yield from _thinking(block)
    elif arguments is not None:
        yield {**block, "input": {}}
        for piece in ["", *cut(arguments)]:
            yield {"type": "input_json_delta", "partial_json": piece}
    # With a signature it is told whole: so clients expect it.
    elif kind == "compaction" and not block.get("signature"):
        yield from _compaction(block)
    else:
        yield block


def _text(block: dict[str, Any]) -> Iterator[dict[str, Any]]:
    citations = block.get("citations")
    one_by_one = isinstance(citations, list) and all(isinstance(each, dict) for each in citations)
    yield {**block, "text": "", **({"citations": []} if one_by_one else {})}
    for piece in cut(block["text"]):
        yield {"type": "text_delta", "text": piece}
    for citation in citations or () if one_by_one else ():
        yield {"type": "citations_delta", "citation": citation}


def _thinking(block: dict[str, Any]) -> Iterator[dict[str, Any]]:
    signature = block.get("signature")
    signed = isinstance(signature, str)
    yield {**block, "thinking": "", **({"signature": ""} if signed else {})}
    for piece in cut(block["thinking"]):
        yield {"type": "thinking_delta", "thinking": piece}
    if signed:
        yield {"type": "signature_delta", "signature": signature}


def _compaction(block: dict[str, Any]) -> Iterator[dict[str, Any]]:
    said = {name: block[name] for name in block if name in ("content", "encrypted_content")}
    yield {**block, **dict.fromkeys(said)}
    yield {"type": "compaction_delta", **said}
