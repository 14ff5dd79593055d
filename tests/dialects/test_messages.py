"""`/v1/messages`: every vector recorded and told again, the key, what may not be kept."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import anthropic
import httpx2
import orjson
import pytest
from anthropic.types.beta import BetaMessage
from hypothesis import given
from hypothesis import strategies as st
from langchain_anthropic import ChatAnthropic
from pydantic import SecretStr

from cache_backends.base import ChatGeneration, Generation
from proxy import keys, sse
from proxy.dialects.messages import Messages
from proxy.dialects.pieces import PIECE_CHARS
from proxy.errors import UnknownPath, UnreadableRequest
from proxy.models import (
    NO_BILL,
    UNBOUNDED,
    AnswerFacts,
    Answers,
    Ask,
    Call,
    Head,
    Provider,
    Verdict,
)

VECTORS = {
    path.stem: json.loads(path.read_text())
    for path in sorted((Path(__file__).parent / "vectors" / "messages").glob("*.json"))
}
COMPLETE = [name for name, vector in VECTORS.items() if vector["body"] is not None]
CUTS = {"whole": 2**30, "in pieces": 7, "byte by byte": 1}

JSON_HEAD = Head(200, [(b"content-type", b"application/json")])
EVENT_HEAD = Head(200, [(b"content-type", b"text/event-stream; charset=utf-8")])
HELLO = [{"role": "user", "content": "Hello"}]

dialect = Messages()


def call_with(body: Any) -> Call:
    path = "/v1/messages"
    return Call(
        Provider("test", "http://test/v1"), path, "", f"http://test{path}", [], orjson.dumps(body)
    )


def read(body: Any) -> Ask:
    return dialect.read(call_with(body))


def ask_for(**fields: Any) -> Ask:
    return read({"model": "m", "max_tokens": 9, "messages": HELLO, **fields})


def key_of(**fields: Any) -> str:
    call = call_with({"model": "m", "max_tokens": 9, "messages": HELLO, **fields})
    return keys.question(call, dialect.read(call), Verdict(True, True)).id


def sent(vector: dict[str, Any]) -> tuple[Head, bytes]:
    """What the provider of a vector sends. A text is a line as it stands: a comment, mostly."""
    if "plain" in vector:
        return JSON_HEAD, orjson.dumps(vector["plain"])
    return EVENT_HEAD, b"".join(map(event, vector["stream"]))


def event(each: Any) -> bytes:
    if isinstance(each, str):
        return f"{each}\n\n".encode()
    return sse.encode_named([(str(each.get("type")).encode(), orjson.dumps(each))])


def record(ask: Ask, head: Head, raw: bytes, size: int = 2**30) -> Answers | None:
    recorder = dialect.recorder(ask, head, 1)
    for start in range(0, len(raw), size):
        recorder.feed(raw[start : start + size])
    return recorder.finish()


def recorded(name: str) -> tuple[Ask, Answers]:
    ask = read(VECTORS[name]["request"])
    answers = record(ask, *sent(VECTORS[name]))
    assert answers is not None
    return ask, answers


def answered(ask: Ask, *content: Any, **envelope: Any) -> Answers:
    """What is kept of a plain answer with this content."""
    answers = record(ask, JSON_HEAD, orjson.dumps(saying(*content, **envelope)))
    assert answers is not None
    return answers


def saying(*content: Any, **envelope: Any) -> dict[str, Any]:
    said = {"type": "message", "role": "assistant", "content": content}
    return {"id": "msg_1", **said, "stop_reason": "end_turn", **envelope}


def text(said: str, **fields: Any) -> dict[str, Any]:
    return {"type": "text", "text": said, **fields}


def plain(answers: Answers) -> Any:
    return orjson.loads(dialect.replay(ask_for(), answers))


def told(answers: Answers) -> bytes:
    return dialect.replay(ask_for(stream=True), answers)


def events(raw: bytes) -> list[Any]:
    return [orjson.loads(each) for each in sse.Decoder().feed(raw)]


def deltas(raw: bytes) -> list[Any]:
    return [each["delta"] for each in events(raw) if each["type"] == "content_block_delta"]


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"], ids=["LF", "CRLF"])
@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("name", VECTORS)
def test_an_answer_is_recorded_however_it_is_cut(name: str, cut: str, line_end: bytes) -> None:
    """What is stored is told as the vector says, and nothing is kept of what is not complete."""
    vector = VECTORS[name]
    head, raw = sent(vector)
    answers = record(read(vector["request"]), head, raw.replace(b"\n", line_end), CUTS[cut])
    if name not in COMPLETE:
        assert answers is None
        return
    assert answers is not None
    assert plain(answers) == vector["body"]


@pytest.mark.parametrize("name", COMPLETE)
def test_a_replayed_stream_rebuilds_to_the_answer(name: str) -> None:
    """Told as a stream and recorded again, an answer is the same answer."""
    ask, answers = recorded(name)
    again = record(ask, EVENT_HEAD, told(answers))
    assert again is not None
    assert plain(again) == VECTORS[name]["body"]
    assert again[0][0].text == answers[0][0].text
    if "stream" in VECTORS[name]:
        assert again == answers


@pytest.mark.parametrize("name", COMPLETE)
def test_what_is_stored_is_json(name: str) -> None:
    """Generations survive the way to a backend and back."""
    ask, answers = recorded(name)
    (only,) = answers[0]
    assert isinstance(only, ChatGeneration)
    info, message = orjson.loads(orjson.dumps([only.generation_info, only.message]))
    again: Answers = [[ChatGeneration(only.text, info, message=message)]]
    assert dialect.can_replay(ask, again)
    assert dialect.replay(ask, again) == dialect.replay(ask, answers)


STREAMED = [name for name in COMPLETE if "stream" in VECTORS[name]]
UNREADABLE = {"without_usage"}  # the client wants usage in the last event
# LangChain keeps what the first of two deltas said of the whole, adds up counts that are sums, or
# takes fields of the stream for fields of the message: there a replay is what was meant.
UNLIKE_LANGCHAIN = {
    "cumulative_usage",
    "llama_cpp",
    "thinking_estimated",
    "tool_use_at_the_start",
}


@pytest.mark.parametrize("name", [name for name in STREAMED if name not in UNREADABLE])
def test_clients_read_the_same_from_the_provider_and_from_a_replay(name: str) -> None:
    """Anthropic's stream helpers and LangChain come to the same message, in every field."""
    _, raw = sent(VECTORS[name])
    again = told(recorded(name)[1])
    assert final_message(again) == final_message(raw)
    assert final_beta_message(again) == final_beta_message(raw)
    if name not in UNLIKE_LANGCHAIN:
        assert final_chunk(again) == final_chunk(raw)


