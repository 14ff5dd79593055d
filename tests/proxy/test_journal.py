"""A line for each request: for people, for machines, and never what was said."""

from __future__ import annotations

import io
import logging
import threading
import time
from dataclasses import replace
from typing import Any

import orjson
import pytest

from proxy import journal
from proxy.figures import Figures, amounts_of
from proxy.journal import Journal, Repeated, as_json, for_people, in_all, summary
from proxy.models import Event, Outcome
from proxy.savings import settle
from proxy.tally import Tally

HIT = Event(
    "/v1/chat/completions",
    provider="openai",
    dialect="chat",
    model="gpt-5",
    outcome=Outcome.HIT,
    status=200,
    input_tokens=1200,
    output_tokens=34,
    seconds=0.0012,
    entry_id="ab12",
)
AT = 1_800_000_000.25


class Stuck(io.StringIO):
    """A pipe that nobody empties until told to."""

    def __init__(self) -> None:
        super().__init__()
        self.entered, self.free = threading.Event(), threading.Event()

    def write(self, text: str) -> int:
        self.entered.set()
        self.free.wait(5)
        return super().write(text)


class Gone(io.StringIO):
    """A pipe whose reader left."""

    def write(self, text: str) -> int:
        raise BrokenPipeError


def written(*events: Event, render: Any = as_json) -> list[str]:
    out = io.StringIO()
    lines = Journal(out, render, clock=lambda: AT)
    for event in events:
        lines.record(event)
    lines.close()
    return out.getvalue().splitlines()


def test_a_line_for_machines() -> None:
    """One JSON object with the time in UTC, the outcome and no colour."""
    (line,) = written(HIT)
    told = orjson.loads(line)
    assert told["time"] == "2027-01-15T08:00:00.250Z"
    assert told["outcome"] == "HIT"
    assert (told["model"], told["status"], told["seconds"]) == ("gpt-5", 200, 0.0012)
    assert (told["input_tokens"], told["output_tokens"]) == (1200, 34)
    assert told.keys() >= {"namespace", "tier", "age", "request_bytes", "answer_bytes", "trace_id"}
    assert told.keys() >= {"usd", "saved_tokens", "saved_seconds", "saved_usd"}
    assert not told.keys() & {"prompt", "messages", "body", "headers", "key"}


def test_an_error_of_the_proxy_has_an_outcome_too() -> None:
    """Who counts outcomes sees those as well."""
    (line,) = written(Event("/x", status=404, reason="unknown_path"))
    assert orjson.loads(line)["outcome"] == "ERROR"


def test_lines_come_in_order_and_all_of_them() -> None:
    """Closing writes what waits."""
    events = [Event(f"/{number}", outcome=Outcome.MISS) for number in range(1000)]
    assert [orjson.loads(line)["path"] for line in written(*events)] == [
        event.path for event in events
    ]


def test_a_line_for_people() -> None:
    """Outcome, model, time and tokens, at places that stay."""
    (line,) = written(HIT, render=lambda at, event: for_people(at, event, colour=False))
    assert line.split("  ", 1)[1].startswith("HIT         gpt-5 ")
    assert "1.2 ms" in line
    assert line.endswith("1,200 in    34 out")


@pytest.mark.parametrize(
    ("event", "remark"),
    [
        (Event("/x", status=404, reason="unknown_path"), "ERROR 404"),
        (Event("/x", outcome=Outcome.MISS, status=429, reason="status 429"), "status 429"),
        (Event("/x", outcome=Outcome.BYPASS, status=200, reason="no-store"), "no-store"),
        (Event("/x", outcome=Outcome.MISS, status=200, cut=True), "not sent to its end"),
    ],
)
def test_what_is_unusual_is_remarked(event: Event, remark: str) -> None:
    """Why a request did not hit, failed, or broke off."""
    line = for_people(AT, event, colour=False)
    assert line.count(remark) == 1
    assert "/x" in line


