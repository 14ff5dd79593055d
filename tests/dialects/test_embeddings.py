"""`/embeddings`: every vector recorded and told again, batches in parts, usage that adds up."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types import CreateEmbeddingResponse

from cache_backends.base import Generation
from proxy import keys
from proxy.dialects.embeddings import Embeddings
from proxy.errors import UnreadableRequest
from proxy.models import Answers, Ask, Call, Head, Provider, Verdict

VECTORS = {
    path.stem: json.loads(path.read_text())
    for path in sorted((Path(__file__).parent / "vectors" / "embeddings").glob("*.json"))
}
COMPLETE = [name for name, vector in VECTORS.items() if vector.get("answer", ...) is not None]
CUTS = {"whole": 2**30, "in pieces": 7, "byte by byte": 1}
JSON_HEAD = Head(200, [(b"content-type", b"application/json")])

dialect = Embeddings()


def call_with(body: Any) -> Call:
    provider, path = Provider("test", "http://test/v1"), "/v1/embeddings"
    return Call(provider, path, "", f"http://test{path}", [], orjson.dumps(body))


def read(body: Any) -> Ask:
    return dialect.read(call_with(body))


def ids_of(body: Any) -> list[str]:
    call = call_with(body)
    question = keys.question(call, dialect.read(call), Verdict(True, True))
    return [key.id for key in question.keys]


def record(ask: Ask, body: Any, size: int = 2**30, parts: int | None = None) -> Answers | None:
    recorder = dialect.recorder(ask, JSON_HEAD, len(ask.parts) if parts is None else parts)
    raw = orjson.dumps(body)
    for start in range(0, len(raw), size):
        recorder.feed(raw[start : start + size])
    return recorder.finish()


def recorded(name: str) -> tuple[Ask, Answers]:
    ask = read(VECTORS[name]["request"])
    answers = record(ask, VECTORS[name]["body"])
    assert answers is not None
    return ask, answers


def replayed(ask: Ask, answers: Answers) -> Any:
    return orjson.loads(dialect.replay(ask, answers))


def answer_to(inputs: Sequence[Any], usage: dict[str, Any]) -> dict[str, Any]:
    data = [
        {"object": "embedding", "index": index, "embedding": [float(len(each)), 0.5]}
        for index, each in enumerate(inputs)
    ]
    return {"object": "list", "data": data, "model": "m", "usage": usage}


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("name", VECTORS)
def test_an_answer_is_recorded_however_it_is_cut(name: str, cut: str) -> None:
    """What is stored is told as the vector says; an answer of another shape is not kept."""
    vector = VECTORS[name]
    ask = read(vector["request"])
    answers = record(ask, vector["body"], CUTS[cut])
    if name not in COMPLETE:
        assert answers is None
        return
    assert answers is not None
    assert dialect.can_replay(ask, answers)
    assert replayed(ask, answers) == vector.get("answer", vector["body"])


@pytest.mark.parametrize("name", COMPLETE)
def test_a_replayed_answer_rebuilds(name: str) -> None:
    """What was told from the cache, recorded again, is the same answer."""
    ask, answers = recorded(name)
    assert record(ask, replayed(ask, answers)) == answers


@pytest.mark.parametrize("name", COMPLETE)
def test_each_input_has_its_share_of_the_usage(name: str) -> None:
    """In proportion to its length; what cannot be halved goes to the largest remainder."""
    _, answers = recorded(name)
    infos = [generations[0].generation_info or {} for generations in answers]
    shares = VECTORS[name]["shares"]
    if shares is None:
        assert all("usage" not in info for info in infos)
    else:
        assert [info["usage"]["prompt_tokens"] for info in infos] == shares


@pytest.mark.parametrize("name", ["text", "texts", "extra_fields", "floats_for_base64"])
def test_the_official_client_reads_what_is_replayed(name: str) -> None:
    """Its types take the replayed body."""
    CreateEmbeddingResponse.model_validate(replayed(*recorded(name)))


def test_floats_come_back_with_every_digit() -> None:
    """Also -0.0 and the smallest double, which an equality would not tell."""
    ask, answers = recorded("texts")
    told = [item["embedding"] for item in replayed(ask, answers)["data"]]
    assert repr(told) == repr([item["embedding"] for item in VECTORS["texts"]["body"]["data"]])


def test_an_input_is_the_same_alone_and_in_a_list() -> None:
    """Text and tokens lead to one entry however they are sent, and each to its own."""
    assert ids_of({"input": "x"}) == ids_of({"input": ["x"]})
    assert ids_of({"input": [1, 2]}) == ids_of({"input": [[1, 2]]})
    assert len({*ids_of({"input": ["x", "y", [1], [2, 1], [1, 2]]})}) == 5


def test_known_inputs_are_not_sent_again() -> None:
    """The missing ones are asked for in order, twice if they stand there twice."""
    ask = read({"model": "m", "input": ["a", "b", "c", "b"], "user": "u", "dimensions": 8})
    body = orjson.loads(dialect.request(ask, [1, 3]))
    assert body == {"model": "m", "input": ["b", "b"], "user": "u", "dimensions": 8}


def test_nothing_known_sends_the_callers_own_bytes() -> None:
    """White space and all."""
    raw = b'{ "input":["a", "b"] }'
    ask = dialect.read(replace(call_with({}), body=raw))
    assert dialect.request(ask) == raw
    assert dialect.request(ask, [0, 1]) == raw


def test_parts_of_different_calls_make_one_answer() -> None:
    """Indexes count the request's inputs and the usage covers them all."""
    first, second = read({"input": ["bb"]}), read({"input": ["a", "ccc"]})
    known = record(first, answer_to(["bb"], {"prompt_tokens": 2, "total_tokens": 2}))
    fetched = record(second, answer_to(["a", "ccc"], {"prompt_tokens": 5, "total_tokens": 5}))
    assert known is not None
    assert fetched is not None
    ask = read({"input": ["a", "bb", "ccc"]})
    told = replayed(ask, [fetched[0], known[0], fetched[1]])
    assert told == answer_to(["a", "bb", "ccc"], {"prompt_tokens": 7, "total_tokens": 7})


