"""What the provider would have said, put together from the messages that LangChain made of it.

The response itself is not in LangChain's file. What a client sees of it is: texts, tool calls,
refusals, log probabilities, usage, finish reasons. Times are not, and with several choices neither
are id, model and usage.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from cache_backends.codec import CodecError
from cache_backends.langchain_values import generation_of
from proxy.importing.request import Skipped

# Of LangChain's names for kinds of tokens, those that chat completions have.
_INPUT_DETAILS = {"cache_read": "cached_tokens", "audio": "audio_tokens"}
_OUTPUT_DETAILS = {"reasoning": "reasoning_tokens", "audio": "audio_tokens"}


def read_answer(responses: Sequence[str], choices: int) -> dict[str, Any]:
    """A chat completion of the first `choices` responses, without id, time and model if they are
    not known; raises `Skipped`.

    More than that are rows that LangChain left behind of an older, longer answer.
    """
    if len(responses) < choices:
        raise Skipped("fewer choices than were asked for")
    generations = [_generation(each) for each in responses[:choices]]
    body: dict[str, Any] = {
        "object": "chat.completion",
        "choices": [_choice(place, each) for place, each in enumerate(generations)],
    }
    if choices == 1:
        body |= _surroundings(generations[0])
    return body


def _generation(stored: str) -> Any:
    """One of LangChain's generations, or a bare text, as its first versions stored."""
    try:
        generation = generation_of(stored)
    except CodecError as exc:
        if stored.lstrip().startswith('{"lc"'):
            raise Skipped("an answer that cannot be read") from exc
        return stored
    message = getattr(generation, "message", None)
    if message is None:
        return generation.text
    if message.type not in ("ai", "AIMessageChunk"):
        raise Skipped("an answer that is no message of a model")
    return generation


def _choice(place: int, generation: Any) -> dict[str, Any]:
    if isinstance(generation, str):
        message = {"role": "assistant", "content": generation, "refusal": None}
        return {"index": place, "message": message, "logprobs": None, "finish_reason": "stop"}
    info = {**generation.message.response_metadata, **(generation.generation_info or {})}
    message = _message(generation.message, str(generation.text))
    calls = "tool_calls" if "tool_calls" in message else "stop"
    return {
        "index": place,
        "message": message,
        "logprobs": info.get("logprobs"),
        "finish_reason": info.get("finish_reason") or calls,
    }


def _message(message: Any, text: str) -> dict[str, Any]:
    more = message.additional_kwargs
    told = {"role": "assistant", "content": text, "refusal": more.get("refusal")}
    calls = more.get("tool_calls") or [
        *(_call(each, orjson.dumps(each["args"]).decode()) for each in message.tool_calls),
        *(_call(each, each["args"]) for each in message.invalid_tool_calls),
    ]
    told |= {"tool_calls": calls} if calls else {}
    told |= {name: more[name] for name in ("function_call", "audio") if more.get(name)}
    if not text and len(told) > 3:
        told["content"] = None
    return told


def _call(call: Mapping[str, Any], arguments: str | None) -> dict[str, Any]:
    function = {"name": call["name"], "arguments": arguments or ""}
    return {"id": call["id"], "type": "function", "function": function}


def _surroundings(generation: Any) -> dict[str, Any]:
    """What stands beside a single choice."""
    if isinstance(generation, str):
        return {}
    told = generation.message.response_metadata
    found = {
        "id": told.get("id"),
        "model": told.get("model_name"),
        "system_fingerprint": told.get("system_fingerprint"),
        "service_tier": told.get("service_tier"),
        "usage": told.get("token_usage") or _usage(generation.message.usage_metadata),
    }
    return {name: value for name, value in found.items() if value}


def _usage(counts: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if not counts or "input_tokens" not in counts:
        return None
    return {
        "prompt_tokens": counts["input_tokens"],
        "completion_tokens": counts["output_tokens"],
        "total_tokens": counts["total_tokens"],
        "prompt_tokens_details": _details(counts.get("input_token_details"), _INPUT_DETAILS),
        "completion_tokens_details": _details(counts.get("output_token_details"), _OUTPUT_DETAILS),
    }


def _details(counted: Any, names: Mapping[str, str]) -> dict[str, Any] | None:
    details = counted if isinstance(counted, dict) else {}
    return {theirs: details[ours] for ours, theirs in names.items() if ours in details} or None
