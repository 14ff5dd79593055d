"""Answers as bytes, and bytes that are no answers."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache_backends import ChatGeneration, Generation, codec
from cache_backends.codec import CodecError, decode, encode
from tests.cache_backends.hostile import HOSTILE_VALUES

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8"))
)
texts = st.text(st.characters(codec="utf-8"))
objects = st.dictionaries(
    texts,
    st.recursive(
        scalars, lambda inner: st.lists(inner) | st.dictionaries(texts, inner), max_leaves=9
    ),
    max_size=4,
)
generations = st.builds(Generation, texts, st.none() | objects) | st.builds(
    ChatGeneration, texts, st.none() | objects, message=objects
)


@given(st.lists(generations, min_size=1, max_size=4), st.lists(texts), objects)
def test_what_was_written_is_read(
    answer: list[Generation], tags: list[str], about: dict[str, Any]
) -> None:
    """Both kinds of generations with any JSON values, tags and facts, without loss."""
    stored = decode(encode(answer, tags, about))
    assert stored == (answer, tuple(tags), about)
    assert [type(each) for each in stored.generations] == [type(each) for each in answer]
    assert encode(*stored) == encode(answer, tags, about)


@pytest.mark.parametrize("name", HOSTILE_VALUES)
def test_hostile_bytes_are_refused(name: str) -> None:
    """Whatever is not exactly an answer raises one kind of error."""
    with pytest.raises(CodecError):
        decode(HOSTILE_VALUES[name])


def test_every_truncation_is_refused() -> None:
    """No beginning of an answer is an answer."""
    whole = encode([ChatGeneration("text", {"a": 1}, message={"b": "c"})], ("tag",), {"d": 1})
    for length in range(len(whole)):
        with pytest.raises(CodecError):
            decode(whole[:length])


@pytest.mark.parametrize(
    "value",
    [object(), datetime.now(UTC), b"bytes", {1: "a"}, 2**64, {"a", "b"}, Generation("x"), "\ud800"],
    ids=["object", "date", "bytes", "number as name", "2**64", "set", "generation", "surrogate"],
)
def test_what_is_no_json_is_refused_when_written(value: object) -> None:
    """Nothing is quietly turned into something else."""
    with pytest.raises(CodecError, match="cannot be written as JSON"):
        encode([Generation("text", {"value": value})])


def test_a_value_beyond_the_limit_is_neither_written_nor_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A limit on both sides, so that nothing is stored that cannot be read."""
    value = encode([Generation("x" * 1000)])
    monkeypatch.setattr(codec, "MAX_VALUE_BYTES", 500)
    with pytest.raises(CodecError, match="at most 500"):
        decode(value)
    with pytest.raises(CodecError, match="at most 500"):
        encode([Generation("x" * 1000)])


def test_the_layout_is_fixed() -> None:
    """Files written by this version are read by the next: the bytes are pinned."""
    answer: list[Generation] = [Generation("a"), ChatGeneration("b", {"i": 1}, message={"m": 2})]
    assert orjson.loads(encode(answer, ("t",), {"model": "m"})) == {
        "v": 1,
        "generations": [
            {"type": "plain", "text": "a", "generation_info": None},
            {"type": "chat", "text": "b", "generation_info": {"i": 1}, "message": {"m": 2}},
        ],
        "tags": ["t"],
        "about": {"model": "m"},
    }
