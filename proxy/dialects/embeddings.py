"""`/embeddings`: each input is cached apart, so that a batch asks only for what is not known yet.

Source: OpenAI's API reference, "Embeddings".
"""

from __future__ import annotations

from collections.abc import Sequence
from types import NoneType
from typing import Any

import orjson

from cache_backends.base import Generation
from proxy.dialects.base import CALLER, Fields, JsonDialect, Recorder, json_kind
from proxy.dialects.facts import count, text_at
from proxy.dialects.recorders import JsonRecorder
from proxy.errors import UnreadableRequest
from proxy.models import AnswerFacts, Answers, Ask, Bill, Head

# Jina: each input is read in the context of the others. None can be known apart from them.
_IN_CONTEXT = "late_chunking"
_NUMBERS = frozenset({int, float})
_NO_INPUTS = frozenset({bool, NoneType})


class Embeddings(JsonDialect):
    """OpenAI's embeddings, as it and its many followers speak them.

    An embedding is stored as the JSON text it is told with: floats are written once, not with
    every hit.
    """

    name = "embeddings"
    version = 1
    sampled = False
    fields = Fields(
        asked=("input",),
        ignored={
            "user": CALLER,
            "client_request_id": "names the request (Databricks)",
            "request_id": "names the request (vLLM)",
            "usage_context": "labels the bill (Databricks)",
            "priority": "place in the queue (vLLM)",
        },
        neutral={"encoding_format": ("float",)},
        nullable=frozenset({"dimensions", "encoding_format"}),
        # In no answer that is known; if it is in one, it must reach nobody else.
        echoed=frozenset({"client_request_id", "request_id", "usage_context", "user"}),
    )

    def parts(
        self, asked: dict[str, Any], parameters: dict[str, Any]
    ) -> tuple[dict[str, Any], ...]:
        """One for each input. A list with numbers in it is one input: tokens."""
        inputs = asked.get("input")
        if isinstance(inputs, bool | int | float):
            raise UnreadableRequest(
                f"input: expected text, or a list of texts or tokens, got {json_kind(inputs)}."
            )
        if not isinstance(inputs, list) or parameters.get(_IN_CONTEXT):
            return (asked,)
        kinds = set(map(type, inputs))
        if not kinds.isdisjoint(_NO_INPUTS):
            place = next(place for place, each in enumerate(inputs) if type(each) in _NO_INPUTS)
            raise UnreadableRequest(
                f"input[{place}]: expected text or a list of tokens, "
                f"got {json_kind(inputs[place])}."
            )
        if not inputs or not kinds.isdisjoint(_NUMBERS):
            return (asked,)
        return tuple({"input": each} for each in inputs)

    def request(self, ask: Ask, missing: Sequence[int] | None = None) -> bytes:
        if missing is None or len(missing) == len(ask.parts):
            return ask.raw
        inputs = [ask.parts[place]["input"] for place in missing]
        return orjson.dumps({**ask.body, "input": inputs})

    def recorder(self, ask: Ask, head: Head, parts: int) -> Recorder:
        """Usage is shared out by the length of inputs; evenly if `ask` holds more than was sent."""
        whole = parts == len(ask.parts)
        lengths = [_length(part.get("input")) if whole else 1 for part in ask.parts[:parts]]
        return JsonRecorder(lambda body: _read(body, lengths))

    def can_replay(self, ask: Ask, answers: Answers) -> bool:
        return bool(answers) and all(
            len(generations) == 1
            and _is_whole(info := _info(generations))
            and not self._repeats_caller(info["envelope"])
            for generations in answers
        )

    def replay(self, ask: Ask, answers: Answers) -> bytes:
        infos = [_info(generations) for generations in answers]
        data = [
            {**info["choice"], "index": index, "embedding": orjson.Fragment(info["embedding"])}
            for index, info in enumerate(infos)
        ]
        envelope = infos[0]["envelope"]
        body = {"object": envelope["object"]} if "object" in envelope else {}
        body |= {"data": data, **envelope}
        usages = [info["usage"] for info in infos if "usage" in info]
        if usages:
            body["usage"] = _summed_up(usages)
        return orjson.dumps(body)

    def facts(self, ask: Ask, answers: Answers) -> AnswerFacts:
        infos = [_info(generations) for generations in answers]
        usage = _summed_up([info["usage"] for info in infos if "usage" in info])
        name = "prompt_tokens" if "prompt_tokens" in usage else "total_tokens"
        bill = Bill(model=text_at(infos[0]["envelope"], "model"))
        return AnswerFacts(input_tokens=count(usage, name), bill=bill)

    def _stream(self, body: dict[str, Any]) -> bool:
        return False  # nobody streams embeddings; a field of that name is the provider's to judge


