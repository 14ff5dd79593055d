"""`/chat/completions`: every vector recorded and told again, the key, what policy learns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx2
import openai
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion

from cache_backends.base import ChatGeneration, Generation
from proxy import keys, sse
from proxy.dialects.chat import Chat
from proxy.dialects.pieces import PIECE_CHARS
from proxy.errors import UnreadableRequest
from proxy.models import Answers, Ask, Call, Head, Provider, Verdict

VECTORS = {
    path.stem: json.loads(path.read_text())
    for path in sorted((Path(__file__).parent / "vectors" / "chat").glob("*.json"))
}
COMPLETE = [name for name, vector in VECTORS.items() if vector["body"] is not None]
CUTS = {"whole": 2**30, "in pieces": 7, "byte by byte": 1}

JSON_HEAD = Head(200, [(b"content-type", b"application/json")])
EVENT_HEAD = Head(200, [(b"content-type", b"text/event-stream; charset=utf-8")])
HELLO = [{"role": "user", "content": "Hello"}]

dialect = Chat()


def call_with(body: Any, *, include_usage: bool = True) -> Call:
    provider = Provider("test", "http://test/v1", include_usage=include_usage)
    path = "/v1/chat/completions"
    return Call(provider, path, "", f"http://test{path}", [], orjson.dumps(body))


def read(body: Any, **options: Any) -> Ask:
    return dialect.read(call_with(body, **options))


def ask_for(**fields: Any) -> Ask:
    return read({"model": "m", "messages": HELLO, **fields})


def key_of(body: Any) -> str:
    call = call_with(body)
    return keys.question(call, dialect.read(call), Verdict(True, True)).id


def plainly(ask: Ask) -> Ask:
    """The same, asked for in one piece."""
    telling = ("stream", "stream_options")
    return read({name: value for name, value in ask.body.items() if name not in telling})


def streamed(ask: Ask, *, with_usage: bool) -> Ask:
    options = {"stream": True, "stream_options": {"include_usage": with_usage}}
    return read({**ask.body, **options})


def sent(vector: dict[str, Any]) -> tuple[Head, bytes]:
    """What the provider of a vector sends. A text that begins with a colon is a comment."""
    if "plain" in vector:
        return JSON_HEAD, orjson.dumps(vector["plain"])
    raw = b""
    for each in vector["stream"]:
        if isinstance(each, str) and each.startswith(":"):
            raw += f"{each}\n\n".encode()
        else:
            raw += sse.encode([each.encode() if isinstance(each, str) else orjson.dumps(each)])
    return EVENT_HEAD, raw


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


def answered(ask: Ask, *choices: dict[str, Any], **envelope: Any) -> Answers:
    """What is kept of a plain answer with these choices."""
    body = {"id": "1", "object": "chat.completion", "choices": choices, **envelope}
    answers = record(ask, JSON_HEAD, orjson.dumps(body))
    assert answers is not None
    return answers


def saying(content: Any, index: int = 0, **fields: Any) -> dict[str, Any]:
    """A choice that came to its end."""
    message = {"role": "assistant", "content": content, **fields}
    return {"index": index, "message": message, "finish_reason": "stop"}


def plain(ask: Ask, answers: Answers) -> Any:
    return orjson.loads(dialect.replay(plainly(ask), answers))


def chunks(raw: bytes) -> list[Any]:
    return [orjson.loads(event) for event in sse.Decoder().feed(raw) if event != b"[DONE]"]


def deltas(raw: bytes) -> list[Any]:
    return [choice["delta"] for chunk in chunks(raw) for choice in chunk["choices"]]


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"], ids=["LF", "CRLF"])
@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("name", VECTORS)
def test_an_answer_is_recorded_however_it_is_cut(name: str, cut: str, line_end: bytes) -> None:
    """What is stored is told as the vector says, and nothing is kept of what is not complete."""
    vector = VECTORS[name]
    ask = read(vector["request"])
    head, raw = sent(vector)
    answers = record(ask, head, raw.replace(b"\n", line_end), CUTS[cut])
    if name not in COMPLETE:
        assert answers is None
        return
    assert answers is not None
    assert plain(ask, answers) == vector["body"]


@pytest.mark.parametrize("name", COMPLETE)
def test_a_replayed_stream_rebuilds_to_the_answer(name: str) -> None:
    """Told as a stream and recorded again, an answer is the same answer."""
    ask, answers = recorded(name)
    told = dialect.replay(streamed(ask, with_usage=True), answers)
    again = record(ask, EVENT_HEAD, told)
    assert again is not None
    assert plain(ask, again) == VECTORS[name]["body"]
    assert [each.text for each in again[0]] == [each.text for each in answers[0]]


@pytest.mark.parametrize("name", COMPLETE)
def test_what_is_stored_is_json(name: str) -> None:
    """Generations survive the way to a backend and back."""
    ask, answers = recorded(name)
    again = [
        ChatGeneration(
            each.text,
            orjson.loads(orjson.dumps(each.generation_info)),
            message=orjson.loads(orjson.dumps(each.message)),
        )
        for each in answers[0]
        if isinstance(each, ChatGeneration)
    ]
    assert dialect.replay(ask, [[*again]]) == dialect.replay(ask, answers)


# The client knows text only as content.
UNKNOWN_TO_OPENAI = {"content_parts", "plain_content_parts"}


@pytest.mark.parametrize("name", [name for name in COMPLETE if name not in UNKNOWN_TO_OPENAI])
def test_the_openai_client_reads_the_same_from_both(name: str) -> None:
    """Its stream helper comes to the completion that its plain call gives."""
    ask, answers = recorded(name)
    whole = ChatCompletion.construct(**plain(ask, answers))
    told = dialect.replay(streamed(ask, with_usage=True), answers)
    transport = httpx2.MockTransport(
        lambda _: httpx2.Response(200, content=told, headers={"content-type": "text/event-stream"})
    )
    with (
        openai.OpenAI(
            api_key="k", base_url="http://test/v1", http_client=httpx2.Client(transport=transport)
        ) as client,
        client.chat.completions.stream(model="m", messages=[]) as stream,
    ):
        for _ in stream:
            pass
        final = stream.current_completion_snapshot
    assert texts_of(final) == texts_of(whole)
    assert final.usage == whole.usage


def texts_of(completion: ChatCompletion) -> list[Any]:
    """What a program takes from a completion."""
    return [
        (
            choice.finish_reason,
            choice.message.role,
            choice.message.content or "",
            choice.message.refusal or "",
            [
                call.function.model_dump(include={"name", "arguments"})
                for call in choice.message.tool_calls or []
                if call.type == "function"
            ],
            choice.logprobs and choice.logprobs.model_dump(),
        )
        for choice in completion.choices
    ]


def test_the_generations_read_like_a_chat() -> None:
    """One for each choice in order; the text, the message, and on the first what surrounds them."""
    _, answers = recorded("n_interleaved")
    (first, second), body = answers[0], VECTORS["n_interleaved"]["body"]
    assert isinstance(first, ChatGeneration)
    assert (first.text, second.text) == ("One.", "A frog")
    assert first.message == body["choices"][0]["message"]
    assert second.generation_info == {"choice": {"index": 1, "finish_reason": "length"}}
    assert first.generation_info is not None
    assert first.generation_info["source"] == "stream"
    assert first.generation_info["envelope"].keys() == body.keys() - {"choices"}


def test_text_is_what_a_person_would_read() -> None:
    """Parts are joined, thoughts left out; no content is no text."""
    parts = [{"type": "thinking", "thinking": []}, {"type": "text", "text": "a"}, "b"]
    assert answered(ask_for(), saying(parts))[0][0].text == "ab"
    assert answered(ask_for(), saying(None))[0][0].text == ""


def test_a_stream_begins_with_the_role_and_ends_with_the_reason() -> None:
    """The text comes in pieces of whole characters in between."""
    ask = ask_for(stream=True)
    text = "🐔é" * PIECE_CHARS
    told = dialect.replay(ask, answered(ask, saying(text, refusal=None)))
    assert deltas(told) == [
        {"role": "assistant", "content": "", "refusal": None},
        {"content": text[:PIECE_CHARS]},
        {"content": text[PIECE_CHARS:]},
        {},
    ]
    reasons = [chunk["choices"][0]["finish_reason"] for chunk in chunks(told)]
    assert reasons == [None, None, None, "stop"]
    assert told.endswith(sse.DONE)


def test_each_chunk_says_whose_it_is() -> None:
    """All have the head; what only this provider adds is told once, with the first."""
    ask = ask_for(stream=True)
    envelope = {"created": 7, "model": "m", "system_fingerprint": None, "citations": ["a"]}
    first, *others = chunks(dialect.replay(ask, answered(ask, saying("Hi"), **envelope)))
    head = {"id": "1", "object": "chat.completion.chunk", "created": 7, "model": "m"}
    assert first.items() >= {**head, "citations": ["a"]}.items()
    for chunk in others:
        assert chunk.keys() == {*head, "system_fingerprint", "choices"}


def test_groqs_statistics_come_at_the_end() -> None:
    """Its clients add up what they find: told twice, tokens would count twice."""
    ask, answers = recorded("x_groq_usage")
    *others, last = chunks(dialect.replay(ask, answers))
    assert last["x_groq"] == VECTORS["x_groq_usage"]["body"]["x_groq"]
    assert last["choices"][0]["finish_reason"] == "stop"
    assert all("x_groq" not in chunk for chunk in others)


def test_choices_are_kept_in_order() -> None:
    """Whatever order a provider tells them in."""
    answers = answered(ask_for(n=2), saying("b", 1), saying("a", 0))
    assert [each.text for each in answers[0]] == ["a", "b"]


def test_a_tool_call_opens_with_its_name() -> None:
    """Then its arguments come in pieces, under the same index."""
    ask, answers = recorded("tool_call")
    _, opening, arguments, _ = deltas(dialect.replay(streamed(ask, with_usage=False), answers))
    function = {"name": "get_weather", "arguments": ""}
    assert opening["tool_calls"] == [
        {"index": 0, "id": "call_1", "type": "function", "function": function}
    ]
    assert arguments["tool_calls"] == [{"index": 0, "function": {"arguments": '{"city":"Malmö"}'}}]


def test_tokens_are_streamed_each_with_its_logprob() -> None:
    """Where the tokens make up the text; those that share a character come together."""
    ask, answers = recorded("logprobs_of_half_characters")
    told = [chunk["choices"][0] for chunk in chunks(dialect.replay(ask, answers))][1:-1]
    assert [choice["delta"]["content"] for choice in told] == ["So", "🐔", "!"]
    assert [len(choice["logprobs"]["content"]) for choice in told] == [1, 2, 1]


def test_logprobs_that_do_not_fit_come_with_the_last_piece() -> None:
    """Nothing of them is lost."""
    ask, answers = recorded("plain_logprobs")
    *others, last, end = chunks(dialect.replay(streamed(ask, with_usage=False), answers))
    logprobs = VECTORS["plain_logprobs"]["body"]["choices"][0]["logprobs"]
    assert last["choices"][0]["logprobs"] == logprobs
    assert all(chunk["choices"][0]["logprobs"] is None for chunk in [*others, end])


def test_usage_is_told_in_a_stream_only_if_asked() -> None:
    """With `include_usage` a last chunk tells it and all others say null; without, nothing does."""
    ask, answers = recorded("text")
    *others, last = chunks(dialect.replay(streamed(ask, with_usage=True), answers))
    assert (last["choices"], last["usage"]) == ([], VECTORS["text"]["body"]["usage"])
    assert all(chunk["usage"] is None for chunk in others)
    without = chunks(dialect.replay(streamed(ask, with_usage=False), answers))
    assert all("usage" not in chunk for chunk in without)


def test_usage_that_is_told_unasked_is_told_again() -> None:
    """Mistral's callers find it where Mistral puts it."""
    ask, answers = recorded("usage_with_choice")
    *others, last = chunks(dialect.replay(streamed(ask, with_usage=False), answers))
    assert last["usage"] == VECTORS["usage_with_choice"]["body"]["usage"]
    assert last["choices"][0]["finish_reason"] == "stop"
    assert all("usage" not in chunk for chunk in others)