# What the client reads otherwise when it is streamed, whoever streams it.
UNLIKE_PLAIN = {"plain_odd", "plain_bare", "unknown_block"}


@pytest.mark.parametrize("name", [n for n in COMPLETE if n not in UNREADABLE | UNLIKE_PLAIN])
def test_clients_read_the_same_streamed_and_plain(name: str) -> None:
    """A plain answer that is told as a stream comes to the same message as in one piece."""
    body = VECTORS[name]["body"]
    answers = record(ask_for(), JSON_HEAD, orjson.dumps(body))
    assert answers is not None
    whole = BetaMessage.construct(**body).to_dict(exclude_none=True, warnings=False)
    assert final_beta_message(told(answers)) == whole


def answering(raw: bytes) -> anthropic.Anthropic:
    reply = httpx2.Response(200, content=raw, headers={"content-type": "text/event-stream"})
    http_client = httpx2.Client(transport=httpx2.MockTransport(lambda _: reply))
    return anthropic.Anthropic(api_key="k", base_url="http://test", http_client=http_client)


def final_message(raw: bytes) -> dict[str, Any]:
    with answering(raw) as client, client.messages.stream(**ASKED) as stream:
        return stream.get_final_message().to_dict(exclude_none=True, warnings=False)


def final_beta_message(raw: bytes) -> dict[str, Any]:
    with answering(raw) as client, client.beta.messages.stream(**ASKED) as stream:
        return stream.get_final_message().to_dict(exclude_none=True, warnings=False)


TOOLS = [{"name": "t", "input_schema": {"type": "object"}}]
ASKED: Any = {"model": "m", "max_tokens": 9, "messages": HELLO}


def final_chunk(raw: bytes) -> Any:
    chat = ChatAnthropic(
        model_name="claude-opus-4-7", api_key=SecretStr("k"), timeout=None, stop=None
    )
    with answering(raw) as client:
        chat.__dict__["_client"] = client
        chunks = list(chat.stream("Hello", tools=TOOLS, betas=["b"]))
    return sum(chunks[1:], chunks[0]).model_dump(exclude={"id"})  # its own, made of the run's


def test_the_generation_reads_like_a_chat() -> None:
    """Its text, the message as it came, what surrounds it, and how it was told."""
    _, answers = recorded("thinking")
    (only,), body = answers[0], VECTORS["thinking"]["body"]
    assert isinstance(only, ChatGeneration)
    assert only.text == "Why did"
    assert only.message == {"role": "assistant", "content": body["content"]}
    assert only.generation_info is not None
    assert only.generation_info["envelope"].keys() == body.keys() - {"role", "content"}
    assert only.generation_info["told"]["opening"]["usage"]["output_tokens"] == 1


def test_text_is_what_a_person_would_read() -> None:
    """Blocks of text are joined; thoughts and tools are none."""
    thought = {"type": "thinking", "thinking": "Hm", "text": "x"}
    content = [thought, text("a"), {"type": "tool_use", "input": {}}, text("b")]
    assert answered(ask_for(), *content)[0][0].text == "ab"
    assert answered(ask_for())[0][0].text == ""


def test_a_plain_answer_is_streamed_as_anthropic_streams() -> None:
    """Nothing said, a block begun, a ping, pieces of whole characters, counts, the end."""
    said = "🐔é" * PIECE_CHARS
    usage = {"input_tokens": 3, "output_tokens": 7, "service_tier": "standard"}
    first, *others = events(told(answered(ask_for(), text(said), stop_sequence=None, usage=usage)))
    assert first["message"] == {
        **saying(),
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {**usage, "output_tokens": 1},
    }
    pieces = [{"type": "text_delta", "text": said[at:][:PIECE_CHARS]} for at in (0, PIECE_CHARS)]
    assert others == [
        {"type": "content_block_start", "index": 0, "content_block": text("")},
        {"type": "ping"},
        *[{"type": "content_block_delta", "index": 0, "delta": piece} for piece in pieces],
        {"type": "content_block_stop", "index": 0},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn", "stop_sequence": None},
            "usage": {"input_tokens": 3, "output_tokens": 7},
        },
        {"type": "message_stop"},
    ]


