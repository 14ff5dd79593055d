"""`/responses`: what of a request is in the key, and a response kept and told again.

Sources: OpenAI's API reference, "Responses" and "Responses streaming"; the references of vLLM,
Groq, Ollama and OpenRouter for where they differ.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson

from cache_backends.base import ChatGeneration, Generation
from proxy.dialects import responses_ask, responses_facts, responses_tell
from proxy.dialects.base import CACHING, CALLER, QUEUE, TELLING, Fields, JsonDialect, Recorder
from proxy.dialects.recorders import EventRecorder, JsonRecorder, tells_error
from proxy.dialects.responses_facts import text_of
from proxy.models import AnswerFacts, Answers, Ask, Bounds, Head, Ignored

# An answer with another status is none, or not yet one.
_KEPT = ("completed", "incomplete")
_LAST_EVENTS = ("response.completed", "response.incomplete", "response.failed")

_END_USER = ("safety_identifier", "user")
_CACHE_OPTIONS = "prompt_cache_options"
# All that is ignored and repeated. `service_tier` is none of them: the answer tells the tier that
# was used.
_REPEATED = (
    "metadata",
    "client_metadata",
    "session_id",
    "prompt_cache_key",
    "prompt_cache_retention",
    _CACHE_OPTIONS,
    *_END_USER,
)
# Who gives this has given nothing, and who says it repeats nothing.
_NOTHING: tuple[Any, ...] = (None, {})

_Keep = Callable[[dict[str, Any]], Answers | None]


class Responses(JsonDialect):
    """OpenAI's responses, as it and those speak them who follow it."""

    name = "responses"
    version = 1
    fields = Fields(
        asked=("instructions", "input"),
        # `store` is in the key: the id of an answer is a handle to what the provider stores.
        ignored={
            "stream": TELLING,
            "stream_options": TELLING,
            "user": CALLER,
            "safety_identifier": CALLER,
            "metadata": "labels of the caller",
            "client_metadata": "labels of the caller",  # of Codex: which turn of which session
            "session_id": "groups requests (OpenRouter)",
            "prompt_cache_key": CACHING,
            "prompt_cache_retention": CACHING,
            _CACHE_OPTIONS: CACHING,
            "service_tier": QUEUE,
        },
        neutral={"background": (False,), "include": ([],), "store": (True,), "tools": ([],)},
        # `parallel_tool_calls`, `tool_choice`, `top_logprobs` and `truncation` are missing here:
        # vLLM does something else when they are null than when they are left out.
        nullable=frozenset(
            {
                "background",
                "context_management",
                "conversation",
                "include",
                "instructions",
                "max_output_tokens",
                "max_tool_calls",
                "model",  # Azure: the deployment stands in the URL
                "moderation",
                "previous_response_id",
                "prompt",
                "reasoning",
                "store",
                "temperature",
                "top_p",
            }
        ),
        echoed=frozenset(_REPEATED),
        shape={"input": {"content": {}, "summary": {}}},
        marks=frozenset({"cache_control", "prompt_cache_breakpoint"}),
    )

    def bounds(self, body: dict[str, Any]) -> Bounds:
        return responses_ask.bounds(body)

    def recorder(self, ask: Ask, head: Head, parts: int) -> Recorder:
        def keep(body: dict[str, Any]) -> Answers | None:
            return _answers(ask, body)

        return _StreamRecorder(keep) if head.streams else JsonRecorder(keep)

    def can_replay(self, ask: Ask, answers: Answers) -> bool:
        return len(answers) == 1 and len(answers[0]) == 1 and _is_response(answers[0][0])

    def replay(self, ask: Ask, answers: Answers) -> bytes:
        body = _body(ask, answers[0][0])
        return responses_tell.tell(body) if ask.stream else orjson.dumps(body)

    def facts(self, ask: Ask, answers: Answers) -> AnswerFacts:
        generation = answers[0][0]
        return responses_facts.facts(ask, _info(generation)["envelope"], _output(generation))

    def _split(
        self, body: dict[str, Any]
    ) -> tuple[dict[str, Any], dict[str, Any], tuple[Ignored, ...]]:
        responses_ask.check_input(body.get("input"))
        asked, parameters, ignored = super()._split(body)
        if responses_ask.recalls(body):
            users = {name: body[name] for name in _END_USER if body.get(name) is not None}
            parameters |= users
            ignored = tuple(each for each in ignored if each.path not in users)
        return asked, parameters, ignored


