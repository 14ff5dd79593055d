"""What a response tells policy, savings and logs: how it ended, whom it calls, what is no JSON."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from proxy.dialects.facts import bill_of, count, is_json, usage_of
from proxy.models import AnswerFacts, Ask

# The limit that was asked for, or the model's own: the answer is as whole as it gets.
_LIMIT = "max_output_tokens"
# Why a response may end early, as far as OpenAI says. Reasons are counted: others are not named.
_EARLY_ENDS = (_LIMIT, "content_filter", "max_messages", "steered")
# What the caller is to act on.
_CALLS = frozenset(
    {
        "apply_patch_call",
        "computer_call",
        "custom_tool_call",
        "function_call",
        "local_shell_call",
        "mcp_approval_request",
        "shell_call",
    }
)
# What tells that a tool searched or acted at the provider.
_ACTED = frozenset(
    {
        "code_interpreter_call",
        "file_search_call",
        "mcp_call",
        "mcp_list_tools",
        "program",
        "shell_call_output",
        "web_search_call",
    }
)
_JSON_FORMATS = ("json_object", "json_schema")

_Item = dict[str, Any]


def facts(ask: Ask, envelope: dict[str, Any], output: list[_Item]) -> AnswerFacts:
    """The facts of a response: what is around its output, and the output."""
    reason = _reason(envelope)
    usage = usage_of(envelope)
    return AnswerFacts(
        finish_reasons=(reason,),
        has_tool_calls=any(map(_is_call, output)),
        # What was cut at the limit that was asked for is not judged.
        broken_json=_broken_json(output, _wants_json(ask)) if reason != _LIMIT else "",
        unfinished=_unfinished(reason, output),
        # Stored prompts bring tools that requests do not show, some providers search by themselves.
        acted=next((kind for item in output if (kind := _kind(item)) in _ACTED), ""),
        input_tokens=count(usage, "input_tokens"),
        output_tokens=count(usage, "output_tokens"),
        bill=bill_of(envelope, "input_tokens_details", "output_tokens_details"),
    )


def text_of(output: Any) -> str:
    """What a person would read of an output, whatever it is."""
    return "".join(
        part["text"]
        for item in output
        if isinstance(item, dict)
        for part in _parts(item)
        if part.get("type") == "output_text" and isinstance(part.get("text"), str)
    )


def _reason(envelope: dict[str, Any]) -> str:
    if envelope.get("status") == "completed":
        return "completed"
    details = envelope.get("incomplete_details")
    reason = details.get("reason") if isinstance(details, dict) else None
    return reason if isinstance(reason, str) and reason in _EARLY_ENDS else "incomplete"


def _unfinished(reason: str, output: list[_Item]) -> str:
    if reason not in ("completed", _LIMIT):
        return reason
    # A picture that failed stands in a response that is called completed.
    return "failed" if any(item.get("status") == "failed" for item in output) else ""


def _is_call(item: _Item) -> bool:
    kind = _kind(item)
    return kind in _CALLS or (kind == "tool_search_call" and item.get("execution") == "client")


def _wants_json(ask: Ask) -> bool:
    text = ask.body.get("text")
    wish = text.get("format") if isinstance(text, dict) else None
    return isinstance(wish, dict) and wish.get("type") in _JSON_FORMATS


def _broken_json(output: list[_Item], wants_json: bool) -> str:
    """Where the first text stands that should be JSON and does not parse."""
    wants_json = wants_json and not any(map(_is_call, output))
    for place, item in enumerate(output):
        arguments = item.get("arguments") if _kind(item) == "function_call" else None
        if isinstance(arguments, str) and arguments and not is_json(arguments):
            return f"output[{place}].arguments"
        if wants_json and item.get("phase") != "commentary" and (path := _broken_text(item)):
            return f"output[{place}].{path}"
    return ""


def _broken_text(item: _Item) -> str:
    parts = list(_parts(item))
    if any(part.get("type") == "refusal" for part in parts):
        return ""
    for place, part in enumerate(parts):
        text = part.get("text") if part.get("type") == "output_text" else None
        if isinstance(text, str) and not is_json(text):
            return f"content[{place}].text"
    return ""


def _parts(item: _Item) -> Iterator[dict[str, Any]]:
    content = item.get("content") if _kind(item) == "message" else None
    parts = content if isinstance(content, list) else ()
    return (part for part in parts if isinstance(part, dict))


def _kind(item: _Item) -> str:
    kind = item.get("type")
    return kind if isinstance(kind, str) else ""
