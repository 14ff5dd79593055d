"""The commands. What is slow to import waits until it is needed."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from proxy import __version__
from proxy.cli import asking, checking, entries, figures, moving
from proxy.cli.endings import told
from proxy.cli.options import Config
from proxy.errors import ConfigError

if TYPE_CHECKING:
    from proxy.config import Settings

app = typer.Typer(
    name="llm-cache-proxy",
    help="An HTTP caching proxy in front of LLM provider APIs.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def main() -> None:
    app(prog_name="llm-cache-proxy")


for part in (asking, entries, moving, figures, checking):
    app.add_typer(part.app)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"llm-cache-proxy {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """An HTTP caching proxy in front of LLM provider APIs."""


@app.command()
def serve(
    config: Config = None,
    host: Annotated[str | None, typer.Option(help="Where to listen.")] = None,
    port: Annotated[int | None, typer.Option(help="Where to listen; 0: any free port.")] = None,
    upstream: Annotated[
        str | None,
        typer.Option(metavar="URL", help="The default provider's base URL, with its /v1."),
    ] = None,
    cache: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="sqlite:///FILE, redis://, postgresql://, memory://, cassette:FILE, null://, "
            "langchain:module:Class or module:Class.",
        ),
    ] = None,
    cassette: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Record to this file and replay from it, shared by all callers."
        ),
    ] = None,
    cassette_prune: Annotated[
        bool | None,
        typer.Option("--cassette-prune", help="Drop from it at the end what was not used."),
    ] = None,
    mode: Annotated[
        str | None,
        typer.Option(metavar="MODE", help="auto or normal, offline, refresh, bypass or read-only."),
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Processes.")] = None,
    log_level: Annotated[
        str | None,
        typer.Option(metavar="LEVEL", help="critical, error, warning, info or debug."),
    ] = None,
) -> None:
    """Start the proxy: 127.0.0.1:8484 before OpenAI, with a SQLite cache, unless told otherwise."""
    given: dict[str, dict[str, Any]] = {
        "server": {"host": host, "port": port, "workers": workers, "log_level": log_level},
        "upstream": {"base_url": upstream},
        "cache": {"url": cache, "mode": "normal" if mode == "auto" else mode},
        "cassette": {"prune": cassette_prune},
    }
    with told():
        if cassette is not None:
            _put_in(given["cache"], cassette)
        _find_own_modules()
        settings = _configure(config, given)
        from proxy.server import serve as run

        status = run(settings, announce=_announcement())
    raise typer.Exit(status)


@app.command()
def demo(
    keep_running: Annotated[
        bool, typer.Option("--keep-running", help="Go on serving, to try it yourself.")
    ] = False,
) -> None:
    """Watch a miss and a hit, before a provider that is built in: offline, without a key."""
    from proxy.demo import run

    with told():
        status = run(keep_running=keep_running)
    raise typer.Exit(status)


@app.command()
def import_langchain(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="What LangChain's SQLiteCache has written.")
    ] = Path(".langchain.db"),
    namespace: Annotated[
        str, typer.Option(metavar="NAME", help="Where the entries go, apart from others.")
    ] = "langchain",
    config: Config = None,
    cache: Annotated[
        str | None, typer.Option(metavar="URL", help="The cache, as for serve.")
    ] = None,
    upstream: Annotated[
        str | None,
        typer.Option(metavar="URL", help="The default provider's base URL, as for serve."),
    ] = None,
    scope: Annotated[
        str | None,
        typer.Option(metavar="SCOPE", help="Whose they are, as the proxy has it: cache.scope."),
    ] = None,
    key_env: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Scope credential: the variable with the API key that clients will present.",
        ),
    ] = "OPENAI_API_KEY",
    client: Annotated[
        str | None, typer.Option(metavar="NAME", help="Scope client: a client's name.")
    ] = None,
) -> None:
    """Make entries of the answers in a LangChain SQLite cache, so that they hit here."""
    given = {"cache": {"url": cache, "scope": scope}, "upstream": {"base_url": upstream}}
    with told():
        _find_own_modules()
        from proxy.config import load_settings

        settings = load_settings(config, _said(given))
        try:
            import langchain_openai  # noqa: F401 - takes a second; the parts below need it
        except ImportError as exc:
            raise ConfigError(
                "import-langchain asks ChatOpenAI what it would send: install langchain-openai, "
                f"in the version that filled the file if you can ({exc})"
            ) from exc
        from proxy.cli.importing import Import
        from proxy.cli.importing import import_langchain as run

        run(settings, Import(file, namespace, key_env, client))


def _put_in(cache: dict[str, Any], cassette: Path) -> None:
    from cache_backends.urls import CASSETTE

    if cache["url"] is not None:
        raise ConfigError("--cassette: is a cache; leave --cache out")
    cache["url"] = f"{CASSETTE}{cassette}"


def _find_own_modules() -> None:
    """A cache of one's own may lie in the current folder; it hides nothing that is installed."""
    sys.path.append(str(Path.cwd()))


def _configure(config: Path | None, given: dict[str, dict[str, Any]]) -> Settings:
    """Read the settings, and leave them in the environment for worker processes to read."""
    from proxy.config import environment_of, load_settings

    flags = _said(given)
    settings = load_settings(config, flags)
    os.environ.update(environment_of(config, flags))
    return settings


def _said(given: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {
        section: {name: value for name, value in values.items() if value is not None}
        for section, values in given.items()
    }


def _announcement() -> Callable[[Settings], None] | None:
    """What `serve` prints on a terminal once it listens."""
    if not sys.stdout.isatty():
        return None
    from rich.console import Console

    from proxy.cli.console import banner

    return lambda settings: banner(settings, Console())
