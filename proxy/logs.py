"""Warnings and errors on stderr, a line each: for people on a terminal, as JSON elsewhere.

Requests are the journal's business.
"""

from __future__ import annotations

import asyncio
import logging
import sys

import orjson

from proxy.journal import utc

_QUIET = ("asyncio", "httpx")


def configure_logging(level: str) -> None:
    """Set up the logging of a process of our own."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Plain() if sys.stderr.isatty() else JsonLines())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.getLogger("uvicorn").setLevel(max(logging.WARNING, logging.getLevelName(level.upper())))
    for noisy in _QUIET:
        logging.getLogger(noisy).setLevel(logging.WARNING)
    logging.getLogger("uvicorn.error").addFilter(_is_not_a_cut)


class Plain(logging.Formatter):
    """For people."""

    def __init__(self) -> None:
        super().__init__("%(levelname)s %(name)s: %(message)s")


class JsonLines(logging.Formatter):
    """One JSON object in a line, as the journal's: `event` is "log"."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": utc(record.created),
            "event": "log",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _writable(record.getMessage()),
        }
        if record.exc_info:
            line["exception"] = _writable(self.formatException(record.exc_info))
        return orjson.dumps(line).decode()


def _writable(text: str) -> str:
    """The text without what UTF-8 has no bytes for."""
    return text.encode(errors="backslashreplace").decode()


def _is_not_a_cut(record: logging.LogRecord) -> bool:
    """A stream that the provider broke off or that outlasts the draining, and a caller who takes
    nothing, are cut on purpose, and told in the journal."""
    if record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError):
        return False
    said = record.getMessage()
    return not any(f"without {what} response" in said for what in ("starting", "completing"))
