"""`check-config`, `doctor`: whether the proxy would run as it is configured, and run well."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from proxy.cli.endings import REFUSED, complain, told
from proxy.cli.options import Config, Json
from proxy.errors import ConfigError

if TYPE_CHECKING:
    from proxy.cli.findings import Finding
    from proxy.config import Settings

PANEL = "Checks"

app = typer.Typer()


@app.command(rich_help_panel=PANEL)
def check_config(
    file: Annotated[
        Path | None,
        typer.Argument(metavar="[FILE]", help="Unsaid: the file that serve would take."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Say whether the settings of a file and the environment can be used; nothing is started."""
    with told():
        name = str(file or os.environ.get("LLM_CACHE_PROXY_CONFIG") or "the environment")
        errors = _errors(file)
        if as_json:
            from proxy.cli.printing import show_json

            show_json({"ok": not errors, "config": name, "errors": errors})
        elif not errors:
            typer.echo(f"{name}: can be used")
        for error in errors:
            complain(error)
    if errors:
        raise typer.Exit(REFUSED)


@app.command(rich_help_panel=PANEL)
def doctor(config: Config = None, as_json: Json = False) -> None:
    """Look at all that the proxy needs: settings, files, cache, providers, clock, port.

    What is wrong is told with the way out. Without a terminal these are lines with tabs between
    state (ok, warning or wrong), what was looked at, what was found, and the way out.
    """
    with told():
        from proxy.cli.findings import WRONG, show
        from proxy.cli.printing import show_json

        findings: list[Finding] = []

        def listen(finding: Finding) -> None:
            findings.append(finding)
            if not as_json:
                show(finding)

        asyncio.run(_examine(config, listen))
        is_well = all(each.state != WRONG for each in findings)
        if as_json:
            show_json({"ok": is_well, "checks": [each.as_json() for each in findings]})
    if not is_well:
        raise typer.Exit(REFUSED)


async def _examine(config: Path | None, listen: Any) -> None:
    from proxy.cli.doctor import examine
    from proxy.cli.findings import WRONG, Finding

    try:
        settings = _usable(config)
    except ConfigError as error:
        for line in str(error).splitlines():
            listen(Finding("config", WRONG, line))
        return
    async for finding in examine(config, settings):
        listen(finding)


def _errors(file: Path | None) -> list[str]:
    try:
        _usable(file)
    except ConfigError as error:
        return str(error).splitlines()
    return []


def _usable(config: Path | None) -> Settings:
    """The settings, once all that can be made of them without a connection was made."""
    # A cache of one's own may lie in the current folder; it hides nothing that is installed.
    sys.path.append(str(Path.cwd()))
    from proxy import app as parts
    from proxy.config import load_settings
    from proxy.environment import Environment
    from proxy.providers import build_providers

    settings = load_settings(config)
    for build in (
        parts.build_policy,
        parts.build_access,
        parts.build_keyed_headers,
        parts.build_prices,
        build_providers,
        parts.build_cache,
    ):
        build(settings)
    Environment.read()
    return settings