def test_a_stream_without_usage_serves_only_who_would_not_see_it() -> None:
    """An answer that lacks usage because nobody asked for it is no answer for a plain request."""
    ask = read(VECTORS["text_without_usage"]["request"], include_usage=False)
    answers = record(ask, *sent(VECTORS["text_without_usage"]))
    assert answers is not None
    assert dialect.can_replay(streamed(ask, with_usage=False), answers)
    assert not dialect.can_replay(streamed(ask, with_usage=True), answers)
    assert not dialect.can_replay(plainly(ask), answers)
    _, with_usage = recorded("text")
    assert dialect.can_replay(plainly(ask), with_usage)


def test_a_provider_that_never_streams_usage_is_believed() -> None:
    """It was asked and told none: a stream is as it would be, a plain answer is not."""
    ask, answers = recorded("text_without_usage")
    assert dialect.can_replay(streamed(ask, with_usage=True), answers)
    assert not dialect.can_replay(plainly(ask), answers)
    told = chunks(dialect.replay(streamed(ask, with_usage=True), answers))
    assert all("usage" not in chunk for chunk in told)


def test_usage_may_have_been_cut_off() -> None:
    """Without `[DONE]`, an answer that lacks usage serves nobody who would see it."""
    ask = read(VECTORS["text_without_usage"]["request"])
    head, raw = sent(VECTORS["text_without_usage"])
    answers = record(ask, head, raw.replace(sse.DONE, b""))
    assert answers is not None
    assert not dialect.can_replay(streamed(ask, with_usage=True), answers)
    assert dialect.can_replay(streamed(ask, with_usage=False), answers)


