"""Event streams: however they are cut and however their lines end, the events are the same."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy import sse
from proxy.errors import UpstreamFailure

STREAM = (
    b'\xef\xbb\xbfdata: {"a":1}\n'
    b"\n"
    b": a comment\n"
    b"\n"
    b"event: message\n"
    b"id: 7\n"
    b"retry: 100\n"
    b"data:no space\n"
    b"data:  two spaces\n"
    b"\n"
    b"data\n"
    b"data:\n"
    b"\n"
    b"\n"
    b"database: 5\n"
    b"\n"
    b"data: \xf0\x9f\x90\x94\n"
    b"\n"
    b"data: [DONE]\n"
    b"\n"
    b"data: never ended\n"
)
EVENTS = [b'{"a":1}', b"no space\n two spaces", b"\xf0\x9f\x90\x94", b"[DONE]"]
LINE_ENDS = [b"\n", b"\r\n", b"\r"]


def decode(*chunks: bytes) -> list[bytes]:
    decoder = sse.Decoder()
    return [event for chunk in chunks for event in decoder.feed(chunk)]


def cut(raw: bytes, size: int) -> list[bytes]:
    return [raw[start : start + size] for start in range(0, len(raw), size)]


@pytest.mark.parametrize("line_end", LINE_ENDS, ids=["LF", "CRLF", "CR"])
@pytest.mark.parametrize("size", [10**6, 7, 2, 1])
def test_events_are_found_however_they_are_cut(size: int, line_end: bytes) -> None:
    """Comments, names, ids and events without data are passed over; lines of data are joined."""
    assert decode(*cut(STREAM.replace(b"\n", line_end), size)) == EVENTS


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"], ids=["LF", "CRLF"])
def test_an_event_is_given_as_soon_as_it_is_whole(line_end: bytes) -> None:
    """The blank line is enough: nothing of the next event is waited for."""
    decoder = sse.Decoder()
    assert decoder.feed(b"data: now" + line_end) == []
    assert decoder.feed(line_end) == [b"now"]


def test_a_cut_between_cr_and_lf_makes_no_blank_line() -> None:
    """Half a line end is not yet one."""
    assert decode(b"data: a\r", b"\ndata: b\r", b"\n\r", b"\n") == [b"a\nb"]


def test_an_endless_event_is_refused() -> None:
    """Memory is bounded, in one line or in many; what was whole before does not count."""
    decoder = sse.Decoder()
    piece = b"x" * 2**20
    for _ in range(3):
        assert len(decoder.feed(b"data: " + piece * 30 + b"\n\n")) == 1
    decoder.feed(b"data: " + piece * 30 + b"\ndata: ")
    decoder.feed(piece * 30)
    with pytest.raises(UpstreamFailure, match="more than 67108864 bytes"):
        decoder.feed(piece * 5)


def test_comments_do_not_add_up() -> None:
    """A provider may keep a connection alive for as long as it likes."""
    decoder = sse.Decoder()
    comments = (b": " + b"x" * 1022 + b"\n\n") * 2**13
    for _ in range(10):
        assert decoder.feed(comments) == []
    assert decoder.feed(b"data: at last\n\n") == [b"at last"]


def test_a_long_line_is_joined_once() -> None:
    """A megabyte comes byte by byte: joining it at each byte would copy half a terabyte."""
    decoder = sse.Decoder()
    byte = b"x"
    for _ in range(2**20):
        decoder.feed(byte)
    assert decoder.feed(b"\n\n") == []


def test_events_are_rendered_one_a_line() -> None:
    """What is written is read again."""
    assert sse.encode([b"a", b"b"]) + sse.DONE == b"data: a\n\ndata: b\n\ndata: [DONE]\n\n"


def test_names_are_rendered_before_the_data() -> None:
    """Clients of Messages go by the name; who reads the data alone reads the same."""
    stream = sse.encode_named([(b"ping", b'{"type":"ping"}'), (b"end", b"{}")])
    assert stream == b'event: ping\ndata: {"type":"ping"}\n\nevent: end\ndata: {}\n\n'
    assert sse.Decoder().feed(stream) == [b'{"type":"ping"}', b"{}"]


@given(
    st.lists(st.sampled_from([b"data: x", b"data:y", b": c", b"event: e", b"", b"", b"data"])),
    st.sampled_from(LINE_ENDS),
    st.lists(st.integers(1, 9)),
)
def test_any_cut_gives_the_same_events(
    lines: list[bytes], line_end: bytes, sizes: list[int]
) -> None:
    """Whole or in pieces of any sizes."""
    raw = b"".join(line + line_end for line in lines)
    # A lone CR at the very end might have been half of a CRLF.
    raw += b": end" + line_end
    chunks, rest = [], raw
    for size in sizes:
        chunks.append(rest[:size])
        rest = rest[size:]
    assert decode(*chunks, rest) == decode(raw)
