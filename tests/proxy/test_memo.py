"""What is remembered of requests that hit, and how much of it."""

from __future__ import annotations

from typing import Any

from proxy.dialects.chat import Chat
from proxy.inquiry import Inquiry, Rendering
from proxy.memo import MAX_ITEM_BYTES, MAX_VARIANTS, Memo
from proxy.models import Ask, Call, Provider, Question, Verdict

HEADERS = [(b"authorization", b"Bearer mine")]


def asked(body: bytes = b"{}", path: bytes = b"/v1/chat/completions", query: bytes = b"") -> Any:
    return ("POST", path, query, body)


def inquiry(told: bytes = b"an answer") -> Inquiry:
    """What one request came to, and the body that answered it."""
    call = Call(Provider("p", "http://p.test/v1"), "/v1", "", "http://p.test/v1", [], b"{}")
    ask = Ask("chat/1", ({},), {}, "m", {}, b"{}")
    rendering = Rendering(body=told)
    return Inquiry(call, Chat(), ask, Verdict(True, True), Question(()), rendering)


def test_equal_bytes_are_known_again() -> None:
    """Method, path, query, body and every header must be equal, in order."""
    memo, known = Memo(), inquiry()
    memo.add(asked(), HEADERS, known)
    assert memo.find(asked(), list(HEADERS)) is known
    others = [
        asked(b"{ }"),
        asked(path=b"/v1/completions"),
        asked(query=b"x"),
        ("QUERY", *asked()[1:]),
    ]
    assert [memo.find(other, HEADERS) for other in others] == [None] * 4
    two = [*HEADERS, (b"x", b"y")]
    assert [memo.find(asked(), other) for other in ([], two, two[::-1])] == [None] * 3


def test_callers_with_the_same_body_are_told_apart() -> None:
    """Each has what his own headers came to; of many, the latest are remembered."""
    memo = Memo()
    callers = [[(b"authorization", b"Bearer %d" % each)] for each in range(MAX_VARIANTS + 2)]
    inquiries = [inquiry() for _ in callers]
    for headers, each in zip(callers, inquiries, strict=True):
        memo.add(asked(), headers, each)
    assert len(memo) == MAX_VARIANTS
    assert [memo.find(asked(), headers) for headers in callers] == [None, None, *inquiries[2:]]


def test_the_first_inquiry_stays() -> None:
    """It holds the rendering; to add it once more takes no room."""
    memo, first = Memo(), inquiry()
    memo.add(asked(), HEADERS, first)
    memo.add(asked(), HEADERS, inquiry())
    assert memo.find(asked(), HEADERS) is first
    assert len(memo) == 1


def test_the_oldest_goes_when_it_is_full() -> None:
    """Bodies and answers count; whatever is added, the bound holds."""
    memo = Memo(max_bytes=100_000)
    requests = [asked(b"%d" % number + b"x" * 2000) for number in range(100)]
    for request in requests:
        memo.add(request, HEADERS, inquiry(b"y" * 1000))
    known = [request for request in requests if memo.find(request, HEADERS)]
    assert known == requests[-len(known) :]
    assert 5 <= len(known) <= 100_000 // 9000


def test_large_ones_are_not_remembered() -> None:
    """Reading them is not what takes long, and they would push out many."""
    memo = Memo()
    memo.add(asked(b"x" * MAX_ITEM_BYTES), HEADERS, inquiry())
    memo.add(asked(b"y"), HEADERS, inquiry(b"y" * MAX_ITEM_BYTES))
    assert len(memo) == 0


def test_heads_count_too() -> None:
    """A caller's headers and path may be far longer than what he asks."""
    long = b"x" * (MAX_ITEM_BYTES // 4)
    memo = Memo(max_bytes=2 * MAX_ITEM_BYTES)
    for number in range(8):
        memo.add(asked(b"%d" % number, path=long), HEADERS, inquiry())
        memo.add(asked(b"%d" % number), [(b"x", long)], inquiry())
    assert len(memo) == 2


def test_what_is_forgotten_makes_room() -> None:
    """For all who sent it."""
    memo = Memo(max_bytes=3 * 4200)
    for headers in (HEADERS, []):
        memo.add(asked(), headers, inquiry())
    memo.forget(asked())
    assert len(memo) == 0
    for number in range(3):
        memo.add(asked(b"%d" % number), [], inquiry(b""))
    assert len(memo) == 3