@pytest.mark.parametrize(("second", "kept"), [({"a": 1}, True), ({"b": 2}, False)])
def test_an_object_that_comes_in_parts_is_not_kept(second: Any, kept: bool) -> None:
    """Nobody knows how to join an unknown one; one that is only repeated is whole."""
    choices = [
        {"index": 0, "delta": {"content": "Hi", "new": {"a": 1}}},
        {"index": 0, "delta": {"new": second}, "finish_reason": "stop"},
    ]
    raw = sse.encode([orjson.dumps({"choices": [choice]}) for choice in choices]) + sse.DONE
    assert (record(ask_for(stream=True), EVENT_HEAD, raw) is not None) is kept


def test_a_plain_answer_without_usage_serves_everyone() -> None:
    """Where the provider tells no usage at all, a hit tells none either."""
    ask = ask_for()
    answers = answered(ask, saying("Hi"))
    assert dialect.can_replay(ask, answers)
    assert dialect.can_replay(streamed(ask, with_usage=True), answers)
    assert "usage" not in plain(ask, answers)


def test_a_stored_stranger_is_not_replayed() -> None:
    """Rows that another program wrote are recognised before they are told."""
    ask = ask_for()
    for info in (None, {}, {"choice": {}}, {"choice": [], "envelope": {}}):
        assert not dialect.can_replay(ask, [[ChatGeneration("x", info, message={})]])
    assert not dialect.can_replay(ask, [[Generation("x", {"choice": {}, "envelope": {}})]])
    assert not dialect.can_replay(ask, [[]])


