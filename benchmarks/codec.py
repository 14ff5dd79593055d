"""The codec beside LangChain's: an answer of one choice to text and back."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from statistics import median
from typing import Any, NamedTuple

from benchmarks import entries
from cache_backends.codec import Stored, decode, encode

_CALLS = 500


class Codec(NamedTuple):
    """Seconds for writing and reading an answer, round by round.

    `theirs` is empty where langchain-core is not installed.
    """

    ours: list[float]
    theirs: list[float]

    @property
    def times_faster(self) -> float:
        return median(their / our for our, their in zip(self.ours, self.theirs, strict=True))


def measure(rounds: int) -> Codec:
    ours, theirs = round_trips()
    result = Codec([], [])
    for _ in range(rounds):
        result.ours.append(_seconds(ours))
        if theirs is not None:
            result.theirs.append(_seconds(theirs))
    return result


def round_trips() -> tuple[Callable[[], Stored], Callable[[], Any] | None]:
    """Ours; and LangChain's, where it is installed."""
    answer = [entries.answer(1)]
    return lambda: decode(encode(answer)), _theirs()


def _theirs() -> Callable[[], Any] | None:
    """What LangChain's own caches do with the same answer of the same model."""
    try:
        from langchain_core.load import dumps, loads
        from langchain_core.messages import AIMessage
        from langchain_core.outputs import ChatGeneration
    except ImportError:
        return None
    told = entries.answer(1)
    assert told.generation_info is not None
    envelope = told.generation_info["envelope"]
    usage = envelope["usage"]
    message = AIMessage(
        content=told.text,
        additional_kwargs={"refusal": None},
        response_metadata={
            "token_usage": usage,
            "model_provider": "openai",
            "model_name": envelope["model"],
            "system_fingerprint": envelope["system_fingerprint"],
            "id": envelope["id"],
            "service_tier": envelope["service_tier"],
            "finish_reason": "stop",
            "logprobs": None,
        },
        usage_metadata={
            "input_tokens": usage["prompt_tokens"],
            "output_tokens": usage["completion_tokens"],
            "total_tokens": usage["total_tokens"],
        },
    )
    info = {"finish_reason": "stop", "logprobs": None}
    answer = ChatGeneration(message=message, generation_info=info)

    def round_trip() -> Any:
        return loads(dumps(answer), allowed_objects="core")

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # `loads` is in beta, which it says once
        round_trip()
    return round_trip


def _seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    for _ in range(_CALLS):
        call()
    return (time.perf_counter() - began) / _CALLS
