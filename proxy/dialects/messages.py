"""Anthropic's `/v1/messages`: what of a request is in the key, and a message kept and told again.

Sources: Anthropic's API reference, "Messages" and "Streaming Messages", and the types of its
Python SDK, for the beta fields too.
"""

from __future__ import annotations

from typing import Any

import orjson

from cache_backends.base import ChatGeneration, Generation
from proxy import keys
from proxy.dialects import messages_ask, messages_tell
from proxy.dialects.base import CACHING, QUEUE, TELLING, Fields, JsonDialect, Recorder
from proxy.dialects.checks import check_content, check_messages
from proxy.dialects.facts import count, is_json, text_at, usage_of
from proxy.dialects.messages_merge import Merge, MergeError
from proxy.dialects.recorders import EventRecorder, JsonRecorder
from proxy.errors import ProxyError
from proxy.models import AnswerFacts, Answers, Ask, Bill, Bounds, Head, Ignored

_CACHE_MARK = "cache_control"
# What of a body makes the message; all else is its envelope.
_MESSAGE = ("role", "content")

# Blocks within blocks: what a tool brought, what was found, what a document holds. A tool's
# `input` is the caller's own JSON and not looked into.
_INNERMOST: keys.Shape = {"citations": {}, "source": {"content": {}}}
_INNER: keys.Shape = {
    **_INNERMOST,
    "source": {"content": _INNERMOST},
    "content": _INNERMOST,
    "tool_references": {},
}
_BLOCK: keys.Shape = {**_INNER, "content": _INNER}


class Messages(JsonDialect):
    """Anthropic's messages, as it and those speak them who follow it."""

    name = "messages"
    version = 1
    request_id = b"request-id"
    fields = Fields(
        asked=("system", "messages"),
        ignored={
            "stream": TELLING,
            "metadata": "names the caller's user",
            "session_id": "groups requests (OpenRouter)",
            "service_tier": QUEUE,
        },
        # An empty list of tools is missing here: given one, vLLM looks for calls in the text.
        neutral={"mcp_servers": ([],), "stop_sequences": ([],)},
        # What the reference calls optional. Others give 400 at Anthropic's, and who knows what
        # elsewhere.
        nullable=frozenset(
            {
                "billing_policy",
                "compaction",
                "container",
                "context_management",
                "diagnostics",
                "fallback_credit_token",
                "fallbacks",
                "inference_geo",
                "speed",
                "thread",
            }
        ),
        shape={"system": _BLOCK, "messages": {"content": _BLOCK}},
        marks=frozenset({_CACHE_MARK}),
    )

    def bounds(self, body: dict[str, Any]) -> Bounds:
        return messages_ask.bounds(body)

    def recorder(self, ask: Ask, head: Head, parts: int) -> Recorder:
        return _StreamRecorder() if head.streams else JsonRecorder(_answers)

    def can_replay(self, ask: Ask, answers: Answers) -> bool:
        if len(answers) != 1 or len(answers[0]) != 1 or not _is_message(answers[0][0]):
            return False
        body = _body(answers[0][0])
        # These are the caller's own. No reference knows them in an answer: one that has them stays.
        return _is_whole(body) and body.keys().isdisjoint(("metadata", "session_id"))

    def replay(self, ask: Ask, answers: Answers) -> bytes:
        body = _body(answers[0][0])
        if not ask.stream:
            return orjson.dumps(body)
        return messages_tell.tell(body, (answers[0][0].generation_info or {}).get("told"))

    def facts(self, ask: Ask, answers: Answers) -> AnswerFacts:
        body = _body(answers[0][0])
        kinds = [block.get("type") for block in body["content"]]
        usage = usage_of(body)
        return AnswerFacts(
            finish_reasons=(body["stop_reason"],),
            has_tool_calls="tool_use" in kinds,
            broken_json=_broken_json(body) if _wants_json(ask) else "",
            acted=_acted(body["content"]),
            input_tokens=_input_tokens(usage),
            output_tokens=count(usage, "output_tokens"),
            bill=_bill(body, usage),
        )

    def error(self, error: ProxyError) -> bytes:
        """Anthropic's error object. Source: its API reference, "Errors"."""
        detail = {"type": "llm_cache_proxy_error", "message": str(error), "code": error.code}
        return orjson.dumps({"type": "error", "error": detail})

    def _split(
        self, body: dict[str, Any]
    ) -> tuple[dict[str, Any], dict[str, Any], tuple[Ignored, ...]]:
        if "messages" in body:
            check_messages(body["messages"], "blocks")
        check_content(body.get("system"), "system", "blocks")
        asked, parameters, ignored = super()._split(body)
        if (system := messages_ask.without_digest(asked.get("system"))) != asked.get("system"):
            asked["system"] = system
            ignored += (Ignored("system: cch", "a digest of the request"),)
        tools = parameters.get("tools")
        if isinstance(tools, list) and any(map(_is_marked, tools)):
            parameters["tools"] = [_unmarked(tool) if _is_marked(tool) else tool for tool in tools]
            ignored += (Ignored(f"tools.*.{_CACHE_MARK}", CACHING),)
        return asked, parameters, ignored


