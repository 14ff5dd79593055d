"""Messages under attack: what must not take long, and a client that never asks the same."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from proxy import keys
from proxy.dialects.messages import Messages
from proxy.dialects.messages_merge import Merge
from proxy.models import Call, Head, Provider, Verdict

PLAIN = Head(200, [(b"content-type", b"application/json")])

dialect = Messages()

CLAUDE_CODE = "x-anthropic-billing-header: cc_version=2.1.37.0d9; cc_entrypoint=cli; cch=%s;"
MESSAGES = [{"role": "user", "content": "Hello"}]


def call_with(**fields: Any) -> Call:
    body = orjson.dumps({"model": "m", "max_tokens": 9, "messages": MESSAGES, **fields})
    url = "http://test/v1/messages"
    return Call(Provider("test", "http://test/v1"), "/v1/messages", "", url, [], body)


def key_of(**fields: Any) -> str:
    call = call_with(**fields)
    return keys.question(call, dialect.read(call), Verdict(True, True)).id


def block(text: Any) -> dict[str, Any]:
    return {"type": "text", "text": text}


def test_claude_code_may_ask_again_in_another_session() -> None:
    """Its first block holds a digest of the request, and so of the session in `metadata`."""
    one, other = [
        [block(CLAUDE_CODE % digest), block("Be brief.")] for digest in ("fa690", "0aaa9")
    ]
    assert key_of(system=one) == key_of(system=other)
    assert key_of(system=CLAUDE_CODE % "fa690\nx") == key_of(system=CLAUDE_CODE % "0aaa9\nx")
    ask = dialect.read(call := call_with(system=one))
    assert any("cch" in each.path for each in ask.ignored)
    assert dialect.request(ask) == call.body


def test_another_session_of_openrouters_finds_the_same() -> None:
    """It groups requests; an answer that tells it is told to nobody else."""
    assert key_of(session_id="one") == key_of(session_id="other") == key_of()
    recorder = dialect.recorder(ask := dialect.read(call_with(session_id="one")), PLAIN, 1)
    told = {"content": [block("Hi")], "stop_reason": "end_turn", "session_id": "one"}
    recorder.feed(orjson.dumps(told))
    assert (answers := recorder.finish()) is not None
    assert not dialect.can_replay(ask, answers)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ([block(CLAUDE_CODE % "fa690")], [block(CLAUDE_CODE.replace("cli", "sdk") % "fa690")]),
        ([block(CLAUDE_CODE % "fa690 Yes")], [block(CLAUDE_CODE % "fa690 No")]),
        ([block("x"), block(CLAUDE_CODE % "a")], [block("x"), block(CLAUDE_CODE % "b")]),
        ([block("Say cch=fa690;")], [block("Say cch=0aaa9;")]),
        ("x-anthropic-billing-header:\ncch=a", "x-anthropic-billing-header:\ncch=b"),
        ([block(None)], [block(7)]),
        ([], [block("")]),
    ],
)
def test_only_that_digest_is_not_in_the_key(one: Any, other: Any) -> None:
    """What else is said in its line, and the same words elsewhere, are the caller's own."""
    assert key_of(system=one) != key_of(system=other)


def test_many_citations_are_taken_in_one_by_one() -> None:
    """Not all again with each: fifty thousand took seconds."""

    class Untouched(list[Any]):
        def __iter__(self) -> Any:
            raise AssertionError("copied")

    merge = Merge()
    merge.add({"type": "message_start", "message": {}})
    begun = {**block("x"), "citations": Untouched([{"cited_text": "a"}])}
    merge.add({"type": "content_block_start", "index": 0, "content_block": begun})
    delta = {"type": "citations_delta", "citation": {"cited_text": "b"}}
    merge.add({"type": "content_block_delta", "index": 0, "delta": delta})
    (told,) = merge.body()["content"]
    assert [told["citations"][place]["cited_text"] for place in (0, 1)] == ["a", "b"]


def test_many_ends_are_laid_over_each_other_in_place() -> None:
    """What was told before is not copied with each: thirty thousand took seconds."""
    merge = Merge()
    merge.add({"type": "message_start", "message": {"usage": {"output_tokens": 1}}})
    merge.add({"type": "message_delta", "delta": {"a": 1}, "usage": {"output_tokens": 2}})
    before = merge.told()["ending"]
    merge.add(
        {"type": "message_delta", "delta": {"a": None, "b": 2}, "usage": {"output_tokens": 3}}
    )
    assert merge.told()["ending"] is before
    assert merge.body() == {"usage": {"output_tokens": 3}, "a": 1, "b": 2, "content": []}
