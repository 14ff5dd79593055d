"""What must not be written down: texts that match are replaced, in keys, answers and facts."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import orjson

from cache_backends.base import ChatGeneration, Entry, Generation, Key

# A replacement may bring about another match; who is not done by then is left with nothing.
MAX_ROUNDS = 5
# Numbers, as text: digits in it are no card's.
_VECTOR = "embedding"
# They tell a text once more, in pieces that match nothing.
_PIECES = "logprobs"


class Redaction:
    """Patterns and what takes the place of their matches.

    `ValueError` for what is no regular expression, for one that matches the empty text, and for a
    replacement that matches again. Two texts that are different only in what matches become one.
    """

    def __init__(self, pairs: Iterable[tuple[str, str]] = ()) -> None:
        self._pairs = [(_compiled(pattern, into), into) for pattern, into in pairs]

    def __bool__(self) -> bool:
        return bool(self._pairs)

    def text(self, text: str) -> str:
        """The text without what matches; once more it stays as it is."""
        for _ in range(MAX_ROUNDS):
            matches = 0
            for pattern, into in self._pairs:
                text, replaced = pattern.subn(into, text)
                matches += replaced
            if not matches:
                return text
        return ""

    def value(self, value: Any) -> Any:
        """JSON values with all their texts so, names too."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, list):
            return [self.value(each) for each in value]
        if isinstance(value, dict):
            return {
                self.text(name): each if name == _VECTOR else self.value(each)
                for name, each in value.items()
            }
        return value

    def key(self, key: Key) -> Key:
        """The key of the same question without what matches."""
        if not self._pairs:
            return key
        said = Key.of(self._string(key.prompt), self._string(key.llm_string))
        return key if said == key else said

    def entry(self, entry: Entry) -> Entry:
        """The same entry without what matches. Its texts are then all that tells the answer."""
        if not self._pairs:
            return entry
        return replace(
            entry,
            key=self.key(entry.key),
            generations=[self._generation(each) for each in entry.generations],
            tags=tuple(map(self.text, entry.tags)),
            about=self.value(dict(entry.about)),
        )

    def _string(self, text: str) -> str:
        """JSON is read: what matches may be written with escapes in it."""
        try:
            found = orjson.loads(text)
        except orjson.JSONDecodeError:
            return self.text(text)
        said = self.value(found)
        return text if said == found else orjson.dumps(said).decode()

    def _generation(self, generation: Generation) -> Generation:
        info, chat = generation.generation_info, isinstance(generation, ChatGeneration)
        message = generation.message if isinstance(generation, ChatGeneration) else {}
        before = [generation.text, info, message]
        said = self.value(before)
        if said == before:
            return generation
        text, info, message = _without_pieces(said)
        return ChatGeneration(text, info, message=message) if chat else Generation(text, info)


def _without_pieces(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_pieces(each) for each in value]
    if not isinstance(value, dict):
        return value
    return {
        name: ([] if isinstance(each, list) else None) if name == _PIECES else _without_pieces(each)
        for name, each in value.items()
    }


def _compiled(pattern: str, into: str) -> re.Pattern[str]:
    try:
        compiled = re.compile(pattern)
        compiled.sub(into, "")
    except (re.error, IndexError) as exc:
        raise ValueError(f"{pattern!r} -> {into!r}: {exc}") from exc
    if compiled.search(""):
        raise ValueError(f"{pattern!r} matches the empty text: nothing could take its place")
    if compiled.search(into):
        raise ValueError(f"{into!r} takes the place of what matches, and matches {pattern!r} again")
    return compiled
