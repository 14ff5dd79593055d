"""A response told as a stream: the body taken apart to events.

Source: OpenAI's API reference, "Responses streaming". The last event holds the whole body.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson

from proxy import sse
from proxy.dialects.pieces import cut, cut_with_tokens

# The name of an event, and its fields but for `type` and `sequence_number`.
_Event = tuple[str, dict[str, Any]]

# What a response says only at its end.
_ENDING = ("completed_at", "error", "incomplete_details", "usage")
# Items of which a text is told in pieces: how its events are called, and the field that holds it.
_WRITTEN = {
    "function_call": ("function_call_arguments", "arguments"),
    "custom_tool_call": ("custom_tool_call_input", "input"),
    "mcp_call": ("mcp_call_arguments", "arguments"),
    "code_interpreter_call": ("code_interpreter_call_code", "code"),
}
# What a tool of the provider's tells of itself; what it writes is told after the first.
_STEPS = {
    "web_search_call": ("in_progress", "searching", "completed"),
    "file_search_call": ("in_progress", "searching", "completed"),
    "code_interpreter_call": ("in_progress", "interpreting", "completed"),
    "image_generation_call": ("in_progress", "generating", "completed"),
    "mcp_call": ("in_progress", "completed"),
    "mcp_list_tools": ("in_progress", "completed"),
}
# Items that are told part by part, and the fields that hold the parts.
_LISTS = {"message": ("content",), "reasoning": ("summary", "content")}
# How the events of a part are called, and what tells its place.
_PLACES = {
    "content": ("content_part", "content_index"),
    "summary": ("reasoning_summary_part", "summary_index"),
}
# Parts of which a text is told in pieces, where they belong; as of the items above.
_TEXTS = {
    ("message", "content", "output_text"): ("output_text", "text"),
    ("message", "content", "refusal"): ("refusal", "refusal"),
    ("reasoning", "content", "reasoning_text"): ("reasoning_text", "text"),
    ("reasoning", "summary", "summary_text"): ("reasoning_summary_text", "text"),
}


def tell(body: dict[str, Any]) -> bytes:
    """Tell a body as a stream, item after item."""
    return sse.encode_named(
        (kind.encode(), orjson.dumps({"type": kind, "sequence_number": number, **fields}))
        for number, (kind, fields) in enumerate(_events(body))
    )


def _events(body: dict[str, Any]) -> Iterator[_Event]:
    begun = {**body, **{name: None for name in _ENDING if name in body}}
    begun |= {"status": "in_progress", "output": []}
    yield "response.created", {"response": begun}
    yield "response.in_progress", {"response": begun}
    for index, item in enumerate(body["output"]):
        yield "response.output_item.added", {"output_index": index, "item": _begun(item)}
        # Clients expect a text, also of the items of those who give them no id.
        place = {"item_id": _text(item, "id"), "output_index": index}
        for kind, fields in _progress(item):
            yield f"response.{kind}", {**place, **fields}
        yield "response.output_item.done", {"output_index": index, "item": item}
    yield f"response.{body['status']}", {"response": body}


def _begun(item: dict[str, Any]) -> dict[str, Any]:
    """An item before anything is told of it in pieces. One of an unknown kind is whole."""
    kind, field = _text(item, "type"), _written(item)
    if not any(kind in known for known in (_WRITTEN, _STEPS, _LISTS)):
        return item
    begun = dict(item)
    if "status" in item:
        begun["status"] = "in_progress"
    if field:
        begun[field] = ""
    if kind == "image_generation_call" and "result" in item:
        begun["result"] = None  # large, and told with the end of the item
    for name, _ in _lists(item):
        begun[name] = []
    if kind == "reasoning" and begun.get("content") == []:
        del begun["content"]  # as OpenAI does; LangChain would keep what it finds here
    return begun


def _progress(item: dict[str, Any]) -> Iterator[_Event]:
    """What is told of an item between its beginning and its end, without its place."""
    kind, field = _text(item, "type"), _written(item)
    went_well = item.get("status", "completed") == "completed"
    steps: list[_Event] = [
        (f"{kind}.{step}", {}) for step in (_STEPS.get(kind, ()) if went_well else ())
    ]
    yield from steps[:1]
    if field:
        yield from _pieces(_WRITTEN[kind][0], field, item[field])
    for name, parts in _lists(item):
        begins, index = _PLACES[name]
        for place, part in enumerate(parts):
            told = _TEXTS.get((kind, name, _text(part, "type")))
            for event, fields in _part(begins, part, told):
                yield event, {index: place, **fields}
    yield from steps[1:]


def _part(begins: str, part: dict[str, Any], told: tuple[str, str] | None) -> Iterator[_Event]:
    if told is None or not isinstance(part.get(told[1]), str):
        yield f"{begins}.added", {"part": part}
    elif told[0] == "output_text":
        yield f"{begins}.added", {"part": _begun_text(part)}
        yield from _output_text(part)
    else:
        yield f"{begins}.added", {"part": {**part, told[1]: ""}}
        yield from _pieces(*told, part[told[1]])
    yield f"{begins}.done", {"part": part}


def _begun_text(part: dict[str, Any]) -> dict[str, Any]:
    lists = [name for name in ("annotations", "logprobs") if isinstance(part.get(name), list)]
    return {**part, "text": "", **{name: [] for name in lists}}


def _output_text(part: dict[str, Any]) -> Iterator[_Event]:
    """A text with the logprobs of its tokens, then what is noted on it."""
    text, logprobs = part["text"], part.get("logprobs")
    tokens = logprobs if isinstance(logprobs, list) else []
    for piece, its in cut_with_tokens(text, tokens):
        yield "output_text.delta", {"delta": piece, "logprobs": [_brief(each) for each in its]}
    annotations = part.get("annotations")
    for place, each in enumerate(annotations if isinstance(annotations, list) else ()):
        note = {"annotation_index": place, "annotation": each}
        yield "output_text.annotation.added", note
    yield "output_text.done", {"text": text, "logprobs": [_brief(each) for each in tokens]}


def _brief(logprob: Any) -> Any:
    """A logprob as events have it: the bytes of its token are told at the end."""
    if not isinstance(logprob, dict):
        return logprob
    brief = {name: value for name, value in logprob.items() if name != "bytes"}
    if isinstance(brief.get("top_logprobs"), list):
        brief["top_logprobs"] = [_brief(each) for each in brief["top_logprobs"]]
    return brief


def _pieces(begins: str, field: str, text: str) -> Iterator[_Event]:
    for piece in cut(text):
        yield f"{begins}.delta", {"delta": piece}
    yield f"{begins}.done", {field: text}


def _written(item: dict[str, Any]) -> str:
    """The field of an item whose text is told in pieces, if it has one."""
    _, field = _WRITTEN.get(_text(item, "type"), ("", ""))
    return field if isinstance(item.get(field), str) else ""


def _lists(item: dict[str, Any]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """The parts of an item, list by list."""
    for name in _LISTS.get(_text(item, "type"), ()):
        parts = item.get(name)
        if isinstance(parts, list) and all(isinstance(part, dict) for part in parts):
            yield name, parts


def _text(item: dict[str, Any], name: str) -> str:
    value = item.get(name)
    return value if isinstance(value, str) else ""
