"""What chat and completions share: a streamed answer tells its usage only to those who ask for it.

The proxy asks on its own account, where the provider tolerates it, and hides what that brings.
Source: OpenAI's API reference, "stream_options".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from proxy import keys
from proxy.dialects.base import JsonDialect, Relay
from proxy.dialects.relays import UsageRelay
from proxy.models import Ask, Call

_STREAM_OPTIONS = b'{"stream_options":{"include_usage":true},'


class UsageDialect(JsonDialect):
    """Wants `stream_options.include_usage` for usage in streams."""

    def request(self, ask: Ask, missing: Sequence[int] | None = None) -> bytes:
        """The caller's bytes, untouched but for the wish for usage where that is tolerated."""
        if not ask.asks_usage_upstream:
            return ask.raw
        if "stream_options" not in ask.body:
            return _STREAM_OPTIONS + ask.raw.lstrip()[1:].lstrip()
        options = ask.body["stream_options"]
        wish = {**options, "include_usage": True} if isinstance(options, dict) else options
        wish = wish or {"include_usage": True}
        return keys.canonical({**ask.body, "stream_options": wish}).encode()

    def relay(self, ask: Ask) -> Relay | None:
        return UsageRelay() if ask.asks_usage_upstream else None

    def _usage(self, call: Call, body: dict[str, Any], stream: bool) -> tuple[bool, bool]:
        wants_usage = not stream or _includes_usage(body)
        return wants_usage, not wants_usage and call.provider.include_usage


def _includes_usage(body: dict[str, Any]) -> bool:
    options = body.get("stream_options")
    return isinstance(options, dict) and bool(options.get("include_usage"))
