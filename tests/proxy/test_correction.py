"""Corrections in every dialect: another text, told whole and as a stream."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson
import pytest

from cache_backends.base import Entry, Generation
from proxy import keys
from proxy.app import DIALECTS
from proxy.correction import check, with_text
from proxy.errors import BadRequest
from proxy.models import Call, Head, Provider, Verdict

PLAIN = Head(200, [(b"content-type", b"application/json")])
STREAM = Head(200, [(b"content-type", b"text/event-stream")])
CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
LOGPROBS = {"content": [{"token": "old", "logprob": -1.0, "bytes": None, "top_logprobs": []}]}


def chat(**message: Any) -> dict[str, Any]:
    choice = {"index": 0, "finish_reason": "stop", "logprobs": LOGPROBS}
    told = {"role": "assistant", "content": "old", **message}
    return {"id": "c", "object": "chat.completion", "choices": [{**choice, "message": told}]}


def response(*items: dict[str, Any]) -> dict[str, Any]:
    said = {"type": "output_text", "text": "old", "annotations": [{"type": "url_citation"}]}
    message = {"type": "message", "id": "m", "role": "assistant", "status": "completed"}
    output = [*items, {**message, "content": [said]}]
    return {"id": "r", "object": "response", "status": "completed", "output": output}


def anthropic(*blocks: dict[str, Any]) -> dict[str, Any]:
    usage = {"input_tokens": 1, "output_tokens": 1}
    message = {"id": "m", "type": "message", "role": "assistant", "stop_reason": "end_turn"}
    return {**message, "model": "m", "usage": usage, "content": list(blocks)}


TEXT = {"type": "text", "text": "old", "citations": [{"type": "char_location"}]}
ANSWERS = {
    "chat": (CHAT, chat(reasoning_content="why")),
    "completions": (
        {"model": "m", "prompt": "hi"},
        {"id": "c", "choices": [{"index": 0, "text": "old", "finish_reason": "stop"}]},
    ),
    "responses": (
        {"model": "m", "input": "hi"},
        response({"type": "reasoning", "id": "t", "summary": []}),
    ),
    "messages": (
        {**CHAT, "max_tokens": 9},
        anthropic({"type": "thinking", "thinking": "hm", "signature": "s"}, TEXT),
    ),
}


def entry_of(name: str, body: dict[str, Any], answer: dict[str, Any]) -> Entry:
    """What the proxy keeps of this answer."""
    dialect = DIALECTS[name]
    call = Call(Provider("p", "https://p"), "/x", "", "https://p/x", [], orjson.dumps(body))
    ask = dialect.read(call)
    recorder = dialect.recorder(ask, PLAIN, 1)
    recorder.feed(orjson.dumps(answer))
    answers = recorder.finish()
    assert answers is not None
    (key,) = keys.question(call, ask, Verdict(may_read=True, may_write=True)).keys
    return Entry(key, answers[0], 1.0, about={"dialect": ask.dialect})


@pytest.mark.parametrize("name", ANSWERS)
def test_a_text_is_replaced_everywhere(name: str) -> None:
    """And what said of the old one where it came from or how likely it was is gone."""
    entry = entry_of(name, *ANSWERS[name])
    generations = with_text(entry.generations, "brand new")
    check(entry, DIALECTS[name], generations, "brand new")
    told = orjson.dumps(generations)
    assert b"brand new" in told
    for old in (b'"old"', b"url_citation", b"char_location", b"top_logprobs"):
        assert old not in told
    assert entry.generations[0].text == "old"


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("chat", chat(content=None, refusal="no")),
        ("messages", anthropic(TEXT, TEXT)),
        ("messages", anthropic({"type": "tool_use", "id": "t", "name": "f", "input": {}})),
        ("responses", response(*response()["output"])),
    ],
)
def test_no_text_or_several_are_not_replaced(name: str, answer: dict[str, Any]) -> None:
    """Which one is meant cannot be known."""
    entry = entry_of(name, ANSWERS[name][0], answer)
    with pytest.raises(BadRequest, match="give all generations"):
        with_text(entry.generations, "new")


def test_a_call_of_a_tool_is_not_talked_over() -> None:
    """A text beside it would not be what the client acts on."""
    call = {"id": "t", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    entry = entry_of("chat", CHAT, chat(content="", tool_calls=[call]))
    with pytest.raises(BadRequest, match="calls tools"):
        check(entry, DIALECTS["chat"], with_text(entry.generations, "new"), "new")


def test_embeddings_have_no_text() -> None:
    """They are numbers."""
    body = {"model": "m", "input": "hi"}
    answer = {"object": "list", "data": [{"index": 0, "embedding": [1.0, 2.0]}]}
    entry = entry_of("embeddings", body, answer)
    with pytest.raises(BadRequest, match="is no text"):
        with_text(entry.generations, "new")
    check(entry, DIALECTS["embeddings"], entry.generations)


@pytest.mark.parametrize("name", ANSWERS)
def test_what_is_no_answer_of_the_dialect_is_refused(name: str) -> None:
    """Whatever it lacks, or says twice in different ways."""
    entry = entry_of(name, *ANSWERS[name])
    (good,) = entry.generations
    for bad in (
        [Generation("x")],
        [Generation("x", {"choice": {}, "envelope": {}})],
        [good, good],
        [replace(good, generation_info=None)],
    ):
        with pytest.raises(BadRequest, match=f"dialect {name}"):
            check(entry, DIALECTS[name], bad)


@pytest.mark.parametrize(
    ("name", "said", "where"),
    [
        ("chat", {"id": None}, "id"),
        ("chat", {"id": ["c"]}, "id"),
        ("chat", {"object": "another"}, "object"),
        ("messages", {"usage": {"input_tokens": "1", "output_tokens": 1}}, "usage.input_tokens"),
        ("responses", {"status": 5}, "status"),
    ],
)
def test_what_clients_could_not_read_is_refused(
    name: str, said: dict[str, Any], where: str
) -> None:
    """The words are right, and what is around them is no longer what it was."""
    entry = entry_of(name, *ANSWERS[name])
    (good,) = entry.generations
    assert good.generation_info is not None
    around = {**good.generation_info["envelope"], **said}
    bad = replace(good, generation_info={**good.generation_info, "envelope": around})
    with pytest.raises(BadRequest, match=rf"^{where}: |dialect {name}"):
        check(entry, DIALECTS[name], [bad])


def test_an_answer_may_become_a_call_of_a_tool() -> None:
    """And what a tool is given may have any shape."""
    use = {"type": "tool_use", "id": "t", "name": "f"}
    body = {**CHAT, "max_tokens": 9}
    before = entry_of("messages", body, anthropic({**use, "input": {"a": 1}}))
    after = entry_of("messages", body, anthropic({**use, "input": {"a": ["x"]}}))
    spoken = entry_of("messages", body, anthropic(TEXT))
    check(before, DIALECTS["messages"], after.generations)
    check(spoken, DIALECTS["messages"], after.generations)