def test_what_is_known_in_the_end_is_told_in_the_end() -> None:
    """Counts of the provider's tools, the container, what was left out of the context."""
    first, *_, last, _ = events(told(recorded("plain_server_tools")[1]))
    body = VECTORS["plain_server_tools"]["body"]
    late = {"server_tool_use": body["usage"]["server_tool_use"]}
    assert first["message"]["usage"].keys().isdisjoint(late)
    assert last["usage"].items() >= late.items()
    assert first["message"]["container"] is None
    assert last["delta"]["container"] == body["container"]
    assert "context_management" not in first["message"]
    assert last["context_management"] == body["context_management"]


@pytest.mark.parametrize("name", COMPLETE)
def test_each_event_is_named_as_its_data_says(name: str) -> None:
    """Clients go by the name."""
    lines = told(recorded(name)[1]).splitlines()
    names = [line[7:].decode() for line in lines if line.startswith(b"event: ")]
    assert names == [orjson.loads(line[6:])["type"] for line in lines if line.startswith(b"data: ")]


def test_a_tools_input_is_told_as_it_was_written() -> None:
    """LangChain keeps the text of it, and a number may be written in several ways."""
    _, answers = recorded("tool_use")
    written = [each["partial_json"] for each in deltas(told(answers))]
    pieces = [each["delta"]["partial_json"] for each in VECTORS["tool_use"]["stream"][2:-3]]
    assert "".join(written) == "".join(pieces)
    assert max(map(len, written)) == PIECE_CHARS
    plainly = answered(ask_for(), {"type": "tool_use", "input": {"a": ["é", 1.0]}})
    assert deltas(told(plainly))[1]["partial_json"] == '{"a": ["é", 1.0]}'


def test_a_tool_of_an_mcp_server_begins_with_its_input() -> None:
    """That is where clients look for it, unless the provider tells it in pieces."""
    tool = {**TOOL, "type": "mcp_tool_use", "input": {"n": 1}}
    begun = [each for each in events(told(answered(ask_for(), tool))) if "content_block" in each]
    assert begun == [begin(tool)]
    assert "".join(each.get("partial_json", "") for each in deltas(told(recorded("mcp")[1]))) == (
        '{"n": 2}'
    )


def test_citations_and_signatures_come_after_the_words() -> None:
    """Each citation in an event of its own, the signature whole."""
    _, answers = recorded("plain_all")
    kinds = [each["type"] for each in deltas(told(answers))]
    assert kinds[:6] == ["thinking_delta"] * 5 + ["signature_delta"]
    assert kinds[6:15] == ["text_delta"] * 4 + ["citations_delta"] * 5


def test_the_end_of_a_stream_is_seen() -> None:
    """After `message_stop` nothing but the end of the body is to come."""
    *before, last = map(event, VECTORS["text"]["stream"])
    recorder = dialect.recorder(ask_for(stream=True), EVENT_HEAD, 1)
    recorder.feed(b"".join(before))
    assert not recorder.ended
    recorder.feed(last)
    assert recorder.ended
    assert not dialect.recorder(ask_for(), JSON_HEAD, 1).ended


def test_the_reply_says_how_it_is_to_be_read() -> None:
    """Some servers stream unasked, others answer a streamed request in one piece."""
    assert record(ask_for(), *sent(VECTORS["text"])) is not None
    assert record(ask_for(stream=True), *sent(VECTORS["plain_text"])) is not None


START, BEGIN, PING, *PIECES, STOP, END, LAST = VECTORS["text"]["stream"]
TOOL = {"type": "tool_use", "id": "t", "name": "f", "input": {}}
THOUGHT = {"type": "thinking", "thinking": "", "signature": ""}


def begin(block: Any, index: Any = 0) -> dict[str, Any]:
    return {"type": "content_block_start", "index": index, "content_block": block}


def delta(kind: str, index: Any = 0, **said: Any) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": index, "delta": {"type": kind, **said}}


def within(block: Any, *deltas: dict[str, Any]) -> list[Any]:
    """A whole stream of one block."""
    return [START, begin(block), *deltas, STOP, END, LAST]


def opened_by(message: Any) -> list[Any]:
    return [{**START, "message": message}, END, LAST]


def ended_by(**said: Any) -> list[Any]:
    return [START, {**END, **said}, LAST]


CITED = delta("citations_delta", citation={})
HUGE = '{"a":18446744073709551616}'


