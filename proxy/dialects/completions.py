"""`/completions`: what of a request is in the key, and texts kept and told again.

Source: OpenAI's API reference, "Completions". Others (vLLM, llama.cpp, Fireworks) add fields.
"""

from __future__ import annotations

from typing import Any

import orjson

from cache_backends.base import Generation
from proxy.dialects import completions_tell
from proxy.dialects.base import CACHING, CALLER, TELLING, Fields, Recorder, json_kind
from proxy.dialects.facts import bill_of, count, is_json, usage_of
from proxy.dialects.recorders import EventRecorder, JsonRecorder
from proxy.dialects.usage import UsageDialect
from proxy.errors import UnreadableRequest
from proxy.models import AnswerFacts, Answers, Ask, Head

_REQUEST = "names the request"
_SPEED = "speed only"

_JSON_FORMATS = ("json_object", "json_schema")


class Completions(UsageDialect):
    """OpenAI's completions, as it and its many followers speak them."""

    name = "completions"
    version = 1
    fields = Fields(
        asked=("prompt", "suffix"),
        ignored={
            "stream": TELLING,
            "stream_options": TELLING,
            "user": CALLER,
            "safety_identifier": CALLER,
            "usage_context": "labels of the caller (Databricks)",
            "client_request_id": f"{_REQUEST} (Databricks)",
            "request_id": f"{_REQUEST} (vLLM)",
            "session_id": "groups requests (OpenRouter)",
            "prompt_cache_key": CACHING,
            "prompt_cache_retention": CACHING,
            "priority": "place in the queue (vLLM)",
            "cache_prompt": f"{_SPEED} (llama.cpp)",
            "id_slot": f"{_SPEED} (llama.cpp)",
            "speculation": f"{_SPEED} (Fireworks)",
        },
        # `best_of: 1` is missing here: beside `n: 2` it is an error, not the default.
        neutral={"n": (1,), "echo": (False,), "logit_bias": ({},), "stop": ([],)},
        # `max_tokens` is missing here: vLLM takes 16 when it is left out, no limit when it is null.
        nullable=frozenset(
            {
                "best_of",
                "echo",
                "frequency_penalty",
                "logit_bias",
                "logprobs",
                "n",
                "presence_penalty",
                "seed",
                "stop",
                "temperature",
                "top_p",
            }
        ),
        # In no answer that is known; if it is in one, it must reach nobody else.
        echoed=frozenset(
            {
                "client_request_id",
                "prompt_cache_key",
                "prompt_cache_retention",
                "request_id",
                "safety_identifier",
                "session_id",
                "usage_context",
                "user",
            }
        ),
    )

    def parts(
        self, asked: dict[str, Any], parameters: dict[str, Any]
    ) -> tuple[dict[str, Any], ...]:
        """One part, also for a list of prompts: `best_of`, `seed` and `n` apply to all of them."""
        _check_prompt(asked.get("prompt"))
        if "suffix" in asked and asked["suffix"] is None:
            asked = {"prompt": asked["prompt"]} if "prompt" in asked else {}
        return (asked,)

    def recorder(self, ask: Ask, head: Head, parts: int) -> Recorder:
        expected = _expected_choices(ask)
        if head.streams:
            return _StreamRecorder(expected)
        return JsonRecorder(lambda body: _read_plain(body, expected))

    def can_replay(self, ask: Ask, answers: Answers) -> bool:
        if len(answers) != 1 or not answers[0]:
            return False
        infos = [_info(generation) for generation in answers[0]]
        if not all(isinstance(info.get("choice"), dict) for info in infos):
            return False
        envelope = infos[0].get("envelope")
        if not isinstance(envelope, dict) or self._repeats_caller(envelope):
            return False
        # A plain answer without usage is all that the provider says; a stream was not asked for it.
        told = envelope.get("usage") is not None or infos[0].get("source") == "plain"
        return told or not ask.wants_usage

    def replay(self, ask: Ask, answers: Answers) -> bytes:
        body = _body(answers)
        if not ask.stream:
            return orjson.dumps(body)
        return completions_tell.tell(
            body,
            with_usage=ask.wants_usage,
            usage_with_choice=_info(answers[0][0]).get("usage_with_choice", False),
        )

    def facts(self, ask: Ask, answers: Answers) -> AnswerFacts:
        body = _body(answers)
        usage = usage_of(body)
        reasons = [choice.get("finish_reason") for choice in body["choices"]]
        return AnswerFacts(
            finish_reasons=tuple(reason for reason in reasons if isinstance(reason, str)),
            broken_json=_broken_json(body["choices"]) if _should_be_json(ask) else "",
            input_tokens=count(usage, "prompt_tokens"),
            output_tokens=count(usage, "completion_tokens"),
            bill=bill_of(body, "prompt_tokens_details", "completion_tokens_details"),
        )


