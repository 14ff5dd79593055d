"""The events of a streamed message, put together to the body that says the same.

Source: Anthropic's API reference, "Streaming Messages". What is unlike it is not guessed at: no
client would know either what an event says that contradicts an earlier one.
"""

from __future__ import annotations

from typing import Any

import orjson

from proxy.dialects.messages_tell import written
from proxy.dialects.recorders import parse_exactly


class MergeError(Exception):
    """An event that is not of this format, or that contradicts an earlier one."""


class Merge:
    """Puts the events of a stream together."""

    def __init__(self) -> None:
        self._opening: dict[str, Any] | None = None
        self._ending: dict[str, Any] = {}
        self._blocks: dict[int, _Block] = {}
        self._model: str | None = None  # who answered in the place of the model that refused
        self.ended = False

    def add(self, event: dict[str, Any]) -> None:
        kind = event.get("type")
        if kind == "ping":
            return
        if self.ended or (self._opening is None) is not (kind == "message_start"):
            raise MergeError
        if kind == "message_start":
            self._begin(event)
        elif kind == "content_block_start":
            self._begin_block(event)
        elif kind == "content_block_delta":
            self._block(event).add(_object(event.get("delta")))
        elif kind == "content_block_stop":
            self._block(event).end()
        elif kind == "message_delta":
            self._end_message(event)
        elif kind == "message_stop":
            self.ended = True
        else:
            raise MergeError

    def is_whole(self) -> bool:
        """Has all been told that was begun?"""
        return self.ended and all(block.ended for block in self._blocks.values())

    def body(self) -> dict[str, Any]:
        """The plain answer that says the same."""
        ending = {**self._ending}
        delta, usage = ending.pop("delta", {}), ending.pop("usage", None)
        body = _overlaid(_overlaid(self._opening or {}, delta), ending)
        if usage is not None:
            known = body.get("usage")
            body["usage"] = _overlaid(known, usage) if isinstance(known, dict) else usage
        if self._model is not None:
            body["model"] = self._model
        return {**body, "content": [block.fields for block in self._blocks.values()]}

    def told(self) -> dict[str, Any]:
        """How it was told, where that may differ: what came first, and what last."""
        inputs = {
            str(place): block.written
            for place, block in enumerate(self._blocks.values())
            if block.is_tool and block.written != written(block.fields)
        }
        return {"opening": self._opening, "ending": self._ending, "inputs": inputs}

    def _begin(self, event: dict[str, Any]) -> None:
        opening = dict(_object(event.get("message")))
        if opening.pop("content", None):
            raise MergeError
        self._opening = opening

    def _begin_block(self, event: dict[str, Any]) -> None:
        index, block = event.get("index"), _object(event.get("content_block"))
        # Clients find a block by its place or by its index: the two must not contradict. Several
        # may be open at once (llama.cpp ends them all in the end).
        if type(index) is not int or index <= next(reversed(self._blocks), -1):
            raise MergeError
        self._blocks[index] = _Block(block)
        if block.get("type") == "fallback":
            model = _object(block.get("to")).get("model")
            self._model = model if isinstance(model, str) else self._model

    def _block(self, event: dict[str, Any]) -> _Block:
        index = event.get("index")
        block = self._blocks.get(index) if type(index) is int else None
        if block is None or block.ended:
            raise MergeError
        return block

    def _end_message(self, event: dict[str, Any]) -> None:
        """What a second one says is added to the first: counts of usage are sums so far."""
        ending = {name: value for name, value in event.items() if name != "type"}
        for name in ("delta", "usage"):
            told = ending.pop(name, None)
            if told is not None:
                _overlay(self._ending.setdefault(name, {}), _object(told))
        _overlay(self._ending, ending)


class _Block:
    """One block of content as it grows."""

    def __init__(self, fields: dict[str, Any]) -> None:
        self.fields = fields
        self.ended = False
        self.written: str | None = None  # a tool's input to the letter, unless it began whole
        self._kind = fields.get("type")
        # `tool_use`, `server_tool_use`, `mcp_tool_use`: they differ in who runs the tool.
        self.is_tool = isinstance(self._kind, str) and self._kind.endswith("tool_use")
        self._pieces: dict[str, list[str]] = {}

    def add(self, delta: dict[str, Any]) -> None:
        kind = delta.get("type")
        said = {name: value for name, value in delta.items() if name != "type"}
        if kind == "text_delta" and self._kind == "text":
            self._grow("text", said.pop("text", None))
        elif kind == "thinking_delta" and self._kind == "thinking":
            self._grow("thinking", said.pop("thinking", None))
            said.pop("estimated_tokens", None)  # of the stream, not of the message
        elif kind == "input_json_delta" and self.is_tool:
            self._grow("input", said.pop("partial_json", None))
        elif kind == "signature_delta" and self._kind == "thinking":
            self._sign(said.pop("signature", None))
        elif kind == "citations_delta" and self._kind == "text":
            self._cite(said.pop("citation", None))
        elif kind == "compaction_delta" and self._kind == "compaction":
            self.fields.update(said)
            said = {}
        else:
            raise MergeError
        if any(value is not None for value in said.values()):
            raise MergeError

    def end(self) -> None:
        self.ended = True
        for name, pieces in self._pieces.items():
            whole = "".join(pieces)
            if name == "input":
                self._end_input(whole)
            else:
                self.fields[name] = (self.fields.get(name) or "") + whole

    def _end_input(self, text: str) -> None:
        known = self.fields.get("input")
        if known and text:
            raise MergeError
        if not known:
            self.fields["input"] = _parse(text) if text else {}
            self.written = text

    def _grow(self, name: str, piece: Any) -> None:
        begun = "" if name == "input" else self.fields.get(name) or ""
        if not isinstance(piece, str) or not isinstance(begun, str):
            raise MergeError
        self._pieces.setdefault(name, []).append(piece)

    def _sign(self, signature: Any) -> None:
        """A signature comes whole: of two, nobody knows whether they are one in pieces."""
        known = self.fields.get("signature")
        if not isinstance(signature, str) or (known and known != signature):
            raise MergeError
        self.fields["signature"] = signature

    def _cite(self, citation: Any) -> None:
        known = self.fields.get("citations") or []
        if not isinstance(known, list):
            raise MergeError
        known.append(_object(citation))
        self.fields["citations"] = known


def _parse(text: str) -> Any:
    try:
        return parse_exactly(text.encode())
    except orjson.JSONDecodeError as exc:
        raise MergeError from exc


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise MergeError
    return value


def _overlaid(known: dict[str, Any], told: dict[str, Any]) -> dict[str, Any]:
    both = dict(known)
    _overlay(both, told)
    return both


def _overlay(known: dict[str, Any], told: dict[str, Any]) -> None:
    """What is told last stands; but null never takes the place of what is known."""
    for name, value in told.items():
        if value is not None or name not in known:
            known[name] = value
