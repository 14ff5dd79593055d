"""What the fake provider's paths speak: who answers, streams and refuses on each."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from tests.fakes import message_events, messages, oracle, response_events, responses

Body = dict[str, Any]


def _openai_error(told: Body | None, status: int, number: int) -> Body:
    return {"error": told or {"message": f"status {status}", "type": "fake_error"}}


def _openai_error_event(error: Body, at: int) -> bytes:
    return oracle.event({"error": error})


def _openai_headers(number: int) -> dict[bytes, bytes]:
    return {
        b"x-request-id": b"req_%d" % number,
        b"x-ratelimit-remaining-requests": b"%d" % (1000 - number),
        b"openai-processing-ms": b"7",
    }


@dataclass(frozen=True, slots=True)
class Wire:
    """How requests of one kind are answered; errors and headers are OpenAI's unless said."""

    answer: Callable[[Body, str, str, int], Body]  # to what is asked: credential, path, number
    # What is asked and its answer as events, of which the last one says that all is told.
    stream: Callable[[Body, Body], list[bytes]] | None = None  # None: told in one piece anyway
    error: Callable[[Body | None, int, int], Body] = _openai_error  # as asked for, status, number
    error_event: Callable[[Body, int], bytes] = _openai_error_event  # the error, its place
    headers: Callable[[int], dict[bytes, bytes]] = _openai_headers  # of the call of this number


def wire_of(path: str) -> Wire:
    """The wire that is spoken on this path; one whose answer is empty where there is none."""
    return next((wire for end, wire in _WIRES.items() if path.endswith(end)), _ELSEWHERE)


def _chat_stream(asked: Body, told: Body) -> list[bytes]:
    return _until_done(oracle.chat_chunks(told, usage=_asks_usage(asked)))


def _completion_stream(asked: Body, told: Body) -> list[bytes]:
    return _until_done(oracle.completion_chunks(told, usage=_asks_usage(asked)))


def _no_stream(asked: Body, told: Body) -> list[bytes]:
    return _until_done(())


def _until_done(chunks: Iterable[Body]) -> list[bytes]:
    return [*map(oracle.event, chunks), oracle.event("[DONE]")]


def _asks_usage(body: Body) -> bool:
    options = body.get("stream_options")
    return isinstance(options, dict) and bool(options.get("include_usage"))


def _embeddings(asked: Body, credential: str, path: str, number: int) -> Body:
    return oracle.embeddings_answer(asked, credential)


def _nothing(asked: Body, credential: str, path: str, number: int) -> Body:
    return {}


_ELSEWHERE = Wire(_nothing, _no_stream)
_ANTHROPIC: dict[str, Any] = {
    "error": messages.error,
    "error_event": message_events.error_event,
    "headers": messages.headers,
}
_WIRES = {
    "/chat/completions": Wire(oracle.chat_answer, _chat_stream),
    "/completions": Wire(oracle.completion_answer, _completion_stream),
    "/embeddings": Wire(_embeddings, _no_stream),
    "/responses": Wire(responses.answer, responses.told, error_event=response_events.error_event),
    "/responses/input_tokens": Wire(responses.count),
    "/messages": Wire(messages.answer, messages.told, **_ANTHROPIC),
    "/messages/count_tokens": Wire(messages.count, **_ANTHROPIC),
}
