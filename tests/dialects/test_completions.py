"""`/completions`: every vector recorded and told again, the key, hiding usage, odd input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types import Completion

from proxy import keys, sse
from proxy.dialects.completions import Completions
from proxy.dialects.completions_tell import PIECE_CHARS
from proxy.errors import UnreadableRequest
from proxy.models import Answers, Ask, Call, Head, Provider, Verdict

VECTORS = {
    path.stem: json.loads(path.read_text())
    for path in sorted((Path(__file__).parent / "vectors" / "completions").glob("*.json"))
}
COMPLETE = [name for name, vector in VECTORS.items() if vector.get("answer", ...) is not None]
CUTS = {"whole": 2**30, "in pieces": 7, "byte by byte": 1}

JSON_HEAD = Head(200, [(b"content-type", b"application/json")])
EVENT_HEAD = Head(200, [(b"content-type", b"text/event-stream; charset=utf-8")])

dialect = Completions()


def call_with(body: Any, *, include_usage: bool = True) -> Call:
    provider = Provider("test", "http://test/v1", include_usage=include_usage)
    path = "/v1/completions"
    return Call(provider, path, "", f"http://test{path}", [], orjson.dumps(body))


def read(body: Any, **options: Any) -> Ask:
    return dialect.read(call_with(body, **options))


def key_of(body: Any) -> str:
    call = call_with(body)
    return keys.question(call, dialect.read(call), Verdict(True, True)).id


def streamed(ask: Ask, *, with_usage: bool) -> Ask:
    options = {"stream": True, "stream_options": {"include_usage": with_usage}}
    return read({**ask.body, **options})


def told(vector: dict[str, Any]) -> tuple[Head, bytes]:
    if "body" in vector:
        return JSON_HEAD, orjson.dumps(vector["body"])
    events = [each if isinstance(each, str) else json.dumps(each) for each in vector["events"]]
    return EVENT_HEAD, sse.encode(event.encode() for event in events)


def record(ask: Ask, head: Head, raw: bytes, size: int = 2**30) -> Answers | None:
    recorder = dialect.recorder(ask, head, 1)
    for start in range(0, len(raw), size):
        recorder.feed(raw[start : start + size])
    return recorder.finish()


def recorded(name: str) -> tuple[Ask, Answers]:
    ask = read(VECTORS[name]["request"])
    answers = record(ask, *told(VECTORS[name]))
    assert answers is not None
    return ask, answers


def plain(ask: Ask, answers: Answers) -> Any:
    ask = read({name: value for name, value in ask.body.items() if name != "stream"})
    return orjson.loads(dialect.replay(ask, answers))


def chunks(raw: bytes) -> list[Any]:
    return [orjson.loads(event) for event in sse.Decoder().feed(raw) if event != b"[DONE]"]


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"], ids=["LF", "CRLF"])
@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("name", VECTORS)
def test_an_answer_is_recorded_however_it_is_cut(name: str, cut: str, line_end: bytes) -> None:
    """What is stored is told as the vector says, and nothing is kept of what is not complete."""
    vector = VECTORS[name]
    ask = read(vector["request"])
    head, raw = told(vector)
    answers = record(ask, head, raw.replace(b"\n", line_end), CUTS[cut])
    if name not in COMPLETE:
        assert answers is None
        return
    assert answers is not None
    assert plain(ask, answers) == vector.get("answer", vector.get("body"))


@pytest.mark.parametrize("name", COMPLETE)
def test_a_replayed_stream_rebuilds_to_the_answer(name: str) -> None:
    """Told as a stream and recorded again, an answer is the same answer."""
    ask, answers = recorded(name)
    whole = plain(ask, answers)
    again = record(ask, EVENT_HEAD, dialect.replay(streamed(ask, with_usage=True), answers))
    assert again is not None
    assert plain(ask, again) == whole


@pytest.mark.parametrize("name", [name for name in COMPLETE if not name.startswith("echo")])
def test_a_replayed_body_has_the_official_types(name: str) -> None:
    """Strictly checked; but for echoes, whose first token has no logprob, against the types."""
    Completion.model_validate(plain(*recorded(name)))


@pytest.mark.parametrize("name", COMPLETE)
def test_the_openai_client_reads_what_is_streamed(name: str) -> None:
    """Its models, filled from the chunks, tell the texts of the plain answer."""
    ask, answers = recorded(name)
    whole = plain(ask, answers)
    texts = ["" for _ in whole["choices"]]
    for chunk in chunks(dialect.replay(streamed(ask, with_usage=True), answers)):
        for choice in Completion.construct(**chunk).choices:
            texts[choice.index] += choice.text
    assert texts == [choice["text"] for choice in whole["choices"]]


def test_usage_is_told_in_a_stream_only_if_asked() -> None:
    """With `include_usage` a last chunk tells it and all others say null; without, nothing does."""
    ask, answers = recorded("n_best_of")
    *others, last = chunks(dialect.replay(streamed(ask, with_usage=True), answers))
    assert (last["choices"], last["usage"]) == ([], VECTORS["n_best_of"]["body"]["usage"])
    assert all(chunk["usage"] is None for chunk in others)
    without = chunks(dialect.replay(streamed(ask, with_usage=False), answers))
    assert all("usage" not in chunk for chunk in without)


def test_a_stream_without_usage_serves_only_who_would_not_see_it() -> None:
    """An answer that lacks usage because nobody asked for it is no answer for a plain request."""
    ask, answers = recorded("text_streamed")
    assert dialect.can_replay(streamed(ask, with_usage=False), answers)
    assert not dialect.can_replay(streamed(ask, with_usage=True), answers)
    assert not dialect.can_replay(read({"prompt": "x"}), answers)
    _, with_usage = recorded("text_streamed_usage")
    assert dialect.can_replay(read({"prompt": "x"}), with_usage)


def test_a_plain_answer_without_usage_serves_everyone() -> None:
    """Where the provider tells no usage at all, a hit tells none either."""
    ask = read({"prompt": "x"})
    body = {"id": "1", "choices": [{"text": "y", "index": 0, "finish_reason": "stop"}]}
    answers = record(ask, JSON_HEAD, orjson.dumps(body))
    assert answers is not None
    assert dialect.can_replay(ask, answers)
    assert plain(ask, answers) == body


def test_a_stored_stranger_is_not_replayed() -> None:
    """Rows that another program wrote are recognised before they are told."""
    ask, answers = recorded("text")
    text = answers[0][0].text
    for info in (None, {}, {"choice": {}}, {"choice": [], "envelope": {}}):
        assert not dialect.can_replay(ask, [[type(answers[0][0])(text, info)]])
    assert not dialect.can_replay(ask, [[]])


def test_a_text_is_streamed_in_pieces() -> None:
    """A long text comes in many chunks of whole characters, only the last with its reason."""
    ask = read({"prompt": "x", "stream": True})
    body = {"choices": [{"text": "🐔é" * PIECE_CHARS, "index": 0, "finish_reason": "stop"}]}
    answers = record(ask, JSON_HEAD, orjson.dumps(body))
    assert answers is not None
    pieces = [chunk["choices"][0] for chunk in chunks(dialect.replay(ask, answers))]
    assert [piece["finish_reason"] for piece in pieces] == [None, "stop"]
    assert "".join(piece["text"] for piece in pieces) == body["choices"][0]["text"]


def test_tokens_are_streamed_each_with_its_logprob() -> None:
    """Where the tokens make the text, every token is a chunk with its own part of the arrays."""
    ask, answers = recorded("echo_logprobs")
    pieces = chunks(dialect.replay(streamed(ask, with_usage=False), answers))
    logprobs = VECTORS["echo_logprobs"]["body"]["choices"][0]["logprobs"]
    assert [piece["choices"][0]["text"] for piece in pieces] == logprobs["tokens"]
    offsets = [piece["choices"][0]["logprobs"]["text_offset"] for piece in pieces]
    assert offsets == [[offset] for offset in logprobs["text_offset"]]


def test_what_is_not_repeated_is_told_once() -> None:
    """Fields beyond the usual ones come with the first chunk, where the provider put them."""
    ask, answers = recorded("azure_streamed")
    first, *others = chunks(dialect.replay(ask, answers))
    assert "prompt_filter_results" in first
    assert others
    assert all("prompt_filter_results" not in chunk for chunk in others)


def test_usage_that_came_with_a_choice_is_told_with_a_choice() -> None:
    """Some providers tell it unasked: then a hit does as well, and in the same place."""
    ask, answers = recorded("usage_beside_choices")
    told_usage = VECTORS["usage_beside_choices"]["answer"]["usage"]
    for with_usage in (True, False):
        *_, last = chunks(dialect.replay(streamed(ask, with_usage=with_usage), answers))
        assert last["choices"][0]["finish_reason"] == "stop"
        assert last["usage"] == told_usage


def test_an_answer_that_repeats_its_caller_is_told_to_nobody_else() -> None:
    """No reference knows such answers; a provider of one's own might give one."""
    ask = read({"prompt": "x", "user": "someone"})
    body = {**VECTORS["text"]["body"], "user": "someone"}
    answers = record(ask, JSON_HEAD, orjson.dumps(body))
    assert answers is not None
    assert not dialect.can_replay(ask, answers)


