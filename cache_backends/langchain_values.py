"""LangChain's generations and messages as ours, and back: JSON values and a list of known classes.

No class is looked up by a name that was stored, nothing is unpickled, and LangChain's `loads` is
never let choose for itself what it makes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import langchain_core.outputs as lc
import orjson
from langchain_core._api import suppress_langchain_beta_warning
from langchain_core.load import load
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    ChatMessage,
    ChatMessageChunk,
    FunctionMessage,
    FunctionMessageChunk,
    HumanMessage,
    HumanMessageChunk,
    RemoveMessage,
    SystemMessage,
    SystemMessageChunk,
    ToolMessage,
    ToolMessageChunk,
    convert_to_messages,
)

from cache_backends.base import ChatGeneration, Generation
from cache_backends.codec import CodecError

# All that is ever made of what was stored.
_MESSAGES: Mapping[str, type[BaseMessage]] = {
    kind.__name__: kind
    for kind in (
        AIMessage,
        AIMessageChunk,
        ChatMessage,
        ChatMessageChunk,
        FunctionMessage,
        FunctionMessageChunk,
        HumanMessage,
        HumanMessageChunk,
        RemoveMessage,
        SystemMessage,
        SystemMessageChunk,
        ToolMessage,
        ToolMessageChunk,
    )
}
_GENERATIONS = (lc.ChatGeneration, lc.ChatGenerationChunk, lc.Generation, lc.GenerationChunk)
# What a message of LangChain's is as our `ChatGeneration.message`.
_CLASS, _FIELDS = "langchain", "fields"


def from_langchain(generation: lc.Generation) -> Generation:
    """Ours of theirs; `CodecError` if it would not come back as it is."""
    if not isinstance(generation, lc.ChatGeneration):
        info = _as_json(generation.generation_info)
        _require_same(generation.generation_info, info)
        return Generation(str(generation.text), info)
    message = generation.message
    name, fields = type(message).__name__, message.model_dump()
    if _MESSAGES.get(name) is not type(message):
        raise CodecError(f"a {name} is no message of langchain_core's")
    told = _as_json({"info": generation.generation_info, _FIELDS: fields})
    _require_same(generation.generation_info, told["info"])
    _require_same(fields, _revived(name, told[_FIELDS]).model_dump())
    kept = {_CLASS: name, _FIELDS: told[_FIELDS]}
    return ChatGeneration(str(generation.text), told["info"], message=kept)


def to_langchain(generation: Generation) -> lc.Generation:
    """Theirs of ours; `CodecError` if it is no message that `from_langchain` made.

    A provider's own message, as the proxy stores it, becomes the `AIMessage` that it amounts to.
    """
    text, info = generation.text, generation.generation_info
    if not isinstance(generation, ChatGeneration):
        return lc.Generation(text=text, generation_info=info)
    return lc.ChatGeneration(message=_message(generation), generation_info=info)


def messages_of(prompt: str) -> list[BaseMessage]:
    """The messages that a chat model made a key of; `CodecError` for anything else."""
    found = _loaded(prompt, tuple(_MESSAGES.values()))
    if not isinstance(found, list) or not all(isinstance(each, BaseMessage) for each in found):
        raise CodecError("not a list of messages")
    return found


def generation_of(stored: str) -> lc.Generation:
    """The generation that one of LangChain's caches wrote; `CodecError` for anything else."""
    found = _loaded(stored, (*_GENERATIONS, *_MESSAGES.values()))
    if not isinstance(found, lc.Generation):
        raise CodecError("not a generation")
    return found


def _message(generation: ChatGeneration) -> BaseMessage:
    message = generation.message
    if message.keys() == {_CLASS, _FIELDS}:
        return _revived(message[_CLASS], message[_FIELDS])
    if message.get("role") == "assistant":
        try:
            (converted,) = convert_to_messages([message])
        except (ValueError, TypeError, LookupError, AttributeError):
            pass  # a form of the provider's that LangChain's function does not know
        else:
            if converted.text == generation.text:
                return converted
    return AIMessage(content=generation.text)


def _revived(name: object, fields: object) -> BaseMessage:
    kind = _MESSAGES.get(name) if isinstance(name, str) else None
    if kind is None:
        raise CodecError("a message of no known class")
    try:
        return kind.model_validate(fields)
    except (ValueError, TypeError, LookupError, AttributeError) as exc:
        raise CodecError(f"not the fields of a message: {type(exc).__name__}") from exc


def _as_json(value: Any) -> Any:
    try:
        return orjson.loads(orjson.dumps(value))
    except TypeError as exc:
        raise CodecError(f"it cannot be written as JSON: {exc}") from exc


def _require_same(value: object, back: object) -> None:
    # Dates, tuples and NaN, for example, are other values after JSON.
    if value != back:
        raise CodecError("it holds what JSON would change")


def _loaded(text: str, allowed: Sequence[type[Any]]) -> Any:
    try:
        with suppress_langchain_beta_warning():
            return load(json.loads(text), allowed_objects=allowed, secrets_from_env=False)
    except RecursionError as exc:
        raise CodecError("it is nested too deeply") from exc
    except (ValueError, TypeError, LookupError, AttributeError, NotImplementedError) as exc:
        raise CodecError(f"it cannot be read: {type(exc).__name__}") from exc
