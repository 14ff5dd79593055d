"""What travels through the engine: a call, read, judged and keyed."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from cache_backends.base import Entry, Key, digest
from proxy.dialects.base import Dialect
from proxy.dialects.facts import count
from proxy.models import NO_FACTS, AnswerFacts, Ask, Call, Mode, Question, Verdict

# No answer takes so many seconds or costs so much. What an entry says of itself may come from
# anywhere, and it would be in the sums for all time.
MAX_AMOUNT = 1e6


@dataclass(slots=True)
class Rendering:
    """The body that told these entries last, for one who asks the same again. Unix seconds."""

    found: Sequence[Entry] = ()
    ids: Sequence[str] = ()
    body: bytes = b""
    facts: AnswerFacts = NO_FACTS
    stored_at: float = 0.0  # of the oldest
    expires_at: float | None = None  # of the first to expire
    made_seconds: float = 0.0
    usd: float | None = None  # what making them cost, as far as that is known

    def tells(self, found: Sequence[Entry | None]) -> bool:
        return len(found) == len(self.found) and all(map(operator.is_, found, self.found))

    def tell(self, inquiry: Inquiry, found: Sequence[Entry]) -> None:
        """Render anew."""
        answers = [entry.generations for entry in found]
        self.body = inquiry.dialect.replay(inquiry.ask, answers)
        self.facts = inquiry.dialect.facts(inquiry.ask, answers)
        self.stored_at = min(entry.stored_at for entry in found)
        expiries = [entry.expires_at for entry in found if entry.expires_at is not None]
        self.expires_at = min(expiries, default=None)
        self.made_seconds = max(map(_seconds, found))
        self.usd = usd_of(found)
        self.ids = [entry.key.id for entry in found]
        self.found = found

    @property
    def size(self) -> int:
        return len(self.body)


def _seconds(entry: Entry) -> float:
    """What the provider took to make it."""
    return _amount(entry, "seconds") or 0.0


def usd_of(entries: Iterable[Entry]) -> float | None:
    """What making these entries cost; `None` if that is not known of any."""
    known = [usd for entry in entries if (usd := _amount(entry, "usd")) is not None]
    return round(sum(known), 12) if known else None


def tokens_of(entries: Iterable[Entry]) -> int:
    """The tokens that making these entries took."""
    names = ("input_tokens", "output_tokens")
    return sum(count(entry.about, name) or 0 for entry in entries for name in names)


def _amount(entry: Entry, name: str) -> float | None:
    found = entry.about.get(name)
    if isinstance(found, bool) or not isinstance(found, int | float):
        return None
    return found if 0 <= found <= MAX_AMOUNT else None


@dataclass(frozen=True, slots=True)
class Inquiry:
    """One request for an answer, read and judged."""

    call: Call
    dialect: Dialect
    ask: Ask
    verdict: Verdict
    question: Question
    rendering: Rendering = field(default_factory=Rendering, compare=False, repr=False)
    mode: Mode = Mode.NORMAL  # in which it was judged
    # A large body, of which is not known yet whether two parsers read it alike.
    unproven: bool = False
    credential: str = ""  # the partition of who presents the same; "": not known yet

    def about(self, key: Key, facts: AnswerFacts) -> dict[str, Any]:
        """What the entry of this key says of itself, for people and filters."""
        return {
            "provider": self.call.provider.name,
            "dialect": self.ask.dialect,
            "model": self.ask.model,
            "namespace": self.verdict.namespace,
            "client": self.call.client or "",
            "run": self.verdict.run,
            "prompt_digest": digest(key.prompt),
            "llm_digest": digest(key.llm_string),
            "input_tokens": facts.input_tokens,
            "output_tokens": facts.output_tokens,
        }
