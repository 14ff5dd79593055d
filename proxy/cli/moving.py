"""`export`, `import`, `warm`: entries out of a proxy and into it, any number."""

from __future__ import annotations

import asyncio
import os
from typing import Annotated, Any

import typer

from proxy.cli.endings import REFUSED, told
from proxy.cli.options import Json, filtered, remote
from proxy.errors import ConfigError

PANEL = "Entries"

app = typer.Typer()

File = Annotated[str, typer.Argument(metavar="FILE|-", help="Lines of JSON; -: what is piped in.")]
KeyEnv = typer.Option(
    "--key-env", metavar="NAME", help="The variable with the API key; it is not stored."
)


@app.command("export", rich_help_panel=PANEL)
@remote
@filtered
def export_entries(
    which: Any,
    place: Any,
    file: Annotated[
        str, typer.Argument(metavar="[FILE|-]", help="Where to, for you alone; -: to be piped on.")
    ] = "-",
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on with a FILE that broke off; with the same filters."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Write entries as lines of JSON, those stored last first: for import, here or elsewhere."""
    with told():
        from proxy.cli.exporting import Export, to_file, to_pipe
        from proxy.cli.printing import show_json
        from proxy.cli.remote import Remote

        if file == "-" and resume:
            raise ConfigError("--resume: needs a FILE")
        with Remote.at(place) as api:
            export = Export(api, which)
            if file == "-":
                to_pipe(export)
                return
            count = to_file(export, file, resume=resume)
        if as_json:
            show_json({"exported": count, "file": file})
        else:
            typer.echo(f"exported {count:,} entries to {file}")


@app.command("import", rich_help_panel=PANEL)
@remote
def import_entries(
    file: File,
    place: Any,
    scope: Annotated[
        str | None,
        typer.Option(
            metavar="SCOPE",
            help="For whom from now on: shared, client:NAME or credential. Unsaid: as before.",
        ),
    ] = None,
    key_env: Annotated[str | None, KeyEnv] = None,
    as_json: Json = False,
) -> None:
    """Take in what export has written, also by another kind of cache. Twice does no harm."""
    with told():
        from proxy.cli.moving_views import show_import
        from proxy.cli.printing import show_json
        from proxy.cli.remote import Place
        from proxy.cli.sending import Sending

        if scope == "credential" and key_env is None:
            raise ConfigError("--key-env: needed with --scope credential: whose are they?")
        query, key = {"scope": scope}, _key(key_env)
        sending = Sending(Place.find(**place), "/import", query, file, key)
        sums = asyncio.run(sending.run(lambda _: None))
        if as_json:
            show_json(sums)
        else:
            show_import(sums)
    if sums["failures"]:
        raise typer.Exit(REFUSED)


@app.command(rich_help_panel=PANEL)
@remote
def warm(
    file: File,
    place: Any,
    key_env: Annotated[str | None, KeyEnv] = None,
    path: Annotated[
        str, typer.Option(metavar="PATH", help="Where bodies go that do not say it themselves.")
    ] = "/v1/chat/completions",
    concurrency: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Requests at a time. [default: 4]")
    ] = None,
    rate: Annotated[
        float | None, typer.Option(metavar="N", help="At most so many requests a second.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Ask the requests in a file, so that they hit from then on.

    Each line is a body, or {"path": ..., "headers": {...}, "body": {...}}. With --json what became
    of each is told as it is known, a line each, and at last of all.
    """
    with told():
        from proxy.cli.moving_views import complain_of, show_warmed
        from proxy.cli.printing import show_json_line
        from proxy.cli.remote import Place
        from proxy.cli.sending import Sending

        query = {"path": path, "concurrency": concurrency, "rate": rate}
        sending = Sending(Place.find(**place), "/warm", query, file, _key(key_env))
        sums = asyncio.run(sending.run(show_json_line if as_json else complain_of))
        if as_json:
            show_json_line(sums)
        else:
            show_warmed(sums)
    if sums["failed"]:
        raise typer.Exit(REFUSED)


def _key(variable: str | None) -> str | None:
    if variable is None:
        return None
    key = os.environ.get(variable)
    if not key:
        raise ConfigError(f"--key-env: the environment variable {variable} is not set")
    return key
