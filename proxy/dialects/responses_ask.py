"""What a request for a response refers to, and what that says of keeping the answer.

Sources: OpenAI's API reference, "Create a model response"; its guides "Conversation state",
"Reasoning" and "Using tools".
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from proxy.dialects.base import json_kind
from proxy.dialects.checks import check_content
from proxy.errors import UnreadableRequest
from proxy.models import Bounds

# OpenAI keeps a response that is stored there for 30 days: then its id leads nowhere.
KEPT_S = 29 * 86400.0

# Tools that run at the caller, or that look at nothing but the request and do nothing but answer.
_HARMLESS_TOOLS = frozenset(
    {
        "apply_patch",
        "computer",
        "computer_use_preview",
        "custom",
        "function",
        "image_generation",
        "local_shell",
    }
)
# Tools that search or act at the provider; some carry a date behind their names. Reasons are
# counted, so they name only what is known.
_ACTING_TOOLS = (
    "code_interpreter",
    "file_search",
    "mcp",
    "programmatic_tool_calling",
    "shell",
    "tool_search",
    "web_search",
)
# Items by which the model is given back what it thought, readable to the provider only.
_THOUGHTS = frozenset({"compaction", "reasoning"})


def check_input(asked: Any) -> None:
    """Refuse what no provider takes."""
    check_content(asked, "input", "items")
    for place, item in enumerate(asked if isinstance(asked, list) else ()):
        content = item.get("content") if isinstance(item, dict) else None
        if isinstance(content, bool | int | float):
            raise UnreadableRequest(
                f"input[{place}].content: expected text or a list of parts, "
                f"got {json_kind(content)}."
            )


def bounds(body: dict[str, Any]) -> Bounds:
    """What a request says of keeping its answer."""
    if refusal := _refusal(body):
        return Bounds(uncached=refusal)
    if body.get("store") is not False:
        return Bounds(account="the provider stores the response", keep_s=KEPT_S)
    return Bounds(account=recalls(body) or _belongings(body))


def recalls(body: dict[str, Any]) -> str:
    """What of earlier turns a request brings back that only the provider can read, if anything.

    OpenAI withholds thoughts from the model where another account or end user asks than the one
    for whom they were thought.
    """
    if body.get("previous_response_id"):
        return "previous_response_id"
    for item in _items(body):
        kind = item.get("type")
        if kind == "item_reference" or (kind is None and "role" not in item):
            return "item_reference"
        if isinstance(kind, str) and kind in _THOUGHTS:
            return kind
    return ""


def _belongings(body: dict[str, Any]) -> str:
    """What of the account's own a request names, if anything."""
    if body.get("prompt"):
        return "prompt"
    pictures = (item for item in _items(body) if item.get("type") == "image_generation_call")
    if any(not item.get("result") for item in pictures):
        return "image_generation_call"  # by its id alone
    parts = [part for item in _items(body) for part in _parts(item)]
    masks = [tool.get("input_image_mask") for tool in _tools(body) if isinstance(tool, dict)]
    parts += (mask for mask in masks if isinstance(mask, dict))
    return "file_id" if any(part.get("file_id") for part in parts) else ""


def _refusal(body: dict[str, Any]) -> str:
    """Why a request's answer is not its own: it acts, or looks at what others may change."""
    for name in ("background", "conversation"):
        if body.get(name):
            return name
    if body.get("generate") is False:
        return "generate"
    prompt, caching = body.get("prompt"), body.get("prompt_cache_options")
    if prompt and not (isinstance(prompt, dict) and prompt.get("version")):
        return "prompt without a version"
    for name in ("prewarm", "comparison_response_id"):
        if isinstance(caching, dict) and caching.get(name):
            return name
    if any(item.get("type") == "mcp_approval_response" for item in _items(body)):
        return "tool mcp"
    tools = list(_tools(body))
    searchable = any(_kind(tool) != "tool_search" for tool in tools)
    return next((reason for tool in tools if (reason := _acting(tool, searchable))), "")


def _acting(tool: Any, searchable: bool) -> str:
    """Which tool this is if it searches or acts at the provider, else nothing."""
    kind = _kind(tool)
    if kind in _HARMLESS_TOOLS or _runs_at_caller(tool, kind):
        return ""
    if kind == "tool_search" and searchable:
        return ""  # it finds what the request holds
    known = (name for name in _ACTING_TOOLS if kind.startswith(name))
    return next((f"tool {name}" for name in known), "a tool of the provider's")


def _runs_at_caller(tool: Any, kind: str) -> bool:
    if kind == "tool_search":
        return bool(tool.get("execution") == "client")
    environment = tool.get("environment") if kind == "shell" else None
    return isinstance(environment, dict) and environment.get("type") == "local"


def _tools(body: dict[str, Any]) -> Iterator[Any]:
    """All tools that a request brings, also those that came up on the way."""
    holders = [body, *(item for item in _items(body) if item.get("type") != "mcp_list_tools")]
    for holder in holders:
        for tool in _list(holder, "tools"):
            yield from _list(tool, "tools") if _kind(tool) == "namespace" else (tool,)


def _kind(tool: Any) -> str:
    kind = tool.get("type") if isinstance(tool, dict) else None
    return kind if isinstance(kind, str) else ""


def _items(body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    return (item for item in _list(body, "input") if isinstance(item, dict))


def _parts(item: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """What an item says or a tool brought, part by part."""
    for name in ("content", "output"):
        value = item.get(name)
        parts = value if isinstance(value, list) else (value,)
        yield from (part for part in parts if isinstance(part, dict))


def _list(holder: dict[str, Any], name: str) -> list[Any]:
    value = holder.get(name)
    return value if isinstance(value, list) else []
