"""The token of this machine: who makes it, who can read it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from proxy.local_token import TokenError, known_token, local_token, token_path

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return tmp_path / "data" / "llm-cache-proxy"


def test_it_is_made_once(folder: Path) -> None:
    """32 random bytes, for the user's eyes only; asked again it is the same."""
    assert known_token() is None
    token = local_token()
    assert len(token) == 43
    assert (local_token(), known_token()) == (token, token)
    assert token_path().stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o777 == 0o700
    assert list(folder.iterdir()) == [token_path()]


def test_an_open_folder_is_closed(folder: Path) -> None:
    """It may have been made by another program, or an older version."""
    folder.mkdir(parents=True, mode=0o755)
    local_token()
    assert folder.stat().st_mode & 0o777 == 0o700


def test_processes_that_start_at_once_agree() -> None:
    """One makes it, and all get the same."""
    code = "from proxy.local_token import local_token; print(local_token())"
    started = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=ROOT)
        for _ in range(6)
    ]
    assert len({process.communicate()[0] for process in started}) == 1
    assert all(process.returncode == 0 for process in started)


def test_what_others_can_read_or_replace_is_not_trusted(folder: Path, tmp_path: Path) -> None:
    """Too open a file, somebody's link, a file without a token: it says what to do."""
    folder.mkdir(parents=True)
    path = token_path()
    path.write_text("readable-by-all")
    path.chmod(0o644)
    with pytest.raises(TokenError, match="remove it"):
        local_token()
    path.unlink()
    (tmp_path / "elsewhere").write_text("planted")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(TokenError, match=str(path)):
        local_token()
    path.unlink()
    path.touch(mode=0o600)
    with pytest.raises(TokenError, match="holds no token"):
        local_token()


def test_a_folder_that_cannot_be_made_is_named(folder: Path) -> None:
    """As in a container whose files are read-only."""
    folder.parent.write_text("a file in its place")
    with pytest.raises(TokenError, match=str(folder)):
        local_token()