@pytest.mark.parametrize("depth", [300, 1000])
def test_an_answer_nested_too_deeply_is_not_kept(depth: int) -> None:
    """What could be read and not written again would fail with every hit."""
    raw = b'{"choices":[{"text":"y","index":0,"finish_reason":"stop"}],"x":%b}'
    deep = raw % (b"[" * depth + b"]" * depth)
    ask = read({"prompt": "x"})
    assert record(ask, JSON_HEAD, deep) is None
    assert record(ask, EVENT_HEAD, sse.encode([deep])) is None


def test_the_end_of_a_stream_is_seen() -> None:
    """After `[DONE]` nothing but the end of the body is to come."""
    recorder = dialect.recorder(read({"prompt": "x", "stream": True}), EVENT_HEAD, 1)
    recorder.feed(b'data: {"choices":[{"text":"y","index":0,"finish_reason":"stop"}]}\n\n')
    assert not recorder.ended
    recorder.feed(sse.DONE)
    assert recorder.ended


def test_blank_lines_before_a_body_do_no_harm() -> None:
    """Some providers keep a slow plain request alive with them."""
    ask = read(VECTORS["text"]["request"])
    raw = b"\n\n\n" + orjson.dumps(VECTORS["text"]["body"])
    assert record(ask, JSON_HEAD, raw) == recorded("text")[1]


