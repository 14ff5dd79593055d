"""Anthropic's `/v1/messages`: what of a request is in the key, and a message kept and told again.

Sources: Anthropic's API reference, "Messages" and "Streaming Messages".
"""

from __future__ import annotations

from typing import Any

import orjson

from cache_backends.base import ChatGeneration, Generation
from proxy import keys
from proxy.dialects.base import CACHING, QUEUE, TELLING, Fields, JsonDialect, Recorder, json_kind
from proxy.dialects.recorders import JsonRecorder
from proxy.errors import ProxyError, UnreadableRequest
from proxy.models import UNBOUNDED, AnswerFacts, Answers, Ask, Bounds, Head, Ignored

_CACHE_MARK = "cache_control"
# A tool without a type is the caller's own. Of those with one, these too run at the caller, or, as
# the search among tools, look at nothing but the request.
_HARMLESS_TOOLS = (
    "custom",
    "bash_",
    "browser_toolset_",
    "computer_",
    "memory_",
    "text_editor_",
    "tool_search_tool_",
)
# Fields that lead to what others may change, or that the answer to leaves behind.
_STATEFUL = ("container", "mcp_servers", "thread", "diagnostics")

# Blocks within blocks: what a tool brought, what a document holds.
_INNER: keys.Shape = {"source": {}, "citations": {}}
_BLOCK: keys.Shape = {
    "source": {"content": _INNER},
    "citations": {},
    "content": {"source": {"content": _INNER}, "citations": {}, "content": _INNER},
}


class Messages(JsonDialect):
    """Anthropic's messages, as it and those speak them who follow it."""

    name = "messages"
    version = 1
    fields = Fields(
        asked=("system", "messages"),
        ignored={
            "stream": TELLING,
            "metadata": "names the caller's user",
            "service_tier": QUEUE,
            _CACHE_MARK: CACHING,
        },
        neutral={"system": ("", []), "tools": ([],), "stop_sequences": ([],)},
        nullable=frozenset({"container", "diagnostics", "thread"}),
        shape={"system": _BLOCK, "messages": {"content": _BLOCK}},
        marks=frozenset({_CACHE_MARK}),
    )

    def bounds(self, body: dict[str, Any]) -> Bounds:
        for name in _STATEFUL:
            if body.get(name):
                return Bounds(uncached=name)
        tools = body.get("tools")
        for tool in tools if isinstance(tools, list) else ():
            kind = tool.get("type") if isinstance(tool, dict) else None
            if isinstance(kind, str) and not kind.startswith(_HARMLESS_TOOLS):
                return Bounds(uncached="a tool of the provider's")
        return UNBOUNDED

    def recorder(self, ask: Ask, head: Head, parts: int) -> Recorder:
        return JsonRecorder(_read)

    def can_replay(self, ask: Ask, answers: Answers) -> bool:
        return len(answers) == len(answers[0]) == 1 and isinstance(answers[0][0], ChatGeneration)

    def replay(self, ask: Ask, answers: Answers) -> bytes:
        return orjson.dumps(_body(answers[0][0]))

    def facts(self, ask: Ask, answers: Answers) -> AnswerFacts:
        body = _body(answers[0][0])
        return AnswerFacts(finish_reasons=(body["stop_reason"],))

    def error(self, error: ProxyError) -> bytes:
        """Anthropic's error object. Source: its API reference, "Errors"."""
        detail = {"type": "llm_cache_proxy_error", "message": str(error), "code": error.code}
        return orjson.dumps({"type": "error", "error": detail})

    def _split(
        self, body: dict[str, Any]
    ) -> tuple[dict[str, Any], dict[str, Any], tuple[Ignored, ...]]:
        if "messages" in body:
            _check_messages(body["messages"])
        asked, parameters, ignored = super()._split(body)
        tools = parameters.get("tools")
        if isinstance(tools, list) and any(map(_is_marked, tools)):
            parameters["tools"] = [_unmarked(tool) if _is_marked(tool) else tool for tool in tools]
            ignored += (Ignored(f"tools.*.{_CACHE_MARK}", CACHING),)
        return asked, parameters, ignored


def _is_marked(tool: Any) -> bool:
    return isinstance(tool, dict) and _CACHE_MARK in tool


def _unmarked(tool: dict[str, Any]) -> dict[str, Any]:
    """A copy without the mark; what the tool is keeps its order, and so what the model writes."""
    return {name: value for name, value in tool.items() if name != _CACHE_MARK}


def _check_messages(messages: Any) -> None:
    """Refuse what no provider takes."""
    if not isinstance(messages, list):
        raise UnreadableRequest(f"messages: expected a list, got {json_kind(messages)}.")
    for place, message in enumerate(messages):
        if not isinstance(message, dict):
            raise UnreadableRequest(
                f"messages[{place}]: expected an object, got {json_kind(message)}."
            )


def _read(body: dict[str, Any]) -> Answers | None:
    if not isinstance(body.get("content"), list) or not body.get("stop_reason"):
        return None
    message: dict[str, Any] = {
        "role": body.pop("role", "assistant"),
        "content": body.pop("content"),
    }
    return [[ChatGeneration(_text(message["content"]), {"envelope": body}, message=message)]]


def _text(content: list[Any]) -> str:
    texts = [block.get("text") for block in content if isinstance(block, dict)]
    return "".join(text for text in texts if isinstance(text, str))


def _body(generation: Generation) -> dict[str, Any]:
    assert isinstance(generation, ChatGeneration)
    return {**(generation.generation_info or {})["envelope"], **generation.message}