@pytest.mark.parametrize(
    "stream",
    [
        [],
        [BEGIN, *PIECES, STOP, END, LAST],
        [START, START, BEGIN, *PIECES, STOP, END, LAST],
        [START, BEGIN, *PIECES, END, LAST],
        [START, BEGIN, *PIECES, STOP, STOP, END, LAST],
        [START, BEGIN, BEGIN, *PIECES, STOP, END, LAST],
        [START, BEGIN, STOP, BEGIN, STOP, END, LAST],
        [START, BEGIN, STOP, *PIECES, END, LAST],
        [START, *PIECES, END, LAST],
        [START, BEGIN, *PIECES, STOP, LAST],
        [START, BEGIN, *PIECES, STOP, END, LAST, END],
        [START, BEGIN, *PIECES, STOP, END, LAST, LAST],
        [START, BEGIN, *PIECES, STOP, END, "data: [DONE]"],
        [START, "data: {", BEGIN, *PIECES, STOP, END, LAST],
        [START, "data: 7", BEGIN, *PIECES, STOP, END, LAST],
        [START, BEGIN, {"type": "content_block_shuffle", "index": 0}, STOP, END, LAST],
        [START, begin(text(""), "0"), {**STOP, "index": "0"}, END, LAST],
        [START, begin(text("b"), 1), begin(text("a"), 0), {**STOP, "index": 1}, STOP, END, LAST],
        within("text"),
        within(text(""), delta("smell_delta", smell="x")),
        within(text(""), delta("text_delta", text="a", logprob=-1)),
        within(text(""), delta("text_delta", text=None)),
        within(text(""), delta("text_delta")),
        within(text(""), delta("text_delta", 1, text="a")),
        within(text(""), delta("text_delta", False, text="a")),
        within(text(""), delta("thinking_delta", thinking="a")),
        within(text(""), delta("signature_delta", signature="a")),
        within(text(""), delta("input_json_delta", partial_json="{}")),
        within(text(""), delta("compaction_delta", content="a")),
        within(text(""), delta("citations_delta", citation="a")),
        within(text("", citations={"a": 1}), CITED),
        within({"type": "text", "text": 7}, *PIECES),
        within(TOOL, *PIECES),
        within(TOOL, CITED),
        within(TOOL, delta("input_json_delta", partial_json='{"a":')),
        within(TOOL, delta("input_json_delta", partial_json=HUGE)),
        within({**TOOL, "input": {"a": 1}}, delta("input_json_delta", partial_json="{}")),
        within(THOUGHT, *(delta("signature_delta", signature=each) for each in "ab")),
        within(THOUGHT, delta("signature_delta", signature=7)),
        opened_by(None),
        opened_by({**START["message"], "content": [text("a")]}),
        opened_by({**START["message"], "type": "hello"}),
        ended_by(delta={"stop_reason": None}),
        ended_by(delta={"stop_reason": 7}),
        ended_by(delta={"stop_reason": ""}),
        ended_by(delta="end_turn"),
        ended_by(usage=7),
    ],
    ids=str,
)
def test_what_contradicts_itself_is_not_kept(stream: list[Any]) -> None:
    """Nor what is not known: nobody can say what a plain answer would be."""
    assert record(ask_for(stream=True), EVENT_HEAD, b"".join(map(event, stream))) is None


@pytest.mark.parametrize("depth", [300, 990, 2000])
def test_an_input_too_deep_to_be_told_is_not_kept(depth: int) -> None:
    """It passes, and that is all."""
    deep = '{"a":' * depth + "1" + "}" * depth
    stream = within(TOOL, delta("input_json_delta", partial_json=deep))
    assert record(ask_for(), EVENT_HEAD, b"".join(map(event, stream))) is None


ENVELOPE = {"stop_reason": "end_turn"}
STRANGERS: list[tuple[Any, Any]] = [
    ([], {"content": []}),
    ({"envelope": ENVELOPE}, []),
    (None, {"content": []}),
    ({}, {"content": []}),
    ({"envelope": []}, {"content": []}),
    ({"envelope": {}}, {"content": []}),
    ({"envelope": {"stop_reason": 1}}, {"content": []}),
    ({"envelope": ENVELOPE}, {}),
    ({"envelope": ENVELOPE}, {"content": "x"}),
    ({"envelope": ENVELOPE}, {"content": ["x"]}),
    ({"envelope": ENVELOPE}, {"content": [], "type": "x"}),
    ({"envelope": ENVELOPE, "told": None}, {"content": []}),
    ({"envelope": ENVELOPE, "told": {}}, {"content": []}),
    ({"envelope": ENVELOPE, "told": {"opening": {}, "ending": [], "inputs": {}}}, {"content": []}),
]


@pytest.mark.parametrize(("info", "message"), STRANGERS)
def test_a_stored_stranger_is_not_replayed(info: Any, message: Any) -> None:
    """Rows that another program wrote are recognised before they are told."""
    assert not dialect.can_replay(ask_for(), [[ChatGeneration("", info, message=message)]])


def test_a_message_is_one_generation() -> None:
    """Of a chat, and no more than one."""
    good = ChatGeneration("", {"envelope": ENVELOPE}, message={"content": []})
    assert dialect.can_replay(ask_for(), [[good]])
    assert not dialect.can_replay(ask_for(), [[good, good]])
    assert not dialect.can_replay(ask_for(), [[]])
    assert not dialect.can_replay(ask_for(), [[Generation("", {"envelope": ENVELOPE})]])


def test_what_names_the_caller_is_not_told_to_another() -> None:
    """Nobody answers with `metadata`; who does is not replayed."""
    assert not dialect.can_replay(ask_for(), answered(ask_for(), metadata={"user_id": "ann"}))


