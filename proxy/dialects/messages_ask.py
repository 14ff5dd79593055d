"""What a request for a message refers to, and what that says of keeping the answer.

Sources: Anthropic's API reference, "Create a Message", and the types of its Python SDK, for the
beta fields too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from proxy.models import UNBOUNDED, Bounds

# Fields that lead to what others may change, or that ask about more than an answer: the provider's
# own cache, what an earlier refusal is worth.
_STATEFUL = ("container", "diagnostics", "fallback_credit_token", "mcp_servers", "thread")
# Tools that run at the caller, or that look at nothing but the request. One without a type is the
# caller's own, too.
_HARMLESS_TOOL = re.compile(
    r"custom"
    r"|(bash|browser_toolset|computer|computer_toolset|memory|text_editor)_\d{8}"
    r"|tool_search_tool_(bm25|regex)(_\d{8})?"
)
# Tools that search or act at the provider. Reasons are counted, so they name only what is known.
_ACTING_TOOL = re.compile(r"(advisor|code_execution|mcp_toolset|web_fetch|web_search)(_\d{8})?")
# Claude Code opens the system text so, with a digest of the whole request: of its session, too.
# Anthropic reads and removes that line.
_ATTRIBUTION = re.compile(r"(x-anthropic-billing-header:[^\n]*?\bcch=)[0-9a-f]+")
# Blocks by which the model is given back what it thought, readable to the provider only.
_THOUGHTS = ("compaction", "redacted_thinking", "thinking")


def without_digest(system: Any) -> Any:
    """What is said to the system, without what is new with each request of Claude Code."""
    if isinstance(system, str):
        return _undigested(system)
    if not isinstance(system, list) or not system or not isinstance(system[0], dict):
        return system
    first, *rest = system
    text = first.get("text")
    return [{**first, "text": _undigested(text)}, *rest] if isinstance(text, str) else system


def bounds(body: dict[str, Any]) -> Bounds:
    """What a request says of keeping its answer."""
    blocks = list(_blocks(body))
    if refusal := _refusal(body, blocks):
        return Bounds(uncached=refusal)
    account = next((reason for block in blocks if (reason := _belonging(block))), "")
    return Bounds(account=account) if account else UNBOUNDED


def _undigested(text: str) -> str:
    found = _ATTRIBUTION.match(text)
    return found[1] + text[found.end() :] if found else text


def _refusal(body: dict[str, Any], blocks: list[dict[str, Any]]) -> str:
    """Why a request's answer is not its own: it acts, or looks at what others may change."""
    for name in _STATEFUL:
        if body.get(name):
            return name
    if body.get("max_tokens") == 0:
        return "max_tokens is 0"  # that is to fill the provider's own cache
    kinds = (kind for tool in _tools(body, blocks) if (kind := _acting(tool)))
    kind = next(kinds, "")
    known = _ACTING_TOOL.fullmatch(kind)
    return f"tool {known[1]}" if known else kind and "a tool of the provider's"


def _acting(tool: Any) -> str:
    """The kind of a tool that searches or acts at the provider."""
    kind = tool.get("type") if isinstance(tool, dict) else None
    return kind if isinstance(kind, str) and not _HARMLESS_TOOL.fullmatch(kind) else ""


def _tools(body: dict[str, Any], blocks: list[dict[str, Any]]) -> Iterator[Any]:
    """All tools that a request brings, also those that came up on the way."""
    yield from _objects(body.get("tools"))
    for block in blocks:
        for change in (block, *_objects(block.get("tool_changes"))):
            if change.get("type") == "tool_addition":
                yield _added(change.get("tool"))


def _added(tool: Any) -> Any:
    if not isinstance(tool, dict) or tool.get("type") == "tool_reference":
        return None  # it is declared elsewhere
    if tool.get("type") in ("mcp_tool_reference", "mcp_toolset_reference"):
        return {"type": "mcp_toolset"}
    return tool.get("definition") if tool.get("type") == "tool_definition" else tool


def _belonging(block: dict[str, Any]) -> str:
    """What of the account's own a block names, if anything. Thoughts are the account's, too:
    Anthropic withholds them from the model where another asks than the one who was told them."""
    if block.get("type") in _THOUGHTS:
        return str(block["type"])
    source = block.get("source")
    named = isinstance(source, dict) and source.get("file_id")
    return "file_id" if named or block.get("file_id") else ""


def _blocks(body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """All blocks of all messages, and those within them: results of tools, parts of documents."""
    waiting: list[dict[str, Any]] = []
    for message in _objects(body.get("messages")):
        waiting += _objects(message.get("content"))
    while waiting:  # no recursion: a body may be nested deeply
        block = waiting.pop()
        yield block
        source = block.get("source")
        for holder in (block, source if isinstance(source, dict) else {}):
            waiting += _objects(holder.get("content"))


def _objects(value: Any) -> list[dict[str, Any]]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []
