"""What was found where something was looked at, and the way out where it is wrong."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from rich.text import Text

from proxy.cli import printing

OK = "ok"
WARNING = "warning"
WRONG = "wrong"
_STYLES = {OK: "green", WARNING: "bold yellow", WRONG: "bold red"}
_STATE_WIDTH, _NAME_WIDTH = 9, 11


@dataclass(frozen=True, slots=True)
class Finding:
    """`name` is what was looked at."""

    name: str
    state: str
    found: str
    way_out: str = ""

    def as_json(self) -> dict[str, str]:
        return asdict(self)


def wrong(name: str, error: object) -> Finding:
    """Of an error whose message ends with the way out."""
    found, _, way_out = str(error).partition("; ")
    return Finding(name, WRONG, found, way_out)


def show(finding: Finding) -> None:
    if not printing.is_terminal():
        printing.show_fields(finding.state, finding.name, finding.found, finding.way_out)
        return
    state = (f"{finding.state:<{_STATE_WIDTH}}", _STYLES[finding.state])
    head = Text.assemble(state, f"{finding.name:<{_NAME_WIDTH}} ")
    printing.show_hanging(head, printing.plain(finding.found))
    if finding.way_out:
        printing.show_hanging(Text(" " * len(head)), Text(f"> {finding.way_out}", "cyan"))
