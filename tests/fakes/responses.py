"""OpenAI's responses: requests as the tests send them, and answers to them of every kind."""

from __future__ import annotations

from typing import Any

import orjson

from tests.fakes.oracle import WORDS, events, expected, pieces, tokens
from tests.fakes.response_events import stream

PATH = "/v1/responses"
COUNT_PATH = "/v1/responses/input_tokens"

Response = dict[str, Any]

# What a response repeats of the request, and what it says of that which was not asked.
_ECHOED: dict[str, Any] = {
    "background": False,
    "frequency_penalty": 0.0,
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "presence_penalty": 0.0,
    "previous_response_id": None,
    "prompt_cache_key": None,
    "prompt_cache_retention": "in_memory",
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


def answer(asked: dict[str, Any], credential: str, path: str, number: int) -> Response:
    """What the oracle says; its id and times differ from call to call, as a provider's do."""
    said = expected(asked, credential=credential, path=path)
    return saying(message(text(said), number=number), asked=asked, number=number)


def told(asked: dict[str, Any], response: Response) -> list[bytes]:
    """A response as the events that this request gets."""
    obfuscated = _object(asked, "stream_options").get("include_obfuscation", True)
    return stream(response, obfuscated=obfuscated)


def count(asked: dict[str, Any], credential: str, path: str, number: int) -> dict[str, Any]:
    """The answer of `/responses/input_tokens`: what the response's usage would say."""
    return {"object": "response.input_tokens", "input_tokens": input_tokens(asked)}


def input_tokens(asked: dict[str, Any]) -> int:
    """What the fake provider bills for a request."""
    return sum(tokens(asked[name]) for name in ("instructions", "input", "tools") if name in asked)


def words(body: bytes) -> str:
    """All the text of an answer, told as JSON or as events."""
    if body.startswith(b"event: "):
        deltas = [each for each in events(body) if each["type"] == "response.output_text.delta"]
        return "".join(each["delta"] for each in deltas)
    items = [item for item in orjson.loads(body)["output"] if item["type"] == "message"]
    return "".join(part.get("text", "") for item in items for part in item["content"])


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
        "billing": {"payer": "developer"},
        "completed_at": at + 1,
        "error": None,
        "incomplete_details": None,
        "model": f"{body.get('model')}-2026-01-01",
        "output": list(output),
        **{name: body.get(name, default) for name, default in _ECHOED.items()},
        "reasoning": {"effort": None, "summary": None, **_object(body, "reasoning")},
        "service_tier": "default",
        "text": {"format": {"type": "text"}, "verbosity": "medium", **_object(body, "text")},
        "usage": usage(input_tokens(body), WORDS),
        **fields,
    }


def message(*parts: dict[str, Any], number: int = 1, status: str = "completed") -> dict[str, Any]:
    """An item of output that says something."""
    return {
        "id": f"msg_{number}",
        "type": "message",
        "status": status,
        "content": list(parts),
        "role": "assistant",
    }


def text(said: str, *annotations: dict[str, Any]) -> dict[str, Any]:
    """A part of a message."""
    return {"type": "output_text", "annotations": list(annotations), "logprobs": [], "text": said}


def likely(said: str) -> dict[str, Any]:
    """A part of a message whose every word has its probability."""
    spelt = [{"token": each, "bytes": list(each.encode())} for each in pieces(said)]
    weighed = [{**each, "logprob": -0.25 * at} for at, each in enumerate(spelt)]
    return {**text(said), "logprobs": [{**each, "top_logprobs": [each]} for each in weighed]}


def call(name: str, arguments: str, number: int = 1) -> dict[str, Any]:
    """An item of output that calls a function."""
    return {
        "id": f"fc_{number}",
        "type": "function_call",
        "status": "completed",
        "arguments": arguments,
        "call_id": f"call_{number}",
        "name": name,
    }


