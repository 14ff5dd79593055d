"""Tries out a plain cache: does it give back what it is given, and if not, what does it change?"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, NamedTuple

from cache_backends.base import ChatGeneration, Entry, Generation, Key

log = logging.getLogger(__name__)

# One entry is stored under a key that no model has, always the same, so that it stays one.
QUESTION = Key.of("Does this cache give back what it is given? ☂ 🦜", "llm-cache-proxy/probe")
ANSWER = Entry(
    QUESTION,
    [
        Generation(" plain\n☂ 🦜 ", {"finish_reason": "stop"}),
        ChatGeneration("chat", message={"role": "assistant", "content": "chat", "new": [1, 1.0]}),
        Generation(""),
    ],
    stored_at=0.0,
    tags=("probe",),
    about={"nested": {"a": [None, True, 0.25]}},
)
_OTHERS = (
    (QUESTION.prompt + "?", QUESTION.llm_string),
    (QUESTION.prompt, QUESTION.llm_string + "?"),
)
# What a class raises that cannot do it, whatever state its store is in.
_REFUSALS = (AttributeError, LookupError, NotImplementedError, TypeError, ValueError)


class Probe(NamedTuple):
    """What was found. `works`: in spite of all findings entries come back as they were stored."""

    works: bool
    findings: tuple[str, ...]  # "loses generation_info", ...

    def tell(self, name: str) -> None:
        """Warn of what was found."""
        told = ", ".join(self.findings)
        if not self.works:
            log.warning("%s keeps nothing that could be used, all is a miss: it %s", name, told)
        elif told:
            log.warning("%s %s; answers come back whole all the same", name, told)


async def try_out(
    update: Callable[[str, str, Any], Awaitable[Any]],
    lookup: Callable[[str, str], Awaitable[Any]],
    given: Sequence[Any],
    is_whole: Callable[[object], bool],
) -> Probe:
    """Store what `ANSWER` became, ask for it, and for what was never stored."""
    prompt, llm_string = QUESTION.prompt, QUESTION.llm_string
    try:
        await update(prompt, llm_string, given)
        found = await lookup(prompt, llm_string)
        others = [await lookup(*other) for other in _OTHERS]
    except _REFUSALS as exc:
        return Probe(False, (f"refuses an answer with {type(exc).__name__}",))
    findings = tuple(_differences(given, found))
    if any(others):
        findings += ("finds the answers of other questions",)
    return Probe(is_whole(found), findings)


def _differences(given: Sequence[Any], found: object) -> Iterator[str]:
    if found is None:
        yield "does not find what it was given"
    elif not isinstance(found, list | tuple):
        yield f"answers with a {type(found).__name__} in place of a list"
    elif len(found) != len(given):
        yield f"gives back {len(found)} generations of {len(given)}"
    else:
        yield from _changes(given, _in_order(given, found))
        if _texts(found) != _texts(given) and sorted(_texts(found)) == sorted(_texts(given)):
            yield "changes the order of generations"


def _changes(given: Sequence[Any], found: Sequence[Any]) -> Iterator[str]:
    pairs = list(zip(given, found, strict=True))
    if _texts(given) != _texts(found):
        yield "changes texts"
    if any(type(each) is not type(back) for each, back in pairs):
        yield "gives back another kind of generation"
    if any(_of(each, "message") != _of(back, "message") for each, back in pairs):
        yield "loses or changes messages"
    if any(_of(each, "generation_info") != _of(back, "generation_info") for each, back in pairs):
        yield "loses or changes generation_info"


def _in_order(given: Sequence[Any], found: Sequence[Any]) -> Sequence[Any]:
    by_text = {_of(each, "text"): each for each in found}
    texts = _texts(given)
    return [by_text[text] for text in texts] if by_text.keys() == set(texts) else found


def _texts(generations: Sequence[Any]) -> list[str]:
    return [str(_of(each, "text")) for each in generations]


def _of(generation: Any, name: str) -> Any:
    return getattr(generation, name, None)