class _StreamRecorder(EventRecorder):
    """Listens to a message that comes in events."""

    def __init__(self) -> None:
        super().__init__()
        self._merge = Merge()

    def add(self, chunk: dict[str, Any]) -> bool:
        try:
            self._merge.add(chunk)
        except MergeError:
            return False
        self.ended = self.ended or self._merge.ended
        return True

    def answers(self) -> Answers | None:
        if not self._merge.is_whole():
            return None
        try:
            return _answers(self._merge.body(), self._merge.told())
        except RecursionError:
            return None


def _is_marked(tool: Any) -> bool:
    return isinstance(tool, dict) and _CACHE_MARK in tool


def _unmarked(tool: dict[str, Any]) -> dict[str, Any]:
    """A copy without the mark; what the tool is keeps its order, and so what the model writes."""
    return {name: value for name, value in tool.items() if name != _CACHE_MARK}


def _answers(body: dict[str, Any], told: dict[str, Any] | None = None) -> Answers | None:
    """One Generation; `None` if the message has not come to its end."""
    if not _is_whole(body):
        return None
    message: dict[str, Any] = {name: body.pop(name) for name in _MESSAGE if name in body}
    info = {"envelope": body, "told": told} if told else {"envelope": body}
    return [[ChatGeneration(_text(message["content"]), info, message=message)]]


def _is_whole(body: dict[str, Any]) -> bool:
    content, reason = body.get("content"), body.get("stop_reason")
    return (
        body.get("type", "message") == "message"  # some leave it out
        and isinstance(content, list)
        and all(isinstance(block, dict) for block in content)
        and isinstance(reason, str)
        and reason != ""
    )


def _is_message(generation: Generation) -> bool:
    """Was this kept by `_answers`, and not written by somebody else?"""
    info = generation.generation_info
    if not isinstance(generation, ChatGeneration) or not isinstance(generation.message, dict):
        return False
    if not isinstance(info, dict) or not isinstance(info.get("envelope"), dict):
        return False
    told = info.get("told", {"opening": {}, "ending": {}, "inputs": {}})
    return isinstance(told, dict) and all(
        isinstance(told.get(name), dict) for name in ("opening", "ending", "inputs")
    )


def _body(generation: Generation) -> dict[str, Any]:
    assert isinstance(generation, ChatGeneration)
    return {**(generation.generation_info or {})["envelope"], **generation.message}


def _text(content: list[dict[str, Any]]) -> str:
    """What a person would read of a message's content."""
    texts = [block.get("text") for block in content if block.get("type") == "text"]
    return "".join(text for text in texts if isinstance(text, str))


def _wants_json(ask: Ask) -> bool:
    config = ask.body.get("output_config")
    wishes = (
        config.get("format") if isinstance(config, dict) else None,
        ask.body.get("output_format"),
    )
    return any(isinstance(wish, dict) and wish.get("type") == "json_schema" for wish in wishes)


def _broken_json(body: dict[str, Any]) -> str:
    """Where the text stands that should be JSON and does not parse."""
    if body["stop_reason"] != "end_turn":
        return ""  # cut short as asked, or a tool comes first
    content = body["content"]
    if is_json(_text(content)):
        return ""
    places = [place for place, block in enumerate(content) if block.get("type") == "text"]
    return f"content[{places[0]}].text" if places else "content"


def _acted(content: list[Any]) -> str:
    """The first tool that searched or acted at the provider; those that only find tools do not."""
    for block in content:
        kind = block.get("type")
        if kind == "mcp_tool_use" or (kind == "server_tool_use" and not _finds_tools(block)):
            return str(kind)
    return ""


def _finds_tools(block: dict[str, Any]) -> bool:
    name = block.get("name")
    return isinstance(name, str) and name.startswith("tool_search_tool_")


def _input_tokens(usage: dict[str, Any]) -> int | None:
    """All that the model read; `input_tokens` itself is what no cache knew of it."""
    read = count(usage, "input_tokens")
    if read is None:
        return None
    cached = ("cache_creation_input_tokens", "cache_read_input_tokens")
    return read + sum(count(usage, name) or 0 for name in cached)


def _bill(body: dict[str, Any], usage: dict[str, Any]) -> Bill:
    created = usage.get("cache_creation")
    detail = usage.get("output_tokens_details")
    return Bill(
        model=text_at(body, "model"),
        service_tier=text_at(usage, "service_tier"),
        cached=count(usage, "cache_read_input_tokens") or 0,
        kept=count(usage, "cache_creation_input_tokens") or 0,
        kept_for_an_hour=_part(created, "ephemeral_1h_input_tokens"),
        reasoned=_part(detail, "thinking_tokens"),
    )


def _part(counts: Any, name: str) -> int:
    return (count(counts, name) or 0) if isinstance(counts, dict) else 0