def reasoning(*summary: str, **fields: Any) -> dict[str, Any]:
    """An item of output that says, or hides, what was thought."""
    parts = [{"type": "summary_text", "text": each} for each in summary]
    return {"id": "rs_1", "type": "reasoning", "summary": parts, **fields}


def usage(before: int, after: int, *, thought: int = 0) -> dict[str, Any]:
    return {
        "input_tokens": before,
        "input_tokens_details": {"cache_write_tokens": 0, "cached_tokens": 0},
        "output_tokens": after,
        "output_tokens_details": {"reasoning_tokens": thought},
        "total_tokens": before + after,
    }


def _object(body: dict[str, Any], name: str) -> dict[str, Any]:
    value = body.get(name)
    return value if isinstance(value, dict) else {}


ENCRYPTED = "gAAAAABo-_3Zk1+/8e0mY5vT" * 20 + "=="
UNICODE = (
    "Zwölf Boxkämpfer 🥊\u200d jagen\u2028Viktor —\n\t“über” den \x7f\u0085 Sylter Deich \\ 日本語"
)
_ARGUMENTS = '{"city":"Köln","days":[1, 2.0],"units":{"wind":"m\\/s"}}'
_CITATION = {
    "type": "url_citation",
    "start_index": 0,
    "end_index": 4,
    "title": "Rain",
    "url": "https://example.org/rain",
}

# Answers that are whole, as a model gives them, by what is in them.
ANSWERS: dict[str, Response] = {
    "text": saying(message(text("Why did the chicken cross the road?"))),
    "unicode": saying(message(text(UNICODE))),
    "two parts": saying(message(text("One."), text("Two."))),
    "nothing": saying(message(text(""))),
    "tool call": saying(call("weather", _ARGUMENTS)),
    "two tool calls": saying(
        message(text("I look that up.")), call("weather", _ARGUMENTS), call("time", "{}", number=2)
    ),
    "custom tool call": saying(
        {
            "id": "ctc_1",
            "type": "custom_tool_call",
            "status": "completed",
            "call_id": "call_1",
            "input": "print('häy')\n" * 3,
            "name": "run",
        }
    ),
    "reasoning": saying(
        reasoning("**First**\n\nI count.", "**Then**\n\nI sum.", encrypted_content=ENCRYPTED),
        message(text("It is 4.")),
        usage=usage(4, 80, thought=64),
    ),
    "hidden reasoning": saying(
        reasoning(content=[], encrypted_content=ENCRYPTED), message(text("It is 4."))
    ),
    "open reasoning": saying(
        reasoning(content=[{"type": "reasoning_text", "text": "Two and two."}], status="completed"),
        message(text("It is 4.")),
    ),
    "refusal": saying(message({"type": "refusal", "refusal": "I cannot help with that."})),
    "citations": saying(message(text("Rain is wet.", _CITATION, {**_CITATION, "end_index": 9}))),
    "logprobs": saying(message(likely("It is 4.")), top_logprobs=1),
    "unheard of": saying(
        {"id": "un_1", "type": "telepathy_call", "status": "completed", "thought": {"b": 1, "a": 2}}
    ),
    "cut to length": saying(
        message(text("Why did the"), status="incomplete"),
        status="incomplete",
        completed_at=None,
        incomplete_details={"reason": "max_output_tokens"},
    ),
}
# Answers that are told as such and are none.
FILTERED = {**ANSWERS["cut to length"], "incomplete_details": {"reason": "content_filter"}}
FAILED = saying(
    status="failed",
    completed_at=None,
    error={"code": "server_error", "message": "The model failed."},
    usage=None,
)
# One that a tool of the provider's had a part in.
SEARCHED = saying(
    {
        "id": "ws_1",
        "type": "web_search_call",
        "status": "completed",
        "action": {"type": "search", "query": "rain", "queries": ["rain"]},
    },
    message(text("Rain is wet.", _CITATION)),
)
