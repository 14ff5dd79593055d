"""In which fields two keys differ: few, short, and each where a person would look for it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import islice, zip_longest
from typing import Any

import orjson

from cache_backends.base import Key

MAX_DIFFERENCES = 20
MAX_TOLD_CHARS = 200
# Of a long text is told what surrounds the first difference; so much of what is before it.
LEAD_CHARS = 60
# Longer stretches of lists are compared place by place: to align them takes time squared.
MAX_ALIGNED = 200
# Who may share an entry is not told, only that it is somebody else.
SCOPE = "scope"
_THIS, _ANOTHER = "this credential", "another credential"

_PLAIN_NAME = re.compile(r"[A-Za-z0-9_$-]+")


class _Absent:
    """In place of a value: the field is missing."""

    def __repr__(self) -> str:
        return "absent"


ABSENT = _Absent()


@dataclass(frozen=True, slots=True)
class Difference:
    """`path` is "messages[2].content" or "parameters.temperature"; places in lists are those of
    what is asked, of what only the stored key has those of the stored."""

    path: str
    stored: Any = ABSENT
    asked: Any = ABSENT
    size: int = 0  # about how much differs, in characters

    def as_json(self) -> dict[str, Any]:
        """A side that lacks the field is null, and named: null can be a value, too."""
        told: dict[str, Any] = {"path": self.path, "stored": None, "asked": None}
        for side, value in (("stored", self.stored), ("asked", self.asked)):
            told |= {"absent": side} if value is ABSENT else {side: value}
        return told

    def __str__(self) -> str:
        return f"{self.path} (stored: {_in_words(self.stored)}, asked: {_in_words(self.asked)})"


@dataclass(frozen=True, slots=True)
class Comparison:
    """How two keys differ; `more`: in more than is told. `anothers`: also in whose they are."""

    differences: tuple[Difference, ...]
    more: bool = False
    anothers: bool = False

    @property
    def distance(self) -> tuple[int, int]:
        return len(self.differences), sum(each.size for each in self.differences)


def differences(stored: Key, asked: Key, *, any_scope: bool = False) -> list[Difference]:
    """At most 20; see `compare`."""
    return list(compare(stored, asked, any_scope=any_scope).differences)


def compare(stored: Key, asked: Key, *, any_scope: bool = False) -> Comparison:
    """Compare both strings of two keys. `any_scope`: whoever may share the stored one."""
    anothers = not any_scope and _scope(stored) != _scope(asked)
    found = list(islice(_differences(stored, asked, anothers), MAX_DIFFERENCES + 1))
    return Comparison(tuple(found[:MAX_DIFFERENCES]), len(found) > MAX_DIFFERENCES, anothers)


def _scope(key: Key) -> Any:
    return (_parsed(key.llm_string) or {}).get(SCOPE)


def _differences(stored: Key, asked: Key, anothers: bool) -> Iterator[Difference]:
    if anothers:
        yield Difference(SCOPE, _ANOTHER, _THIS)
    yield from _of_strings("prompt", stored.prompt, asked.prompt)
    rest = _of_strings("llm_string", stored.llm_string, asked.llm_string)
    yield from (each for each in rest if each.path != SCOPE)


def _of_strings(name: str, stored: str, asked: str) -> Iterator[Difference]:
    if stored == asked:
        return
    known, wanted = _parsed(stored), _parsed(asked)
    if known is None or wanted is None:
        yield _of_texts(name, stored, asked)  # not a key of this proxy
    else:
        yield from _of_objects("", known, wanted)


def _parsed(text: str) -> dict[str, Any] | None:
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    return value if isinstance(value, dict) else None


def _of_values(path: str, stored: Any, asked: Any) -> Iterator[Difference]:
    if _same(stored, asked):
        return
    if isinstance(stored, dict) and isinstance(asked, dict):
        yield from _of_objects(path, stored, asked)
    elif isinstance(stored, list) and isinstance(asked, list):
        yield from _of_lists(path, stored, asked)
    elif isinstance(stored, str) and isinstance(asked, str):
        yield _of_texts(path, stored, asked)
    else:
        size = _size(stored) + _size(asked)
        yield Difference(path, _short(stored), _short(asked), size)


def _of_objects(path: str, stored: dict[str, Any], asked: dict[str, Any]) -> Iterator[Difference]:
    any_found = False
    for name in [*asked, *(name for name in stored if name not in asked)]:
        sides = stored.get(name, ABSENT), asked.get(name, ABSENT)
        for each in _of_values(_below(path, name), *sides):
            any_found = True
            yield each
    if not any_found and not _same(stored, asked):
        yield Difference(f"{path} (order of names)", _short(list(stored)), _short(list(asked)))


def _of_lists(path: str, stored: list[Any], asked: list[Any]) -> Iterator[Difference]:
    """An item that was put in is one difference, not all after it."""
    known, wanted = [orjson.dumps(each) for each in stored], [orjson.dumps(each) for each in asked]
    for (first, end), (begin, until) in _changed(known, wanted):
        pairs = zip_longest(range(first, end), range(begin, until))
        for old, new in pairs:
            place = new if new is not None else old
            yield from _of_values(
                f"{path}[{place}]",
                ABSENT if old is None else stored[old],
                ABSENT if new is None else asked[new],
            )


_Stretch = tuple[int, int]


def _changed(
    stored: Sequence[bytes], asked: Sequence[bytes]
) -> Iterator[tuple[_Stretch, _Stretch]]:
    """The stretches of two lists that correspond and are not equal."""
    start = next(
        (at for at, (old, new) in enumerate(zip(stored, asked, strict=False)) if old != new),
        min(len(stored), len(asked)),
    )
    end, until = len(stored), len(asked)
    while end > start and until > start and stored[end - 1] == asked[until - 1]:
        end, until = end - 1, until - 1
    if max(end, until) - start > MAX_ALIGNED:
        yield (start, end), (start, until)
        return
    matcher = SequenceMatcher(None, stored[start:end], asked[start:until], autojunk=False)
    for tag, first, last, begin, to in matcher.get_opcodes():
        if tag != "equal":
            yield (start + first, start + last), (start + begin, start + to)


def _of_texts(path: str, stored: str, asked: str) -> Difference:
    first = _alike(stored, asked)
    tail = _alike(stored[first:][::-1], asked[first:][::-1])
    size = len(stored) + len(asked) - 2 * (first + tail)
    return Difference(path, _around(stored, first), _around(asked, first), size)


def _alike(one: str, other: str) -> int:
    """The length of the beginning that two texts share."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _around(text: str, place: int) -> str:
    if len(text) <= MAX_TOLD_CHARS:
        return text
    start = max(0, place - LEAD_CHARS)
    end = start + MAX_TOLD_CHARS
    return f"{'…' if start else ''}{text[start:end]}{'…' if end < len(text) else ''}"


def _short(value: Any) -> Any:
    """A value as it is, or the beginning of its JSON."""
    if value is ABSENT:
        return value
    text = value if isinstance(value, str) else orjson.dumps(value).decode()
    return value if len(text) <= MAX_TOLD_CHARS else f"{text[:MAX_TOLD_CHARS]}…"


def _size(value: Any) -> int:
    return 0 if value is ABSENT else len(orjson.dumps(value))


def _same(stored: Any, asked: Any) -> bool:
    """To the letter: `1` is neither `true` nor `1.0`, and the order of names counts."""
    if stored is ABSENT or asked is ABSENT:
        return stored is asked
    return orjson.dumps(stored) == orjson.dumps(asked)


def _below(path: str, name: str) -> str:
    if not _PLAIN_NAME.fullmatch(name):
        return f"{path}[{orjson.dumps(name[:MAX_TOLD_CHARS]).decode()}]"
    return f"{path}.{name}" if path else name


def _in_words(value: Any) -> str:
    return repr(value) if value is ABSENT else orjson.dumps(value).decode()
