"""Entries as lines, and lines that are no entries."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache_backends import ChatGeneration, Entry, Generation, Key, ndjson
from cache_backends.base import digest
from cache_backends.ndjson import LineError, entry_of, line_of, rebound
from tests.cache_backends.test_codec import generations, objects, texts

HOW = '{"version":1,"dialect":"chat/1","scope":"credential:1f","parameters":{"model":"m"}}'
MESSAGE = {"role": "assistant", "content": "Hello"}
ENTRY = Entry(
    Key.of('{"messages":[{"content":"Hi","role":"user"}]}', HOW),
    [ChatGeneration("Hello", {"choice": {"index": 0}}, message=MESSAGE)],
    stored_at=1769860800.25,
    tags=("t",),
    about={"model": "m"},
)

times = st.floats(allow_nan=False, allow_infinity=False) | st.floats(0, 2**31)
# As the proxy writes them, as LangChain does, and whatever else there is.
strings = texts | objects.map(lambda each: orjson.dumps(each).decode()) | objects.map(str)


@given(
    st.builds(
        Entry,
        st.builds(Key.of, strings, strings),
        st.lists(generations, min_size=1, max_size=3),
        times,
        st.none() | times,
        st.none() | times,
        st.lists(texts).map(tuple),
        objects,
    )
)
def test_what_was_written_is_read(entry: Entry) -> None:
    """Any strings, answers, times, tags and facts, without loss; the digests are made anew."""
    line = line_of(entry)
    found = entry_of(line)
    digests = {
        "prompt_digest": digest(entry.key.prompt),
        "llm_digest": digest(entry.key.llm_string),
    }
    assert found == replace(entry, about={**entry.about, **digests})
    assert [type(each) for each in found.generations] == [type(each) for each in entry.generations]
    assert line_of(found) == line
    assert line.count(b"\n") == 1


def test_the_layout_is_fixed() -> None:
    """Files written by this version are read by the next: the bytes are pinned."""
    assert line_of(ENTRY).decode() == (
        '{"v":1,"prompt":{"messages":[{"content":"Hi","role":"user"}]},"generations":[{"message":'
        '{"role":"assistant","content":"Hello"},"generation_info":{"choice":{"index":0}}}],'
        '"llm_string":{"version":1,"dialect":"chat/1","scope":"credential:1f","parameters":'
        '{"model":"m"}},"about":{"model":"m"},"stored_at":"2026-01-31T12:00:00.25Z","tags":["t"],'
        '"id":"a20915f09c9f968ceeb75c29d4fd66fe418d4a884ac0d31ed19fb22f79ff4b99"}\n'
    )


@pytest.mark.parametrize(
    "text",
    ['{"a": 1}', '{"a":1,"a":1}', '{"a":1e0}', '{"a":18446744073709551616}', "[1]", "null", "Hi"],
)
def test_a_string_is_told_as_such_where_an_object_would_lose(text: str) -> None:
    """White space, equal names and forms of numbers of a key are not levelled."""
    line = line_of(replace(ENTRY, key=Key.of(text, HOW)))
    assert orjson.loads(line)["prompt"] == text
    assert entry_of(line).key.prompt == text


def test_the_deepest_prompt_is_told() -> None:
    """What is too deep to be an object of the line is told as text."""
    for depth in (252, 253, 254):
        text = '{"a":' * depth + "1" + "}" * depth
        assert entry_of(line_of(replace(ENTRY, key=Key.of(text, HOW)))).key.prompt == text


@pytest.mark.parametrize(
    "content",
    [
        [{"type": "text", "text": "Hel"}, {"type": "thinking"}, {"type": "text", "text": "lo"}],
        [{"type": "message", "content": [{"type": "output_text", "text": "Hello"}]}],
    ],
    ids=["messages", "responses"],
)
def test_the_text_of_a_message_is_told_once(content: list[Any]) -> None:
    """Whatever the wire is, the text in the message is not repeated beside it."""
    entry = replace(ENTRY, generations=[ChatGeneration("Hello", message={"content": content})])
    line = line_of(entry)
    assert orjson.loads(line)["generations"] == [{"message": {"content": content}}]
    assert entry_of(line).generations == entry.generations


def test_times_can_be_read() -> None:
    """As many digits as the clock gave; a number where a date would lose."""
    told = {
        0.0: "1970-01-01T00:00:00Z",
        1769860800.1234567: "2026-01-31T12:00:00.1234567Z",
        -1.5: -1.5,
        1e-9: 1e-09,
        1e300: 1e300,
    }
    for time, text in told.items():
        line = line_of(replace(ENTRY, stored_at=time))
        assert orjson.loads(line)["stored_at"] == text
        assert entry_of(line).stored_at == time


HOSTILE: dict[str, tuple[dict[str, Any], str]] = {
    "another version": ({"v": 2}, "v: expected 1"),
    "a true version": ({"v": True}, "v: expected 1"),
    "another id": ({"id": "0" * 64}, "id: that of this prompt and llm_string is a209"),
    "no id": ({"id": None}, "id: that of"),
    "another prompt": ({"prompt": "Ha"}, "id: that of"),
    "a number as prompt": ({"prompt": 1}, "prompt: expected an object or text"),
    "a list as llm_string": ({"llm_string": []}, "llm_string: expected an object or text"),
    "no answer": ({"generations": []}, "generations: expected at least one"),
    "answers by name": ({"generations": {}}, "generations: expected a list"),
    "a text as answer": ({"generations": ["a"]}, r"generations\[0\]: expected an object"),
    "an empty answer": ({"generations": [{}]}, r"generations\[0\].text: is missing"),
    "a number as text": ({"generations": [{"text": 1}]}, r"generations\[0\].text: expected text"),
    "a null as message": ({"generations": [{"message": None}]}, "message: expected an object"),
    "a list as info": ({"generations": [{"text": "", "generation_info": []}]}, "info: expected an"),
    "an unknown type": ({"generations": [{"text": "", "lc": 1}]}, "has a field that is none of"),
    "an unknown field": ({"command": "rm"}, "the line: has a field that is none of"),
    "a text as tags": ({"tags": "t"}, "tags: expected a list"),
    "a number as tag": ({"tags": [1]}, "tags: expected texts"),
    "a list as facts": ({"about": []}, "about: expected an object"),
    "a truth as time": ({"stored_at": True}, "stored_at: expected a time"),
    "no time": ({"stored_at": None}, "stored_at: expected a time"),
    "a 31st of June": ({"expires_at": "2026-06-31T00:00:00Z"}, "expires_at: expected a time"),
    "a local time": ({"stored_at": "2026-06-30T00:00:00"}, "stored_at: expected a time"),
    "other digits": ({"stored_at": "٢٠٢٦-01-31T12:00:00Z"}, "stored_at: expected a time"),
    "an end that is text": ({"retained_until": "never"}, "retained_until: expected a time"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_lines_are_refused(name: str) -> None:
    """Whatever is not exactly an entry raises one kind of error, which says where."""
    change, message = HOSTILE[name]
    with pytest.raises(LineError, match=message):
        entry_of(orjson.dumps(orjson.loads(line_of(ENTRY)) | change))


@pytest.mark.parametrize("name", ["v", "id", "prompt", "llm_string", "generations", "stored_at"])
def test_no_field_is_made_up(name: str) -> None:
    """A line without one of them is refused."""
    found = orjson.loads(line_of(ENTRY))
    del found[name]
    with pytest.raises(LineError, match=f"^{name}: is missing"):
        entry_of(orjson.dumps(found))


@pytest.mark.parametrize(
    "line",
    [b"", b"\n", b"null", b"[]", b'"', b"\xff", b'{"v":1}', b"<<<<<<< HEAD", b"[" * 2000, b"\x00"],
)
def test_what_is_no_line_is_refused(line: bytes) -> None:
    """Nor is anything else raised by what is no object."""
    with pytest.raises(LineError):
        entry_of(line)


def test_a_prompt_too_deep_is_refused() -> None:
    """What could not have been written is not read."""
    found = line_of(ENTRY).replace(b'"Hi"', b"[" * 300 + b"]" * 300)
    with pytest.raises(LineError, match="prompt: nested too deeply"):
        entry_of(found)


def test_every_truncation_is_refused() -> None:
    """No beginning of a line is a line."""
    whole = line_of(ENTRY).rstrip()
    for length in range(len(whole)):
        with pytest.raises(LineError):
            entry_of(whole[:length])


def test_a_line_beyond_the_limit_is_neither_written_nor_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A limit on both sides."""
    line = line_of(ENTRY)
    monkeypatch.setattr(ndjson, "MAX_LINE_BYTES", 300)
    with pytest.raises(LineError, match="at most 300"):
        entry_of(line)
    with pytest.raises(LineError, match="at most 300"):
        line_of(ENTRY)