SERVER = "server_tool_use"


@pytest.mark.parametrize(
    ("name", "facts"),
    [
        ("text", AnswerFacts(("end_turn",), input_tokens=25, output_tokens=15)),
        ("cumulative_usage", AnswerFacts(("end_turn",), input_tokens=37, output_tokens=15)),
        ("tool_use", AnswerFacts(("tool_use",), True, input_tokens=25, output_tokens=15)),
        (
            "web_search",
            AnswerFacts(
                ("end_turn",), acted="server_tool_use", input_tokens=9021, output_tokens=70
            ),
        ),
        ("refusal", AnswerFacts(("refusal",), input_tokens=25, output_tokens=15)),
        (
            "pause_turn",
            AnswerFacts(
                ("pause_turn",), acted="server_tool_use", input_tokens=25, output_tokens=15
            ),
        ),
        ("without_usage", AnswerFacts(("end_turn",))),
        ("plain_odd", AnswerFacts(("end_turn",), True, acted=SERVER)),
    ],
)
def test_facts_tell_reasons_and_tokens(name: str, facts: AnswerFacts) -> None:
    """All that the model read counts, also what the provider's cache knew of it."""
    assert dialect.facts(*recorded(name))._replace(bill=NO_BILL) == facts


def test_facts_tell_what_is_priced_apart() -> None:
    """What the provider's cache knew, what was put there and for how long."""
    usage = {
        "input_tokens": 10,
        "cache_read_input_tokens": 60,
        "cache_creation_input_tokens": 30,
        "cache_creation": {"ephemeral_5m_input_tokens": 20, "ephemeral_1h_input_tokens": 10},
        "output_tokens": 5,
        "service_tier": "standard",
    }
    facts = dialect.facts(ask_for(), answered(ask_for(), usage=usage))
    assert facts.input_tokens == 100
    assert facts.bill[1:5] == ("standard", 60, 30, 10)


FORMAT = {"type": "json_schema", "schema": {}}
JSON_WISH = {"output_config": {"format": FORMAT}}


@pytest.mark.parametrize(
    ("request_fields", "content", "reason", "broken"),
    [
        (JSON_WISH, [text('{"a": 1}')], "end_turn", ""),
        (JSON_WISH, [THOUGHT, text('{"a":')], "end_turn", "content[1].text"),
        (JSON_WISH, [THOUGHT], "end_turn", "content"),
        (JSON_WISH, [text('{"a":')], "max_tokens", ""),
        (JSON_WISH, [text("I look."), TOOL], "tool_use", ""),
        ({"output_format": FORMAT}, [text("")], "end_turn", "content[0].text"),
        ({"output_config": {"format": None, "effort": "low"}}, [text("Hi")], "end_turn", ""),
        ({"output_config": []}, [text("Hi")], "end_turn", ""),
        ({}, [text("Hi")], "end_turn", ""),
    ],
)
def test_facts_name_json_that_does_not_parse(
    request_fields: dict[str, Any], content: list[Any], reason: str, broken: str
) -> None:
    """By its place; what was cut at the limit that was asked for is not judged."""
    ask = ask_for(**request_fields)
    assert dialect.facts(ask, answered(ask, *content, stop_reason=reason)).broken_json == broken


def test_an_error_is_told_as_anthropic_tells_it() -> None:
    """Its client shows the message of the proxy."""
    raw = dialect.error(UnknownPath("Nothing is there."))
    reply = httpx2.Response(404, content=raw, headers={"content-type": "application/json"})
    http_client = httpx2.Client(transport=httpx2.MockTransport(lambda _: reply))
    with (
        anthropic.Anthropic(api_key="k", http_client=http_client, max_retries=0) as client,
        pytest.raises(anthropic.NotFoundError, match="Nothing is there"),
    ):
        client.messages.create(**ASKED)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"container": "c"}, "container"),
        ({"container": {"id": "c"}}, "container"),
        ({"mcp_servers": [{"type": "url"}]}, "mcp_servers"),
        ({"thread": {"type": "create"}}, "thread"),
        ({"diagnostics": {"previous_message_id": None}}, "diagnostics"),
        ({"fallback_credit_token": "t"}, "fallback_credit_token"),
        ({"max_tokens": 0}, "max_tokens is 0"),
        (
            {"tools": [{"type": "custom", "name": "f"}, {"type": "web_search_20260318"}]},
            "tool web_search",
        ),
        ({"tools": [{"type": "web_fetch_20250910"}]}, "tool web_fetch"),
        ({"tools": [{"type": "code_execution_20260521"}]}, "tool code_execution"),
        ({"tools": [{"type": "mcp_toolset"}]}, "tool mcp_toolset"),
        ({"tools": [{"type": "advisor_20260301"}]}, "tool advisor"),
        ({"tools": [{"type": "openrouter:web_search"}]}, "a tool of the provider's"),
        ({"tools": [{"type": "web_search_by_ann"}]}, "a tool of the provider's"),
        ({"tools": [{"type": "custom_search"}]}, "a tool of the provider's"),
        ({"tools": [{"type": "bash_code_execution_20260101"}]}, "a tool of the provider's"),
    ],
)
def test_what_acts_or_looks_elsewhere_is_not_cached(fields: dict[str, Any], reason: str) -> None:
    """The reason is one of few: it is counted under."""
    assert ask_for(**fields).bounds.uncached == reason


