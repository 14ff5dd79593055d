"""The response headers that tell what became of a request."""

from __future__ import annotations

from typing import cast

import http_sf
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.cache_status import Telling, tell, tell_after
from proxy.models import Headers, Outcome


def cache_status(telling: Telling) -> bytes:
    return dict(tell(telling))[b"cache-status"]


def members(value: bytes) -> list[tuple[str, dict[str, object]]]:
    parsed = cast("list[tuple[object, dict[str, object]]]", http_sf.parse(value, tltype="list"))
    return [(str(name), parameters) for name, parameters in parsed]


@pytest.mark.parametrize(
    ("telling", "expected"),
    [
        (Telling(Outcome.HIT, ttl_left=3581.9, detail="memory"), b"hit; ttl=3581; detail=memory"),
        (Telling(Outcome.HIT, detail="sqlite"), b"hit; detail=sqlite"),
        (
            Telling(Outcome.STALE, ttl_left=-94.5, detail="stale-if-error"),
            b"hit; ttl=-95; detail=stale-if-error",
        ),
        (Telling(Outcome.MISS), b"fwd=miss"),
        (Telling(Outcome.MISS, stored=True), b"fwd=miss; stored"),
        (Telling(Outcome.MISS, stored=False), b"fwd=miss; stored=?0"),
        (Telling(Outcome.MISS, collapsed=False), b"fwd=miss; collapsed=?0"),
        (
            Telling(Outcome.MISS, forwarded="request", fwd_status=200, stored=True),
            b"fwd=request; fwd-status=200; stored",
        ),
        (Telling(Outcome.COLLAPSED), b"fwd=miss; collapsed"),
        (Telling(Outcome.PARTIAL, ttl_left=60.0), b"fwd=partial; ttl=60"),
        (Telling(Outcome.BYPASS, detail="rule 2"), b'fwd=bypass; detail="rule 2"'),
        (Telling(Outcome.BYPASS, forwarded="method"), b"fwd=method"),
        (
            Telling(Outcome.BYPASS, detail='a "b" \\ é\r\n'),
            b'fwd=bypass; detail="a \\"b\\" \\\\ ???"',
        ),
    ],
)
def test_cache_status(telling: Telling, expected: bytes) -> None:
    """Each outcome is said in the words of RFC 9211."""
    assert cache_status(telling) == b"llm-cache-proxy; " + expected


@pytest.mark.parametrize(("far", "told"), [(1e300, 2**31), (-1e300, -(2**31))])
def test_times_that_cannot_be_are_told_as_very_long(far: float, told: int) -> None:
    """Of an entry that came from anywhere: no client has to read hundreds of digits."""
    headers = dict(tell(Telling(Outcome.HIT, age=far, ttl_left=far)))
    assert headers[b"age"] == b"%d" % max(0, told)
    assert members(headers[b"cache-status"]) == [("llm-cache-proxy", {"hit": True, "ttl": told})]


def test_a_hit_says_its_age_and_id() -> None:
    """A stored answer comes with Age in whole seconds and the id that the admin API takes."""
    headers = tell(Telling(Outcome.HIT, entry_id="ab12", age=3.9))
    assert headers[1:] == [(b"x-cache", b"HIT"), (b"age", b"3"), (b"x-llm-cache-id", b"ab12")]


def test_age_is_never_negative() -> None:
    """A clock that was set back does not make an answer younger than new."""
    assert (b"age", b"0") in tell(Telling(Outcome.HIT, age=-0.5))


@pytest.mark.parametrize("outcome", list(Outcome))
def test_a_fresh_answer_has_no_age(outcome: Outcome) -> None:
    """Without an age, an id and timings nothing is said of them."""
    assert [name for name, _ in tell(Telling(outcome))] == [b"cache-status", b"x-cache"]


@pytest.mark.parametrize("outcome", list(Outcome))
def test_x_cache_names_the_outcome(outcome: Outcome) -> None:
    """X-Cache is the outcome in one word."""
    assert (b"x-cache", outcome.value.encode()) in tell(Telling(outcome))


def test_server_timing_counts_milliseconds() -> None:
    """Seconds go in, milliseconds come out, short and never in scientific notation."""
    timings = (("key", 0.0001), ("cache", 0.000204), ("upstream", 1234.5678))
    headers = dict(tell(Telling(Outcome.MISS, timings=timings)))
    assert headers[b"server-timing"] == b"key;dur=0.10, cache;dur=0.20, upstream;dur=1234567.80"


def test_upstreams_cache_status_stays_in_front() -> None:
    """The caches stand in their order, the one nearest to the origin first."""
    upstream: Headers = [
        (b"cache-status", b"edge; hit"),
        (b"x-request-id", b"r1"),
        (b"cache-status", b"inner; fwd=miss"),
    ]
    headers = tell_after(upstream, Telling(Outcome.MISS))
    assert headers[0] == (b"x-request-id", b"r1")
    assert headers[1] == (b"cache-status", b"edge; hit, inner; fwd=miss, llm-cache-proxy; fwd=miss")


def test_upstreams_own_telling_does_not_contradict_ours() -> None:
    """A proxy behind this one, or a CDN, says X-Cache and an id of its own: ours replace them."""
    upstream: Headers = [
        (b"x-cache", b"Hit from cloudfront"),
        (b"x-llm-cache-id", b"theirs"),
        (b"age", b"7"),
        (b"server-timing", b"edge;dur=1"),
    ]
    headers = tell_after(upstream, Telling(Outcome.MISS, timings=(("upstream", 0.5),)))
    assert [value for name, value in headers if name == b"x-cache"] == [b"MISS"]
    assert b"theirs" not in dict(headers).values()
    assert (b"age", b"7") in headers
    assert [value for name, value in headers if name == b"server-timing"] == [
        b"edge;dur=1",
        b"upstream;dur=500.00",
    ]


MAYBE = st.none() | st.booleans()
SECONDS = st.none() | st.floats(min_value=-1e9, max_value=1e9)


@given(
    st.builds(
        Telling,
        outcome=st.sampled_from(Outcome),
        forwarded=st.sampled_from(["", "miss", "request", "stale", "bypass", "partial", "method"]),
        detail=st.text(max_size=20),
        entry_id=st.just("ab12"),
        age=SECONDS,
        ttl_left=SECONDS,
        stored=MAYBE,
        collapsed=MAYBE,
        fwd_status=st.none() | st.integers(100, 599),
        timings=st.just((("key", 0.1),)),
    )
)
def test_a_structured_field_parser_reads_it(telling: Telling) -> None:
    """Whatever is told is one member of a structured-field list, either a hit or forwarded."""
    [(name, parameters)] = members(cache_status(telling))
    assert name == "llm-cache-proxy"
    assert ("hit" in parameters) != ("fwd" in parameters)
    assert ("ttl" in parameters) == (telling.ttl_left is not None)
    if "hit" in parameters:
        assert not parameters.keys() & {"stored", "collapsed", "fwd-status"}
