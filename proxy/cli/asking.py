"""`explain`, `why`: what a proxy would make of a request, and why it did not answer others."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from proxy.cli.endings import OutOfReach, Refused, complain, told
from proxy.cli.options import Json, remote
from proxy.errors import ConfigError

if TYPE_CHECKING:
    from proxy.cli.remote import Remote
    from proxy.explain import Request

ID_CHARS = 64
MAX_LAST = 100
# Statuses of a proxy that does not explain to us, or not at all.
_SILENT = frozenset({401, 403, 404, 405, 501, 503})

app = typer.Typer()


@app.command()
@remote
def explain(
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE|-", help='The body, or {"path": ..., "headers": {...}, "body": {...}}.'
        ),
    ],
    place: Any,
    path: Annotated[
        str | None,
        typer.Option(help="Where it would be sent, on this proxy. Unsaid: OpenAI's that fits."),
    ] = None,
    header: Annotated[
        list[str] | None, typer.Option("--header", "-H", metavar="NAME:VALUE", help="A header.")
    ] = None,
    offline: Annotated[
        bool, typer.Option("--offline", help="By the settings alone, whatever proxy runs.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Print what the proxy would make of a request: its key, and what is left out of it and why.

    A proxy that runs also tells what would become of it now, and which entries are nearest. Where
    none answers this is told by the settings alone. Nothing is sent to a provider.
    """
    with told():
        from proxy.explain import read_request

        request = read_request(read(file), path, [_header(line) for line in header or []])
        explained = None if offline else _explained(place, request)
        if explained is None:
            _explain_offline(place, request, as_json=as_json)
            return
        from proxy.cli.asking_views import show_explained
        from proxy.cli.printing import show_json

        (show_json if as_json else show_explained)(explained)


@app.command()
@remote
def why(
    place: Any,
    id: Annotated[
        str | None, typer.Argument(metavar="[ID]", help="As X-LLM-Cache-Id told it.")
    ] = None,
    last: Annotated[
        int, typer.Option(min=1, max=MAX_LAST, metavar="N", help="So many of the latest.")
    ] = 10,
    as_json: Json = False,
) -> None:
    """Print why the latest requests were not answered from the cache, and what was nearest.

    Without a terminal these are lines with tabs between time, id, outcome, status, model, client,
    path, reasons, the nearest entry and the fields in which that differs.
    """
    with told():
        from proxy.cli.asking_views import show_lines, show_whys
        from proxy.cli.printing import is_terminal, show_json
        from proxy.cli.remote import Remote

        with Remote.at(place) as api:
            found = api.get("/why", {"last": last}) if id is None else _why(api, id)
        requests = found["requests"] if id is None else [found]
        if as_json:
            show_json(found)
        elif is_terminal():
            show_whys(requests)
        else:
            show_lines(requests)


def read(file: str) -> bytes:
    if file == "-":
        return sys.stdin.buffer.read()
    try:
        return Path(file).read_bytes()
    except OSError as exc:
        raise ConfigError(f"{file}: cannot be read: {exc.strerror}") from exc


def _header(line: str) -> tuple[bytes, bytes]:
    name, colon, value = line.partition(":")
    if not colon or not name.strip():
        raise ConfigError(f"--header: expected NAME:VALUE, got no colon in {name[:20]!r}")
    return name.strip().lower().encode(), value.strip().encode()


def _explained(place: dict[str, Any], request: Request) -> Any:
    """What the proxy says of it; `None` where none answers, unless one was named."""
    from proxy.cli.remote import Remote

    try:
        with Remote.at(place) as api:
            explained = api.ask("POST", "/explain", body=_described(request))
    except (OutOfReach, Refused) as error:
        if "url" in place or getattr(error, "status", None) not in {None, *_SILENT}:
            raise
        if isinstance(error, Refused):
            complain(error)
        return None
    complain(f"as the proxy at {api.place.url} says")
    return explained


def _described(request: Request) -> dict[str, Any]:
    headers: dict[str, str] = {}
    for name, value in request.headers:
        known = headers.get(name.decode())
        headers[name.decode()] = value.decode() if known is None else f"{known}, {value.decode()}"
    body = request.body.decode("utf-8", "surrogateescape")
    return {"path": request.path, "headers": headers, "body": body}


def _explain_offline(place: dict[str, Any], request: Request, *, as_json: bool) -> None:
    # A cache of one's own may lie in the current folder; it hides nothing that is installed.
    sys.path.append(str(Path.cwd()))
    from proxy.cli.explaining import explain as run
    from proxy.config import load_settings

    explanation, notes = run(load_settings(place.get("config")), request)
    if as_json:
        from proxy.cli.printing import show_json

        show_json(explanation.as_json() | {"notes": notes})
        return
    from proxy.cli.console import show_explanation
    from proxy.cli.printing import Terminal

    show_explanation(explanation, notes, Terminal())


def _why(api: Remote, id: str) -> Any:
    return api.get(f"/why/{_whole(api, id)}")


def _whole(api: Remote, id: str) -> str:
    """The id of a recent request that begins like this."""
    if len(id) >= ID_CHARS:
        return id
    requests = api.get("/why", {"last": MAX_LAST})["requests"]
    found = {each["id"] for each in requests if each["id"].startswith(id.lower())}
    if not found:
        raise Refused(f"no id of the last {MAX_LAST} that were not answered begins like that")
    if len(found) > 1:
        raise Refused(f"{len(found)} ids begin like that; give more of it")
    return str(found.pop())
