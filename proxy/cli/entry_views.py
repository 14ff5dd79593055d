"""How entries look: many in a table, one as a whole."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime
from typing import Any

import orjson
from rich.text import Text

from proxy.cli import printing
from proxy.cli.entries import SHOWN_ID_CHARS

_COLUMNS = (
    ("id", "left"),
    ("model", "left"),
    ("age", "right"),
    ("ends in", "right"),
    ("hits", "right"),
    ("size", "right"),
    ("asked", "rest"),
)
_FIELDS = (
    *("id", "provider", "dialect", "model", "namespace", "client", "tags", "stored_at"),
    *("expires_at", "hits", "bytes", "pinned", "prompt_preview"),
)
_MODEL_CHARS = 20
# The texts in a prompt, which is JSON and may be cut short.
_TEXTS = re.compile(r'"(?:content|text|input|prompt)":("(?:[^"\\]|\\.)*)')


def show_list(listing: dict[str, Any]) -> None:
    """For a terminal."""
    if not listing["entries"]:
        printing.show_note("no entries")
        return
    now = printing.now()
    printing.show_table(_COLUMNS, (_row(each, now) for each in listing["entries"]))
    if listing["next_cursor"] is not None:
        printing.show_note("and more: --limit, or filters")


def show_lines(entries: Iterable[dict[str, Any]]) -> None:
    for entry in entries:
        printing.show_fields(*(entry[name] for name in _FIELDS))


def show_entry(entry: dict[str, Any]) -> None:
    printing.show_facts(_facts(entry))
    printing.show_text("prompt", _indented(entry["prompt"]))
    printing.show_text("llm_string", _indented(entry["llm_string"]))
    for number, generation in enumerate(entry["generations"], 1):
        title = "answer" if len(entry["generations"]) == 1 else f"answer {number}"
        printing.show_text(title, _answer(generation))


def _row(entry: dict[str, Any], now: datetime) -> tuple[Any, ...]:
    return (
        entry["id"][:SHOWN_ID_CHARS],
        _short(entry["model"]),
        printing.ago(entry["stored_at"], now),
        _end(entry, now),
        entry["hits"],
        printing.size(entry["bytes"]),
        _gist(entry["prompt_preview"]),
    )


def _short(model: str) -> str:
    return model if len(model) <= _MODEL_CHARS else f"{model[: _MODEL_CHARS - 1]}…"


def _gist(preview: str) -> str:
    """Of the beginning of a prompt the text that was said last."""
    texts = _TEXTS.findall(preview)
    try:
        return str(orjson.loads(f'{texts[-1]}"'))
    except (IndexError, ValueError):
        return preview


def _end(entry: dict[str, Any], now: datetime) -> Text:
    if entry["pinned"]:
        return Text("pinned", "cyan")
    if entry["expires_at"] is None:
        return Text("-", "dim")
    if datetime.fromisoformat(entry["expires_at"]) <= now:
        return Text("expired", "yellow")
    return Text(printing.ago(entry["expires_at"], now))


def _facts(entry: dict[str, Any]) -> Iterable[tuple[str, Any]]:
    for name in _FIELDS[:-1]:
        if entry[name] not in ("", []):
            yield name, entry[name]
    if entry["corrected"]:
        yield "corrected", entry["corrected"]
    made = entry["made_by"]
    for name in ("seconds", "input_tokens", "output_tokens", "usd"):
        if made[name] is not None:
            yield name, made[name]


def _answer(generation: dict[str, Any]) -> str:
    """Its text; the whole message where that is not all."""
    message = generation.get("message") or {}
    if generation["text"] and not message.get("tool_calls"):
        return str(generation["text"])
    return orjson.dumps(message or generation, option=orjson.OPT_INDENT_2).decode()


def _indented(text: str) -> str:
    try:
        return orjson.dumps(orjson.loads(text), option=orjson.OPT_INDENT_2).decode()
    except ValueError:
        return text
