"""What callers may say to the cache, and how it is understood."""

from __future__ import annotations

import math
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.control import MAX_SECONDS, read_control
from proxy.errors import BadControl
from proxy.models import Control, Headers

ACCEPT_EVENTS = (b"accept", b"text/event-stream")


def plain(*values: str) -> Headers:
    return [(b"cache-control", value.encode()) for value in values]


def own(*values: str) -> Headers:
    return [(b"llm-cache-control", value.encode()) for value in values]


def test_nothing_said_is_one_shared_control() -> None:
    """A request without directives costs no new object."""
    headers = [(b"accept", b"*/*"), (b"pragma", b"no-cache")]
    assert read_control(headers, None) is read_control([], "")
    assert read_control(headers, None) == Control()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("no-cache", Control(no_cache=True)),
        ("No-Store", Control(no_store=True)),
        ("only-if-cached", Control(only_if_cached=True)),
        ("max-age=60", Control(max_age=60)),
        ('max-age="60"', Control(max_age=60)),
        ("max-age=0", Control(max_age=0, no_cache=True)),
        ("MIN-FRESH=5,max-stale=7", Control(min_fresh=5, max_stale=7)),
        ("max-stale", Control(max_stale=math.inf)),
        ("max-stale, max-age=1", Control(max_stale=math.inf, max_age=1)),
        ("stale-if-error=60", Control(stale_if_error=60)),
        ("max-age=1, max-age=2", Control(max_age=1)),
        ("max-age=2147483649", Control(max_age=MAX_SECONDS)),
        ("max-age=" + "9" * 4000, Control(max_age=MAX_SECONDS)),
    ],
)
def test_cache_control_is_read(value: str, expected: Control) -> None:
    """The request directives of RFC 9111 and 5861 are understood in every spelling."""
    assert read_control(plain(value), None) == expected


@pytest.mark.parametrize(
    "value",
    [
        "nothing-to-see-here",
        "",
        ",,,",
        "max-age",
        "max-age=",
        "max-age=-1",
        "max-age=1.5",
        "max-age=ten",
        "max-stale=soon",
        "max-stale=",
        "s-maxage=5",
        'extension="no-store, no-cache"',
        "ttl=60, namespace=evals",
        "\xff\xfe",
    ],
)
def test_cache_control_that_is_void_or_unknown_says_nothing(value: str) -> None:
    """A Cache-Control that cannot be understood never fails a request."""
    assert read_control(plain(value), None) == Control()


def test_lines_of_cache_control_count_together() -> None:
    """Several lines of a header are one list."""
    assert read_control(plain("no-cache", "max-age=5"), None) == Control(no_cache=True, max_age=5)


def test_no_store_of_sse_helpers_is_ignored() -> None:
    """SSE helpers send no-store with every stream; the rest of the line still counts."""
    headers = [*plain("no-store, max-age=9"), ACCEPT_EVENTS]
    assert read_control(headers, None) == Control(max_age=9)


def test_own_no_store_counts_beside_event_stream() -> None:
    """Whoever means it says it in LLM-Cache-Control."""
    headers = [*plain("no-store"), ACCEPT_EVENTS, *own("no-store")]
    assert read_control(headers, None) == Control(no_store=True)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("no-cache, ttl=60", Control(no_cache=True, ttl=60)),
        ("ttl=0.5", Control(ttl=0.5)),
        ("ttl=999999999999999", Control(ttl=MAX_SECONDS)),
        ("max-stale", Control(max_stale=math.inf)),
        ("max-age=0", Control(max_age=0, no_cache=True)),
        ("namespace=evals", Control(namespace="evals")),
        ('namespace="evals 2"', Control(namespace="evals 2")),
        ('namespace=%"pr%c3%bcfung"', Control(namespace="prüfung")),
        ("tags=(a b)", Control(tags=("a", "b"))),
        ('tags=(a "b c" a)', Control(tags=("a", "b c"))),
        ("tags=a", Control(tags=("a",))),
        ("tags=()", Control()),
        ("sample=0", Control(sample=0)),
        ("sample=10000", Control(sample=10000)),
        ("", Control()),
        (f"namespace={'n' * 128}", Control(namespace="n" * 128)),
    ],
)
def test_own_header_is_read(value: str, expected: Control) -> None:
    """LLM-Cache-Control is a structured-field dictionary."""
    assert read_control(own(value), None) == expected