def test_an_answer_to_the_missing_parts_only_is_recorded() -> None:
    """With the missing parts alone usage goes by length, else it is shared out evenly."""
    ask = read({"input": ["a", "bb", "c" * 8]})
    body = answer_to(["bb", "c" * 8], {"prompt_tokens": 10})
    even = record(ask, body, parts=2)
    by_length = record(replace(ask, parts=ask.parts[1:]), body)
    for answers, shares in ((even, [5, 5]), (by_length, [2, 8])):
        assert answers is not None
        infos = [generations[0].generation_info or {} for generations in answers]
        assert [info["usage"]["prompt_tokens"] for info in infos] == shares


def test_a_long_batch_is_a_part_for_each_input() -> None:
    """The most that OpenAI takes at once: 2048."""
    inputs = [f"input {number}" for number in range(2048)]
    ask = read({"input": inputs})
    body = answer_to(inputs, {"prompt_tokens": 4096, "total_tokens": 4096})
    answers = record(ask, body)
    assert answers is not None
    assert len(answers) == 2048
    assert replayed(ask, answers) == body


def test_inputs_that_are_read_in_context_are_not_parted() -> None:
    """Jina's `late_chunking`: in another batch, the same input has another embedding."""
    asked = {"model": "m", "input": ["a", "b"]}
    ask = read({**asked, "late_chunking": True})
    assert ask.parts == ({"input": ["a", "b"]},)
    assert record(ask, answer_to(["a", "b"], {})) is None
    assert len(read({**asked, "late_chunking": False}).parts) == 2


def test_a_stored_stranger_is_not_replayed() -> None:
    """Rows that another program wrote are recognised before they are told."""
    ask, answers = recorded("text")
    whole = answers[0][0].generation_info or {}
    for info in (None, {}, {**whole, "embedding": [0.1]}, {**whole, "usage": 3}):
        assert not dialect.can_replay(ask, [[Generation("", info)]])
    assert not dialect.can_replay(ask, [[]])
    assert not dialect.can_replay(ask, [answers[0] * 2])
    assert not dialect.can_replay(ask, [])


def test_an_answer_that_repeats_its_caller_is_told_to_nobody_else() -> None:
    """No reference knows such answers; a provider of one's own might give one."""
    ask = read({"input": "x", "user": "someone"})
    answers = record(ask, {**answer_to(["x"], {}), "user": "someone"})
    assert answers is not None
    assert not dialect.can_replay(ask, answers)


