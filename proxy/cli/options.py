"""Options that several commands have: where the proxy is, JSON, and which entries are meant."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

URL_VARIABLE = "LLM_CACHE_PROXY_URL"
TOKEN_VARIABLE = "LLM_CACHE_PROXY_ADMIN__TOKEN"  # noqa: S105 - the name of one

Config = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="Settings, as in config.example.toml."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]

_PLACE = "Which proxy"
_Where = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help=f"Unsaid: {URL_VARIABLE}, else where serve listens with these settings.",
        rich_help_panel=_PLACE,
    ),
]
_Token = Annotated[
    str | None,
    typer.Option(
        metavar="TOKEN",
        help=f"Others can see it in the list of processes: better {TOKEN_VARIABLE}. "
        "Unsaid: that of the settings, or this machine's own.",
        rich_help_panel=_PLACE,
    ),
]
_Settings = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="The settings it was started with.",
        rich_help_panel=_PLACE,
    ),
]

_WHICH = "Which entries (all that is said must fit)"


def _filter(metavar: str, help: str) -> Any:
    return typer.Option(metavar=metavar, help=help, rich_help_panel=_WHICH)


_FILTERS: dict[str, Any] = {
    "provider": Annotated[str | None, _filter("NAME", "Answered by this provider.")],
    "model": Annotated[str | None, _filter("NAME", "Of this model.")],
    "dialect": Annotated[str | None, _filter("NAME", "chat, messages, responses, embeddings, ...")],
    "namespace": Annotated[str | None, _filter("NAME", "In this namespace.")],
    "client": Annotated[str | None, _filter("NAME", "Made for this client.")],
    "run": Annotated[str | None, _filter("ID", "Made in this run.")],
    "tag": Annotated[str | None, _filter("TAG", "With this tag.")],
    "text": Annotated[str | None, _filter("TEXT", "With this in the prompt or the answer.")],
    "stored_before": Annotated[str | None, _filter("TIME", "2026-01-31T12:00:00Z, or Unix time.")],
    "stored_after": Annotated[str | None, _filter("TIME", "The same.")],
    "expired": Annotated[
        bool | None,
        typer.Option(
            "--expired/--fresh", help="Only these, or only those.", rich_help_panel=_WHICH
        ),
    ],
    "min_hits": Annotated[int | None, _filter("N", "Used so often.")],
    "min_bytes": Annotated[int | None, _filter("N", "Not smaller.")],
    "max_bytes": Annotated[int | None, _filter("N", "Not larger.")],
}
_PLACES: dict[str, Any] = {"config": _Settings, "url": _Where, "token": _Token}

_Command = TypeVar("_Command", bound=Callable[..., None])


def remote(command: _Command) -> _Command:
    """Give a command options that say which proxy: it gets them as `place`."""
    return _with(command, "place", _PLACES)


def filtered(command: _Command) -> _Command:
    """Give a command an option for each filter: it gets those that are said as `which`."""
    return _with(command, "which", _FILTERS)


def _with(command: _Command, together: str, options: dict[str, Any]) -> _Command:
    """Have the parameter `together` stand for a dict of all these options."""
    signature = inspect.signature(command, eval_str=True)

    @wraps(command)
    def wrapped(**given: Any) -> None:
        said = {name: given.pop(name) for name in options}
        command(**given, **{together: {n: it for n, it in said.items() if it is not None}})

    own = [each for name, each in signature.parameters.items() if name != together]
    more = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=it)
        for name, it in options.items()
    ]
    own = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in own]
    wrapped.__signature__ = signature.replace(parameters=[*own, *more])  # type: ignore[attr-defined]  # read by typer
    return wrapped  # type: ignore[return-value]  # called by typer with what the signature says