def test_colours_are_for_terminals() -> None:
    """Green is a hit, red a failure; without colour there is no escape in the line."""
    assert "\x1b[32mHIT" in for_people(AT, HIT)
    assert "\x1b[31mMISS" in for_people(AT, Event("/", outcome=Outcome.MISS, status=500))
    assert "\x1b" not in for_people(AT, HIT, colour=False)


def test_callers_cannot_move_the_cursor() -> None:
    """Control characters of a model's name or a path are not printed, nor is all of a long one."""
    line = for_people(AT, Event("/", model="\x1b[2J\r\nfake" + "x" * 500), colour=False)
    assert "?[2J??fake" in line
    assert len(line) < 200


def test_the_first_bypass_of_a_kind_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    """Once for each path and reason."""
    bypass = Event("/v1/x", outcome=Outcome.BYPASS, reason="no-store")
    other = Event("/v1/x", outcome=Outcome.BYPASS, reason="request body too large to be cached")
    written(bypass, bypass, other, HIT)
    said = [each.getMessage() for each in caplog.records if each.levelno == logging.WARNING]
    assert said == [
        "/v1/x goes past the cache: no-store",
        "/v1/x goes past the cache: request body too large to be cached",
    ]


def test_a_pipe_that_is_full_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests go on at full speed; lines above the limit are dropped and counted."""
    monkeypatch.setattr(journal, "MAX_WAITING", 100)
    lines = Journal(out := Stuck(), as_json)
    lines.record(HIT)
    assert out.entered.wait(5)
    began = time.monotonic()
    for _ in range(150):
        lines.record(HIT)
    assert time.monotonic() - began < 1
    assert lines.dropped == 50
    out.free.set()
    lines.close()
    assert out.getvalue().count("\n") == 101


def test_a_reader_that_left_is_no_fault() -> None:
    """Serving goes on without a journal."""
    lines = Journal(Gone(), as_json)
    for _ in range(3):
        lines.record(HIT)
    lines.close()
    lines.close()


def test_the_summary() -> None:
    """Requests by outcome, the ratio, what was saved; nothing if nothing was asked."""
    assert summary(Figures({})) == ""
    tally = Tally()
    hit = replace(HIT, usd=1.5, made_seconds=3725.5)
    settle(hit)
    for event in (hit, Event("/", outcome=Outcome.MISS), Event("/", status=404)):
        tally.record(event)
    said = summary(Figures(amounts_of(tally.take())))
    assert said.startswith("3 requests: 1 HIT, 1 MISS, 1 failed. Hit ratio 50%.")
    assert "1,234 tokens ($1.50) and 1 h 2 min of waiting" in said


def test_what_was_ever_saved() -> None:
    """Since the day on which counting began."""
    figures = Figures({"saved/tokens": 1_234_567, "saved/usd": 0.0123})
    said = in_all(figures, "2027-01-15T08:00:00Z")
    assert said == "In all, since 2027-01-15: 1,234,567 tokens ($0.0123)."


def test_what_a_terminal_cannot_show_is_spelt_out() -> None:
    """One strange name does not end the lines of all others."""
    raw = io.BytesIO()
    lines = Journal(io.TextIOWrapper(raw, encoding="ascii", write_through=True), as_json)
    for model in ("gpt-\N{PARROT}", "gpt-5"):
        lines.record(Event("/v1", model=model, outcome=Outcome.MISS))
        time.sleep(2 * journal.GATHER_S)
    lines.close()
    written_lines = raw.getvalue().decode("ascii").splitlines()
    assert ["gpt-" in line for line in written_lines] == [True, True]


def test_an_answer_told_again_is_logged_like_any_other() -> None:
    """What stays the same is written once, and the line says the same."""
    event = Event("/v1/x", outcome=Outcome.HIT, age=2.0, seconds=0.5, made_seconds=3.0)
    settle(event)
    repeated = Repeated.of(event)
    line = orjson.loads(as_json(AT, repeated))
    assert line == orjson.loads(as_json(AT, event))
    repeated.age, repeated.seconds = 7.25, 0.25
    later = orjson.loads(as_json(AT, repeated))
    assert later == line | {"age": 7.25, "seconds": 0.25}