def test_facts_tell_reasons_and_tokens() -> None:
    """Policy and savings learn how the choices ended and what they took."""
    facts = dialect.facts(*recorded("n_best_of"))
    assert facts.finish_reasons == ("stop", "length")
    assert (facts.input_tokens, facts.output_tokens) == (4, 9)
    assert facts.broken_json == ""


def test_facts_name_json_that_does_not_parse() -> None:
    """Asked for JSON, half an object is named by its place, unless it was cut as asked."""
    ask, answers = recorded("broken_json")
    assert dialect.facts(ask, answers).broken_json == "choices[0].text"
    assert dialect.facts(read({**ask.body, "echo": True}), answers).broken_json == ""
    body = {"choices": [{"text": "{", "index": 0, "finish_reason": "length"}]}
    cut = record(ask, JSON_HEAD, orjson.dumps(body))
    assert cut is not None
    assert dialect.facts(ask, cut).broken_json == ""


SAME = [
    {"stream": True, "stream_options": {"include_usage": True}},
    {name: "x" for name in dialect.fields.ignored if name != "stream"},
    {"n": 1},
    {"n": None, "best_of": None, "suffix": None, "logprobs": None},
    {"echo": False, "logit_bias": {}, "stop": []},
]
OTHER = [
    {"n": 2},
    {"best_of": 1},
    {"max_tokens": None},
    {"max_tokens": 16},
    {"echo": True},
    {"logprobs": 0},
    {"suffix": "end"},
    {"suffix": ""},
    {"seed": 1},
    {"prompt": ["Say"]},
    {"prompt": [1]},
    {"prompt": None},
    {"unheard_of": None},
    {"cache_salt": "a"},
]


@pytest.mark.parametrize("fields", SAME, ids=json.dumps)
def test_what_cannot_change_the_answer_is_not_in_the_key(fields: dict[str, Any]) -> None:
    """Ignored and neutral fields lead to the same entry."""
    assert key_of({"model": "m", "prompt": "Say", **fields}) == key_of(
        {"model": "m", "prompt": "Say"}
    )


@pytest.mark.parametrize("fields", OTHER, ids=json.dumps)
def test_what_can_change_the_answer_is_in_the_key(fields: dict[str, Any]) -> None:
    """All else leads to an entry of its own."""
    assert key_of({"model": "m", "prompt": "Say", **fields}) != key_of(
        {"model": "m", "prompt": "Say"}
    )


def test_a_list_of_prompts_is_one_part_in_order() -> None:
    """`n`, `best_of` and `seed` apply to the whole list."""
    assert read({"prompt": ["b", "a"]}).parts == ({"prompt": ["b", "a"]},)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (7, "prompt: expected text, or a list of texts or tokens, got a number."),
        (True, "prompt: expected text, or a list of texts or tokens, got true or false."),
        (["a", None], "prompt[1]: expected text, a token or a list of tokens, got null."),
        ([0.5], "prompt[0]: expected text, a token or a list of tokens, got a number."),
    ],
)
def test_a_prompt_that_no_provider_takes_is_refused(prompt: Any, message: str) -> None:
    """The message names the place and what was expected."""
    with pytest.raises(UnreadableRequest) as refused:
        read({"prompt": prompt})
    assert str(refused.value) == message


