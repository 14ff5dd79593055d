"""Entries as the values of Redis keys, and the names of all keys.

A value has its numbers in front, then a label (tags and facts, as JSON), the prompt, the
llm_string, and last the answer: a listing reads its beginning only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from hashlib import sha256
from math import isnan, nan
from struct import Struct
from typing import Any, NamedTuple

from cache_backends.base import CacheError, Entry, Key
from cache_backends.codec import (
    CodecError,
    are_times,
    decode,
    decode_label,
    encode,
    encode_label,
)
from cache_backends.shared import PREVIEW_BYTES, Filter, Summary, preview_of

# Version, stored_at, expires_at, retained_until (NaN: without end), seen, then four lengths: of
# label, prompt, llm_string, answer.
_NUMBERS = Struct(">4sdddQIIII")
_VERSION = b"LLM1"
# Most labels and previews fit in what a listing reads at once; of the others the rest is fetched.
HEAD_BYTES = 4096
# Redis keeps no longer strings.
MAX_VALUE_BYTES = 512 * 2**20
# What an entry costs beside its value: the key, its places in the index, the allocator's share.
# Of Redis 7 it takes 570 without groups and end, 1750 with five groups.
ENTRY_OVERHEAD_BYTES = 1500
# The facts whose values have an index of their own each. Those that are not here divide entries
# into few large groups, but for the prompt's digest: it is nearly every entry's own, and a key for
# each would cost too much. These have one index together.
INDEXED = ("model", "namespace", "client", "run", "llm_digest")
# How groups begin that are seated there, and how long the part is that tells them apart.
_PROMPT = "~"
_PROMPT_CHARS = 16

_ID = re.compile(r"[0-9a-f]{64}")
_GLOB = re.compile(r"([*?\[\]^\\-])")


class Names:
    """The keys under one prefix. Those beside the entries share a slot of a cluster."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self.book = f"{prefix}{{{prefix.rstrip(':')}}}:"
        self.index = self.book + "index"
        self.ends = self.book + "ends"
        self.records = self.book + "records"
        self.prompts = self.book + "prompts"
        self.hits = self.book + "hits"
        self.log = self.book + "log"
        self.facts = self.book + "facts"
        self.entries = _GLOB.sub(r"\\\1", prefix) + "?" * 64

    def entry(self, id: str) -> str:
        return self._prefix + id

    def id(self, key: bytes) -> str:
        """The id in the name of an entry's key; of another key, no id."""
        return key.decode(errors="replace").removeprefix(self._prefix)

    def group(self, group: str) -> str:
        return self.book + group

    def seat(self, group: str, id: str) -> tuple[str, str]:
        """The sorted set in which an entry of this group is, and as what."""
        if group.startswith(_PROMPT):
            return self.prompts, group.removeprefix(_PROMPT) + id
        return self.group(group), id

    def counts(self, group: str) -> str:
        return f"{self.book}counts:{_digest(group)}"

    def lease(self, name: str) -> str:
        return f"{self.book}lease:{_digest(name)}"


class Label(NamedTuple):
    """What the beginning of a value tells: the entry without its strings and its answer."""

    entry: Entry
    preview: str
    value_bytes: int

    def summary(self, hits: int = 0) -> Summary:
        return Summary.of(self.entry, counted(self.value_bytes), self.preview, hits)


class _Numbers(NamedTuple):
    stored_at: float
    expires_at: float | None
    retained_until: float | None
    seen: int
    label: int  # where each part ends
    prompt: int
    llm_string: int
    answer: int


def is_id(text: str) -> bool:
    return _ID.fullmatch(text) is not None


def pack(entry: Entry) -> bytes:
    """Write an entry as a value; `CacheError` if it cannot be."""
    answer = encode(entry.generations, entry.tags, entry.about)
    label = encode_label(entry.tags, entry.about)
    parts = (label, entry.key.prompt.encode(), entry.key.llm_string.encode(), answer)
    size = _NUMBERS.size + sum(map(len, parts))
    if size > MAX_VALUE_BYTES:
        raise CacheError(f"the entry has {size} bytes; Redis keeps at most {MAX_VALUE_BYTES}")
    times = (entry.stored_at, entry.expires_at, entry.retained_until)
    if not are_times(times):
        raise CacheError("the entry's times must be finite")
    numbers = _NUMBERS.pack(_VERSION, *map(_or_nan, times), entry.seen, *map(len, parts))
    return b"".join((numbers, *parts))


