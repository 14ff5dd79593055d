"""The ways in which one stream of events may reach whoever reads it."""

from __future__ import annotations

from collections.abc import Callable

from tests.fakes.provider import Answer


def _crumbs(stream: bytes) -> Answer:
    return Answer(chunks=[stream[at : at + 7] for at in range(0, len(stream), 7)])


def _with_crlf(stream: bytes) -> Answer:
    return Answer(chunks=[stream.replace(b"\n", b"\r\n")])


def _with_comments(stream: bytes) -> Answer:
    return Answer(chunks=[b": hold on\n\n" + stream.replace(b"\n\n", b"\n: hold on\n\n")])


def _compressed(stream: bytes) -> Answer:
    return Answer(chunks=[stream[at : at + 100] for at in range(0, len(stream), 100)], gzip=True)


CUTTINGS: dict[str, Callable[[bytes], Answer]] = {
    "crumbs": _crumbs,
    "CRLF": _with_crlf,
    "comments": _with_comments,
    "gzip": _compressed,
}