@pytest.mark.parametrize(
    ("value", "member"),
    [
        ("no-cahce", "no-cahce"),
        ("no-cache=1", "no-cache"),
        ("no-cache; ttl=60", "no-cache"),
        ("ttl", "ttl"),
        ("ttl=-1", "ttl"),
        ('ttl="60"', "ttl"),
        ("ttl=?1", "ttl"),
        ("ttl=(1 2)", "ttl"),
        ("ttl=", "ttl"),
        ("max-stale=soon", "max-stale"),
        ("namespace=7", "namespace"),
        ("namespace", "namespace"),
        ('namespace=%"a%0ab"', "namespace"),
        (f"namespace={'n' * 129}", "namespace"),
        ("tags", "tags"),
        ("tags=(a 1)", "tags"),
        ("tags=(a;b c)", "tags"),
        ('tags=("")', "tags"),
        (f"tags=({'t' * 129})", "tags"),
        (f"tags=({' '.join(f't{n}' for n in range(33))})", "tags"),
        ("sample=1.0", "sample"),
        ("sample=-1", "sample"),
        ("sample=10001", "sample"),
        ("sample", "sample"),
    ],
)
def test_own_header_with_a_mistake_is_refused(value: str, member: str) -> None:
    """A mistake in LLM-Cache-Control is named, not passed over."""
    with pytest.raises(BadControl) as refused:
        read_control(own(value), None)
    message = str(refused.value)
    assert message.startswith("LLM-Cache-Control: ")
    assert member in message
    assert "expected" in message or "commas, not semicolons" in message


@pytest.mark.parametrize("value", ["TTL=60", "ttl=60,", "=", "ttl 60", "tags=(a", "\xff"])
def test_own_header_that_is_no_dictionary_is_refused(value: str) -> None:
    """What does not parse is refused with an example of what does."""
    with pytest.raises(BadControl, match="expected a list such as"):
        read_control(own(value), None)


@pytest.mark.parametrize("headers", [plain("x" * 4097), own("x" * 4097)])
def test_too_long_a_header_is_refused(headers: Headers) -> None:
    """No more than 4 KiB of directives are looked at."""
    with pytest.raises(BadControl, match="4097 bytes; at most 4096"):
        read_control(headers, None)


def test_lines_of_the_own_header_count_together() -> None:
    """Several lines are one dictionary, in which the last of two equal members counts."""
    assert read_control(own("ttl=1, sample=2", "", "ttl=3"), None) == Control(ttl=3, sample=2)


def test_base_url_says_the_same() -> None:
    """A tool that can set nothing but its base URL can say everything, percent-encoded."""
    said = read_control([], "namespace=%22my%20evals%22,tags=(a%20b),no-cache")
    assert said == Control(namespace="my evals", tags=("a", "b"), no_cache=True)


@pytest.mark.parametrize("directives", ["namespce=a", "%ff", "ttl=%", "ttl=60;sample=1", "\udc80"])
def test_base_url_with_a_mistake_is_refused(directives: str) -> None:
    """The message says that the mistake is in the base URL."""
    with pytest.raises(BadControl, match=r"^the base URL's /~: "):
        read_control([], directives)


def test_stronger_source_wins_where_they_conflict() -> None:
    """Base URL, Cache-Control, LLM-Cache-Control, from the weakest to the strongest."""
    headers = [*own("max-age=3"), *plain("max-age=2, min-fresh=2")]
    said = read_control(headers, "max-age=1,min-fresh=1,ttl=1")
    assert said == Control(max_age=3, min_fresh=2, ttl=1)


@pytest.mark.parametrize(
    ("weaker", "taken_back"),
    [("no-store", "no-store=?0"), ("max-age=0", "max-age=?0"), ("max-stale", "max-stale=?0")],
)
def test_false_takes_a_weaker_source_back(weaker: str, taken_back: str) -> None:
    """`=?0` switches off what a library or the base URL said."""
    assert read_control([*plain(weaker), *own(taken_back)], None) == Control()
    assert read_control(own(taken_back), weaker) == Control()


def test_the_base_url_cannot_overrule_a_header() -> None:
    """A weaker `=?0` takes nothing back."""
    assert read_control(plain("no-store"), "no-store=?0") == Control(no_store=True)


DIRECTIVES = st.sampled_from(
    ["no-cache", "no-store=?0", "max-age=", "ttl=", "60", '"', "tags=(a", ")", ",", ";", "%", "@9"]
)
NOISE = st.one_of(
    st.binary(max_size=40), st.lists(DIRECTIVES).map(lambda some: "".join(some).encode())
)


@given(plain_value=NOISE, own_value=NOISE, directives=st.none() | st.text(max_size=40))
def test_whatever_is_said_is_read_or_refused(
    plain_value: bytes, own_value: bytes, directives: str | None
) -> None:
    """No input leads to anything but a Control or BadControl."""
    headers = [(b"cache-control", plain_value), (b"llm-cache-control", own_value)]
    with suppress(BadControl):
        assert isinstance(read_control(headers, directives), Control)


@given(NOISE)
def test_no_cache_control_is_refused(value: bytes) -> None:
    """Cache-Control is for all caches on the way: a strange one is no reason to fail."""
    assert isinstance(read_control([(b"cache-control", value)], None), Control)