def _read(body: dict[str, Any], lengths: list[int]) -> Answers | None:
    """One Generation for each input; `None` unless there is exactly one embedding for each."""
    data = body.pop("data", None)
    if not isinstance(data, list) or len(data) != len(lengths):
        return None
    items = _in_order(data)
    if items is None:
        return None
    shares: list[dict[str, Any]] = [{}] * len(items)
    if isinstance(body.get("usage"), dict):
        shares = [{"usage": share} for share in _shared_out(body.pop("usage"), lengths)]
    answers: Answers = []
    for item, share in zip(items, shares, strict=True):
        embedding = item.pop("embedding", None)
        if not _is_embedding(embedding):
            return None
        item.pop("index", None)
        told = orjson.dumps(embedding).decode()
        info = {"choice": item, "embedding": told, "envelope": body, **share}
        answers.append([Generation("", info)])
    return answers


def _in_order(data: list[Any]) -> list[dict[str, Any]] | None:
    """Sorted by `index`; as they came if there is none."""
    if not all(isinstance(item, dict) for item in data):
        return None
    indexes = [item.get("index") for item in data]
    if not any(index is not None for index in indexes):
        return data
    places = {index: item for index, item in zip(indexes, data, strict=True) if type(index) is int}
    if not all(place in places for place in range(len(data))):
        return None
    return [places[place] for place in range(len(data))]


def _is_embedding(embedding: Any) -> bool:
    """Base64, or numbers; NaN (a fault of some local servers) comes as null and is none."""
    if isinstance(embedding, list):
        return bool(embedding) and _NUMBERS.issuperset(map(type, embedding))
    return isinstance(embedding, str) and bool(embedding)


def _length(asked: Any) -> int:
    return max(1, len(asked)) if isinstance(asked, str | list) else 1


def _shared_out(usage: dict[str, Any], lengths: list[int]) -> list[dict[str, Any]]:
    """The share of each input in the usage of a batch, by length. The shares add up exactly."""
    columns = {
        name: _shared_out(total, lengths)
        if isinstance(total, dict)
        else _apportioned(total, lengths)
        for name, total in usage.items()
    }
    return [
        {name: column[place] for name, column in columns.items()} for place in range(len(lengths))
    ]


def _apportioned(total: Any, lengths: list[int]) -> list[Any]:
    """Largest remainder. A float is a whole number over a power of two: that number is shared out,
    so that sums of the shares are exact too."""
    if type(total) not in _NUMBERS:
        return [total] * len(lengths)
    count, unit = total.as_integer_ratio()
    whole = sum(lengths)
    shares = [count * length // whole for length in lengths]
    by_remainder = sorted(range(len(lengths)), key=lambda place: -(count * lengths[place] % whole))
    for place in by_remainder[: count - sum(shares)]:
        shares[place] += 1
    return shares if type(total) is int else [share / unit for share in shares]


def _summed_up(usages: Sequence[dict[str, Any]]) -> dict[str, Any]:
    if len(usages) == 1:
        return usages[0]
    names = dict.fromkeys(name for usage in usages for name in usage)
    return {name: _sum([usage[name] for usage in usages if name in usage]) for name in names}


def _sum(values: list[Any]) -> Any:
    kinds = set(map(type, values))
    if kinds == {dict}:
        return _summed_up(values)
    return sum(values) if kinds <= _NUMBERS else values[0]


def _is_whole(info: dict[str, Any]) -> bool:
    return (
        isinstance(info.get("choice"), dict)
        and isinstance(info.get("envelope"), dict)
        and isinstance(info.get("embedding"), str)
        and isinstance(info.get("usage", {}), dict)
    )


def _info(generations: list[Generation]) -> dict[str, Any]:
    return generations[0].generation_info or {}