@pytest.mark.parametrize("value", [object(), 2**64, "\ud800", b"bytes"], ids=str)
def test_what_is_no_json_is_refused_when_written(value: object) -> None:
    """Nothing is quietly turned into something else."""
    with pytest.raises(LineError, match="cannot be written as JSON"):
        line_of(replace(ENTRY, generations=[Generation("text", {"value": value})]))


@pytest.mark.parametrize("time", [float("nan"), float("inf")])
def test_no_time_is_endless(time: float) -> None:
    """Without end is `None`, not a number."""
    with pytest.raises(LineError, match="a time is no number"):
        line_of(replace(ENTRY, expires_at=time))


def test_an_entry_can_be_given_to_others() -> None:
    """Under another scope it has another key, and nothing else is different."""
    given = rebound(ENTRY, "shared")
    assert given.key == Key.of(ENTRY.key.prompt, HOW.replace("credential:1f", "shared"))
    assert given.about == {
        "model": "m",
        "prompt_digest": digest(given.key.prompt),
        "llm_digest": digest(given.key.llm_string),
    }
    assert replace(given, key=ENTRY.key, about=ENTRY.about) == ENTRY


@pytest.mark.parametrize("how", ["{}", "ChatOpenAI", '{"scope": "shared"}', '{"scope":1}'])
def test_what_has_no_scope_is_given_to_nobody(how: str) -> None:
    """Only keys that the proxy made say who shares them."""
    with pytest.raises(LineError, match="no scope"):
        rebound(replace(ENTRY, key=Key.of("Hi", how)), "shared")
