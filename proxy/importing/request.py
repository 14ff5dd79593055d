"""What a ChatOpenAI sent, read from the key that LangChain made of it.

LangChain's key says how the model was made and called, not what went over the wire. So the model is
made again and asked for the body that it would send: nobody else knows its rules. They are those of
the langchain-openai that is installed here. No request is made.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import orjson
from langchain_openai import ChatOpenAI
from pydantic import SecretStr

from cache_backends.codec import CodecError
from cache_backends.langchain_values import messages_of
from proxy.models import Headers

# What the serialised constructor calls the class. Others have payload rules of their own.
CHAT_OPENAI = ["langchain", "chat_models", "openai", "ChatOpenAI"]
# Of the constructor: who asks and by which way, not what.
_NOT_ASKED = frozenset(
    {
        "async_client",
        "cache",
        "callbacks",
        "client",
        "custom_get_token_ids",
        "default_headers",
        "http_async_client",
        "http_client",
        "max_retries",
        "metadata",
        "openai_api_base",
        "openai_api_key",
        "openai_organization",
        "openai_proxy",
        "rate_limiter",
        "request_timeout",
        "root_async_client",
        "root_client",
        "tags",
        "verbose",
    }
)
# Nothing is sent, so nobody sees these.
_KEY = SecretStr("none")
_BASE_URL = "http://nowhere.invalid/v1"


class Skipped(Exception):
    """A row that no entry is made of, and why; the same words for the same reason."""


@dataclass(frozen=True, slots=True)
class Request:
    """What went over the wire. `base_url` is what the model was given, "" if nothing."""

    body: dict[str, Any]
    base_url: str
    headers: Headers
    choices: int  # how many were asked for


def read_request(prompt: str, llm_string: str) -> Request:
    """Raises `Skipped`."""
    made, called = _parts(llm_string)
    kwargs = made["kwargs"]
    payload = _payload(_model(json.dumps(kwargs, sort_keys=True)), prompt, called)
    headers = _headers(kwargs) + _pairs(payload.pop("extra_headers", None))
    if payload.pop("extra_query", None) or kwargs.get("default_query"):
        raise Skipped("asked with a query in the URL")
    payload.pop("timeout", None)
    body = _as_sent(payload | (payload.pop("extra_body", None) or {}))
    choices = body.get("n")
    return Request(
        body,
        str(kwargs.get("openai_api_base") or "").rstrip("/"),
        headers,
        choices if type(choices) is int and choices > 0 else 1,
    )


def _parts(llm_string: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """How the model was made, and what it was called with."""
    try:
        made, end = json.JSONDecoder().raw_decode(llm_string)
    except (ValueError, RecursionError):
        raise Skipped("not of a chat model of LangChain's own") from None
    named = made.get("id") if isinstance(made, dict) else None
    if named != CHAT_OPENAI:
        name = named[-1] if isinstance(named, list) and named else "something else"
        raise Skipped(f"of {str(name)[:40]}, not of ChatOpenAI")
    if not isinstance(made.get("kwargs"), dict) or not llm_string[end:].startswith("---"):
        raise Skipped("a key that cannot be read")
    try:
        pairs = ast.literal_eval(llm_string[end + 3 :])
        called = dict(pairs)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        raise Skipped("called with a Python object, whose schema the file does not hold") from None
    return made, called


@lru_cache(maxsize=64)
def _model(made: str) -> ChatOpenAI:
    """The model, without what would let it reach anyone."""
    kwargs = {}
    for name, value in json.loads(made).items():
        if name in _NOT_ASKED:
            continue
        if _holds_object(value):
            raise Skipped(f"made with an object as {name[:40]}, which the file does not hold")
        kwargs[name] = value
    try:
        return ChatOpenAI(**kwargs, api_key=_KEY, base_url=_BASE_URL)
    except Exception as exc:  # a validator of theirs may raise anything
        raise Skipped("ChatOpenAI refuses its settings") from exc


def _payload(model: ChatOpenAI, prompt: str, called: Mapping[str, Any]) -> dict[str, Any]:
    try:
        messages = messages_of(prompt)
    except CodecError as exc:
        raise Skipped("messages that cannot be read") from exc
    try:
        payload = model._get_request_payload(messages, **called)
        uses_responses = "messages" not in payload
    except Exception as exc:  # a converter of theirs may raise anything
        raise Skipped("ChatOpenAI refuses the messages") from exc
    if uses_responses:
        raise Skipped("asked over /responses")
    return payload


def _headers(kwargs: Mapping[str, Any]) -> Headers:
    headers = _pairs(kwargs.get("default_headers"))
    if organization := kwargs.get("openai_organization"):
        headers.append((b"openai-organization", str(organization).encode()))
    return headers


def _pairs(said: Any) -> Headers:
    pairs = said.items() if isinstance(said, dict) else ()
    return [(str(name).lower().encode(), str(value).encode()) for name, value in pairs]


def _as_sent(body: dict[str, Any]) -> dict[str, Any]:
    asked = {name: body[name] for name in body if name not in ("stream", "stream_options")}
    try:
        sent: dict[str, Any] = orjson.loads(orjson.dumps(asked))
    except TypeError as exc:
        raise Skipped("a request that cannot be written as JSON") from exc
    return sent


def _holds_object(value: Any) -> bool:
    """Is it something that LangChain could not write down, or would look up?"""
    if isinstance(value, dict):
        return "lc" in value or any(map(_holds_object, value.values()))
    return isinstance(value, list) and any(map(_holds_object, value))
