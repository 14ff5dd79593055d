"""What is stored in all measurements of backends: entries of 2 kB, told apart by their numbers.

They are made as the proxy makes them, of text that compresses about as text does.
"""

from __future__ import annotations

import random
import string
import time

from cache_backends import ChatGeneration
from cache_backends.base import Entry, Key
from cache_backends.codec import encode

_ASKED_CHARS = 500
_ANSWERED_CHARS = 250
_WORDS_CHARS = 2**20
# A day ago; each was stored some milliseconds after the one before.
_FIRST_STORED_AT = time.time() - 86_400.0


def key(number: int) -> Key:
    prompt = (
        '[{"content":"You are a helpful assistant.","role":"system"},'
        f'{{"content":"question {number}: {_text(number, _ASKED_CHARS)}","role":"user"}}]'
    )
    # All in one, as no two requests share a string.
    llm_string = (
        '{"dialect":"chat","headers":{},"namespace":"default","parameters":'
        '{"model":"gpt-5-mini","temperature":0.7},"provider":"openai","sample":0,"scope":'
        f'"credential:{number % 1000:032x}","url":"https://api.openai.com/v1/chat/completions",'
        '"version":1}'
    )
    return Key.of(prompt, llm_string)


def entry(number: int) -> Entry:
    about = {"provider": "openai", "dialect": "chat", "model": "gpt-5-mini", "namespace": "default"}
    return Entry(key(number), [answer(number)], _FIRST_STORED_AT + number / 100, about=about)


def answer(number: int) -> ChatGeneration:
    """An answer of one choice."""
    text = _text(number + 1, _ANSWERED_CHARS)
    envelope = {
        "id": f"chatcmpl-{number:029}",
        "object": "chat.completion",
        "created": 1_700_000_000 + number,
        "model": "gpt-5-mini-2026-01-01",
        "usage": {"prompt_tokens": 130, "completion_tokens": 60, "total_tokens": 190},
        "service_tier": "default",
        "system_fingerprint": "fp_benchmark",
    }
    choice = {"index": 0, "logprobs": None, "finish_reason": "stop"}
    info = {"choice": choice, "envelope": envelope, "source": "body"}
    message = {"role": "assistant", "content": text, "refusal": None}
    return ChatGeneration(text, info, message=message)


def size_of(entry: Entry) -> int:
    """The bytes of its two strings and its answer."""
    value = encode(entry.generations, entry.tags, entry.about)
    return len(entry.key.prompt) + len(entry.key.llm_string) + len(value)


def _text(number: int, length: int) -> str:
    begin = number * 7919 % (_WORDS_CHARS - length)
    return _WORDS[begin : begin + length]


def _words() -> str:
    chosen = random.Random(0).choices(string.ascii_lowercase + "     ", k=_WORDS_CHARS)
    return "".join(chosen)


_WORDS = _words()
