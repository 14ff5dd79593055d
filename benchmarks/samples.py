"""What was measured, round by round; ratios are medians within the rounds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median
from typing import NamedTuple

from benchmarks.load import Rate
from benchmarks.servers import Started

# Above this share of its core, the load generator may have held the server back.
FULL = 0.95


class Sample(NamedTuple):
    """One measurement. `cpu_s` is the server's processor time for each answer."""

    rate: Rate
    cpu_s: float
    # Of its core; below 1 something else took the rest, or it had to wait for questions.
    server_share: float


class Verdict(NamedTuple):
    """How many times better one server is than another."""

    by_rate: float
    by_cpu: float
    full: bool  # the load generator's core, with either of the two

    @property
    def ratio(self) -> float:
        """What counts: neighbours on the core can flatter a rate, but take no processor time.

        A server that waits for the load generator is faster than its rate tells.
        """
        return self.by_cpu if self.full else min(self.by_rate, self.by_cpu)


@dataclass(slots=True)
class Samples:
    """By what is asked for, and of whom."""

    of: dict[tuple[str, str], list[Sample]] = field(default_factory=lambda: defaultdict(list))

    def take(self, what: str, whom: str, server: Started, measure: Callable[[], Rate]) -> None:
        before = server.cpu_s()
        rate = measure()
        cpu_s = server.cpu_s() - before
        share = cpu_s * rate.per_s / rate.answers
        self.of[what, whom].append(Sample(rate, cpu_s / rate.answers, share))

    def has(self, what: str, whom: str) -> bool:
        return (what, whom) in self.of

    def per_s(self, what: str, whom: str) -> float:
        return median(each.rate.per_s for each in self.of[what, whom])

    def p50(self, what: str, whom: str) -> float:
        return median(each.rate.p50 for each in self.of[what, whom])

    def p99(self, what: str, whom: str) -> float:
        return median(each.rate.p99 for each in self.of[what, whom])

    def cpu_s(self, what: str, whom: str) -> float:
        return median(each.cpu_s for each in self.of[what, whom])

    def compare(self, what: str, one: str, other: str) -> Verdict:
        """Both were measured in each round: a slow moment of the machine was slow for both."""
        pairs = list(zip(self.of[what, one], self.of[what, other], strict=True))
        return Verdict(
            by_rate=median(a.rate.per_s / b.rate.per_s for a, b in pairs),
            # A tick is the least that the kernel tells.
            by_cpu=median(max(b.cpu_s, 1e-9) / max(a.cpu_s, 1e-9) for a, b in pairs),
            full=any(_share(self.of[what, whom]) > FULL for whom in (one, other)),
        )

    def disturbed(self) -> float:
        """The share of its core that the busiest server got at the median."""
        shares = (median(each.server_share for each in samples) for samples in self.of.values())
        return max(shares, default=1.0)


def _share(samples: list[Sample]) -> float:
    return median(each.rate.generator_share for each in samples)
