"""What must not be written down."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache_backends import Generation, Key
from cache_backends.redaction import Redaction
from tests.cache_backends.test_codec import objects, texts

MAIL = Redaction([(r"[a-z]+@example\.com", "MAIL"), ("[0-9]{3,}", "NUMBER")])


@pytest.mark.parametrize(
    ("pattern", "into", "message"),
    [
        ("(", "", "unterminated"),
        ("a", r"\1", "invalid group reference"),
        ("a*", "b", "matches the empty text"),
        ("[a-z]+", "redacted", "matches .* again"),
    ],
)
def test_what_could_not_be_kept_out_is_refused(pattern: str, into: str, message: str) -> None:
    """A pattern that nothing can take the place of is no redaction."""
    with pytest.raises(ValueError, match=message):
        Redaction([(pattern, into)])


@given(texts | st.from_regex(r"[a-c@0-9]*@example\.com[0-9]*"))
def test_once_more_changes_nothing(text: str) -> None:
    """What is asked with a redacted text finds what was stored for it."""
    assert MAIL.text(MAIL.text(text)) == MAIL.text(text)


@pytest.mark.parametrize(
    "pairs", [[("ab", "")], [("a", "b"), ("b", "a")], [(r"(x+)y", r"\1\1z"), ("z", "y")]]
)
def test_nothing_that_matches_is_left(pairs: list[tuple[str, str]]) -> None:
    """Also where a replacement brings about another match, and another."""
    redaction = Redaction(pairs)
    for text in ("aabb", "a" * 99 + "b" * 99, "xy", "b"):
        said = redaction.text(text)
        assert redaction.text(said) == said
        assert not any(pattern.search(said) for pattern, _ in redaction._pairs)


@given(objects)
def test_json_without_a_match_stays_as_it_is(value: dict[str, object]) -> None:
    """Numbers and names, deep down."""
    assert Redaction([("\ue000", "")]).value(value) == {
        name.replace("\ue000", ""): each for name, each in value.items()
    } or "\ue000" in str(value)


def test_keys_are_read_as_json() -> None:
    """What is written with escapes is found; what is no JSON is taken as text."""
    redaction = Redaction([('say "hi"', "X")])
    key = redaction.key(Key.of('{"prompt":"say \\"hi\\""}', 'say "hi"'))
    assert key == Key.of('{"prompt":"X"}', "X")
    plain = Key.of('{"prompt": 1.0}', "{}")
    assert redaction.key(plain) is plain


def test_a_vector_is_no_text() -> None:
    """The digits of an embedding are nobody's number."""
    info = {"embedding": "[0.12345]", "id": "12345"}
    answer = MAIL._generation(Generation("", info))
    assert answer.generation_info == {"embedding": "[0.12345]", "id": "NUMBER"}
