"""The seal that each Generation in a plain cache carries, as one string in its `generation_info`.

It says which entry the Generation belongs to, which write it came from, its place, how many there
are, what it was made of, and, in the first one, the entry's times, tags and facts. Where a store
lost, mixed or mangled something, the seals do not fit together: a miss.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import replace
from math import isfinite
from secrets import token_hex
from typing import NamedTuple

import orjson

from cache_backends.base import Entry, Generation, Key, require_generations
from cache_backends.codec import CodecError, decode, encode

# The name in `generation_info` under which a seal is kept.
SEAL = "llm_cache_proxy"


class _Seal(NamedTuple):
    """What one seal says. `inside` is the generation's JSON, and the first one's entry."""

    id: str
    nonce: str
    place: int
    of: int
    times: tuple[float, float | None, float | None]
    inside: str


def seal(entry: Entry) -> list[Generation]:
    """Return the entry's generations, each with its seal."""
    require_generations(entry.generations)
    # Greater than that of every earlier write.
    nonce, count = f"{time.time_ns():016x}{token_hex(4)}", len(entry.generations)
    times = (entry.stored_at, entry.expires_at, entry.retained_until)
    sealed = []
    for place, generation in enumerate(entry.generations):
        about = (entry.tags, entry.about) if place == 0 else ()
        inside = encode([generation], *about).decode()
        told = _Seal(entry.key.id, nonce, place, count, times, inside)
        text = orjson.dumps(tuple(told)).decode()
        sealed.append(replace(generation, generation_info={SEAL: text}))
    return sealed


def unseal(key: Key, found: object) -> Entry | None:
    """Put the entry together again, or `None` if anything is missing, added, mixed or mangled."""
    if not isinstance(found, (list, tuple)) or not found:
        return None
    try:
        seals = [_read(each) for each in found]
        parts = [decode(each.inside.encode()) for each in seals]
    except CodecError:
        return None
    first = seals[0]
    count = len(seals)
    for place, each in enumerate(seals):
        if each[:5] != (key.id, first.nonce, place, count, first.times):
            return None
    generations = [part.generations[0] for part in parts]
    if any(part.text != each.text for part, each in zip(generations, found, strict=True)):
        return None
    return Entry(key, generations, *first.times, parts[0].tags, parts[0].about)


def latest_write(found: object) -> list[object]:
    """Of what a store gives back, what is whole and was stored last, in its order.

    Some leave rows of a longer, older answer behind a shorter one.
    """
    writes: dict[str, dict[int, object]] = {}
    whole = [""]
    for each in found if isinstance(found, (list, tuple)) else ():
        with suppress(CodecError):
            seal = _read(each)
            rows = writes.setdefault(seal.nonce, {})
            rows[seal.place] = each
            # Their number first: what another wrote may claim that there are billions.
            if len(rows) == seal.of and rows.keys() == set(range(seal.of)):
                whole.append(seal.nonce)
    rows = writes.get(max(whole), {})
    return [rows[place] for place in sorted(rows)]


def _read(generation: object) -> _Seal:
    info = getattr(generation, "generation_info", None)
    text = info.get(SEAL) if isinstance(info, dict) else None
    if not isinstance(text, str):
        raise CodecError("no seal")
    try:
        found = orjson.loads(text)
    except orjson.JSONDecodeError as exc:
        raise CodecError("a broken seal") from exc
    match found:
        case [str(entry), str(nonce), int(place), int(count), [at, expires, until], str(inside)]:
            times = (at, expires, until)
            if _is_time(at) and all(each is None or _is_time(each) for each in times[1:]):
                return _Seal(entry, nonce, place, count, times, inside)
    raise CodecError("not a seal")


def _is_time(value: object) -> bool:
    return isinstance(value, (int, float)) and isfinite(value)
