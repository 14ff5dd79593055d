"""`/responses`: what of a request is in the key, and a response kept and told again.

Sources: OpenAI's API reference, "Responses" and "Responses streaming".
"""

from __future__ import annotations

from typing import Any

import orjson

from cache_backends.base import ChatGeneration, Generation
from proxy.dialects.base import CACHING, CALLER, QUEUE, TELLING, Fields, JsonDialect, Recorder
from proxy.dialects.recorders import JsonRecorder
from proxy.models import AnswerFacts, Answers, Ask, Bounds, Head

# OpenAI keeps a response that is stored there for 30 days: then its id leads nowhere.
KEPT_S = 29 * 86400.0

# Tools that run at the caller, or that look at nothing but the request and do nothing but answer.
_HARMLESS_TOOLS = frozenset(
    {
        "apply_patch",
        "computer",
        "computer_use_preview",
        "custom",
        "function",
        "image_generation",
        "local_shell",
    }
)


class Responses(JsonDialect):
    """OpenAI's responses, as it and those speak them who follow it."""

    name = "responses"
    version = 1
    fields = Fields(
        asked=("instructions", "input"),
        ignored={
            "stream": TELLING,
            "stream_options": TELLING,
            "user": CALLER,
            "safety_identifier": CALLER,
            "metadata": "labels of the caller",
            "prompt_cache_key": CACHING,
            "prompt_cache_retention": CACHING,
            "prompt_cache_options": CACHING,
            "service_tier": QUEUE,
        },
        neutral={"background": (False,), "store": (True,), "tools": ([],), "include": ([],)},
        nullable=frozenset(
            {
                "background",
                "conversation",
                "include",
                "instructions",
                "max_output_tokens",
                "max_tool_calls",
                "model",
                "previous_response_id",
                "prompt",
                "reasoning",
                "store",
                "temperature",
                "top_p",
                "truncation",
            }
        ),
        echoed=frozenset(
            {
                "metadata",
                "prompt_cache_key",
                "prompt_cache_options",
                "prompt_cache_retention",
                "safety_identifier",
                "user",
            }
        ),
        shape={"input": {"content": {}, "summary": {}}},
        marks=frozenset({"prompt_cache_breakpoint"}),
    )

    def bounds(self, body: dict[str, Any]) -> Bounds:
        if refusal := _refusal(body):
            return Bounds(uncached=refusal)
        if body.get("store") is False:
            return Bounds(
                account="previous_response_id" if body.get("previous_response_id") else ""
            )
        return Bounds(account="the provider stores the response", keep_s=KEPT_S)

    def recorder(self, ask: Ask, head: Head, parts: int) -> Recorder:
        return JsonRecorder(_read)

    def can_replay(self, ask: Ask, answers: Answers) -> bool:
        return len(answers) == len(answers[0]) == 1 and isinstance(answers[0][0], ChatGeneration)

    def replay(self, ask: Ask, answers: Answers) -> bytes:
        return orjson.dumps(_body(answers[0][0]))

    def facts(self, ask: Ask, answers: Answers) -> AnswerFacts:
        return AnswerFacts(finish_reasons=(_body(answers[0][0])["status"],))


def _refusal(body: dict[str, Any]) -> str:
    """Why a request's answer is not its own: it acts, or looks at what others may change."""
    for name in ("background", "conversation"):
        if body.get(name):
            return name
    prompt, caching = body.get("prompt"), body.get("prompt_cache_options")
    if isinstance(prompt, dict) and not prompt.get("version"):
        return "prompt without a version"
    for name in ("prewarm", "comparison_response_id"):
        if isinstance(caching, dict) and caching.get(name):
            return name
    tools = body.get("tools")
    if not all(map(_is_harmless, tools if isinstance(tools, list) else ())):
        return "a tool of the provider's"
    return ""


def _is_harmless(tool: Any) -> bool:
    if not isinstance(tool, dict):
        return True  # the provider will refuse it
    kind = tool.get("type")
    if kind == "namespace":
        inner = tool.get("tools")
        return all(map(_is_harmless, inner if isinstance(inner, list) else ()))
    if kind == "tool_search":
        return True
    if kind == "shell":
        environment = tool.get("environment")
        return isinstance(environment, dict) and environment.get("type") == "local"
    return kind in _HARMLESS_TOOLS


def _read(body: dict[str, Any]) -> Answers | None:
    if body.get("status") != "completed" or not isinstance(body.get("output"), list):
        return None
    message = {"role": "assistant", "content": body.pop("output")}
    return [[ChatGeneration("", {"envelope": body}, message=message)]]


def _body(generation: Generation) -> dict[str, Any]:
    assert isinstance(generation, ChatGeneration)
    return {
        **(generation.generation_info or {})["envelope"],
        "output": generation.message["content"],
    }