def test_what_repeats_the_request_repeats_the_current_one() -> None:
    """One caller's metadata is neither stored nor told to another."""
    _, answers = recorded("echoed_metadata")
    assert "ann" not in str(answers)
    told = plain(ask_for(user="bob", metadata={"run": "8"}), answers)
    assert (told["user"], told["metadata"]) == ("bob", {"run": "8"})
    assert plain(ask_for(), answers).keys().isdisjoint({"user", "metadata"})


def test_what_repeats_the_request_in_other_words_is_not_kept() -> None:
    """A provider may add to what it was given, or write it differently."""
    ask = ask_for(user="ann", metadata={"run": 7})
    answers = answered(ask, saying("Hi"), user="ANN@org", metadata={"run": "7", "tier": "x"})
    assert plain(ask_for(), answers).keys().isdisjoint({"user", "metadata"})
    assert plain(ask_for(user="bob"), answers)["user"] == "bob"


@pytest.mark.parametrize("name", ["tool_choice", "parallel_tool_calls", "top_logprobs"])
def test_a_null_that_some_provider_heeds_is_in_the_key(name: str) -> None:
    """vLLM leaves tool calls as text, keeps one of several, tells no logprobs."""
    body = {"model": "m", "messages": HELLO, "logprobs": True}
    assert key_of(body) != key_of({**body, name: None})


