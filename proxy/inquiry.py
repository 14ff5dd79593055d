"""What travels through the engine: a call, read, judged and keyed."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass, field

from cache_backends.base import Entry
from proxy.dialects.base import Dialect
from proxy.models import AnswerFacts, Ask, Call, Question, Verdict


@dataclass(slots=True)
class Rendering:
    """The body that told these entries last, for one who asks the same again."""

    found: Sequence[Entry] = ()
    body: bytes = b""
    facts: AnswerFacts = field(default_factory=AnswerFacts)

    def tells(self, found: Sequence[Entry | None]) -> bool:
        return len(found) == len(self.found) and all(map(operator.is_, found, self.found))

    def tell(self, inquiry: Inquiry, found: Sequence[Entry]) -> None:
        """Render anew."""
        answers = [entry.generations for entry in found]
        self.body = inquiry.dialect.replay(inquiry.ask, answers)
        self.facts = inquiry.dialect.facts(inquiry.ask, answers)
        self.found = found

    @property
    def size(self) -> int:
        return len(self.body)


@dataclass(frozen=True, slots=True)
class Inquiry:
    """One request for an answer, read and judged."""

    call: Call
    dialect: Dialect
    ask: Ask
    verdict: Verdict
    question: Question
    rendering: Rendering = field(default_factory=Rendering, compare=False, repr=False)
