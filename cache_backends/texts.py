"""The texts of an entry: what somebody who looks for words means by a prompt and an answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import orjson

from cache_backends.base import Generation

# A longer string without a space is no text, if it is ASCII: a picture in base64, say.
LONGEST_WORD = 4096


def says(text: str, prompt: str, generations: Sequence[Generation]) -> bool:
    """Is the text in the prompt or in the answer, whatever its case? It is given casefolded."""
    return any(text in each.casefold() for each in texts(prompt, generations))


def texts(prompt: str, generations: Sequence[Generation]) -> Iterator[str]:
    """All strings but the names of fields; a prompt that is no JSON is one as it is."""
    waiting: list[Any] = [_asked(prompt)]
    for each in generations:
        waiting += (each.text, each.generation_info, getattr(each, "message", None))
    while waiting:
        found = waiting.pop()
        if isinstance(found, str):
            if _is_text(found):
                yield found
        elif isinstance(found, dict):
            waiting += found.values()
        elif isinstance(found, list):
            waiting += found


def _asked(prompt: str) -> Any:
    try:
        asked = orjson.loads(prompt)
    except orjson.JSONDecodeError:
        return prompt
    return asked if isinstance(asked, dict | list) else prompt


def _is_text(found: str) -> bool:
    return len(found) <= LONGEST_WORD or not found.isascii() or " " in found