@pytest.mark.parametrize(
    ("block", "reason"),
    [
        (
            {"tool": {"type": "tool_definition", "definition": {"type": "web_fetch_20250910"}}},
            "tool web_fetch",
        ),
        ({"tool": {"type": "mcp_toolset_reference", "server_name": "s"}}, "tool mcp_toolset"),
        ({"tool": {"type": "tool_definition", "definition": {"name": "f"}}}, ""),
        ({"tool": {"type": "tool_reference", "name": "f"}}, ""),
        ({"tool": None}, ""),
    ],
)
def test_tools_that_are_added_on_the_way_are_seen(block: dict[str, Any], reason: str) -> None:
    """In a message, in a summary of messages, in what a tool brought."""
    added = {"type": "tool_addition", **block}
    summary = {"type": "compaction", "tool_changes": [None, added]}
    for content in ([added], [summary], [{"type": "tool_result", "content": [added]}]):
        assert ask_for(messages=[{"role": "system", "content": content}]).bounds.uncached == reason


@pytest.mark.parametrize(
    ("block", "account"),
    [
        ({"type": "thinking", "thinking": "", "signature": "s"}, "thinking"),
        ({"type": "redacted_thinking", "data": "x"}, "redacted_thinking"),
        ({"type": "compaction", "content": "x"}, "compaction"),
        ({"type": "image", "source": {"type": "file", "file_id": "f"}}, "file_id"),
        ({"type": "container_upload", "file_id": "f"}, "file_id"),
        ({"type": "image", "source": {"type": "url", "url": "u"}}, ""),
        (TOOL, ""),
    ],
)
def test_what_belongs_to_an_account_binds_the_answer_to_it(block: Any, account: str) -> None:
    """Thoughts that are given back, and files: another account would be answered otherwise."""
    document = {"type": "document", "source": {"type": "content", "content": [block]}}
    for content in ([block], [{"type": "tool_result", "content": [text("a"), document]}]):
        bounds = ask_for(messages=[{"role": "user", "content": content}]).bounds
        assert (bounds.uncached, bounds.account) == ("", account)


def test_tools_of_the_callers_are_cached() -> None:
    """Those that it runs itself, and the search among them."""
    kinds = ["custom", "bash_20250124", "text_editor_20250728", "computer_20251124"]
    kinds += ["computer_toolset_20260801", "browser_toolset_20260801", "memory_20250818"]
    kinds += ["tool_search_tool_regex", "tool_search_tool_bm25_20251119"]
    tools = [{"name": "f"}, {"type": None, "name": "g"}, *[{"type": kind} for kind in kinds]]
    fields: dict[str, Any] = {
        "container": None,
        "mcp_servers": [],
        "diagnostics": None,
        "thread": None,
    }
    assert ask_for(tools=tools, **fields).bounds is UNBOUNDED


SAME: list[dict[str, Any]] = [
    {"stream": True},
    {"stream": False},
    {"metadata": {"user_id": "ann"}},
    {"service_tier": "standard_only"},
    {"cache_control": {"type": "ephemeral", "ttl": "1h"}},
    {"stop_sequences": [], "mcp_servers": []},
    {"container": None, "diagnostics": None, "thread": None, "speed": None, "inference_geo": None},
    {"context_management": None, "compaction": None, "fallbacks": None, "billing_policy": None},
]
OTHER: list[dict[str, Any]] = [
    {"model": "other"},
    {"max_tokens": 9.5},
    {"temperature": 1},
    {"temperature": None},
    {"speed": "fast"},
    {"inference_geo": "us"},
    {"thinking": {"type": "disabled"}},
    {"output_config": {"effort": "low"}},
    {"fallbacks": "default"},
    {"billing_policy": {"type": "billing_policy"}},
    {"tools": None},
    {"tools": []},
    {"system": ""},
    {"system": []},
    {"system": None},
    {"unheard_of": None},
    {"messages": []},
    {"messages": [{"role": "user", "content": [text("Hello")]}]},
    {"messages": [{"role": "user", "content": "Hello", "name": None}]},
    {"messages": [*HELLO, *HELLO]},
]


@pytest.mark.parametrize("fields", SAME, ids=json.dumps)
def test_what_cannot_change_the_answer_is_not_in_the_key(fields: dict[str, Any]) -> None:
    """Ignored and neutral fields lead to the same entry."""
    assert key_of(**fields) == key_of()


@pytest.mark.parametrize("fields", OTHER, ids=json.dumps)
def test_what_can_change_the_answer_is_in_the_key(fields: dict[str, Any]) -> None:
    """All else leads to an entry of its own."""
    assert key_of(**fields) != key_of()


def test_the_order_of_names_says_nothing_where_they_are_known() -> None:
    """In messages and blocks; in what a tool takes or is given, order is kept."""
    ordered = {"role": "user", "content": [text("Hello", citations={"a": 1, "b": 2})]}
    other = {"content": [{"citations": {"b": 2, "a": 1}, **text("Hello")}], "role": "user"}
    assert key_of(messages=[ordered]) == key_of(messages=[other])
    given = [
        [{"role": "assistant", "content": [{**TOOL, "input": each}]}]
        for each in ({"a": 1, "b": 2}, {"b": 2, "a": 1})
    ]
    assert key_of(messages=given[0]) != key_of(messages=given[1])
    tools = [[{"name": "f", "input_schema": {}}], [{"input_schema": {}, "name": "f"}]]
    assert key_of(tools=tools[0]) != key_of(tools=tools[1])


