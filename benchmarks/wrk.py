"""wrk as load generator: a script for what is asked, and the figures that it prints at the end.

It costs a fifth of what one in Python does, so that servers faster than that can be measured.
"""

from __future__ import annotations

import json
import random
import resource
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.load import Rate, UnexpectedError
from benchmarks.wire import Asking

MISSING = (
    "wrk is missing: apt-get install wrk. Hits were asked for in Python, which is slower than some"
    " of what is measured: compare by CPU."
)
_SCRIPT = """
local before, after, different = {before}, {after}, {different}
local requests, last = {{}}, {first} - 1

for number = 0, math.max(different, 1) - 1 do
    requests[number] = before .. string.format("%09d", number) .. after
end

-- Without `request` it is made once: the cheapest there is.
wrk.format = function() return requests[0] end
if different ~= 1 then
    request = function()
        last = last + 1
        if different > 0 then return requests[last % different] end
        return before .. string.format("%09d", last) .. after
    end
end

function done(summary, latency)
    local errors = summary.errors
    io.write("figures: {{",
        string.format('"answers": %d, ', summary.requests),
        string.format('"bytes": %d, ', summary.bytes),
        string.format('"micros": %d, ', summary.duration),
        string.format('"p50": %d, ', latency:percentile(50)),
        string.format('"p99": %d, ', latency:percentile(99)),
        string.format('"broken": %d, ', errors.connect + errors.read + errors.write
            + errors.timeout),
        string.format('"refused": %d', errors.status), "}}\\n")
end
"""
_MARK = "figures: "


def program() -> str | None:
    return shutil.which("wrk")


def measure(wrk: str, port: int, connections: int, seconds: int, asking: Asking) -> Rate:
    """Keep every connection busy for so long; on the core where this process is."""
    with tempfile.NamedTemporaryFile("w", suffix=".lua", encoding="ascii") as lua:
        lua.write(script(asking))
        lua.flush()
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(
            [
                *(wrk, "--threads=1", f"--connections={connections}", f"--duration={seconds}s"),
                *("--timeout=10s", f"--script={Path(lua.name)}", f"http://127.0.0.1:{port}/"),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise UnexpectedError(f"wrk failed:\n{done.stdout}{done.stderr}")
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return rate(done.stdout, cpu_s)


def script(asking: Asking) -> str:
    # Not from the beginning each time: the last ones would never be asked for.
    first = random.randrange(max(asking.different, 1))
    before, after = _lua(asking.before), _lua(asking.after)
    return _SCRIPT.format(before=before, after=after, different=asking.different, first=first)


def rate(printed: str, cpu_s: float) -> Rate:
    """What the script's last line tells."""
    line = next((line for line in printed.splitlines() if line.startswith(_MARK)), None)
    if line is None:
        raise UnexpectedError(f"wrk printed no figures:\n{printed}")
    told: dict[str, Any] = json.loads(line.removeprefix(_MARK))
    if told["broken"] or told["refused"] or not told["answers"]:
        raise UnexpectedError(f"not every answer was one: {line}")
    seconds = told["micros"] / 1e6
    return Rate(
        answers=told["answers"],
        per_s=told["answers"] / seconds,
        p50=told["p50"] / 1e6,
        p99=told["p99"] / 1e6,
        generator_share=cpu_s / seconds,
        bytes_each=told["bytes"] / told["answers"],
    )


def _lua(text: bytes) -> str:
    """A string of Lua: letters as they are, all else by number."""
    told = (chr(each) if bytes([each]).isalnum() else f"\\{each:03}" for each in text)
    return f'"{"".join(told)}"'
