"""How two keys are told apart to people."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from cache_backends.base import Key
from proxy.differences import MAX_DIFFERENCES, MAX_TOLD_CHARS, compare, differences


def key(prompt: Any, llm: Any = None) -> Key:
    return Key.of(orjson.dumps(prompt).decode(), orjson.dumps(llm or {}).decode())


def said(*texts: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text} for text in texts]}


def told(stored: Key, asked: Key) -> list[dict[str, Any]]:
    return [each.as_json() for each in differences(stored, asked)]


def test_equal_keys_do_not_differ() -> None:
    """Nothing is told of them."""
    assert told(key(said("a"), {"x": 1}), key(said("a"), {"x": 1})) == []


def test_a_field_is_named_by_its_path() -> None:
    """In the prompt and in the rest."""
    stored = key(said("a", "b"), {"parameters": {"temperature": 0, "top_p": 1}})
    asked = key(said("a", "c"), {"parameters": {"temperature": 0.5, "top_p": 1}})
    assert told(stored, asked) == [
        {"path": "messages[1].content", "stored": "b", "asked": "c"},
        {"path": "parameters.temperature", "stored": 0, "asked": 0.5},
    ]


def test_a_field_that_is_not_there_is_not_told_as_null() -> None:
    """Scripts find both sides; which of them lacks it is named."""
    stored = key({"a": None}, {"parameters": {}})
    asked = key({}, {"parameters": {"seed": 7}})
    assert told(stored, asked) == [
        {"path": "a", "stored": None, "asked": None, "absent": "asked"},
        {"path": "parameters.seed", "stored": None, "asked": 7, "absent": "stored"},
    ]


@pytest.mark.parametrize(
    ("stored", "asked", "path", "side"),
    [
        ("bc", "abc", "messages[0]", "asked"),
        ("ac", "abc", "messages[1]", "asked"),
        ("abc", "ac", "messages[1]", "stored"),
        ("ab", "abc", "messages[2]", "asked"),
    ],
)
def test_a_message_more_or_less_is_one_difference(
    stored: str, asked: str, path: str, side: str
) -> None:
    """Those after it are seen to be the same."""
    (found,) = told(key(said(*stored)), key(said(*asked)))
    (text,) = set(stored) ^ set(asked)
    assert (found["path"], found[side]) == (path, {"role": "user", "content": text})
    assert found["absent"] != side


def test_of_long_texts_the_place_is_told_where_they_part() -> None:
    """With what is around it, and no more."""
    begin, rest = "x" * 5000, "y" * 5000
    (found,) = differences(key(said(f"{begin}old{rest}")), key(said(f"{begin}new{rest}")))
    for text, word in ((found.stored, "old"), (found.asked, "new")):
        assert f"x{word}y" in text
        assert text.startswith("…x")
        assert text.endswith("y…")
        assert len(text) == MAX_TOLD_CHARS + 2
    assert found.size == 6


def test_what_is_large_is_told_in_part() -> None:
    """The beginning of its JSON."""
    (found,) = differences(key({}), key({"tools": [{"name": "t" * 1000}]}))
    assert found.asked.startswith('[{"name":"ttt')
    assert len(found.asked) == MAX_TOLD_CHARS + 1


def test_so_many_are_told_and_that_there_are_more() -> None:
    """However long the lists."""
    compared = compare(key({"input": list(range(50_000))}), key({"input": list(range(1, 50_001))}))
    assert (len(compared.differences), compared.more) == (MAX_DIFFERENCES, True)


def test_numbers_and_truth_and_order_are_told_to_the_letter() -> None:
    """Python takes these for equal; a key does not."""
    assert [each["path"] for each in told(key({"a": 1}), key({"a": True}))] == ["a"]
    assert [each["path"] for each in told(key({"a": 1}), key({"a": 1.0}))] == ["a"]
    (found,) = told(key({"s": {"a": 1, "b": 2}}), key({"s": {"b": 2, "a": 1}}))
    assert found == {"path": "s (order of names)", "stored": ["a", "b"], "asked": ["b", "a"]}


def test_whose_entry_it_is_stays_untold() -> None:
    """Only that it is another's."""
    stored, asked = key({}, {"scope": "credential:ab12"}), key({}, {"scope": "credential:cd34"})
    (found,) = told(stored, asked)
    assert found == {"path": "scope", "stored": "another credential", "asked": "this credential"}
    assert differences(stored, asked, any_scope=True) == []


def test_a_scope_that_a_request_has_is_its_own() -> None:
    """A field of that name deeper down is told as it is."""
    found = told(key({}, {"parameters": {"scope": "a"}}), key({}, {"parameters": {"scope": "b"}}))
    assert found == [{"path": "parameters.scope", "stored": "a", "asked": "b"}]


def test_odd_names_are_quoted() -> None:
    """A dot in a name is no step."""
    assert told(key({}), key({"a.b": 1, "": 2}))[0]["path"] == '["a.b"]'


def test_keys_of_others_are_compared_as_texts() -> None:
    """What stands there need not be JSON."""
    assert told(Key.of("one", "[]"), Key.of("two", "[]")) == [
        {"path": "prompt", "stored": "one", "asked": "two"}
    ]


def test_the_nearer_one_has_fewer_differences_then_smaller_ones() -> None:
    """A typo is nearer than another text, and that nearer than another text and temperature."""
    asked = key(said("Tell me a joke"), {"temperature": 0})
    typo = compare(key(said("Tell me a jok"), {"temperature": 0}), asked)
    other = compare(key(said("Write a long poem"), {"temperature": 0}), asked)
    both = compare(key(said("Tell me a jok"), {"temperature": 1}), asked)
    assert typo.distance < other.distance < both.distance
