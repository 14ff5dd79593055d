"""`stats`, `mode`, `tail`: what a proxy has done, what it does, and what it does just now."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from proxy.cli.endings import OutOfReach, complain, told
from proxy.cli.options import Json, remote

PANEL = "Figures"
MODES = ("normal", "offline", "refresh", "bypass", "read-only")

app = typer.Typer()


@app.command(rich_help_panel=PANEL)
@remote
def stats(place: Any, as_json: Json = False) -> None:
    """Print hits, misses, and what they saved.

    Without a terminal these are lines with a tab between name and value.
    """
    with told():
        from proxy.cli.figure_views import show_stats
        from proxy.cli.printing import flat, is_terminal, show_fields, show_json
        from proxy.cli.remote import Remote

        with Remote.at(place) as api:
            figures = api.get("/stats")
        if as_json:
            show_json(figures)
        elif is_terminal():
            show_stats(figures)
        else:
            for name, value in flat(figures):
                show_fields(name, value)


@app.command(rich_help_panel=PANEL)
@remote
def mode(
    place: Any,
    mode: Annotated[
        str | None,
        typer.Argument(
            metavar="[MODE]",
            help=f"{', '.join(MODES[:-1])} or {MODES[-1]}.",
            autocompletion=lambda: MODES,
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Print the mode, or set it, for all workers and replicas."""
    with told():
        from proxy.cli.printing import show_json
        from proxy.cli.remote import Remote

        with Remote.at(place) as api:
            if mode is None:
                current = api.get("/mode")
            else:
                wanted = "normal" if mode == "auto" else mode
                current = api.ask("PUT", "/mode", body={"mode": wanted})
        if as_json:
            show_json(current)
            return
        typer.echo(current["mode"])
        if mode is not None and not current["everywhere"]:
            complain("only in the process that was asked: this cache cannot tell others")


@app.command(rich_help_panel=PANEL)
@remote
def tail(place: Any, as_json: Json = False) -> None:
    """Print a line for each request from now on, of all workers there. Ctrl-C ends it."""
    with told():
        from proxy.cli.events import events, line_of
        from proxy.cli.printing import is_terminal, show_json_line
        from proxy.cli.remote import EVENTS, Remote

        with Remote.at(place) as api, api.stream("/events", EVENTS) as pieces:
            for event in events(pieces):
                if as_json:
                    show_json_line(event)
                else:
                    typer.echo(line_of(event, colour=is_terminal()))
                    sys.stdout.flush()
        raise OutOfReach(f"{api.place.url} has ended")
