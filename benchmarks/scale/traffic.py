"""Request streams that stand for traffic to LLMs: which question is asked next, and by whom.

None is a recording. Each is drawn from a few numbers, the constants here; `scale.md` says why.
Questions are numbered from 0 in the order in which they first come.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, count, islice
from typing import NamedTuple

SEED = 20_260

# Zipf-like: what has rank n is asked for n ** -SKEW times as often as the first.
SKEW = 0.9
CATALOGUE_SHARE = 1 / 4  # of the requests: how many questions there are

# Production chat: first questions that many ask, the same request sent again, and all the rest.
POPULAR_SHARE = 0.30
POPULAR_SKEW = 1.0
POPULAR_QUESTIONS = 1 / 20  # of the requests
REPLACED_SHARE = 0.02  # of the popular ones, fifty times in a stream
REPEATED_SHARE = 0.05
REPEATED_WITHIN = 50  # requests

# Bursts: one question comes again and again for a while, then never more.
BURST_SHARE = 0.5
BURST_REQUESTS = 20  # mean
BURSTS_AT_ONCE = 8

# Development: programs run step by step; what follows on a changed step is new.
DEVELOPERS = 8
STEPS = 30
UNCHANGED_RUNS = 0.6
PROJECTS_EACH = 5
RUNS_IN_A_ROW = 30

# Test suites: the same questions in the same order, some of them changed from run to run.
SUITES = 3
SUITE_RUNS = 20
CHANGED_SHARE = 0.01

# Evaluations: a data set from beginning to end.
EVALUATIONS = 30
NEW_RUNS = 0.5
REPEATED_LAST_RUN = 0.3  # the others repeat one of the five before it

CLIENTS = 200


class Asked(NamedTuple):
    question: int
    client: int


class Stream(NamedTuple):
    title: str
    asked: Sequence[Asked]

    @property
    def questions(self) -> list[int]:
        return [each.question for each in self.asked]


def streams(requests: int) -> list[Stream]:
    """All of them, of so many requests."""
    return [Stream(title, _numbered(make, requests)) for title, make in _MAKERS.items()]


def stream(title: str, requests: int) -> Stream:
    return Stream(title, _numbered(_MAKERS[title], requests))


# What a maker tells is a question under any name, and a client.
_Drawn = Iterator[tuple[object, int]]


def _zipf(requests: int, draw: random.Random) -> _Drawn:
    ranks = _ranks(max(1, int(requests * CATALOGUE_SHARE)), SKEW)
    while True:
        yield ranks(draw), draw.randrange(CLIENTS)


def _chat(requests: int, draw: random.Random) -> _Drawn:
    new = count()
    popular = [next(new) for _ in range(max(2, int(requests * POPULAR_QUESTIONS)))]
    ranks = _ranks(len(popular), POPULAR_SKEW)
    latest: deque[tuple[object, int]] = deque([(next(new), 0)], maxlen=REPEATED_WITHIN)
    for number in count():
        if number % max(1, requests // 50) == 0:
            for _ in range(int(len(popular) * REPLACED_SHARE)):
                popular[draw.randrange(len(popular))] = next(new)
        kind = draw.random()
        if kind < POPULAR_SHARE:
            asked: tuple[object, int] = popular[ranks(draw)], draw.randrange(CLIENTS)
        elif kind < POPULAR_SHARE + REPEATED_SHARE:
            asked = draw.choice(latest)
        else:
            asked = next(new), draw.randrange(CLIENTS)
        latest.append(asked)
        yield asked


def _bursts(_: int, draw: random.Random) -> _Drawn:
    new = count()
    bursting = [next(new) for _ in range(BURSTS_AT_ONCE)]
    while True:
        question = next(new)
        if draw.random() < BURST_SHARE:
            place = draw.randrange(BURSTS_AT_ONCE)
            if draw.random() < 1 / BURST_REQUESTS:
                bursting[place] = question
            question = bursting[place]
        yield question, draw.randrange(CLIENTS)


def _development(_: int, draw: random.Random) -> _Drawn:
    working = [_developer(number, draw) for number in range(DEVELOPERS)]
    while True:
        yield next(draw.choice(working))


def _developer(number: int, draw: random.Random) -> _Drawn:
    projects = [[_name(draw) for _ in range(STEPS)] for _ in range(PROJECTS_EACH)]
    while True:
        steps = draw.choice(projects)
        for _ in range(RUNS_IN_A_ROW):
            if draw.random() >= UNCHANGED_RUNS:
                changed = draw.randrange(STEPS)
                steps[changed:] = [_name(draw) for _ in range(STEPS - changed)]
            for step in steps:
                yield step, number


def _tests(requests: int, draw: random.Random) -> _Drawn:
    size = max(1, requests // (SUITES * SUITE_RUNS))
    running = [_suite(number, size, draw) for number in range(SUITES)]
    while True:
        yield next(draw.choice(running))


def _suite(number: int, size: int, draw: random.Random) -> _Drawn:
    questions = [_name(draw) for _ in range(size)]
    while True:
        for place, question in enumerate(questions):
            if draw.random() < CHANGED_SHARE:
                question = questions[place] = _name(draw)
            yield question, number


def _evaluations(requests: int, draw: random.Random) -> _Drawn:
    size = max(1, requests // EVALUATIONS)
    runs: deque[list[object]] = deque(maxlen=6)
    while True:
        kind = draw.random()
        if not runs or kind < NEW_RUNS:
            runs.append([_name(draw) for _ in range(size)])
        elif kind >= NEW_RUNS + REPEATED_LAST_RUN:
            run = draw.choice(runs)
            runs.remove(run)
            runs.append(run)
        for question in runs[-1]:
            yield question, 0


def _mixed(requests: int, draw: random.Random) -> _Drawn:
    parts = {_chat: 0.5, _bursts: 0.2, _development: 0.1, _tests: 0.1, _evaluations: 0.1}
    drawn = [make(int(requests * share), draw) for make, share in parts.items()]
    while True:
        (part,) = draw.choices(range(len(drawn)), list(parts.values()))
        question, client = next(drawn[part])
        yield (part, question), client


_MAKERS: dict[str, Callable[[int, random.Random], _Drawn]] = {
    "Zipf": _zipf,
    "chat": _chat,
    "bursts": _bursts,
    "development": _development,
    "tests": _tests,
    "evaluations": _evaluations,
    "mixed": _mixed,
}


def _numbered(make: Callable[[int, random.Random], _Drawn], requests: int) -> list[Asked]:
    numbers: dict[object, int] = {}
    drawn = islice(make(requests, random.Random(SEED)), requests)
    return [Asked(numbers.setdefault(name, len(numbers)), client) for name, client in drawn]


def _ranks(size: int, skew: float) -> Callable[[random.Random], int]:
    """Draws numbers from 0: the more, the rarer."""
    sums = list(accumulate(rank**-skew for rank in range(1, size + 1)))
    places = range(size)
    return lambda draw: draw.choices(places, cum_weights=sums)[0]


def _name(draw: random.Random) -> int:
    """One that no other has."""
    return draw.getrandbits(64)
