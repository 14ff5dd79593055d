"""A Postgres as it comes, made from nothing; where this is root, it runs without root's rights."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

from benchmarks.servers import Servers, StartError

# Where Debian keeps the programs, a folder for each version.
_DEBIAN = Path("/usr/lib/postgresql")
_NAME = "benchmark"
_START_S = 20.0


def programs() -> Path | None:
    """The folder of its programs: those in PATH, else those of the newest version there is."""
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    made = sorted(_DEBIAN.glob("*/bin/initdb"), key=_version)
    return made[-1].parent if made else None


def start(servers: Servers, programs: Path, data: Path, core: int | None) -> str:
    """Make a database in the new folder `data` and serve it; return its URL."""
    data.mkdir()
    surroundings: dict[str, Any] = {"cwd": data, "env": {"PATH": os.defpath, "LC_ALL": "C"}}
    if os.geteuid() == 0:
        surroundings |= _given_away(data)
    _make(programs, data, surroundings)

    def command(port: str) -> list[str]:
        told = {"listen_addresses": "127.0.0.1", "port": port, "unix_socket_directories": ""}
        options = [word for name, value in told.items() for word in ("-c", f"{name}={value}")]
        return [str(programs / "postgres"), "-D", str(data), *options]

    port = servers.start(data.name, core, command, **surroundings).port
    _wait_until_it_serves(programs, port)
    return f"postgresql://{_NAME}@127.0.0.1:{port}/postgres"


def _make(programs: Path, data: Path, surroundings: dict[str, Any]) -> None:
    done = subprocess.run(
        [
            *(str(programs / "initdb"), "--no-sync", "--no-locale", "--encoding=UTF8"),
            *("--auth=trust", f"--username={_NAME}", f"--pgdata={data}"),
        ],
        capture_output=True,
        text=True,
        check=False,
        **surroundings,
    )
    if done.returncode:
        raise StartError(f"initdb failed:\n{done.stdout}{done.stderr}")


def _given_away(data: Path) -> dict[str, Any]:
    """Let another user have the folder; what its processes are started with."""
    names = {entry.pw_name for entry in pwd.getpwall()}
    user = next(name for name in ("postgres", "nobody") if name in names)
    data.parent.chmod(0o711)
    shutil.chown(data, user)
    return {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []}


def _wait_until_it_serves(programs: Path, port: int) -> None:
    # It listens before it serves.
    ready = [str(programs / "pg_isready"), "--quiet", "--host=127.0.0.1", f"--port={port}"]
    until = time.monotonic() + _START_S
    while subprocess.run(ready, check=False).returncode != 0:
        if time.monotonic() > until:
            raise StartError("Postgres did not come up")
        time.sleep(0.05)


def _version(program: Path) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", program.parents[1].name)))