def test_what_only_looks_repeated_is_kept() -> None:
    """A provider's own `request_id` is part of its answer, unless the caller gives one."""
    answers = answered(ask_for(), saying("Hi"), request_id="theirs", metadata=None)
    assert plain(ask_for(), answers)["request_id"] == "theirs"
    assert plain(ask_for(request_id="mine"), answers)["request_id"] == "mine"
    assert plain(ask_for(user="bob"), answers).get("user") is None


def test_the_end_of_a_stream_is_seen() -> None:
    """After `[DONE]` nothing but the end of the body is to come; a plain body has no such sign."""
    recorder = dialect.recorder(ask_for(stream=True), EVENT_HEAD, 1)
    recorder.feed(b'data: {"choices":[{"delta":{},"index":0,"finish_reason":"stop"}]}\n\n')
    assert not recorder.ended
    recorder.feed(sse.DONE)
    assert recorder.ended
    assert not dialect.recorder(ask_for(), JSON_HEAD, 1).ended


def test_the_reply_says_how_it_is_to_be_read() -> None:
    """Some servers stream unasked, others answer a streamed request in one piece."""
    head, raw = sent(VECTORS["text"])
    assert record(ask_for(), head, raw) is not None
    head, raw = sent(VECTORS["plain_text"])
    assert record(ask_for(stream=True), head, raw) is not None


def test_blank_lines_before_a_body_do_no_harm() -> None:
    """DeepSeek keeps a slow plain request alive with them."""
    ask = ask_for()
    raw = b"\n\n\n" + orjson.dumps(VECTORS["plain_text"]["plain"])
    assert record(ask, JSON_HEAD, raw) == recorded("plain_text")[1]


def test_usage_that_only_the_proxy_asked_for_is_hidden() -> None:
    """What the filters say of the prompt passes; whoever asked gets the stream as it comes."""
    vector = VECTORS["azure_filters"]
    ask = ask_for(stream=True)
    assert b'"include_usage":true' in dialect.request(ask)
    relay = dialect.relay(ask)
    assert relay is not None
    told = [each for each in vector["stream"] if isinstance(each, dict)]
    shown = chunks(relay.feed(sent(vector)[1]))
    without = [{k: v for k, v in chunk.items() if k != "usage"} for chunk in told]
    assert shown == [each for each, chunk in zip(without, told, strict=True) if not chunk["usage"]]
    assert dialect.relay(streamed(ask, with_usage=True)) is None


def test_a_last_line_without_end_passes() -> None:
    """Once nothing more can come; some clients read it."""
    relay = dialect.relay(ask_for(stream=True))
    assert relay is not None
    assert relay.feed(b'data: {"choices":[]}') == b""
    assert relay.finish() == b'data: {"choices":[]}'
    assert relay.finish() == b""


def test_facts_tell_reasons_and_tokens() -> None:
    """Policy and savings learn how the choices ended and what they took."""
    facts = dialect.facts(*recorded("n_interleaved"))
    assert facts.finish_reasons == ("stop", "length")
    assert (facts.input_tokens, facts.output_tokens) == (11, 7)
    assert dialect.facts(*recorded("parallel_tool_calls")).has_tool_calls
    assert dialect.facts(*recorded("function_call")).has_tool_calls
    assert not dialect.facts(*recorded("plain_vllm")).has_tool_calls


