"""Bytes that a store may hold and that are no answers."""

from __future__ import annotations

import gzip
from typing import Any

import orjson

PLAIN: dict[str, Any] = {"type": "plain", "text": "a", "generation_info": None}
CHAT: dict[str, Any] = {**PLAIN, "type": "chat", "message": {"content": "a"}}
WHOLE: dict[str, Any] = {"v": 1, "generations": [PLAIN], "tags": [], "about": {}}
LANGCHAIN = {"lc": 1, "type": "constructor", "id": ["langchain", "Generation"], "kwargs": {}}


def _whole(**changed: Any) -> bytes:
    return orjson.dumps({**WHOLE, **changed})


def _without(name: str) -> bytes:
    return orjson.dumps({key: value for key, value in WHOLE.items() if key != name})


HOSTILE_VALUES: dict[str, bytes] = {
    "nothing": b"",
    "null": b"null",
    "zeros": b"\x00" * 64,
    "not UTF-8": _whole().replace(b'"a"', b'"\xff"'),
    "a pickle": b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x02id\x85R.",
    "compressed": gzip.compress(_whole()),
    "the text of an answer": b"Why did the chicken cross the road?",
    "a list": orjson.dumps([PLAIN]),
    "two values": _whole() * 2,
    "NaN": _whole().replace(b"null", b"NaN"),
    "too deep": b'{"v":1,"about":' + b"[" * 5000 + b"]" * 5000 + b"}",
    "no version": _without("v"),
    "another version": _whole(v=2),
    "a version that equals 1": _whole(v=True),
    "a version as a number with a point": _whole(v=1.0),
    "no generations": _without("generations"),
    "an empty list of generations": _whole(generations=[]),
    "generations as an object": _whole(generations={"0": PLAIN}),
    "a generation as text": _whole(generations=["a"]),
    "a generation as null": _whole(generations=[PLAIN, None]),
    "an unknown type": _whole(generations=[{**PLAIN, "type": "os.system"}]),
    "a type that is no text": _whole(generations=[{**PLAIN, "type": ["plain"]}]),
    "no text": _whole(generations=[{"type": "plain", "generation_info": None}]),
    "text as a number": _whole(generations=[{**PLAIN, "text": 7}]),
    "info as a list": _whole(generations=[{**PLAIN, "generation_info": []}]),
    "a message where none belongs": _whole(generations=[{**PLAIN, "message": {}}]),
    "chat without a message": _whole(generations=[{**PLAIN, "type": "chat"}]),
    "a message as text": _whole(generations=[{**CHAT, "message": "a"}]),
    "LangChain's constructor": _whole(generations=[LANGCHAIN]),
    "a secret of LangChain's": orjson.dumps({"lc": 1, "type": "secret", "id": ["HOME"]}),
    "tags as text": _whole(tags="tag"),
    "a tag as a number": _whole(tags=["tag", 1]),
    "facts as a list": _whole(about=[]),
    "one field more": _whole(__class__="os.system"),
}
