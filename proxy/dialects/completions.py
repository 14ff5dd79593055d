"""`/completions`: a prompt in, text out; what a stream says is put together, and taken apart again.

Source: OpenAI's API reference, "Completions". Others (vLLM, llama.cpp, Fireworks) add fields.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate, pairwise
from typing import Any

import orjson

from cache_backends.base import Generation
from proxy import sse
from proxy.dialects.base import (
    EventRecorder,
    Fields,
    JsonRecorder,
    OpenAIDialect,
    Recorder,
    Relay,
    UsageRelay,
    is_event_stream,
    json_kind,
)
from proxy.errors import UnreadableRequest
from proxy.models import AnswerFacts, Answers, Ask, Head

# A stored text is told in pieces of this size where its tokens are not known.
PIECE_CHARS = 64

_JSON_FORMATS = frozenset({"json_object", "json_schema"})


class Completions(OpenAIDialect):
    """OpenAI's completions, as it and its many followers speak them."""

    name = "completions"
    version = 1
    fields = Fields(
        asked=("prompt", "suffix"),
        ignored={
            "stream": "says how to tell the answer",
            "stream_options": "says how to tell the answer",
            "user": "names the caller",
            "safety_identifier": "names the caller",
            "client_request_id": "names the request (Databricks)",
            "request_id": "names the request (vLLM)",
            "session_id": "groups requests (OpenRouter)",
            "usage_context": "labels the bill (Databricks)",
            "priority": "place in the queue (vLLM)",
            "prompt_cache_key": "speed and price only",
            "prompt_cache_retention": "speed and price only",
            "cache_prompt": "speed only (llama.cpp)",
            "id_slot": "speed only (llama.cpp)",
            "speculation": "speed only (Fireworks)",
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
    )

    def parts(self, asked: dict[str, Any]) -> tuple[dict[str, Any], ...]:
        """One part, also for a list of prompts: `best_of`, `seed` and `n` apply to all of them."""
        _check_prompt(asked.get("prompt"))
        if "suffix" in asked and asked["suffix"] is None:
            asked = {"prompt": asked["prompt"]} if "prompt" in asked else {}
        return (asked,)

    def recorder(self, ask: Ask, head: Head, parts: int) -> Recorder:
        expected = _expected_choices(ask)
        if is_event_stream(head):
            return _StreamRecorder(expected)
        return JsonRecorder(lambda body: _read_plain(body, expected))

    def relay(self, ask: Ask) -> Relay | None:
        return UsageRelay() if ask.asks_usage_upstream else None

    def can_replay(self, ask: Ask, answers: Answers) -> bool:
        if len(answers) != 1 or not answers[0]:
            return False
        infos = [generation.generation_info or {} for generation in answers[0]]
        if not all(isinstance(info.get("choice"), dict) for info in infos):
            return False
        envelope = infos[0].get("envelope")
        if not isinstance(envelope, dict):
            return False
        # A plain answer without usage is all that the provider says; a stream was not asked for it.
        return not ask.wants_usage or "usage" in envelope or infos[0].get("source") == "plain"

    def replay(self, ask: Ask, answers: Answers) -> bytes:
        envelope, choices = _envelope(answers), _choices(answers)
        if not ask.stream:
            return orjson.dumps(_body(envelope, choices))
        chunks = _chunks(envelope, choices, with_usage=ask.wants_usage)
        return sse.encode(map(orjson.dumps, chunks)) + sse.DONE

    def facts(self, ask: Ask, answers: Answers) -> AnswerFacts:
        usage = _envelope(answers).get("usage")
        counts = usage if isinstance(usage, dict) else {}
        choices = _choices(answers)
        reasons = [choice.get("finish_reason") for choice in choices]
        return AnswerFacts(
            finish_reasons=tuple(reason for reason in reasons if isinstance(reason, str)),
            broken_json=_broken_json(choices) if _should_be_json(ask) else "",
            input_tokens=_count(counts.get("prompt_tokens")),
            output_tokens=_count(counts.get("completion_tokens")),
        )


class _StreamRecorder(EventRecorder):
    """Puts the chunks of a stream together: texts and lists grow, of all else the last stands."""

    def __init__(self, expected: int) -> None:
        super().__init__()
        self._expected = expected
        self._envelope: dict[str, Any] = {}
        self._choices: dict[int, dict[str, Any]] = {}
        self._texts: dict[int, list[str]] = {}

    def add(self, chunk: dict[str, Any]) -> bool:
        choices = chunk.pop("choices", None) or []
        for name, value in chunk.items():
            # Azure begins with a chunk of empty names.
            if value or self._envelope.get(name) is None:
                self._envelope[name] = value
        return isinstance(choices, list) and all(map(self._add_choice, choices))

    def answers(self) -> Answers | None:
        self._envelope.pop("obfuscation", None)
        if self._envelope.get("usage", ...) is None:
            del self._envelope["usage"]  # announced, and not told
        choices = [
            {"text": "".join(self._texts[index]), **self._choices[index]}
            for index in sorted(self._choices)
        ]
        return _answers(self._envelope, choices, self._expected, "stream")

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
            for each in value:  # the arrays of logprobs
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
    generations = []
    for choice in choices:
        text = choice.pop("text", None)
        if not isinstance(text, str) or not choice.get("finish_reason"):
            return None
        generations.append(Generation(text, {"choice": choice}))
    first = {"choice": choices[0], "envelope": envelope, "source": source}
    generations[0] = Generation(generations[0].text, first)
    return [generations]


def _index(choice: dict[str, Any]) -> int | None:
    index = choice.get("index", 0)
    return index if type(index) is int and index >= 0 else None


def _expected_choices(ask: Ask) -> int:
    """The reference: "index" counts the prompts, and for each of them the `n` completions."""
    n = ask.body.get("n")
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


def _envelope(answers: Answers) -> dict[str, Any]:
    info = answers[0][0].generation_info or {}
    envelope: dict[str, Any] = info["envelope"]
    return envelope


def _choices(answers: Answers) -> list[dict[str, Any]]:
    return [
        {"text": generation.text, **(generation.generation_info or {})["choice"]}
        for generation in answers[0]
    ]


def _body(envelope: dict[str, Any], choices: list[dict[str, Any]]) -> dict[str, Any]:
    """The plain answer; `usage` comes last, as providers write it."""
    if "usage" not in envelope:
        return {**envelope, "choices": choices}
    head = {name: value for name, value in envelope.items() if name != "usage"}
    return {**head, "choices": choices, "usage": envelope["usage"]}


def _chunks(
    envelope: dict[str, Any], choices: list[dict[str, Any]], *, with_usage: bool
) -> Iterator[dict[str, Any]]:
    """The streamed answer, choice by choice. Objects and lists of the envelope are told once."""
    usage = envelope.get("usage")
    unknown_yet = {"usage": None} if with_usage and usage is not None else {}
    head = {name: value for name, value in envelope.items() if name != "usage"}
    brief = {name: value for name, value in head.items() if not isinstance(value, dict | list)}
    for choice in choices:
        for piece in _pieces(choice):
            yield {**head, "choices": [piece], **unknown_yet}
            head = brief
    if unknown_yet:
        yield {**brief, "choices": [], "usage": usage}


def _pieces(choice: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A choice in pieces: token by token where logprobs tell the tokens; the rest with the last."""
    text, logprobs = choice["text"], choice.get("logprobs")
    ends = _token_ends(text, logprobs) if isinstance(logprobs, dict) else []
    cuts = [0, *ends] if ends else [*range(0, max(len(text), 1), PIECE_CHARS), len(text)]
    opening: dict[str, Any] = {
        name: choice[name] if name == "index" else None
        for name in ("index", "logprobs", "finish_reason")
        if name in choice
    }
    for place, (start, end) in enumerate(pairwise(cuts)):
        piece = dict(choice if place == len(cuts) - 2 else opening, text=text[start:end])
        if isinstance(logprobs, dict) and ends:
            piece["logprobs"] = {name: array and [array[place]] for name, array in logprobs.items()}
        yield piece


def _token_ends(text: str, logprobs: dict[str, Any]) -> list[int]:
    """Where each token ends in the text; [] if that cannot be told.

    A token may be half of a character, and a list may be of another length.
    """
    tokens = logprobs.get("tokens")
    if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
        return []
    arrays = [array for array in logprobs.values() if array is not None]
    if any(not isinstance(array, list) or len(array) != len(tokens) for array in arrays):
        return []
    return list(accumulate(map(len, tokens))) if "".join(tokens) == text else []


def _should_be_json(ask: Ask) -> bool:
    wish = ask.body.get("response_format")
    kind = wish.get("type") if isinstance(wish, dict) else None
    return isinstance(kind, str) and kind in _JSON_FORMATS and not ask.body.get("echo")


def _broken_json(choices: list[dict[str, Any]]) -> str:
    for place, choice in enumerate(choices):
        try:
            orjson.loads(choice["text"])
        except orjson.JSONDecodeError:
            return f"choices[{place}].text"
    return ""


def _count(value: Any) -> int | None:
    return value if type(value) is int else None