MARK = {"cache_control": {"type": "ephemeral"}}
IMAGE = {"type": "image", "source": {"type": "base64", "data": "x"}}


def with_marks(mark: dict[str, Any]) -> dict[str, Any]:
    """A request with a mark wherever one can stand."""
    inner = [text("a", **mark), {**IMAGE, **mark}, {"type": "tool_reference", **mark}]
    document = {"type": "document", "source": {"type": "content", "content": inner}, **mark}
    found = {"type": "search_result", "source": "s", "title": "t", "content": inner, **mark}
    fetched = {"type": "web_fetch_result", "url": "u", "content": document}
    references = {"type": "tool_search_tool_search_result", "tool_references": inner}
    content = [
        text("Hello", **mark),
        {**IMAGE, **mark},
        {**TOOL, **mark},
        document,
        found,
        {"type": "tool_result", "content": [*inner, document, found], **mark},
        {"type": "web_fetch_tool_result", "content": fetched, **mark},
        {"type": "tool_search_tool_result", "content": references, **mark},
    ]
    return {
        "system": [text("Be short.", **mark)],
        "messages": [{"role": "user", "content": content}],
        "tools": [{"name": "f", "input_schema": {}, **mark}, {"name": "g", **mark}, {"name": "h"}],
        **mark,
    }


def test_cache_marks_are_not_in_the_key() -> None:
    """Wherever they stand; what is ignored is named, and the request keeps them."""
    marked = ask_for(**with_marks(MARK))
    assert key_of(**with_marks(MARK)) == key_of(**with_marks({}))
    paths = {path for path, _ in marked.ignored}
    assert {"cache_control", "system.*.cache_control", "tools.*.cache_control"} <= paths
    assert "messages.*.content.*.source.content.*.cache_control" in paths
    assert b"cache_control" not in orjson.dumps([marked.parts, marked.parameters])
    assert marked.body["tools"][0] == {"name": "f", "input_schema": {}, **MARK}
    assert dialect.request(marked) is marked.raw


def test_a_property_may_have_the_name_of_a_mark() -> None:
    """What a tool takes, and what it was given, is the caller's own."""
    schema = {"type": "object", "properties": MARK}
    given = [{"role": "assistant", "content": [{**TOOL, "input": MARK}]}]
    plain_given = [{"role": "assistant", "content": [TOOL]}]
    assert key_of(messages=given) != key_of(messages=plain_given)
    tools = [{"name": "f", "input_schema": schema, **MARK}]
    assert key_of(tools=tools) == key_of(tools=[{"name": "f", "input_schema": schema}])
    assert key_of(tools=tools) != key_of(tools=[{"name": "f", "input_schema": {"type": "object"}}])


def test_versions_and_betas_are_in_the_key() -> None:
    """They change what comes back."""
    call, ids = call_with(ASKED), set()
    for header in (b"accept", b"anthropic-version", b"anthropic-beta"):
        its = replace(call, headers=[(header, b"x")])
        ids.add(keys.question(its, dialect.read(its), Verdict(True, True)).id)
    assert len(ids) == 3


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"messages": None}, "messages: expected a list, got null."),
        ({"messages": "Hello"}, "messages: expected a list, got text."),
        ({"messages": [{}, {}, 7]}, "messages[2]: expected an object, got a number."),
        (
            {"messages": [{"content": 7}]},
            "messages[0].content: expected text or a list of blocks, got a number.",
        ),
        (
            {"messages": [{"content": ["a", None]}]},
            "messages[0].content[1]: expected an object, got null.",
        ),
        ({"system": {}}, "system: expected text or a list of blocks, got an object."),
        ({"system": [7]}, "system[0]: expected an object, got a number."),
        ({"stream": "yes"}, "stream: expected true or false, got text."),
    ],
)
def test_what_no_provider_takes_is_refused(fields: dict[str, Any], message: str) -> None:
    """The message names the place and what was expected."""
    with pytest.raises(UnreadableRequest) as refused:
        ask_for(**fields)
    assert str(refused.value) == message


@pytest.mark.parametrize("path", ["messages", "system", "tools", "unheard_of"])
def test_what_is_nested_too_deeply_is_refused(path: str) -> None:
    """Wherever it stands; deeper than any JSON parser reads is refused by the parser."""
    for depth in (300, 900, 5000):
        deep = b'{"a":' * depth + b"1" + b"}" * depth
        its = replace(call_with({}), body=b'{"%b":[%b]}' % (path.encode(), deep))
        with pytest.raises(UnreadableRequest):
            keys.question(its, dialect.read(its), Verdict(True, True))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats(-2, 2) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=8,
)