def unpack_by_id(id: str, value: bytes) -> Entry | None:
    """Read the entry whose strings have this id; `CodecError` if there is none."""
    return unpack(_key(id, value), value)


def unpack(key: Key, value: bytes) -> Entry | None:
    """Read the entry of this key: `None` if it is another one's, `CodecError` if it is none."""
    numbers = _numbers(value)
    if numbers.answer != len(value):
        raise CodecError("a value that was cut or added to")
    prompt = value[numbers.label : numbers.prompt]
    llm_string = value[numbers.prompt : numbers.llm_string]
    if prompt != key.prompt.encode() or llm_string != key.llm_string.encode():
        # Whoever asks with a wrong id finds another's entry; else the value was tampered with.
        _key(key.id, value)
        return None
    stored = decode(value[numbers.llm_string :])
    if value[_NUMBERS.size : numbers.label] != encode_label(stored.tags, stored.about):
        raise CodecError("a label of another answer")
    return Entry(key, stored.generations, *numbers[:3], stored.tags, stored.about, numbers.seen)


def label_bytes(head: bytes) -> int:
    """How much of a value must be read for its label; `CodecError` if it is no entry."""
    numbers = _numbers(head)
    return min(numbers.label + PREVIEW_BYTES, numbers.answer)


def read_label(id: str, head: bytes) -> Label:
    """Read the beginning of a value; `CodecError` if it is no entry's."""
    numbers = _numbers(head)
    tags, about = decode_label(head[_NUMBERS.size : numbers.label])
    prompt = head[numbers.label : min(numbers.prompt, numbers.label + PREVIEW_BYTES)]
    entry = Entry(Key(id, "", ""), [], *numbers[:3], tags, about, numbers.seen)
    return Label(entry, preview_of(prompt), numbers.answer)


def counted(value_bytes: int) -> int:
    """What a value of this length counts for."""
    return value_bytes + ENTRY_OVERHEAD_BYTES


def groups(entry: Entry) -> list[str]:
    """The groups of entries in which this one is to be found."""
    said = [(name, entry.about.get(name)) for name in INDEXED]
    found = [_group(name, value) for name, value in said if isinstance(value, str)]
    found += [_group("tag", tag) for tag in set(entry.tags)]
    digest = entry.about.get("prompt_digest")
    return [*found, _PROMPT + _short(digest)] if isinstance(digest, str) else found


def groups_of(filter: Filter) -> list[str]:
    """The groups that each hold all entries which the filter covers, if it names any."""
    said = [(name, getattr(filter, name)) for name in (*INDEXED, "tag")]
    return [_group(name, value) for name, value in said if value is not None]


def prompt_seats(digest: str) -> tuple[str, str, str]:
    """How the seats of a prompt's entries begin, and between which two texts they are."""
    start = _short(digest)
    return start, f"[{start}", f"({start}g"  # after all that goes on in hex digits


def _short(digest: str) -> str:
    return _digest(digest)[:_PROMPT_CHARS]


def _group(name: str, value: str) -> str:
    return _digest(f"{name}={value}")


def _digest(text: str) -> str:
    # Names may be of any length and hold anything: keys and records may not.
    return sha256(text.encode(errors="surrogatepass")).hexdigest()[:32]


def _numbers(value: object) -> _Numbers:
    if not isinstance(value, bytes) or len(value) < _NUMBERS.size:
        raise CodecError("no value of ours")
    version, stored_at, expires_at, retained_until, seen, *lengths = _NUMBERS.unpack_from(value)
    times = (stored_at, _time(expires_at), _time(retained_until))
    if version != _VERSION or not are_times(times):
        raise CodecError("no value of ours")
    return _Numbers(*times, seen, *_sums(_NUMBERS.size, lengths))


def _sums(start: int, lengths: Iterable[int]) -> list[int]:
    sums = []
    for length in lengths:
        start += length
        sums.append(start)
    return sums


def _key(id: str, value: bytes) -> Key:
    """The key with the strings that the value has; `CodecError` if they are not those of the id."""
    numbers = _numbers(value)
    prompt = value[numbers.label : numbers.prompt]
    llm_string = value[numbers.prompt : numbers.llm_string]
    try:
        key = Key.of(prompt.decode(), llm_string.decode())
    except UnicodeDecodeError as exc:
        raise CodecError("the strings are no text") from exc
    if key.id != id:
        raise CodecError("the strings are not those of the id")
    return key


def _or_nan(time: float | None) -> float:
    return nan if time is None else time


def _time(found: Any) -> float | None:
    return None if isnan(found) else float(found)
