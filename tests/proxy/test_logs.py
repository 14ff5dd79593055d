"""Warnings and errors on stderr: one line each, as JSON where nobody reads along."""

from __future__ import annotations

import asyncio
import io
import logging
import sys

import orjson
import pytest

from proxy.logs import configure_logging

pytestmark = pytest.mark.usefixtures("logging_as_it_was")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def stderr(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What is no terminal."""
    out = io.StringIO()
    monkeypatch.setattr(sys, "stderr", out)
    configure_logging("info")
    return out


def test_a_warning_is_a_json_object(stderr: io.StringIO) -> None:
    """Time, level, who says it and what, in a line that machines can read as the journal's."""
    logging.getLogger("proxy.store").warning("the cache is %s", 'skipped: "why"\n')
    (line,) = stderr.getvalue().splitlines()
    told = orjson.loads(line)
    assert told["time"].endswith("Z")
    assert (told["event"], told["level"]) == ("log", "warning")
    assert (told["logger"], told["message"]) == ("proxy.store", 'the cache is skipped: "why"\n')


def test_an_exception_stays_in_its_line(stderr: io.StringIO) -> None:
    """A traceback has many lines, and is one field; what cannot be written is spelt out."""
    try:
        raise ValueError("\ud800")
    except ValueError:
        logging.getLogger("proxy").exception("a fault")
    (line,) = stderr.getvalue().splitlines()
    assert "ValueError: \\ud800" in orjson.loads(line)["exception"]


def test_people_read_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal."""
    monkeypatch.setattr(sys, "stderr", out := Terminal())
    configure_logging("info")
    logging.getLogger("proxy.store").warning("the cache is skipped")
    assert out.getvalue() == "WARNING proxy.store: the cache is skipped\n"


def test_what_is_cut_on_purpose_is_no_error(stderr: io.StringIO) -> None:
    """uvicorn's complaints about cut streams and cancelled tasks are kept back, others are not."""
    log = logging.getLogger("uvicorn.error")
    log.error("ASGI callable returned without completing response.")
    log.error("Exception in ASGI application\n", exc_info=asyncio.CancelledError())
    log.error("Exception in ASGI application\n", exc_info=ValueError("a fault"))
    log.info("Uvicorn's own news")
    (line,) = stderr.getvalue().splitlines()
    assert "a fault" in orjson.loads(line)["exception"]