RELAYED = (
    b": waiting\n\n"
    b'data: {"id":"1", "choices":[{"text":"a \\"usage\\": null, b"}] %b}\n\n'
    b'event: x\ndata:{"choices":[],"prompt_filter_results":[1] %b}\n\n'
    b'data: {"choices":[{"text":"","usage":{"a":1}}] %b}\n\n'
    b'data: {"choices":[{"text":"c"}],"usage":{"total_tokens":3}}\n\n'
    b"%bdata: [DONE]"
)
NULL = b', "usage" : null'
USAGE_CHUNK = b'data: {"choices":[],"usage":{"total_tokens":3}}\n\n'


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"], ids=["LF", "CRLF"])
@pytest.mark.parametrize("cut", CUTS)
def test_usage_that_only_the_proxy_asked_for_is_hidden(cut: str, line_end: bytes) -> None:
    """The caller gets, byte for byte, what the provider would have said without that wish."""
    relay = dialect.relay(read({"prompt": "x", "stream": True}))
    assert relay is not None
    raw = (RELAYED % (NULL, NULL, NULL, USAGE_CHUNK)).replace(b"\n", line_end)
    size = CUTS[cut]
    shown = b"".join(relay.feed(raw[at : at + size]) for at in range(0, len(raw), size))
    assert shown == (RELAYED % (b"", b"", b"", b"")).replace(b"\n", line_end)


def test_a_nested_null_usage_stays() -> None:
    """Only the top level's is ours."""
    relay = dialect.relay(read({"prompt": "x", "stream": True}))
    assert relay is not None
    shown = relay.feed(b'data: {"x":{"a":1,"usage":null},"usage":null,"choices":[]}\n\n')
    assert chunks(shown) == [{"x": {"a": 1, "usage": None}, "choices": []}]


def test_a_caller_who_asked_for_usage_gets_the_stream_as_it_comes() -> None:
    """So does everyone where the provider is not asked on our own account."""
    options = {"stream_options": {"include_usage": True}}
    assert dialect.relay(read({"prompt": "x", "stream": True, **options})) is None
    assert dialect.relay(read({"prompt": "x"})) is None
    assert dialect.relay(read({"prompt": "x", "stream": True}, include_usage=False)) is None


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats(-2, 2) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=8,
)
choice_fields = st.fixed_dictionaries(
    {"text": st.text(max_size=200), "finish_reason": st.sampled_from(["stop", "length"])},
    optional={"logprobs": st.none() | st.dictionaries(st.text(max_size=4), json_values)},
)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "prompt": json_values,
            "suffix": json_values,
            "n": json_values,
            "stream": json_values,
            "stream_options": json_values,
            "response_format": json_values,
        },
    )
)
def test_any_json_is_read_or_refused(body: dict[str, Any]) -> None:
    """No request leads to a traceback."""
    try:
        ask = read(body)
    except UnreadableRequest:
        return
    assert dialect.request(ask)
    assert record(ask, JSON_HEAD, b"{}") is None


@given(
    st.lists(
        json_values
        | st.fixed_dictionaries(
            {},
            optional={
                "choices": json_values
                | st.lists(
                    st.fixed_dictionaries(
                        {},
                        optional={
                            "index": json_values,
                            "text": json_values,
                            "logprobs": json_values,
                            "finish_reason": json_values,
                        },
                    )
                ),
                "usage": json_values,
            },
        )
    )
)
def test_any_stream_is_recorded_or_not_kept(told_chunks: list[Any]) -> None:
    """Whatever a provider sends, recording it raises nothing and what is kept can be told."""
    ask = read({"prompt": "x", "stream": True})
    answers = record(ask, EVENT_HEAD, sse.encode(map(orjson.dumps, told_chunks)))
    if answers is not None and dialect.can_replay(ask, answers):
        assert dialect.facts(ask, answers).finish_reasons is not None
        assert dialect.replay(ask, answers).endswith(sse.DONE)


@given(st.lists(choice_fields, min_size=1, max_size=3), st.none() | st.integers(0, 99))
def test_any_answer_rebuilds_from_its_own_stream(
    choices: list[dict[str, Any]], tokens: int | None
) -> None:
    """Texts cut anywhere, odd logprobs and missing usage all come back."""
    body: dict[str, Any] = {"id": "1", "object": "text_completion"}
    body["choices"] = [{**choice, "index": index} for index, choice in enumerate(choices)]
    if tokens is not None:
        body["usage"] = {"prompt_tokens": tokens}
    ask = read({"prompt": "x"})
    answers = record(ask, JSON_HEAD, orjson.dumps(body))
    assert answers is not None
    assert plain(ask, answers) == body
    again = record(ask, EVENT_HEAD, dialect.replay(streamed(ask, with_usage=True), answers))
    assert again is not None
    assert plain(ask, again) == body
