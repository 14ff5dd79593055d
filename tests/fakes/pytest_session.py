"""Sessions of pytest in processes of their own, with the plugin, as users of it start them."""

from __future__ import annotations

import asyncio
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import NamedTuple

from tests.fakes.process import environment

ROOT = Path(__file__).parents[2]
# Where the package is installed, pytest finds the plugin by itself, and wants it once.
INSTALLED = bool(entry_points(group="pytest11", name="llm_cassette"))
PLUGIN = () if INSTALLED else ("-p", "proxy.pytest_plugin")


class Told(NamedTuple):
    """How a session ended, and all that it said."""

    status: int
    text: str


async def run_pytest(folder: Path, *arguments: str, **variables: str) -> Told:
    """Run the tests in a folder; `CI` is not set unless it is said."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *PLUGIN, *arguments),
        cwd=folder,
        env=environment(**{"PYTHONPATH": str(ROOT), "CI": "", **variables}),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    text, _ = await process.communicate()
    return Told(process.returncode or 0, text.decode())
