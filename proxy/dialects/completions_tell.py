"""A completion told as a stream: the body taken apart to chunks.

Source: OpenAI's API reference, "Completions": chunks have the shape of the whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate, pairwise
from typing import Any

import orjson

from proxy import sse

# A text is told in pieces of this size where its tokens are not known: about five words.
PIECE_CHARS = 24

# What each chunk repeats. All other fields of the envelope are told with the first one.
_HEAD = frozenset({"id", "object", "created", "model", "service_tier", "system_fingerprint"})


def tell(body: dict[str, Any], *, with_usage: bool, usage_with_choice: bool = False) -> bytes:
    """Tell a body as a stream, choice after choice."""
    head = {name: body[name] for name in body if name in _HEAD}
    pieces = [piece for choice in body["choices"] for piece in _pieces(choice)]
    chunks = [{**head, "choices": [piece]} for piece in pieces]
    with_first = body.keys() - _HEAD - {"choices", "usage"}
    chunks[0] |= {name: body[name] for name in body if name in with_first}
    usage = body.get("usage")
    if usage_with_choice:
        chunks[-1]["usage"] = usage
    elif with_usage and usage is not None:
        chunks = [{**chunk, "usage": None} for chunk in chunks]
        chunks.append({**head, "choices": [], "usage": usage})
    return sse.encode(map(orjson.dumps, chunks)) + sse.DONE


def _pieces(choice: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A choice in pieces: token by token where logprobs tell the tokens; the rest with the last."""
    text, logprobs = choice["text"], choice.get("logprobs")
    ends = _token_ends(text, logprobs) if isinstance(logprobs, dict) else []
    cuts = [0, *ends] if ends else [*range(0, max(len(text), 1), PIECE_CHARS), len(text)]
    opening: dict[str, Any] = {
        name: choice[name] if name == "index" else None
        for name in ("index", "logprobs", "finish_reason")
        if name in choice
    }
    for place, (start, end) in enumerate(pairwise(cuts)):
        piece = dict(choice if place == len(cuts) - 2 else opening, text=text[start:end])
        if isinstance(logprobs, dict) and ends:
            piece["logprobs"] = {name: array and [array[place]] for name, array in logprobs.items()}
        yield piece


def _token_ends(text: str, logprobs: dict[str, Any]) -> list[int]:
    """Where each token ends in the text; [] if that cannot be told.

    A token may be half of a character, and a list may be of another length.
    """
    tokens = logprobs.get("tokens")
    if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
        return []
    arrays = [array for array in logprobs.values() if array is not None]
    if any(not isinstance(array, list) or len(array) != len(tokens) for array in arrays):
        return []
    return list(accumulate(map(len, tokens))) if "".join(tokens) == text else []