def test_facts_tell_what_is_priced_apart() -> None:
    """The model that answered, its tier, and the parts of the tokens."""
    usage = {
        "prompt_tokens": 100,
        "completion_tokens": 20,
        "total_tokens": 120,
        "prompt_tokens_details": {"cached_tokens": 60, "audio_tokens": 5},
        "completion_tokens_details": {"reasoning_tokens": 8, "audio_tokens": None},
    }
    told = {"usage": usage, "service_tier": "flex", "model": "gpt-5"}
    facts = dialect.facts(ask_for(), answered(ask_for(), saying("Hi"), **told))
    bill = facts.bill
    assert (bill.service_tier, bill.cached, bill.heard, bill.reasoned) == ("flex", 60, 5, 8)
    assert bill.model == "gpt-5"
    assert facts.output_tokens == 20


def test_reasoning_that_is_not_counted_among_the_output_is_added() -> None:
    """xAI tells it apart, as the total shows."""
    usage = {
        "prompt_tokens": 100,
        "completion_tokens": 20,
        "total_tokens": 128,
        "completion_tokens_details": {"reasoning_tokens": 8},
    }
    assert (
        dialect.facts(ask_for(), answered(ask_for(), saying("Hi"), usage=usage)).output_tokens == 28
    )


JSON_WISH = {"response_format": {"type": "json_object"}}
HALF_CALL = {"id": "b", "type": "function", "function": {"name": "f", "arguments": '{"a":'}}
WHOLE_CALL = {"id": "a", "type": "function", "function": {"name": "f", "arguments": ""}}


@pytest.mark.parametrize(
    ("request_fields", "choices", "broken"),
    [
        (JSON_WISH, [saying('{"a": 1}')], ""),
        (JSON_WISH, [saying("{}"), saying('{"a":', 1)], "choices[1].message.content"),
        (JSON_WISH, [saying("")], "choices[0].message.content"),
        (JSON_WISH, [{**saying('{"a":'), "finish_reason": "length"}], ""),
        (JSON_WISH, [saying(None, refusal="No.")], ""),
        (JSON_WISH, [saying(None, tool_calls=[WHOLE_CALL])], ""),
        ({"response_format": {"type": "text"}}, [saying("Hi")], ""),
        ({}, [saying("Hi")], ""),
        (
            {},
            [saying(None, tool_calls=[WHOLE_CALL, HALF_CALL])],
            "choices[0].message.tool_calls[1].function.arguments",
        ),
        (
            {},
            [saying(None, function_call=HALF_CALL["function"])],
            "choices[0].message.function_call.arguments",
        ),
    ],
)
def test_facts_name_json_that_does_not_parse(
    request_fields: dict[str, Any], choices: list[dict[str, Any]], broken: str
) -> None:
    """By its place; what was cut at the limit that was asked for is not judged."""
    ask = ask_for(**request_fields)
    assert dialect.facts(ask, answered(ask, *choices)).broken_json == broken