class _StreamRecorder(EventRecorder):
    """Puts the chunks of a stream together: texts and lists grow, of all else the last stands."""

    def __init__(self, expected: int) -> None:
        super().__init__()
        self._expected = expected
        self._envelope: dict[str, Any] = {}
        self._usage_with_choice = False
        self._choices: dict[int, dict[str, Any]] = {}
        self._texts: dict[int, list[str]] = {}

    def add(self, chunk: dict[str, Any]) -> bool:
        choices = chunk.pop("choices", None) or []
        for name, value in chunk.items():
            # Azure begins with a chunk of empty names.
            if value or self._envelope.get(name) is None:
                self._envelope[name] = value
        if chunk.get("usage"):
            # Mistral and others tell usage unasked, with the last chunk that has choices.
            self._usage_with_choice = bool(choices)
        return isinstance(choices, list) and all(map(self._add_choice, choices))

    def answers(self) -> Answers | None:
        self._envelope.pop("obfuscation", None)
        if self._envelope.get("usage", ...) is None:
            del self._envelope["usage"]  # announced, and not told
        choices = [
            {"text": "".join(self._texts[index]), **self._choices[index]}
            for index in sorted(self._choices)
        ]
        answers = _answers(self._envelope, choices, self._expected, "stream")
        if answers and self._usage_with_choice:
            _info(answers[0][0])["usage_with_choice"] = True
        return answers

    def _add_choice(self, choice: Any) -> bool:
        if not isinstance(choice, dict):
            return False
        text, index = choice.pop("text", None), _index(choice)
        if index is None or not isinstance(text, str | None):
            return False
        self._texts.setdefault(index, []).append(text or "")
        _merge(self._choices.setdefault(index, {}), choice)
        return True


def _merge(whole: dict[str, Any], piece: dict[str, Any]) -> None:
    for name, value in piece.items():
        known = whole.get(name)
        if isinstance(known, dict) and isinstance(value, dict):
            for each in value:  # as the arrays of logprobs
                known[each] = _joined(known.get(each), value[each])
        else:
            whole[name] = _joined(known, value)


def _joined(known: Any, value: Any) -> Any:
    if isinstance(known, list) and isinstance(value, list):
        known.extend(value)
        return known
    return known if value is None else value


def _read_plain(body: dict[str, Any], expected: int) -> Answers | None:
    choices = body.pop("choices", None)
    if not isinstance(choices, list) or not all(isinstance(each, dict) for each in choices):
        return None
    indexes = [_index(choice) for choice in choices]
    if None in indexes or len(set(indexes)) < len(indexes):
        return None
    return _answers(body, sorted(choices, key=lambda each: each.get("index", 0)), expected, "plain")


def _answers(
    envelope: dict[str, Any], choices: list[dict[str, Any]], expected: int, source: str
) -> Answers | None:
    """One Generation for each choice; `None` unless all are there and have come to their end."""
    indexes = [_index(choice) for choice in choices]
    if len(choices) < expected or indexes != list(range(len(choices))):
        return None
    if not all(map(_is_finished, choices)):
        return None
    generations = [Generation(choice.pop("text"), {"choice": choice}) for choice in choices]
    _info(generations[0]).update(envelope=envelope, source=source)
    return [generations]


def _is_finished(choice: dict[str, Any]) -> bool:
    return (
        isinstance(choice.get("text"), str)
        and bool(choice.get("finish_reason"))
        and not choice.get("error")
    )


def _index(choice: dict[str, Any]) -> int | None:
    index = choice.get("index", 0)
    return index if type(index) is int and index >= 0 else None


def _expected_choices(ask: Ask) -> int:
    """The reference: "index" counts the prompts, and for each of them the `n` completions."""
    n = ask.parameters.get("n")
    return _prompts(ask.body.get("prompt")) * (n if type(n) is int and n > 0 else 1)


def _prompts(prompt: Any) -> int:
    if not isinstance(prompt, list) or not prompt or int in map(type, prompt):
        return 1  # a list with tokens in it is one prompt
    return len(prompt)


def _check_prompt(prompt: Any) -> None:
    """Refuse what no provider takes; llama.cpp takes objects, and tokens and texts in one list."""
    if isinstance(prompt, bool | int | float):
        raise UnreadableRequest(
            f"prompt: expected text, or a list of texts or tokens, got {json_kind(prompt)}."
        )
    if not isinstance(prompt, list):
        return
    for place, item in enumerate(prompt):
        if item is None or isinstance(item, bool | float):
            raise UnreadableRequest(
                f"prompt[{place}]: expected text, a token or a list of tokens, "
                f"got {json_kind(item)}."
            )


def _info(generation: Generation) -> dict[str, Any]:
    return generation.generation_info or {}


def _body(answers: Answers) -> dict[str, Any]:
    """The plain answer; `usage` comes last, as providers write it."""
    envelope: dict[str, Any] = _info(answers[0][0])["envelope"]
    choices = [{"text": each.text, **_info(each)["choice"]} for each in answers[0]]
    body = {name: value for name, value in envelope.items() if name != "usage"}
    body["choices"] = choices
    if "usage" in envelope:
        body["usage"] = envelope["usage"]
    return body


def _should_be_json(ask: Ask) -> bool:
    wish = ask.body.get("response_format")
    return isinstance(wish, dict) and wish.get("type") in _JSON_FORMATS and not ask.body.get("echo")


def _broken_json(choices: list[dict[str, Any]]) -> str:
    for place, choice in enumerate(choices):
        if choice.get("finish_reason") == "length":
            continue  # cut short as asked: the limit is in the key
        if not is_json(choice["text"]):
            return f"choices[{place}].text"
    return ""
