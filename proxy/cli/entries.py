"""`ls`, `show`, `rm`, `purge`, `pin`: the entries that a proxy keeps."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from proxy.cli.endings import REFUSED, Refused, complain, told
from proxy.cli.options import Json, filtered, remote
from proxy.errors import ConfigError

if TYPE_CHECKING:
    from proxy.cli.remote import Remote

PANEL = "Entries"
NOT_FOUND = 404
# As many as the API gives at once.
PAGE = 1000
ID_CHARS = 64
# So much of an id is shown on a terminal. Nobody has entries enough for two with the same.
SHOWN_ID_CHARS = 12
MIN_ID_CHARS = 6
# Entries among which the rest of a shortened id is looked for, those stored last.
LOOKED_AT = 10_000

app = typer.Typer()

Id = Annotated[str, typer.Argument(metavar="ID", help="Of an entry: whole, or its beginning.")]


@app.command("ls", rich_help_panel=PANEL)
@remote
@filtered
def list_entries(
    which: Any,
    place: Any,
    limit: Annotated[int, typer.Option(min=1, metavar="N", help="At most so many.")] = 50,
    cursor: Annotated[
        str | None, typer.Option(metavar="CURSOR", help="Go on where a list ended (--json).")
    ] = None,
    as_json: Json = False,
) -> None:
    """List entries, those stored last first.

    Without a terminal these are lines with tabs between id, provider, dialect, model, namespace,
    client, tags, stored_at, expires_at, hits, bytes, pinned and the beginning of the prompt.
    """
    with told():
        from proxy.cli.entry_views import show_lines, show_list
        from proxy.cli.printing import is_terminal, show_json
        from proxy.cli.remote import Remote

        with Remote.at(place) as api:
            listing = _list(api, which, limit, cursor)
        if as_json:
            show_json(listing)
        elif is_terminal():
            show_list(listing)
        else:
            show_lines(listing["entries"])


@app.command(rich_help_panel=PANEL)
@remote
def show(id: Id, place: Any, as_json: Json = False) -> None:
    """Print an entry: what was asked, what was answered, and what making it took."""
    with told():
        from proxy.cli.entry_views import show_entry
        from proxy.cli.printing import show_json
        from proxy.cli.remote import Remote

        with Remote.at(place) as api:
            entry = api.get(f"/entries/{_whole(api, id)}")
        (show_json if as_json else show_entry)(entry)


@app.command("rm", rich_help_panel=PANEL)
@remote
def remove(
    ids: Annotated[list[str], typer.Argument(metavar="ID...", help="As for show.")],
    place: Any,
    as_json: Json = False,
) -> None:
    """Remove entries, on all workers and replicas."""
    with told():
        from proxy.cli.printing import show_json
        from proxy.cli.remote import Remote

        with Remote.at(place) as api:
            deleted = sum(_remove(api, each) for each in ids)
        if as_json:
            show_json({"deleted": deleted})
        else:
            typer.echo(f"removed {_entries(deleted)}")
    if deleted < len(ids):
        raise typer.Exit(REFUSED)


@app.command(rich_help_panel=PANEL)
@remote
@filtered
def purge(
    which: Any,
    place: Any,
    stale: Annotated[
        bool,
        typer.Option(
            "--stale", help="Only expire them: refreshed on next use, kept if the provider fails."
        ),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count them.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask first.")] = False,
    as_json: Json = False,
) -> None:
    """Remove all entries that fit; without a filter, all. Asks first, with their number."""
    with told():
        from proxy.cli.printing import show_json
        from proxy.cli.remote import Remote

        if not (yes or dry_run or sys.stdin.isatty()):
            raise ConfigError("--yes: needed where nobody can be asked; --dry-run only counts")
        query = which | ({"stale": True} if stale else {})
        with Remote.at(place) as api:
            result = _purge(api, query, dry_run=dry_run, yes=yes)
        if as_json:
            show_json(result)
        else:
            ((done, number),) = result.items()
            word = {"deleted": "removed", "expired": "expired"}.get(done, done.replace("_", " "))
            typer.echo(f"{word} {_entries(number)}")


@app.command(rich_help_panel=PANEL)
@remote
def pin(
    id: Id,
    place: Any,
    undo: Annotated[bool, typer.Option("--undo", help="Let it go again as others do.")] = False,
    as_json: Json = False,
) -> None:
    """Keep an entry without end: it does not expire, is not refreshed, and evicted last."""
    with told():
        from proxy.cli.printing import show_json
        from proxy.cli.remote import Remote

        with Remote.at(place) as api:
            row = api.ask("PATCH", f"/entries/{_whole(api, id)}", body={"pinned": not undo})
        if as_json:
            show_json(row)
        else:
            typer.echo(f"{'unpinned' if undo else 'pinned'} {row['id']}")


def _list(api: Remote, which: dict[str, Any], limit: int, cursor: str | None) -> dict[str, Any]:
    entries: list[dict[str, Any]] = []
    while True:
        wanted = min(limit - len(entries), PAGE)
        page = api.get("/entries", which | {"limit": wanted, "cursor": cursor})
        entries += page["entries"]
        cursor = page["next_cursor"]
        if cursor is None or len(entries) >= limit:
            return {"entries": entries, "next_cursor": cursor}


def _whole(api: Remote, id: str) -> str:
    """The id that begins like this, of what was stored last; no other must be meant."""
    begins = id.lower()
    if not begins or set(begins) - set("0123456789abcdef") or len(begins) > ID_CHARS:
        raise ConfigError(f"{id[:ID_CHARS]!r}: is no id: these are {ID_CHARS} hex digits")
    if len(begins) == ID_CHARS:
        return begins
    if len(begins) < MIN_ID_CHARS:
        raise ConfigError(f"{id}: give at least the first {MIN_ID_CHARS} characters of an id")
    listing = _list(api, {}, LOOKED_AT, None)
    found = [each["id"] for each in listing["entries"] if each["id"].startswith(begins)]
    if len(found) > 1:
        raise Refused(f"{len(found)} entries' ids begin with {begins}: give more of it")
    if listing["next_cursor"] is not None and (not found or len(begins) < SHOWN_ID_CHARS):
        raise Refused(f"{begins}: only the last {LOOKED_AT:,} are looked at, give the whole id")
    if not found:
        raise Refused(f"no entry's id begins with {begins}")
    return str(found[0])


def _remove(api: Remote, id: str) -> int:
    try:
        return int(api.ask("DELETE", f"/entries/{_whole(api, id)}")["deleted"])
    except Refused as error:
        if error.status not in (None, NOT_FOUND):
            raise
        complain(error)  # the others may go nevertheless
        return 0


def _purge(api: Remote, query: dict[str, Any], *, dry_run: bool, yes: bool) -> Any:
    if not yes or dry_run:
        count = api.ask("DELETE", "/entries", query | {"dry_run": True})
        if dry_run:
            return count
        (number,) = count.values()
        if number == 0:
            return {"expired" if "stale" in query else "deleted": 0}
        what = "Expire" if "stale" in query else "Remove"
        if not typer.confirm(f"{what} {_entries(number)}?", err=True):
            raise Refused("nothing was done")
    return api.ask("DELETE", "/entries", query)


def _entries(number: int) -> str:
    return f"{number:,} {'entry' if number == 1 else 'entries'}"