SAME: list[dict[str, Any]] = [
    {"stream": True, "stream_options": {"include_usage": True}},
    {"user": "someone", "metadata": {"a": "b"}, "store": True, "safety_identifier": "x"},
    {"prompt_cache_key": "k", "service_tier": "flex", "session_id": "s", "request_id": "r"},
    {"n": 1, "tools": [], "functions": [], "logit_bias": {}, "logprobs": False},
    {"reasoning_effort": None, "reasoning_format": None, "stop": None, "n": None},
]
OTHER: list[dict[str, Any]] = [
    {"model": "other"},
    {"n": 2},
    {"n": True},
    {"seed": 1},
    {"temperature": 0},
    {"temperature": 1},
    {"max_tokens": 5},
    {"max_completion_tokens": 5},
    {"prediction": {"type": "content", "content": "x"}},
    {"cache_salt": "a"},
    {"prompt_cache_isolation_key": "a"},
    {"unheard_of": None},
    {"logprobs": True},
    {"messages": []},
    {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hello"}]}]},
    {"messages": [{"role": "user", "content": "Hello", "name": None}]},
    {"messages": [*HELLO, *HELLO]},
]


@pytest.mark.parametrize("fields", SAME, ids=json.dumps)
def test_what_cannot_change_the_answer_is_not_in_the_key(fields: dict[str, Any]) -> None:
    """Ignored and neutral fields lead to the same entry."""
    asked = {"model": "m", "messages": HELLO}
    assert key_of({**asked, **fields}) == key_of(asked)


@pytest.mark.parametrize("fields", OTHER, ids=json.dumps)
def test_what_can_change_the_answer_is_in_the_key(fields: dict[str, Any]) -> None:
    """All else leads to an entry of its own."""
    asked = {"model": "m", "messages": HELLO}
    assert key_of({**asked, **fields}) != key_of(asked)


def test_azures_null_model_says_nothing() -> None:
    """The deployment stands in the URL."""
    assert key_of({"model": None, "messages": HELLO}) == key_of({"messages": HELLO})


@pytest.mark.parametrize("mark", ["cache_control", "prompt_cache_breakpoint"])
def test_cache_marks_on_parts_are_not_in_the_key(mark: str) -> None:
    """They are named among what is ignored, and the request keeps them."""
    part = {"type": "text", "text": "Hello"}
    marked = read({"messages": [{"role": "user", "content": [{**part, mark: {"type": "x"}}]}]})
    assert marked.parts == read({"messages": [{"role": "user", "content": [part]}]}).parts
    assert f"messages.*.content.*.{mark}" in [path for path, _ in marked.ignored]
    assert mark in marked.body["messages"][0]["content"][0]


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        (None, "messages: expected a list, got null."),
        ("Hello", "messages: expected a list, got text."),
        ([{}, {}, 7], "messages[2]: expected an object, got a number."),
        (
            [{"content": 7}],
            "messages[0].content: expected text or a list of parts, got a number.",
        ),
        ([{"content": ["a", None]}], "messages[0].content[1]: expected an object, got null."),
    ],
)
def test_messages_that_no_provider_takes_are_refused(messages: Any, message: str) -> None:
    """The message names the place and what was expected."""
    with pytest.raises(UnreadableRequest) as refused:
        read({"messages": messages})
    assert str(refused.value) == message


@pytest.mark.parametrize("path", ["messages", "tools", "metadata", "unheard_of"])
def test_what_is_nested_too_deeply_is_refused(path: str) -> None:
    """Wherever it stands; deeper than any JSON parser reads is refused by the parser."""
    for depth in (300, 900, 5000):
        deep = b"[" * depth + b"]" * depth
        raw = b'{"stream":true,"stream_options":{},"messages":[{"role":"user","x":%b}]}'
        if path != "messages":
            raw = b'{"stream":true,"stream_options":{},"messages":[],"' + path.encode() + b'":%b}'
        call = call_with({})
        call = Call(call.provider, call.path, "", call.url, [], raw % deep)
        with pytest.raises(UnreadableRequest):
            ask_and_use(call)


def ask_and_use(call: Call) -> None:
    """All that is done with a request before it is sent."""
    ask = dialect.read(call)
    keys.question(call, ask, Verdict(True, True))
    orjson.dumps(ask.echoed, option=orjson.OPT_SORT_KEYS)
    dialect.request(ask)


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


odd_functions = odd("name", "arguments", "input")
odd_calls = st.lists(odd("index", "id", "type", function=odd_functions, custom=odd_functions))
odd_messages = odd(
    "role",
    "content",
    "refusal",
    "reasoning",
    "x",
    audio=odd("id", "data"),
    tool_calls=odd_calls,
    function_call=odd_functions,
)
odd_choices = st.lists(
    odd(
        "index",
        "error",
        delta=odd_messages,
        message=odd_messages,
        finish_reason=st.just("stop"),
        logprobs=odd(content=st.lists(odd("token", "bytes"))),
    ),
    max_size=3,
)
odd_bodies = odd("id", "usage", "x_groq", "metadata", "error", choices=odd_choices)


@given(
    odd(
        "n",
        "stream",
        "stream_options",
        "response_format",
        "tools",
        "metadata",
        messages=st.lists(odd("role", content=st.lists(odd("type", "cache_control")))),
    )
    | json_values
)
def test_any_json_is_read_or_refused(body: Any) -> None:
    """No request leads to a traceback."""
    try:
        ask_and_use(call_with(body))
        ask = read(body)
    except UnreadableRequest:
        return
    assert record(ask, JSON_HEAD, b"{}") is None
    assert record(ask, EVENT_HEAD, b"") is None


