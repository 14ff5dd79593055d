"""A clock for leases: it only goes forward, also while the machine sleeps.

Purges go on elsewhere meanwhile. Linux's monotonic clock stands still then, and so does Python's on
macOS, but not the one that macOS calls so.
"""

from __future__ import annotations

import sys
import time

if sys.platform == "linux":
    _CLOCK = time.CLOCK_BOOTTIME
elif sys.platform == "darwin":
    _CLOCK = time.CLOCK_MONOTONIC
else:
    _CLOCK = None


def steady() -> float:
    """Seconds since some time in the past, the same for all processes of the machine."""
    return time.monotonic() if _CLOCK is None else time.clock_gettime(_CLOCK)
