"""Says which extra brings what is not installed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def needing(extra: str) -> Iterator[None]:
    """Name the extra that brings what is imported here, if it is not installed."""
    try:
        yield
    except ImportError as exc:
        raise ImportError(
            f"what it needs is missing: install llm-cache-proxy[{extra}] ({exc})"
        ) from exc
