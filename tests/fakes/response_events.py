"""How OpenAI tells a response as events: written from the API reference, not from the proxy."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import orjson

from tests.fakes.oracle import pieces

_Event = dict[str, Any]

_FRAGMENT = 7  # characters of a tool's input in one event
_OBFUSCATED_TO = 16  # the length of a delta and its padding is a multiple of this
# What a response says of itself before it is complete.
_UNDER_WAY: dict[str, Any] = {
    "status": "in_progress",
    "completed_at": None,
    "error": None,
    "incomplete_details": None,
    "output": [],
    "service_tier": "auto",
    "usage": None,
}
# What the model writes for a tool: the family of its events, and the item's field.
_WRITTEN = {
    "function_call": ("function_call_arguments", "arguments"),
    "custom_tool_call": ("custom_tool_call_input", "input"),
    "mcp_call": ("mcp_call_arguments", "arguments"),
    "code_interpreter_call": ("code_interpreter_call_code", "code"),
}
# What the provider's own tools tell of themselves; what is written comes after the first.
_STEPS = {
    "web_search_call": ("in_progress", "searching", "completed"),
    "file_search_call": ("in_progress", "searching", "completed"),
    "code_interpreter_call": ("in_progress", "interpreting", "completed"),
    "image_generation_call": ("in_progress", "generating", "completed"),
    "mcp_call": ("in_progress", "completed"),
    "mcp_list_tools": ("in_progress", "completed"),
}
# What an item has only in the end.
_RESULTS = ("action", "content", "error", "output", "outputs", "result", "results")


def stream(response: dict[str, Any], *, obfuscated: bool = True) -> list[bytes]:
    """A response of any kind as the events that stream it, each as one chunk."""
    numbered = [
        {"type": each.pop("type"), "sequence_number": at, **each}
        for at, each in enumerate(_events(response))
    ]
    return [event(_obfuscated(each) if obfuscated else each) for each in numbered]


def event(value: dict[str, Any]) -> bytes:
    """One event, as OpenAI writes those that have names."""
    return b"event: %b\ndata: %b\n\n" % (value["type"].encode(), orjson.dumps(value))


def error_event(error: dict[str, Any], at: int) -> bytes:
    """The event in place of the last one when a response fails under way."""
    named = {name: error.get(name) for name in ("code", "message", "param")}
    return event({"type": "error", "sequence_number": at, **named})


def _events(response: dict[str, Any]) -> Iterator[_Event]:
    begun = {**response, **_UNDER_WAY}
    yield {"type": "response.created", "response": begun}
    yield {"type": "response.in_progress", "response": begun}
    for at, item in enumerate(response["output"]):
        yield {"type": "response.output_item.added", "output_index": at, "item": _begun(item)}
        for each in _progress(item):
            named = {"type": f"response.{each.pop('type')}", "item_id": item["id"]}
            yield {**named, "output_index": at, **each}
        yield {"type": "response.output_item.done", "output_index": at, "item": item}
    yield {"type": f"response.{response['status']}", "response": response}


def _begun(item: dict[str, Any]) -> dict[str, Any]:
    """An item of which nothing is said yet; one of a kind that is not told in parts is whole."""
    kind = item["type"]
    if kind not in ("message", "reasoning", *_WRITTEN, *_STEPS):
        return item
    begun = {name: value for name, value in item.items() if name not in _RESULTS}
    if "status" in item:
        begun["status"] = "in_progress"
    if kind == "message":
        begun["content"] = []
    if kind in _WRITTEN:
        begun[_WRITTEN[kind][1]] = ""
    if kind == "reasoning":
        begun["summary"] = []
    if item.get("encrypted_content"):
        # What is encrypted at the beginning is not yet what is encrypted in the end.
        begun["encrypted_content"] = item["encrypted_content"][:8]
    return begun


def _progress(item: dict[str, Any]) -> Iterator[_Event]:
    """What is told of an item between its beginning and its end, without its place."""
    kind = item["type"]
    steps = [{"type": f"{kind}.{step}"} for step in _STEPS.get(kind, ())]
    yield from steps[:1]
    if kind in _WRITTEN:
        family, field = _WRITTEN[kind]
        yield from _told(family, field, item[field], _fragments(item[field]))
    if kind == "reasoning":
        yield from _summaries(item["summary"])
    if kind in ("message", "reasoning"):
        for at, part in enumerate(item.get("content") or ()):
            yield from ({**each, "content_index": at} for each in _part(part))
    yield from steps[1:]


def _summaries(parts: list[dict[str, Any]]) -> Iterator[_Event]:
    for at, part in enumerate(parts):
        place = {"summary_index": at}
        yield {"type": "reasoning_summary_part.added", **place, "part": {**part, "text": ""}}
        for each in _told("reasoning_summary_text", "text", part["text"]):
            yield {**each, **place}
        yield {"type": "reasoning_summary_part.done", **place, "part": part}


def _part(part: dict[str, Any]) -> Iterator[_Event]:
    none = {"text": "", "refusal": "", "annotations": [], "logprobs": []}
    begun = {name: none.get(name, value) for name, value in part.items()}
    yield {"type": "content_part.added", "part": begun}
    match part["type"]:
        case "output_text":
            yield from _text(part)
        case "refusal":
            yield from _told("refusal", "refusal", part["refusal"])
        case "reasoning_text":
            yield from _told("reasoning_text", "text", part["text"])
    yield {"type": "content_part.done", "part": part}


def _text(part: dict[str, Any]) -> Iterator[_Event]:
    """A delta for each token where their probabilities are told, else for each word."""
    likely = [_brief(each) for each in part["logprobs"]]
    said = [(each["token"], [each]) for each in likely] or [
        (each, []) for each in pieces(part["text"]) if each
    ]
    for delta, logprobs in said:
        yield {"type": "output_text.delta", "delta": delta, "logprobs": logprobs}
    for at, each in enumerate(part["annotations"]):
        yield {"type": "output_text.annotation.added", "annotation_index": at, "annotation": each}
    yield {"type": "output_text.done", "text": part["text"], "logprobs": likely}


def _brief(logprob: dict[str, Any]) -> dict[str, Any]:
    """A token's probability as events have it: without its bytes."""
    top = [{name: each[name] for name in ("token", "logprob")} for each in logprob["top_logprobs"]]
    return {"token": logprob["token"], "logprob": logprob["logprob"], "top_logprobs": top}


def _told(family: str, field: str, said: str, deltas: list[str] | None = None) -> Iterator[_Event]:
    for each in deltas or pieces(said):
        if each:
            yield {"type": f"{family}.delta", "delta": each}
    yield {"type": f"{family}.done", field: said}


def _fragments(said: str) -> list[str]:
    return [said[at : at + _FRAGMENT] for at in range(0, len(said), _FRAGMENT)]


def _obfuscated(value: _Event) -> _Event:
    """Deltas are padded, so that who sees only lengths cannot guess the words."""
    if not value["type"].endswith(".delta"):
        return value
    padding = hashlib.sha256(b"%d" % value["sequence_number"]).hexdigest()
    return {**value, "obfuscation": padding[: -len(value["delta"]) % _OBFUSCATED_TO]}
