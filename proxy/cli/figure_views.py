"""How figures look on a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.text import Text

from proxy.cli import printing

# Of models, clients and the like so many are shown, those asked for most; --json has all.
MAX_ROWS = 10
_REASONS = 4

_COLUMNS = [(name, "right") for name in ("requests", "hits", "ratio", "tokens saved", "saved")]


def show_stats(figures: dict[str, Any]) -> None:
    printing.show_facts(_facts(figures))
    for dimension in ("model", "provider", "client", "namespace"):
        apart = figures[f"by_{dimension}"]
        if apart and (len(apart) > 1 or dimension == "model"):
            printing.Terminal().print()
            _show_apart(dimension, apart)


def _facts(figures: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    yield "since", f"{figures['since']}, of {figures['covers']}"
    yield "requests", figures["requests"]
    ratio = Text(f"{figures['hits']:,}   ").append(f"{figures['hit_ratio']:.1%}", "bold green")
    yield "hits", ratio.append(_of(figures["hits_by_kind"]), "dim")
    yield "misses", figures["misses"]
    yield "bypasses", _with(figures["bypasses"], figures["bypasses_by_reason"])
    yield "errors", _with(figures["errors"], figures["errors_by_reason"])
    yield "stored", figures["stored"]
    yield "not stored", _with(figures["refused"], figures["refused_by_reason"])
    yield "evicted", figures["evictions"]
    if figures["entries"] is not None:
        yield "entries", f"{figures['entries']:,}, {printing.size(figures['bytes'])}"
    yield "saved", Text(_amounts(figures["saved"]), "bold")
    yield "spent", _amounts(figures["spent"])
    for whose, known in figures["latency"].items():
        if known["count"]:
            told = (f"p{each} {printing.milliseconds(known[f'p{each}'])}" for each in (50, 90, 99))
            yield f"time of {whose}", "   ".join(told)


def _show_apart(dimension: str, apart: Mapping[str, dict[str, Any]]) -> None:
    rows = [
        (
            name,
            of["requests"],
            of["hits"],
            f"{of['hit_ratio']:.0%}",
            of["saved"]["tokens"],
            printing.money(of["saved"]["usd"]),
        )
        for name, of in list(apart.items())[:MAX_ROWS]
    ]
    printing.show_table(((dimension, "rest"), *_COLUMNS), rows)
    if len(apart) > MAX_ROWS:
        printing.show_note(f"and {len(apart) - MAX_ROWS} more: --json")


def _with(count: int, reasons: Mapping[str, int]) -> Text:
    return Text(f"{count:,}").append(_of(reasons), "dim")


def _of(counts: Mapping[str, int]) -> str:
    told = [f"{count:,} {name}" for name, count in counts.items() if count]
    more = ", ..." if len(told) > _REASONS else ""
    return printing.printable(f"   {', '.join(told[:_REASONS])}{more}") if told else ""


def _amounts(amounts: Mapping[str, Any]) -> str:
    told = [f"{amounts['tokens']:,} tokens", printing.money(amounts["usd"])]
    if "seconds" in amounts:
        told.append(f"{printing.duration(amounts['seconds'])} of waiting")
    return ", ".join(told)
