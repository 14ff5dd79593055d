"""DictCache: what somebody plugs in who read LangChain's page and no more of ours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cache_backends.base import BaseCache, Generation


class DictCache(BaseCache):
    """Six methods around a dict; knows nothing of ids, ages, or lifetimes."""

    def __init__(self) -> None:
        self.held: dict[tuple[str, str], list[Generation]] = {}

    def lookup(self, prompt: str, llm_string: str) -> list[Generation] | None:
        return self.held.get((prompt, llm_string))

    def update(self, prompt: str, llm_string: str, return_val: Sequence[Generation]) -> None:
        self.held[prompt, llm_string] = list(return_val)

    def clear(self, **kwargs: Any) -> None:
        self.held.clear()
