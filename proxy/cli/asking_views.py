"""How explanations look."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any

import orjson
from rich.text import Text

from proxy.cli import printing
from proxy.cli.entries import SHOWN_ID_CHARS

_STYLES = {"HIT": "bold green", "STALE": "bold yellow", "BYPASS": "bold yellow"}
_FIELDS = ("time", "id", "outcome", "status", "model", "client", "path")


def show_explained(told: dict[str, Any]) -> None:
    printing.show_facts(_facts(told))
    printing.show_text("llm_string", told["llm_string"])
    printing.show_text("prompt", told["prompt"])
    printing.show_text("id", told["id"])
    for near in told["nearest"]:
        printing.show_text("nearest", near["id"])
        for line in _differences(near):
            printing.show_indented(line)


def show_whys(requests: Sequence[dict[str, Any]]) -> None:
    """For a terminal."""
    terminal = printing.Terminal()
    for why in requests:
        terminal.print(_head(why))
        for reason in why["reasons"]:
            printing.show_indented(printing.plain(reason))
        # Of one all that is known; of many what is most likely meant.
        for near in why["nearest"][: 1 if len(requests) > 1 else None]:
            printing.show_indented(Text.assemble(("nearest ", "dim"), near["id"][:SHOWN_ID_CHARS]))
            for line in _differences(near):
                printing.show_indented(line, by=12)
    if not requests:
        printing.show_note("nothing was missed lately")


def show_lines(requests: Iterable[dict[str, Any]]) -> None:
    for why in requests:
        nearest = why["nearest"][:1]
        reasons = "; ".join(why["reasons"])
        ids = [near["id"] for near in nearest]
        paths = [each["path"] for near in nearest for each in near["differences"]]
        printing.show_fields(*(why[name] for name in _FIELDS), reasons, ids, paths)


def _facts(told: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    yield "outcome", _outcome(told["outcome"])
    for reason in told["reasons"]:
        yield "because", reason
    for each in told["ignored"]:
        yield "ignored", f"{each['path']}  {each['why']}"


def _head(why: dict[str, Any]) -> Text:
    clock = datetime.fromisoformat(why["time"]).astimezone().strftime("%H:%M:%S")
    what = printing.plain(why["model"] or why["path"])
    parts = ((clock, "dim"), _outcome(why["outcome"]), what, why["id"][:SHOWN_ID_CHARS])
    return Text("  ").join(Text.assemble(part) for part in parts)


def _outcome(outcome: str) -> Text:
    return Text(outcome, _STYLES.get(outcome, "bold"))


def _differences(near: dict[str, Any]) -> Iterator[Text]:
    for each in near["differences"]:
        yield printing.plain(each["path"])
        for side in ("stored", "asked"):
            absent = each.get("absent") == side
            value = "absent" if absent else orjson.dumps(each[side]).decode()
            yield Text.assemble((f"  {side:<7}", "dim"), printing.plain(value))
    if near["more"]:
        yield Text("and in other fields", "dim")
