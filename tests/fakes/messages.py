"""Anthropic's messages: requests as the tests send them, and answers to them of every kind."""

from __future__ import annotations

from typing import Any

import orjson

from tests.fakes.message_events import stream
from tests.fakes.oracle import WORDS, events, expected, tokens

PATH = "/v1/messages"
COUNT_PATH = "/v1/messages/count_tokens"

Message = dict[str, Any]

_ERRORS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}


def asking(prompt: str = "Tell me a joke", **fields: Any) -> dict[str, Any]:
    """The body of a request; `stream=True` for events."""
    said = [{"role": "user", "content": prompt}]
    return {"model": "m", "max_tokens": 100, "messages": said, **fields}


def answer(asked: dict[str, Any], credential: str, path: str, number: int) -> Message:
    """What the oracle says; its id differs from call to call, as a provider's does."""
    said = expected(asked, credential=credential, path=path)
    return saying(text(said), asked=asked, number=number)


def told(asked: dict[str, Any], message: Message) -> list[bytes]:
    """A message as the events that this request gets."""
    return stream(message)


def count(asked: dict[str, Any], credential: str, path: str, number: int) -> dict[str, Any]:
    """The answer of `/messages/count_tokens`: what the message's usage would say."""
    return {"input_tokens": input_tokens(asked)}


def input_tokens(asked: dict[str, Any]) -> int:
    """What the fake provider bills for a request."""
    return sum(tokens(asked[name]) for name in ("system", "messages", "tools") if name in asked)


def error(told: dict[str, Any] | None, status: int, number: int) -> dict[str, Any]:
    """The body of a refusal; its `request_id` is the one of the header `request-id`."""
    default = {"type": _ERRORS.get(status, "api_error"), "message": f"status {status}"}
    return {"type": "error", "error": default | (told or {}), "request_id": f"req_{number}"}


def headers(number: int) -> dict[bytes, bytes]:
    """What Anthropic's answers have beside their body."""
    return {
        b"request-id": b"req_%d" % number,
        b"anthropic-organization-id": b"00000000-0000-4000-8000-000000000000",
        b"anthropic-ratelimit-requests-limit": b"1000",
        b"anthropic-ratelimit-requests-remaining": b"%d" % (1000 - number),
        b"anthropic-ratelimit-requests-reset": b"2026-01-01T00:00:00Z",
        b"anthropic-ratelimit-tokens-remaining": b"90000",
    }


def words(body: bytes) -> str:
    """All the text of an answer, told as JSON or as events."""
    if body.startswith(b"event: "):
        deltas = [each["delta"] for each in events(body) if each["type"] == "content_block_delta"]
        return "".join(each["text"] for each in deltas if each["type"] == "text_delta")
    blocks = orjson.loads(body)["content"]
    return "".join(block["text"] for block in blocks if block["type"] == "text")


def saying(
    *content: dict[str, Any],
    asked: dict[str, Any] | None = None,
    number: int = 1,
    **fields: Any,
) -> Message:
    """A whole message with this content, as it answers what was asked; `fields` replace others."""
    body = asked or asking()
    return {
        "model": f"{body.get('model')}-20260101",
        "id": f"msg_{number}",
        "type": "message",
        "role": "assistant",
        "content": list(content),
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "stop_details": None,
        "usage": usage(input_tokens(body), WORDS),
        **fields,
    }


def text(said: str, **fields: Any) -> dict[str, Any]:
    """A block of text."""
    return {"type": "text", "text": said, **fields}


def thinking(thought: str, signature: str) -> dict[str, Any]:
    """A block of thoughts, which are the provider's if their signature says so."""
    return {"type": "thinking", "thinking": thought, "signature": signature}


def tool_use(name: str, input: dict[str, Any], number: int = 1, **fields: Any) -> dict[str, Any]:
    """A block that calls a tool."""
    return {"type": "tool_use", "id": f"toolu_{number}", "name": name, "input": input, **fields}


def usage(before: int, after: int, **fields: Any) -> dict[str, Any]:
    return {
        "input_tokens": before,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
        "output_tokens": after,
        "service_tier": "standard",
        "inference_geo": "global",
        **fields,
    }


SIGNATURE = "EqQBCgIYAhIM1gbcDa9GJwZA2b3h+/0K" * 12 + "=="
UNICODE = (
    "Zwölf Boxkämpfer 🥊\u200d jagen\u2028Viktor —\n\t“über” den \x7f\u0085 Sylter Deich \\ 日本語"
)
_WEATHER = {"city": "Köln", "days": [1, 2.0], "units": {"wind": "m/s", "a": None}}
_SEARCH = {
    "type": "server_tool_use",
    "id": "srvtoolu_1",
    "name": "web_search",
    "input": {"query": "is rain wet"},
}
_FOUND = {
    "type": "web_search_tool_result",
    "tool_use_id": "srvtoolu_1",
    "content": [
        {
            "type": "web_search_result",
            "url": "https://example.org/rain",
            "title": "Rain",
            "encrypted_content": SIGNATURE,
            "page_age": None,
        }
    ],
}
_QUOTE = {
    "type": "char_location",
    "cited_text": "Rain is wet.",
    "document_index": 0,
    "document_title": None,
    "file_id": None,
    "start_char_index": 0,
    "end_char_index": 12,
}

# Answers that are whole, as a model gives them, by what is in them.
ANSWERS: dict[str, Message] = {
    "text": saying(text("Why did the chicken cross the road?")),
    "unicode": saying(text(UNICODE)),
    "nothing": saying(),
    "tool use": saying(tool_use("weather", _WEATHER), stop_reason="tool_use"),
    "two tool uses": saying(
        text("I look that up."),
        tool_use("weather", _WEATHER),
        tool_use("time", {}, number=2, caller={"type": "direct"}),
        stop_reason="tool_use",
    ),
    "thinking": saying(
        thinking("Two and two.\n\nThat is known.", SIGNATURE),
        text("It is 4."),
        usage=usage(1, 80, output_tokens_details={"thinking_tokens": 64}),
    ),
    "hidden thinking": saying(thinking("", SIGNATURE), text("It is 4.")),
    "redacted thinking": saying(
        {"type": "redacted_thinking", "data": SIGNATURE},
        thinking("Two and two.", SIGNATURE),
        tool_use("weather", _WEATHER),
        stop_reason="tool_use",
    ),
    "citations": saying(
        text("The page says: "),
        text("rain is wet", citations=[_QUOTE, {**_QUOTE, "document_index": 1}]),
        text("."),
    ),
    "kept prompt": saying(
        text("It is 4."),
        usage=usage(
            3,
            WORDS,
            cache_creation_input_tokens=200,
            cache_read_input_tokens=1000,
            cache_creation={"ephemeral_5m_input_tokens": 150, "ephemeral_1h_input_tokens": 50},
        ),
    ),
    "stop sequence": saying(text("One, two"), stop_reason="stop_sequence", stop_sequence=", three"),
    "cut to length": saying(text("Why did the"), stop_reason="max_tokens"),
    "unheard of": saying({"type": "telepathy", "thought": {"b": 1, "a": 2}}),
}
# Answers that are told as such and are none.
REFUSED = saying(
    stop_reason="refusal",
    stop_details={"type": "refusal", "category": "cyber", "explanation": None},
)
PAUSED = saying(_SEARCH, stop_reason="pause_turn")
# One that a tool of the provider's had a part in.
SEARCHED = saying(
    _SEARCH,
    _FOUND,
    text("Rain is wet."),
    usage=usage(900, 20, server_tool_use={"web_search_requests": 1, "web_fetch_requests": 0}),
)
