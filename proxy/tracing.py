"""Finds the trace that a request belongs to. The headers go on to the provider as they came.

Source: W3C Trace Context, 3.2, "traceparent Header".
"""

from __future__ import annotations

import re

from proxy.models import Headers

# Later versions may say more behind it; version ff is none.
_PARENT = re.compile(
    rb"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?"
)


def trace_id(headers: Headers) -> str:
    """The id of the caller's trace, or ""."""
    if b"traceparent" not in dict(headers):  # a third of a look at each
        return ""
    parents = [value for name, value in headers if name == b"traceparent"]
    found = _PARENT.fullmatch(parents[0].strip()) if len(parents) == 1 else None
    return found[1].decode() if found else ""