class _StreamRecorder(EventRecorder):
    """Listens to a response that comes in events: the last one holds it all."""

    def __init__(self, keep: _Keep) -> None:
        super().__init__()
        self._keep = keep
        self._begun = 0  # items of which something was told
        self._told: list[tuple[Any, Any]] = []  # whole items, each with its place
        self._body: dict[str, Any] | None = None

    def add(self, chunk: dict[str, Any]) -> bool:
        if self.ended:
            return False
        kind, body = chunk.get("type"), chunk.get("response")
        if kind == "response.output_item.added":
            self._begun += 1
        elif kind == "response.output_item.done":
            self._told.append((chunk.get("output_index"), chunk.get("item")))
        elif isinstance(kind, str) and kind.endswith(".delta"):
            if kind.startswith("response.audio."):
                return False  # no body holds what was heard
            self._begun = self._begun or 1
        elif isinstance(kind, str) and kind in _LAST_EVENTS:
            self.ended = True
            if isinstance(body, dict) and kind == f"response.{body.get('status')}":
                self._body = None if tells_error(body) else body
        return True

    def answers(self) -> Answers | None:
        if self._body is None:
            return None
        output = self._body.get("output")
        if not output and (self._told or self._begun):  # some servers leave it out at the end
            output = self._in_order()
        elif self._told and not _agree([item for _, item in self._told], output):
            return None
        return self._keep({**self._body, "output": output})

    def _in_order(self) -> list[Any] | None:
        """The items as they were told; `None` if one is missing or has no place."""
        places = [place for place, _ in self._told]
        if len(places) < self._begun or any(type(place) is not int for place in places):
            return None
        if len(set(places)) < len(places):
            return None
        return [item for _, item in sorted(self._told, key=lambda told: told[0])]


def _agree(told: list[Any], output: Any) -> bool:
    """Does the end hold the items that were told before, as many and with the same words?"""
    if not isinstance(output, list):
        return False
    return sorted(map(_words, told)) == sorted(map(_words, output))


def _words(item: Any) -> tuple[str, str]:
    """What an item says to a person, and to a tool."""
    given = item.get("arguments", item.get("input")) if isinstance(item, dict) else None
    return text_of([item]), given if isinstance(given, str) else ""


def _answers(ask: Ask, body: dict[str, Any]) -> Answers | None:
    output = body.pop("output", None)
    if body.get("status") not in _KEPT or not _is_output(output):
        return None
    # What repeats the request, also where the provider has changed it on the way, is not kept:
    # another caller may get this answer.
    given = {name: value for name, value in ask.echoed.items() if value not in _NOTHING}
    # Some tell the end user under both names, whichever was given.
    named = {**dict.fromkeys(_END_USER), **given} if given.keys() & set(_END_USER) else given
    repeated = [name for name in named if body.get(name) not in _NOTHING]
    info: dict[str, Any] = {
        "envelope": {name: value for name, value in body.items() if name not in repeated}
    }
    if repeated:
        info["repeated"] = repeated
    if silent := [name for name in given if name in body and name not in repeated]:
        info["silent"] = silent  # Ollama says null whatever was given
    if _CACHE_OPTIONS in repeated:
        info["envelope"] |= _chosen(given[_CACHE_OPTIONS], body[_CACHE_OPTIONS])
    message = {"role": "assistant", "content": output}
    return [[ChatGeneration(text_of(output), info, message=message)]]


def _chosen(options: Any, used: Any) -> dict[str, Any]:
    """Of the cache's options those that the provider has chosen."""
    if not isinstance(options, dict) or not isinstance(used, dict):
        return {}
    return {_CACHE_OPTIONS: {name: used[name] for name in used if name not in options}}


def _body(ask: Ask, generation: Generation) -> dict[str, Any]:
    """The response as this request would be told it: what repeats it repeats the current one."""
    info = _info(generation)
    body = {**info["envelope"], "output": _output(generation)}
    repeated, silent = info.get("repeated", []), info.get("silent", [])
    for name in _REPEATED:
        given = ask.echoed.get(name)
        if given in _NOTHING:
            if name in repeated:
                body[name] = {} if name == "metadata" else None
        elif name in repeated or (name in body and name not in silent):
            body[name] = _completed(given, body.get(name)) if name == _CACHE_OPTIONS else given
    return body


def _completed(options: Any, chosen: Any) -> Any:
    both = isinstance(options, dict) and isinstance(chosen, dict)
    return {**chosen, **options} if both else options


def _is_response(generation: Generation) -> bool:
    """Was this kept by `_answers`, and not written by somebody else?"""
    info = generation.generation_info
    envelope = info.get("envelope") if isinstance(info, dict) else None
    return (
        isinstance(generation, ChatGeneration)
        and isinstance(generation.message, dict)
        and _is_output(generation.message.get("content"))
        and isinstance(envelope, dict)
        and envelope.get("status") in _KEPT
        and all(
            isinstance(_info(generation).get(name, []), list) for name in ("repeated", "silent")
        )
    )


def _is_output(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, dict) for item in value)


def _info(generation: Generation) -> dict[str, Any]:
    return generation.generation_info or {}


def _output(generation: Generation) -> list[dict[str, Any]]:
    assert isinstance(generation, ChatGeneration)
    output: list[dict[str, Any]] = generation.message["content"]
    return output
