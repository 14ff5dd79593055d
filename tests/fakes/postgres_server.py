"""Postgres as tests need it: made from nothing, listening on loopback, in no hurry to the disk."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

from tests.fakes.servers import HOST, Server, ServerMissing, program

# Where Debian keeps the programs, a folder for each version.
DEBIAN = Path("/usr/lib/postgresql")
NAME, PASSWORD = "cache", "not-secret"
INITDB = "--no-sync --no-locale --encoding=UTF8 --auth=scram-sha-256 --wal-segsize=1"


def postgres_programs() -> Path:
    """The folder of its programs: those in PATH, else those of the newest version there is."""
    folders = sorted(DEBIAN.glob("*/bin"), key=_version, reverse=True)
    if found := program("initdb", beside=folders):
        # What is in PATH may be a link, alone.
        return Path(found).resolve().parent
    raise ServerMissing("postgresql")


def _version(folder: Path) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", folder.parent.name)))


class PostgresServer(Server):
    """A Postgres of one's own; options are its settings: `max_connections=5`.

    It does not run as root: then it is given to a user without rights.
    """

    stop_signal = signal.SIGINT  # not SIGTERM: that waits until the last client has left
    kill_signal = signal.SIGQUIT  # not SIGKILL: that would leave its children behind

    def __init__(self, **options: Any) -> None:
        self._programs = postgres_programs()
        super().__init__()
        self._options = {"fsync": "off", "full_page_writes": "off"} | options

    @property
    def url(self) -> str:
        return f"postgresql://{NAME}:{PASSWORD}@{HOST}:{self.port}/postgres"

    def prepare(self) -> None:
        password = self.folder / "password"
        password.write_text(PASSWORD)
        if user := _user():
            for path in (self.folder, password):
                shutil.chown(path, user)
        self._run(
            *(str(self._programs / "initdb"), *INITDB.split(), "--pgdata", "data"),
            *("--username", NAME, "--pwfile", "password"),
        )

    def command(self) -> list[str]:
        settings = {
            "listen_addresses": HOST,
            "port": self.port,
            "unix_socket_directories": "",
            **self._options,
        }
        told = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        return [str(self._programs / "postgres"), "-D", str(self.folder / "data"), *told]

    def is_up(self) -> bool:
        asked = [
            str(self._programs / "pg_isready"),
            "--quiet",
            f"--host={HOST}",
            f"--port={self.port}",
        ]
        return subprocess.run(asked, check=False).returncode == 0

    def surroundings(self) -> dict[str, Any]:
        if not (user := _user()):
            return super().surroundings()
        group = pwd.getpwnam(user).pw_gid
        return super().surroundings() | {"user": user, "group": group, "extra_groups": []}

    def _run(self, *command: str) -> None:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            **self.surroundings(),
        )
        if done.returncode:
            raise RuntimeError(f"{command[0]} failed:\n{done.stdout}")


def _user() -> str | None:
    """Whom it runs as, where the tests run as root."""
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return next(name for name in ("postgres", "nobody") if name in names)