def odd(*names: str, **known: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Objects with any of these fields, which hold anything, or what is known of them, or both."""
    fields = dict.fromkeys(names, json_values)
    fields |= {name: strategy | json_values for name, strategy in known.items()}
    return st.fixed_dictionaries({}, optional=fields)


kinds = st.sampled_from(
    ["text", "thinking", "tool_use", "x_tool_use", "compaction", "redacted_thinking", "new"]
)
long_texts = st.text(max_size=60)
blocks = odd(
    "signature",
    "encrypted_content",
    "unheard of",
    type=kinds,
    text=long_texts,
    thinking=long_texts,
    content=st.lists(json_values, max_size=2),
    input=st.dictionaries(long_texts, json_values, max_size=3),
    citations=st.lists(odd("type", "cited_text"), max_size=3),
    cache_control=st.none(),
    tool_changes=st.lists(odd("type", tool=odd("type", definition=odd("type")))),
)
typed_blocks = st.builds(lambda kind, rest: {**rest, "type": kind}, kinds, blocks)
usages = odd("input_tokens", "output_tokens", "server_tool_use", "cost", "iterations")
envelopes = odd(
    "id", "model", "role", "stop_sequence", "stop_details", "container", "context_management",
    "delta", "x", "input_transformations", usage=usages,
)  # fmt: skip


@given(
    odd(
        "stream", "container", "max_tokens", "output_config", "cache_control",
        system=st.lists(blocks),
        messages=st.lists(odd("role", content=st.lists(blocks))),
        tools=st.lists(odd("type", "name", cache_control=json_values)),
    )
    | json_values
)  # fmt: skip
def test_any_json_is_read_or_refused(body: Any) -> None:
    """No request leads to a traceback."""
    call = call_with(body)
    try:
        ask = dialect.read(call)
        keys.question(call, ask, Verdict(True, True))
    except UnreadableRequest:
        return
    assert record(ask, JSON_HEAD, b"{}") is None
    assert record(ask, EVENT_HEAD, b"") is None


@given(st.lists(blocks | typed_blocks, max_size=4), envelopes)
def test_any_answer_rebuilds_from_its_own_stream(
    content: list[dict[str, Any]], envelope: dict[str, Any]
) -> None:
    """Texts cut anywhere, odd and unknown fields and missing usage all come back."""
    body = {"type": "message", "stop_reason": "end_turn", **envelope, "content": content}
    answers = record(ask_for(), JSON_HEAD, orjson.dumps(body))
    assert answers is not None
    assert dialect.can_replay(ask_for(), answers)
    assert plain(answers) == body
    assert dialect.facts(ask_for(**JSON_WISH), answers).finish_reasons == ("end_turn",)
    again = record(ask_for(), EVENT_HEAD, told(answers))
    assert again is not None
    assert plain(again) == body


odd_deltas = odd(
    "citation",
    "signature",
    "content",
    "new",
    type=st.sampled_from(
        ["text_delta", "thinking_delta", "input_json_delta", "signature_delta", "citations_delta"]
    ),
    text=long_texts,
    thinking=long_texts,
    partial_json=st.sampled_from(["", "{", "}", "{}", '{"a": 1.50}', "[1e3]", "7", "{} "]),
)
told_blocks = st.tuples(typed_blocks, st.lists(odd_deltas, max_size=2))


def stream_of(
    opening: Any, content: list[tuple[Any, list[Any]]], endings: list[Any]
) -> Iterator[Any]:
    yield {"type": "message_start", "message": opening}
    for index, (block, its) in enumerate(content):
        yield begin(block, index)
        for each in its:
            yield {"type": "content_block_delta", "index": index, "delta": each}
        yield {"type": "content_block_stop", "index": index}
    for ending in endings:
        yield {"type": "message_delta", **ending}
    yield {"type": "message_stop"}


endings = st.lists(
    odd("content", "x", delta=odd("stop_sequence", "type", stop_reason=st.just("x")), usage=usages)
)


@given(envelopes, st.lists(told_blocks, max_size=3), endings)
def test_any_stream_is_recorded_or_not_kept(
    opening: Any, content: list[tuple[Any, list[Any]]], ends: list[Any]
) -> None:
    """Whatever a provider sends, recording it raises nothing, and what is kept can be told."""
    raw = b"".join(map(event, stream_of({**opening, "stop_reason": "end_turn"}, content, ends)))
    answers = record(ask_for(), EVENT_HEAD, raw)
    if answers is not None and dialect.can_replay(ask_for(), answers):
        assert dialect.facts(ask_for(**JSON_WISH), answers).finish_reasons
        again = record(ask_for(), EVENT_HEAD, told(answers))
        assert again is not None
        assert plain(again) == plain(answers)


odd_events = odd(
    "message",
    type=st.sampled_from(["message_start", "content_block_start", "content_block_delta"])
    | st.sampled_from(["content_block_stop", "message_delta", "message_stop", "ping", "error"]),
    index=st.just(0),
    content_block=blocks,
    delta=odd_deltas,
    usage=usages,
)


@given(st.lists(odd_events | json_values, max_size=6), st.integers(0, 6))
def test_anything_may_stand_in_a_stream(strangers: list[Any], at: int) -> None:
    """It raises nothing."""
    stream = VECTORS["text"]["stream"]
    raw = sse.encode(orjson.dumps(each) for each in [*stream[:at], *strangers, *stream[at:]])
    answers = record(ask_for(), EVENT_HEAD, raw)
    assert answers is None or dialect.replay(ask_for(stream=True), answers)