@pytest.mark.parametrize("n", ["2", True, None, -1, 2.5, [2]])
def test_an_odd_number_of_choices_is_taken_for_one(n: Any) -> None:
    """It is for the provider to refuse it."""
    head, raw = sent(VECTORS["text"])
    assert record(ask_for(n=n, stream=True), head, raw) is not None


@given(st.lists(odd_bodies | json_values, max_size=4))
def test_any_stream_is_recorded_or_not_kept(told: list[Any]) -> None:
    """Whatever a provider sends, recording it raises nothing, and what is kept can be told."""
    ask = ask_for(stream=True, metadata={})
    answers = record(ask, EVENT_HEAD, sse.encode(map(orjson.dumps, told)))
    if answers is not None and dialect.can_replay(ask, answers):
        assert dialect.facts(ask, answers).finish_reasons is not None
        again = record(ask, EVENT_HEAD, dialect.replay(ask, answers))
        assert again is not None
        assert plain(ask, again)["choices"] == plain(ask, answers)["choices"]


@given(odd_bodies | json_values)
def test_any_body_is_recorded_or_not_kept(body: Any) -> None:
    """The same of a plain answer: what is kept comes back as it was, and can be streamed."""
    ask = ask_for(**JSON_WISH)
    answers = record(ask, JSON_HEAD, orjson.dumps(body))
    if answers is not None:
        assert dialect.can_replay(ask, answers)
        assert dialect.facts(ask, answers).finish_reasons is not None
        by_index = sorted(body["choices"], key=lambda choice: choice.get("index", 0))
        assert plain(ask, answers) == {**body, "choices": by_index}
        assert dialect.replay(streamed(ask, with_usage=True), answers).endswith(sse.DONE)


functions = st.fixed_dictionaries({"name": st.just("f"), "arguments": st.text(max_size=80)})
calls = st.fixed_dictionaries(
    {"id": st.text(min_size=1), "type": st.just("function"), "function": functions},
    optional={"extra_content": st.dictionaries(st.text(), json_values, min_size=1)},
)
messages = st.fixed_dictionaries(
    {"role": st.just("assistant"), "content": st.none() | st.text(min_size=1, max_size=99)},
    optional={
        "refusal": st.none() | st.text(max_size=60),
        "reasoning": st.none() | st.text(max_size=60),
        "reasoning_content": st.none() | st.text(max_size=60),
        "reasoning_details": st.lists(json_values),
        "annotations": st.none() | st.lists(json_values),
        "audio": st.none() | st.fixed_dictionaries({"id": st.just("a"), "data": st.text()}),
        "tool_calls": st.none() | st.lists(calls, max_size=3),
        "function_call": st.none() | functions,
        "unheard of": json_values,
    },
)
tokens = st.fixed_dictionaries({"token": st.text(max_size=4)}, optional={"bytes": json_values})
token_lists = st.none() | st.lists(tokens)
choice_fields = st.fixed_dictionaries(
    {"message": messages, "finish_reason": st.sampled_from(["stop", "length", "tool_calls"])},
    optional={
        "logprobs": st.none()
        | st.fixed_dictionaries({"content": token_lists, "refusal": token_lists}),
        "stop_reason": json_values,
        "token_ids": st.none() | st.lists(st.integers(0, 9)),
    },
)


@given(
    st.lists(choice_fields, min_size=1, max_size=3),
    st.fixed_dictionaries({}, optional={"usage": st.none() | json_values, "x": json_values}),
)
def test_any_answer_rebuilds_from_its_own_stream(
    choices: list[dict[str, Any]], envelope: dict[str, Any]
) -> None:
    """Texts cut anywhere, odd logprobs, unknown fields and missing usage all come back."""
    ask = ask_for()
    numbered = [{"index": index, **choice} for index, choice in enumerate(choices)]
    answers = answered(ask, *numbered, **envelope)
    body = plain(ask, answers)
    assert body["choices"] == numbered
    again = record(ask, EVENT_HEAD, dialect.replay(streamed(ask, with_usage=True), answers))
    assert again is not None
    assert plain(ask, again) == body
