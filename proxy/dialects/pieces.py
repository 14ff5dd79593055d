"""How a stored text is told in pieces: token by token where its tokens are known, else cut.

Shared by the dialects whose tokens are told as OpenAI does: `token`, `bytes`, `logprob`.
"""

from __future__ import annotations

from typing import Any

# A text is told in pieces of this size where its tokens are not known: about five words.
PIECE_CHARS = 24

_NO_TEXT = b"\xff"
# A character has four bytes at most: no more tokens share one.
_MAX_TOKENS_PER_CHARACTER = 4


def cut(text: str) -> list[str]:
    """A text in pieces of whole characters; none of an empty one."""
    return [text[start : start + PIECE_CHARS] for start in range(0, len(text), PIECE_CHARS)]


def cut_with_tokens(text: str, tokens: list[Any]) -> list[tuple[str, list[Any]]]:
    """A text in pieces with the logprobs of each: token by token where these make up the text,
    else all logprobs with the last piece."""
    if tokens and (by_token := _by_token(text, tokens)):
        return by_token
    pieces: list[tuple[str, list[Any]]] = [(piece, []) for piece in cut(text)]
    if pieces:
        pieces[-1] = (pieces[-1][0], tokens)
    return pieces


def _by_token(text: str, tokens: list[Any]) -> list[tuple[str, list[Any]]]:
    """One piece for each token; tokens that hold part of a character wait for the others of it."""
    pieces: list[tuple[str, list[Any]]] = []
    held: list[Any] = []
    raw = b""
    for token in tokens:
        held.append(token)
        raw += _bytes_of(token)
        try:
            pieces.append((raw.decode(), held))
        except UnicodeDecodeError:
            if len(held) == _MAX_TOKENS_PER_CHARACTER:
                return []
            continue
        held, raw = [], b""
    fits = not held and "".join(piece for piece, _ in pieces) == text
    return pieces if fits else []


def _bytes_of(token: Any) -> bytes:
    """The bytes of a token; what fits into no text if it does not tell."""
    if not isinstance(token, dict):
        return _NO_TEXT
    raw, text = token.get("bytes"), token.get("token")
    if isinstance(raw, list):
        try:
            return bytes(raw)
        except (TypeError, ValueError):
            return _NO_TEXT
    return text.encode() if isinstance(text, str) else _NO_TEXT
