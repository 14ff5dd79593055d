"""Remembers what requests that hit came to, so that the same bytes need not be read again.

Reading, judging and keying a 700-byte request takes 40 us, finding it here 2 us.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from proxy.inquiry import Inquiry

# Method, raw path, query, headers and body: equal bytes come to an equal inquiry.
RequestBytes = tuple[str, bytes, bytes, tuple[tuple[bytes, bytes], ...], bytes]

MAX_BYTES = 32 * 2**20
# Requests and answers above this are not worth the space: reading them is not what takes long.
MAX_ITEM_BYTES = 256 * 2**10
_OVERHEAD_BYTES = 4096  # the records, headers and the entry's values


class Memo:
    """Bounded by bytes; the oldest goes first."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._known: dict[RequestBytes, tuple[Inquiry, int]] = {}

    def __len__(self) -> int:
        return len(self._known)

    def find(self, request: RequestBytes) -> Inquiry | None:
        known = self._known.get(request)
        return known[0] if known is not None else None

    def add(self, request: RequestBytes, inquiry: Inquiry) -> None:
        size = _OVERHEAD_BYTES + 3 * (len(request[-1]) + inquiry.rendering.size)
        if request in self._known or size > MAX_ITEM_BYTES:
            return
        self._known[request] = (inquiry, size)
        self._bytes += size
        while self._bytes > self._max_bytes:
            oldest = next(iter(self._known))
            self._bytes -= self._known.pop(oldest)[1]


def bytes_of(scope: Mapping[str, Any], body: bytes) -> RequestBytes:
    """The bytes of a request, as ASGI has them."""
    return (
        scope["method"],
        scope["raw_path"],
        scope["query_string"],
        tuple(scope["headers"]),
        body,
    )