def test_usage_nested_too_deeply_is_not_kept() -> None:
    """Sharing it out ends before Python's stack does."""
    recorder = dialect.recorder(read({"input": ["x", "y"]}), JSON_HEAD, 2)
    body = orjson.dumps(answer_to(["x", "y"], {"deep": 0}))
    recorder.feed(body.replace(b"0}", b'{"deep":' * 900 + b"0" + b"}" * 901))
    assert recorder.finish() is None


def test_facts_count_the_tokens_of_all_parts() -> None:
    """Savings are counted from it."""
    assert dialect.facts(*recorded("texts")).input_tokens == 7
    assert dialect.facts(*recorded("no_usage")).input_tokens is None


@pytest.mark.parametrize(
    ("fields", "same"),
    [
        ({"user": "someone"}, True),
        ({"encoding_format": "float"}, True),
        ({"encoding_format": None, "dimensions": None}, True),
        ({"encoding_format": "base64"}, False),
        ({"dimensions": 256}, False),
        ({"input_type": "query"}, False),
        ({"stream": False}, False),
    ],
    ids=json.dumps,
)
def test_the_key_holds_what_can_change_the_answer(fields: dict[str, Any], same: bool) -> None:
    """`float` is the default form; `stream`, which embeddings do not have, is an unknown field."""
    plain = {"model": "m", "input": "x"}
    assert (ids_of({**plain, **fields}) == ids_of(plain)) is same


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (7, "input: expected text, or a list of texts or tokens, got a number."),
        (False, "input: expected text, or a list of texts or tokens, got true or false."),
        (["a", None], "input[1]: expected text or a list of tokens, got null."),
        ([1, True], "input[1]: expected text or a list of tokens, got true or false."),
    ],
)
def test_an_input_that_no_provider_takes_is_refused(inputs: Any, message: str) -> None:
    """The message names the place and what was expected."""
    with pytest.raises(UnreadableRequest) as refused:
        read({"input": inputs})
    assert str(refused.value) == message


@pytest.mark.parametrize("body", [{}, {"input": []}, {"input": None}, {"input": {"text": "a"}}])
def test_unusual_inputs_are_the_providers_to_judge(body: dict[str, Any]) -> None:
    """They pass as one part, in the caller's own bytes."""
    ask = read(body)
    assert len(ask.parts) == 1
    assert dialect.request(ask) == orjson.dumps(body)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats(-2, 2) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=8,
)
items = st.fixed_dictionaries({}, optional={"index": json_values, "embedding": json_values})
answers_to_one = st.fixed_dictionaries(
    {}, optional={"data": json_values | st.lists(items, max_size=2), "usage": json_values}
)


@given(st.fixed_dictionaries({}, optional={"input": json_values, "stream": json_values}))
def test_any_json_is_read_or_refused(body: dict[str, Any]) -> None:
    """No request leads to a traceback."""
    try:
        ask = read(body)
    except UnreadableRequest:
        return
    assert ask.parts
    assert dialect.request(ask, range(len(ask.parts) - 1))


@given(answers_to_one | json_values)
def test_any_answer_is_recorded_or_not_kept(body: Any) -> None:
    """Whatever a provider sends, recording it raises nothing and what is kept can be told."""
    ask = read({"input": "x"})
    answers = record(ask, body)
    if answers is not None:
        assert dialect.can_replay(ask, answers)
        assert dialect.facts(ask, answers)
        assert replayed(ask, answers)["data"][0]["index"] == 0


@given(
    st.lists(st.text(max_size=30), min_size=1, max_size=30),
    st.integers(0, 10**6),
    st.floats(0, 100),
)
def test_shares_add_up_exactly(inputs: list[str], tokens: int, cost: float) -> None:
    """Whole tokens, exact costs, nested counts: the sum is the provider's own usage."""
    usage = {"prompt_tokens": tokens, "cost": cost, "details": {"cached": tokens // 3}}
    ask = read({"input": inputs})
    body = answer_to(inputs, usage)
    answers = record(ask, body)
    assert answers is not None
    infos = [generations[0].generation_info or {} for generations in answers]
    assert all(type(info["usage"]["prompt_tokens"]) is int for info in infos)
    assert replayed(ask, answers) == body
