"""Where in a TOML text a setting stands: for errors that name the line.

`tomllib` tells no positions. This reads only table headers and the names before `=`, in a text
that `tomllib` has read already; what it cannot find falls back to the table that it is in.
"""

from __future__ import annotations

import re
from collections import Counter

# A name or a number: ("rules", 0, "ttl").
Path = tuple[str | int, ...]

_NAME = r"""(?:[A-Za-z0-9_-]+|"[^"\n]*"|'[^'\n]*')"""
_DOTTED = rf"{_NAME}(?:\s*\.\s*{_NAME})*"
_HEADER = re.compile(rf"\s*(\[\[?)\s*({_DOTTED})\s*\]")
_KEY = re.compile(rf"\s*({_DOTTED})\s*=")


def line_of(text: str, path: Path) -> int | None:
    """Return the line of the setting, or of the nearest thing around it that is named."""
    lines = _lines(text)
    while path and path not in lines:
        path = path[:-1]
    return lines.get(path)


def _lines(text: str) -> dict[Path, int]:
    lines: dict[Path, int] = {}
    seen: Counter[Path] = Counter()
    table: Path = ()
    for number, line in enumerate(text.splitlines(), 1):
        if header := _HEADER.match(line):
            table = _path(header[2], seen)
            if header[1] == "[[":
                table = (*table, seen[table])
                seen[table[:-1]] += 1
            lines.setdefault(table, number)
        elif key := _KEY.match(line):
            path = table
            for name in _path(key[1], Counter()):
                path = (*path, name)
                lines.setdefault(path, number)
    return lines


def _path(dotted: str, seen: Counter[Path]) -> Path:
    """Split a dotted name; below a list of tables it belongs to the last of them."""
    path: Path = ()
    for name in re.findall(_NAME, dotted):
        if seen[path]:
            path = (*path, seen[path] - 1)
        path = (*path, name.strip("\"'"))
    return path
