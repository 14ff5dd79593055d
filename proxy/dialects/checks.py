"""What several dialects refuse in requests, as no provider takes it."""

from __future__ import annotations

from typing import Any

from proxy.dialects.base import json_kind
from proxy.errors import UnreadableRequest


def check_messages(messages: Any, parts: str) -> None:
    """Refuse all but a list of objects, each with content; `parts` is what that consists of."""
    if not isinstance(messages, list):
        raise UnreadableRequest(f"messages: expected a list, got {json_kind(messages)}.")
    for place, message in enumerate(messages):
        if not isinstance(message, dict):
            raise UnreadableRequest(
                f"messages[{place}]: expected an object, got {json_kind(message)}."
            )
        check_content(message.get("content"), f"messages[{place}].content", parts)


def check_content(content: Any, path: str, parts: str) -> None:
    """Refuse all but a text, a list of parts, or nothing."""
    if content is None or isinstance(content, str):
        return
    if not isinstance(content, list):
        raise UnreadableRequest(
            f"{path}: expected text or a list of {parts}, got {json_kind(content)}."
        )
    for place, part in enumerate(content):
        if not isinstance(part, dict | str):  # vLLM and others take bare texts
            raise UnreadableRequest(f"{path}[{place}]: expected an object, got {json_kind(part)}.")
