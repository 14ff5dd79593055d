"""Responses as OpenAI tells them, whole or as events, and requests for them as the tests send them.

Written from the API reference and not from the proxy: `stream` is the second opinion on how any
response is told as events.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import orjson

from tests.fakes.oracle import WORDS, expected, pieces, tokens

PATH = "/v1/responses"
COUNT_PATH = "/v1/responses/input_tokens"

Response = dict[str, Any]
_Event = dict[str, Any]

_OBFUSCATED_TO = 16  # the length of a delta and its padding is a multiple of this
# What a hosted tool tells of itself between the beginning and the end of its item.
_STEPS = {
    "web_search_call": ("in_progress", "searching", "completed"),
    "file_search_call": ("in_progress", "searching", "completed"),
    "code_interpreter_call": ("in_progress", "interpreting", "completed"),
    "image_generation_call": ("in_progress", "generating", "completed"),
    "mcp_list_tools": ("in_progress", "completed"),
}
# What a response says of itself before it is complete.
_UNDER_WAY = {
    "status": "in_progress",
    "completed_at": None,
    "error": None,
    "incomplete_details": None,
    "output": [],
    "service_tier": "auto",
    "usage": None,
}
# What it repeats of the request, and what it says of that which was not asked.
_ECHOED = {
    "background": False,
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "previous_response_id": None,
    "prompt_cache_key": None,
    "prompt_cache_retention": None,
    "safety_identifier": None,
    "store": True,
    "temperature": 1.0,
    "tool_choice": "auto",
    "tools": [],
    "top_logprobs": 0,
    "top_p": 1.0,
    "truncation": "disabled",
    "user": None,
}


def asking(prompt: str = "Tell me a joke", **fields: Any) -> dict[str, Any]:
    """The body of a request; `stream=True` for events."""
    return {"model": "m", "input": prompt, **fields}


def saying(
    *output: dict[str, Any],
    asked: dict[str, Any] | None = None,
    number: int = 1,
    **fields: Any,
) -> Response:
    """A whole response with this output, as it answers what was asked; `fields` replace others."""
    body = asked or asking()
    at = 1_700_000_000 + number
    return {
        "id": f"resp_{number}",
        "object": "response",
        "created_at": at,
        "status": "completed",
        "completed_at": at + 1,
        "error": None,
        "incomplete_details": None,
        "model": f"{body.get('model')}-2026-01-01",
        "output": list(output),
        **{name: body.get(name, default) for name, default in _ECHOED.items()},
        "reasoning": {"effort": None, "summary": None, **_object(body, "reasoning")},
        "service_tier": "default",
        "text": {"format": {"type": "text"}, "verbosity": "medium", **_object(body, "text")},
        "usage": _usage(input_tokens(body), WORDS),
        **fields,
    }


def message(*parts: dict[str, Any], number: int = 1) -> dict[str, Any]:
    """An item of output that says something."""
    return {
        "id": f"msg_{number}",
        "type": "message",
        "status": "completed",
        "content": list(parts),
        "role": "assistant",
    }


def text(said: str, *annotations: dict[str, Any]) -> dict[str, Any]:
    """A part of a message."""
    return {"type": "output_text", "annotations": list(annotations), "logprobs": [], "text": said}


def answer(asked: dict[str, Any], credential: str, path: str, number: int) -> Response:
    """What the oracle says; its id and times differ from call to call, as a provider's do."""
    said = expected(asked, credential=credential, path=path)
    return saying(message(text(said), number=number), asked=asked, number=number)


def count(asked: dict[str, Any], credential: str, path: str, number: int) -> dict[str, Any]:
    """The answer of `/responses/input_tokens`: what the response's usage would say."""
    return {"object": "response.input_tokens", "input_tokens": input_tokens(asked)}


def input_tokens(asked: dict[str, Any]) -> int:
    """What the fake provider bills for a request."""
    return sum(tokens(asked[name]) for name in ("instructions", "input", "tools") if name in asked)


def told(asked: dict[str, Any], response: Response) -> list[bytes]:
    """The response as the events that this request gets."""
    obfuscated = _object(asked, "stream_options").get("include_obfuscation", True)
    return stream(response, obfuscated=obfuscated)


def stream(response: Response, *, obfuscated: bool = True) -> list[bytes]:
    """A response of any kind as the events that stream it, each as one chunk."""
    told = [
        {"type": each.pop("type"), "sequence_number": at, **each}
        for at, each in enumerate(_events(response))
    ]
    return [event(_obfuscated(each) if obfuscated else each) for each in told]


def event(value: dict[str, Any]) -> bytes:
    """One event, as OpenAI writes those that have names."""
    return b"event: %b\ndata: %b\n\n" % (value["type"].encode(), orjson.dumps(value))


def error_event(error: dict[str, Any], at: int) -> bytes:
    """The event in place of the last one when a response fails under way."""
    named = {name: error.get(name) for name in ("code", "message", "param")}
    return event({"type": "error", "sequence_number": at, **named})


def events(body: bytes) -> list[dict[str, Any]]:
    """The objects of a stream."""
    lines = body.splitlines()
    return [orjson.loads(line[6:]) for line in lines if line.startswith(b"data: {")]


def words(body: bytes) -> str:
    """All the text of an answer, told as JSON or as events."""
    if body.startswith(b"event: "):
        deltas = [each for each in events(body) if each["type"] == "response.output_text.delta"]
        return "".join(each["delta"] for each in deltas)
    items = [item for item in orjson.loads(body)["output"] if item["type"] == "message"]
    return "".join(part["text"] for item in items for part in item["content"])


