"""The admin token of this user's machine: made once, kept where only the user can read it."""

from __future__ import annotations

import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path

import platformdirs

FILE = "admin.token"
TOKEN_BYTES = 32
MAX_FILE_BYTES = 1024


class TokenError(Exception):
    """The token cannot be kept or not be trusted; the message names the file."""


def token_path() -> Path:
    return platformdirs.user_data_path("llm-cache-proxy", appauthor=False) / FILE


def local_token() -> str:
    """The token of this machine's proxies; made if there is none. Raises TokenError.

    Atomic: of several processes that start at once one makes it, and all get the same.
    """
    path = token_path()
    try:
        known = _read(path)
        if known is None:
            _make(path)
            known = _read(path)
    except OSError as exc:
        raise TokenError(f"{path}: {exc.strerror}") from exc
    if not known:
        raise TokenError(f"{path}: holds no token; remove it, and another is made")
    return known


def known_token() -> str | None:
    """The token, if there is one: for who only asks. Raises TokenError."""
    path = token_path()
    try:
        return _read(path) or None
    except OSError as exc:
        raise TokenError(f"{path}: {exc.strerror}") from exc


def _read(path: Path) -> str | None:
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    with os.fdopen(file, "rb") as opened:
        told = os.fstat(file)
        if told.st_uid != os.geteuid() or stat.S_IMODE(told.st_mode) & 0o077:
            raise TokenError(f"{path}: others can read or have written it; remove it")
        return opened.read(MAX_FILE_BYTES).decode("ascii", "replace").strip()


def _make(path: Path) -> None:
    for missing in reversed([each for each in path.parents if not each.exists()]):
        missing.mkdir(mode=0o700, exist_ok=True)
    with suppress(PermissionError):  # somebody else's, and he has let us in
        path.parent.chmod(0o700)
    ours = path.with_name(f"{FILE}.{secrets.token_hex(8)}")
    file = os.open(ours, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(file, "w") as opened:
            opened.write(f"{secrets.token_urlsafe(TOKEN_BYTES)}\n")
        with suppress(FileExistsError):  # another process was first, and its token counts
            os.link(ours, path)
    finally:
        ours.unlink()
