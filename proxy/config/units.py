"""Durations and sizes as people write them: `7d`, `1h30m`, `64 MiB`."""

from __future__ import annotations

import math
import re
from typing import Any

_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_BYTES = {
    "": 1,
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
}
_NUMBER = r"\d+(?:\.\d+)?"
_PERIOD = re.compile(rf"({_NUMBER})\s*(ms|[smhdw])\s*")
_PERIODS = re.compile(rf"(?:{_PERIOD.pattern})+")
_SIZE = re.compile(rf"({_NUMBER})\s*([kmgt]?i?b?)")


def seconds(value: Any) -> float:
    """Read a duration: a number of seconds, or text with units from ms to w."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return _finite(value)
    text = value.strip().lower() if isinstance(value, str) else ""
    if re.fullmatch(_NUMBER, text):
        return float(text)
    if not _PERIODS.fullmatch(text):
        raise ValueError('expected seconds or a duration such as 90, "15m", "1h30m" or "7d"')
    return sum(float(number) * _SECONDS[unit] for number, unit in _PERIOD.findall(text))


def lifetime(value: Any) -> float:
    """Read a duration that may also be `never`: then it has no end."""
    return math.inf if value in ("never", math.inf) else seconds(value)


def size(value: Any) -> int:
    """Read a size: a number of bytes, or text with a unit such as kB, MiB or GiB."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    text = value.strip().lower() if isinstance(value, str) else ""
    found = _SIZE.fullmatch(text)
    if not found or found[2] not in _BYTES:
        raise ValueError('expected bytes or a size such as 1048576, "500 kB" or "64 MiB"')
    return int(float(found[1]) * _BYTES[found[2]])


def _finite(number: float) -> float:
    if not 0 <= number < math.inf:
        raise ValueError("expected a number of seconds, not below 0")
    return float(number)
