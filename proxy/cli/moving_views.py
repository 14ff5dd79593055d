"""What became of what was sent, in words."""

from __future__ import annotations

from typing import Any

from proxy.cli import printing
from proxy.cli.endings import complain


def show_import(sums: dict[str, Any]) -> None:
    for each in sums["failed"]:
        complain(f"line {each['line']}: {printing.printable(each['error'])}")
    if (untold := sums["failures"] - len(sums["failed"])) > 0:
        complain(f"and {untold:,} more lines")
    if sums.get("unreachable"):
        complain(
            f"{sums['unreachable']:,} are for callers that are told apart otherwise here, and "
            "nobody will find them: import them again with --scope, or give both caches the same "
            "cache.scope and cache.scope_secret"
        )
    names = ("imported", "skipped", "failures")
    printing.show_facts((name, sums[name]) for name in names)


def complain_of(warmed: dict[str, Any]) -> None:
    """Where one line failed."""
    if "error" in warmed:
        complain(f"line {warmed['line']}: {printing.printable(warmed['error'])}")


def show_warmed(sums: dict[str, Any]) -> None:
    facts = [("lines", sums["lines"]), *sums["outcomes"].items(), ("failed", sums["failed"])]
    printing.show_facts(facts)
