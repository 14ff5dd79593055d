"""A chat completion told as a stream: the body taken apart to chunks.

Source: OpenAI's API reference, "Chat completion chunk". Merging the chunks again gives the body.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson

from proxy import sse
from proxy.dialects.pieces import cut, cut_with_tokens

# The texts of a message that are told in pieces, in this order, and how the first delta begins
# those that it must begin.
_TEXTS = ("reasoning_content", "reasoning", "content", "refusal")
_BEGUN = {"content": "", "refusal": None}
# What each chunk repeats. All other fields of the envelope are told with the first chunk, since
# that is where clients look for them; the statistics of `x_groq` belong to the end.
_HEAD = frozenset({"id", "object", "created", "model", "service_tier", "system_fingerprint"})
_AT_THE_END = frozenset({"x_groq"})


def tell(body: dict[str, Any], *, with_usage: bool, usage_with_choice: bool = False) -> bytes:
    """Tell a body as a stream, choice after choice."""
    head = {name: body[name] for name in body if name in _HEAD}
    head["object"] = "chat.completion.chunk"
    rest = body.keys() - _HEAD - {"choices", "usage"}
    with_first = {name: body[name] for name in body if name in rest - _AT_THE_END}
    with_last = {name: body[name] for name in body if name in rest & _AT_THE_END}
    apart = with_usage and "usage" in body and not usage_with_choice
    if usage_with_choice and "usage" in body:
        with_last["usage"] = body["usage"]
    choices = [chunk for choice in body["choices"] for chunk in _chunks(choice)]
    frame = _Frame(head, {"usage": None} if apart else {})
    events = [
        frame.event(choices[0], with_first),
        *map(frame.event, choices[1:-1]),
        frame.event(choices[-1], with_last),
    ]
    if apart and body["usage"] is not None:
        events.append(orjson.dumps({**head, "choices": [], "usage": body["usage"]}))
    return sse.encode(events) + sse.DONE


class _Frame:
    """Writes chunks around choices; what all of them repeat is written once."""

    def __init__(self, head: dict[str, Any], tail: dict[str, Any]) -> None:
        self._head = head
        self._tail = tail
        self._before = orjson.dumps(head)[:-1] + b',"choices":['
        self._after = b"]," + orjson.dumps(tail)[1:] if tail else b"]}"

    def event(self, choice: dict[str, Any], more: dict[str, Any] | None = None) -> bytes:
        if more:
            return orjson.dumps({**self._head, "choices": [choice], **self._tail, **more})
        return self._before + orjson.dumps(choice) + self._after


def _chunks(choice: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The role, the texts in pieces, the calls, and what ends the choice."""
    message, logprobs = choice["message"], choice.get("logprobs")
    blank = {"index": choice.get("index", 0), "finish_reason": None}
    if "logprobs" in choice:
        blank["logprobs"] = None
    untold = dict(logprobs) if isinstance(logprobs, dict) else {}
    silent = dict.fromkeys(untold)
    yield {**blank, "delta": _opening(message)}
    for name in _TEXTS:
        text = message.get(name)
        if not isinstance(text, str) or not text:
            continue
        tokens = untold.get(name)
        for piece, its in cut_with_tokens(text, tokens if isinstance(tokens, list) else []):
            chunk = {**blank, "delta": {name: piece}}
            yield {**chunk, "logprobs": {**silent, name: its}} if its else chunk
        if isinstance(tokens, list) and tokens:
            untold[name] = None
    for delta in _call_deltas(message):
        yield {**blank, "delta": delta}
    ending = {name: value for name, value in choice.items() if name != "message"}
    if untold and untold != logprobs:
        ending["logprobs"] = None if untold == silent else untold
    yield {**blank, **ending, "delta": {}}


def _opening(message: dict[str, Any]) -> dict[str, Any]:
    """The first delta: the role, and whatever is not told in pieces."""
    opening = {}
    for name, value in message.items():
        if name in _TEXTS and isinstance(value, str) and value:
            if name in _BEGUN:
                opening[name] = _BEGUN[name]
        elif not _is_told_in_pieces(name, value):
            opening[name] = value
    return opening


def _is_told_in_pieces(name: str, value: Any) -> bool:
    if name == "tool_calls" and isinstance(value, list):
        return value != [] and all(isinstance(call, dict) for call in value)
    return name == "function_call" and isinstance(value, dict)


def _call_deltas(message: dict[str, Any]) -> Iterator[dict[str, Any]]:
    calls: list[Any] = message.get("tool_calls") or []
    for index, call in enumerate(calls if _is_told_in_pieces("tool_calls", calls) else ()):
        kind = "custom" if isinstance(call.get("custom"), dict) else "function"
        fragments = _call_fragments(call[kind]) if kind in call else iter([None])
        opening = next(fragments)
        yield {"tool_calls": [{**call, "index": index} | ({kind: opening} if opening else {})]}
        for fragment in fragments:
            yield {"tool_calls": [{"index": index, kind: fragment}]}
    if _is_told_in_pieces("function_call", message.get("function_call")):
        for fragment in _call_fragments(message["function_call"]):
            yield {"function_call": fragment}


def _call_fragments(call: Any) -> Iterator[Any]:
    """A function with empty arguments, then these in pieces."""
    name = "input" if isinstance(call, dict) and "input" in call else "arguments"
    text = call.get(name) if isinstance(call, dict) else None
    if not isinstance(text, str):
        yield call
        return
    yield {**call, name: ""}
    for piece in cut(text):
        yield {name: piece}
