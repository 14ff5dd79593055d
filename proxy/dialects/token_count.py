"""How many tokens a request would be: OpenAI's `/responses/input_tokens`, Anthropic's
`/messages/count_tokens`. The answer is one small object, the same for the same request.

Sources: OpenAI's API reference, "Get input token counts"; Anthropic's, "Count tokens in a Message".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import orjson

from cache_backends.base import Generation
from proxy.dialects.base import Dialect, Recorder, Relay
from proxy.dialects.recorders import JsonRecorder
from proxy.errors import ProxyError
from proxy.models import AnswerFacts, Answers, Ask, Bounds, Call, Head


class TokenCount:
    """Reads requests as the dialect does whose tokens are counted."""

    version = 1

    def __init__(self, name: str, counted: Dialect) -> None:
        self.name = name
        self.request_id = counted.request_id
        self._counted = counted

    def read(self, call: Call) -> Ask:
        ask = self._counted.read(call)
        return replace(
            ask,
            dialect=f"{self.name}/{self.version}",
            stream=False,
            echoed={},
            bounds=Bounds(uncached=ask.bounds.uncached),
            sampled=False,
        )

    def request(self, ask: Ask, missing: Sequence[int] | None = None) -> bytes:
        return ask.raw

    def recorder(self, ask: Ask, head: Head, parts: int) -> Recorder:
        return JsonRecorder(_read)

    def relay(self, ask: Ask) -> Relay | None:
        return None

    def can_replay(self, ask: Ask, answers: Answers) -> bool:
        return len(answers) == len(answers[0]) == 1 and _counts(_body(answers))

    def replay(self, ask: Ask, answers: Answers) -> bytes:
        return orjson.dumps(_body(answers))

    def facts(self, ask: Ask, answers: Answers) -> AnswerFacts:
        return AnswerFacts()  # counting is not billed

    def error(self, error: ProxyError) -> bytes:
        return self._counted.error(error)


def _read(body: dict[str, Any]) -> Answers | None:
    if not _counts(body):
        return None
    return [[Generation(str(body["input_tokens"]), {"envelope": body})]]


def _counts(body: Any) -> bool:
    return isinstance(body, dict) and type(body.get("input_tokens")) is int


def _body(answers: Answers) -> Any:
    return (answers[0][0].generation_info or {}).get("envelope")