def _object(body: dict[str, Any], name: str) -> dict[str, Any]:
    value = body.get(name)
    return value if isinstance(value, dict) else {}


def _usage(before: int, after: int) -> dict[str, Any]:
    return {
        "input_tokens": before,
        "input_tokens_details": {"cache_write_tokens": 0, "cached_tokens": 0},
        "output_tokens": after,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": before + after,
    }


def _events(response: Response) -> Iterator[_Event]:
    begun = {**response, **_UNDER_WAY}
    yield {"type": "response.created", "response": begun}
    yield {"type": "response.in_progress", "response": begun}
    for at, item in enumerate(response["output"]):
        yield {"type": "response.output_item.added", "output_index": at, "item": _begun(item)}
        for each in _progress(item):
            head = {"type": f"response.{each.pop('type')}", "item_id": item.get("id")}
            yield {**head, "output_index": at, **each}
        yield {"type": "response.output_item.done", "output_index": at, "item": item}
    yield {"type": f"response.{response['status']}", "response": response}


def _begun(item: dict[str, Any]) -> dict[str, Any]:
    """An item of which nothing is said yet; one of an unknown kind comes whole."""
    empty = {
        "message": {"content": []},
        "function_call": {"arguments": ""},
        "custom_tool_call": {"input": ""},
        "reasoning": {"summary": []},
    }.get(item["type"])
    if empty is None and item["type"] not in _STEPS:
        return item
    begun = {**item, **(empty or {})}
    if "status" in item:
        begun["status"] = "in_progress"
    if item["type"] == "reasoning":
        begun.pop("content", None)
        if item.get("encrypted_content"):
            # What is encrypted at the beginning is not yet what is encrypted in the end.
            begun["encrypted_content"] = item["encrypted_content"][:8]
    return begun


def _progress(item: dict[str, Any]) -> Iterator[_Event]:
    """What is told of an item between its beginning and its end, without its place."""
    kind = item["type"]
    if kind == "reasoning":
        yield from _summaries(item["summary"])
    if kind in ("message", "reasoning"):
        for at, part in enumerate(item.get("content") or ()):
            yield from ({**each, "content_index": at} for each in _part(part))
    if kind == "function_call":
        yield from _written("function_call_arguments", "arguments", item["arguments"])
    if kind == "custom_tool_call":
        yield from _written("custom_tool_call_input", "input", item["input"])
    yield from ({"type": f"{kind}.{step}"} for step in _STEPS.get(kind, ()))


def _summaries(parts: list[dict[str, Any]]) -> Iterator[_Event]:
    for at, part in enumerate(parts):
        place = {"summary_index": at}
        yield {"type": "reasoning_summary_part.added", **place, "part": {**part, "text": ""}}
        for each in _written("reasoning_summary_text", "text", part["text"]):
            yield {**each, **place}
        yield {"type": "reasoning_summary_part.done", **place, "part": part}


def _part(part: dict[str, Any]) -> Iterator[_Event]:
    yield {"type": "content_part.added", "part": _begun_part(part)}
    if part["type"] == "output_text":
        yield from _text(part)
    elif part["type"] == "refusal":
        yield from _written("refusal", "refusal", part["refusal"])
    elif part["type"] == "reasoning_text":
        yield from _written("reasoning_text", "text", part["text"])
    yield {"type": "content_part.done", "part": part}


def _begun_part(part: dict[str, Any]) -> dict[str, Any]:
    none = {"text": "", "refusal": "", "annotations": [], "logprobs": []}
    return {name: none.get(name, value) for name, value in part.items()}


def _text(part: dict[str, Any]) -> Iterator[_Event]:
    """A delta for each token where their probabilities are told, else for each word."""
    logprobs = part.get("logprobs") or []
    for each in logprobs:
        yield {"type": "output_text.delta", "delta": each["token"], "logprobs": [_brief(each)]}
    for each in [] if logprobs else _nonempty(pieces(part["text"])):
        yield {"type": "output_text.delta", "delta": each, "logprobs": []}
    for at, each in enumerate(part["annotations"]):
        yield {"type": "output_text.annotation.added", "annotation_index": at, "annotation": each}
    told = [_brief(each) for each in logprobs]
    yield {"type": "output_text.done", "text": part["text"], "logprobs": told}


def _brief(logprob: dict[str, Any]) -> dict[str, Any]:
    """A probability as events have it: without the token's bytes."""
    top = [{name: each[name] for name in ("token", "logprob")} for each in logprob["top_logprobs"]]
    return {"token": logprob["token"], "logprob": logprob["logprob"], "top_logprobs": top}


def _written(kind: str, field: str, said: str) -> Iterator[_Event]:
    for each in _nonempty(pieces(said)):
        yield {"type": f"{kind}.delta", "delta": each}
    yield {"type": f"{kind}.done", field: said}


def _nonempty(said: list[str]) -> list[str]:
    return [each for each in said if each]


def _obfuscated(value: _Event) -> _Event:
    """Deltas are padded, so that who sees only lengths cannot guess the words."""
    if not value["type"].endswith(".delta"):
        return value
    padding = hashlib.sha256(b"%d" % value["sequence_number"]).hexdigest()
    return {**value, "obfuscation": padding[: -len(value["delta"]) % _OBFUSCATED_TO]}
