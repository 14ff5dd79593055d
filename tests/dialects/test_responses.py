"""`/responses`: every vector recorded and told again, the key, the bounds, what policy learns."""

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
from langchain_core.messages import BaseMessageChunk
from langchain_openai import ChatOpenAI
from pydantic import SecretStr

from cache_backends.base import ChatGeneration, Generation
from proxy import keys, sse
from proxy.dialects.pieces import PIECE_CHARS
from proxy.dialects.responses import Responses
from proxy.errors import UnreadableRequest
from proxy.models import Answers, Ask, Bounds, Call, Head, Provider, Verdict

VECTORS = {
    path.stem: json.loads(path.read_text())
    for path in sorted((Path(__file__).parent / "vectors" / "responses").glob("*.json"))
}
COMPLETE = [name for name, vector in VECTORS.items() if vector["body"] is not None]
CUTS = {"whole": 2**30, "in pieces": 7, "byte by byte": 1}

JSON_HEAD = Head(200, [(b"content-type", b"application/json")])
EVENT_HEAD = Head(200, [(b"content-type", b"text/event-stream; charset=utf-8")])
ENDS = ("response.completed", "response.incomplete", "response.failed")

dialect = Responses()


def call_with(body: Any) -> Call:
    path = "/v1/responses"
    provider = Provider("test", "http://test/v1")
    return Call(provider, path, "", f"http://test{path}", [], orjson.dumps(body))


def read(body: Any) -> Ask:
    return dialect.read(call_with(body))


def ask_for(**fields: Any) -> Ask:
    return read({"model": "m", "input": "Hello", **fields})


def key_of(**fields: Any) -> str:
    call = call_with({"model": "m", "input": "Hello", **fields})
    return keys.question(call, dialect.read(call), Verdict(True, True)).id


def plainly(ask: Ask) -> Ask:
    """The same, asked for in one piece."""
    telling = ("stream", "stream_options")
    return read({name: value for name, value in ask.body.items() if name not in telling})


def streamed(ask: Ask) -> Ask:
    return read({**ask.body, "stream": True})


def sent(vector: dict[str, Any]) -> tuple[Head, bytes]:
    """What the provider of a vector sends. A text that begins with a colon is a comment."""
    if "plain" in vector:
        return JSON_HEAD, orjson.dumps(vector["plain"])
    raw = b""
    for each in vector["stream"]:
        if isinstance(each, str):
            raw += f"{each}\n\n".encode() if each.startswith(":") else sse.encode([each.encode()])
        elif "type" in each:
            raw += sse.encode_named([(each["type"].encode(), orjson.dumps(each))])
        else:
            raw += sse.encode([orjson.dumps(each)])
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


def answered(ask: Ask, *output: Any, **envelope: Any) -> Answers:
    """What is kept of a plain response with this output."""
    body = {"id": "resp_1", "status": "completed", "output": output, **envelope}
    answers = record(ask, JSON_HEAD, orjson.dumps(body))
    assert answers is not None
    return answers


def saying(*texts: str, **fields: Any) -> dict[str, Any]:
    """A message of these texts."""
    parts = [{"type": "output_text", "text": text, "annotations": []} for text in texts]
    return {"id": "msg_1", "type": "message", "role": "assistant", "content": parts, **fields}


def calling(arguments: str, **fields: Any) -> dict[str, Any]:
    return {"id": "fc_1", "type": "function_call", "name": "f", "arguments": arguments, **fields}


def plain(ask: Ask, answers: Answers) -> Any:
    return orjson.loads(dialect.replay(plainly(ask), answers))


def events(raw: bytes) -> list[Any]:
    return [orjson.loads(event) for event in sse.Decoder().feed(raw) if event != b"[DONE]"]


def told(ask: Ask, answers: Answers) -> list[Any]:
    return events(dialect.replay(streamed(ask), answers))


def kinds(events: list[Any]) -> list[str]:
    return [each["type"].removeprefix("response.") for each in events]


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
    again = record(ask, EVENT_HEAD, dialect.replay(streamed(ask), answers))
    assert again is not None
    assert plain(ask, again) == VECTORS[name]["body"]
    assert again[0][0].text == answers[0][0].text


@pytest.mark.parametrize("name", COMPLETE)
def test_what_is_stored_is_json(name: str) -> None:
    """Generations survive the way to a backend and back."""
    ask, answers = recorded(name)
    (kept,) = answers[0]
    assert isinstance(kept, ChatGeneration)
    info, message = orjson.loads(orjson.dumps([kept.generation_info, kept.message]))
    again = ChatGeneration(kept.text, info, message=message)
    assert dialect.can_replay(ask, [[again]])
    assert dialect.replay(ask, [[again]]) == dialect.replay(ask, answers)


@pytest.mark.parametrize("name", COMPLETE)
def test_a_stream_is_named_and_numbered(name: str) -> None:
    """Each event says its name twice and its number; it begins with nothing and ends with all."""
    ask, answers = recorded(name)
    raw = dialect.replay(streamed(ask), answers)
    each = events(raw)
    names = [line[7:].decode() for line in raw.splitlines() if line.startswith(b"event: ")]
    assert [event["type"] for event in each] == names
    assert [event["sequence_number"] for event in each] == list(range(len(each)))
    begun = (each[0]["response"], each[1]["response"])
    assert kinds(each)[:2] == ["created", "in_progress"]
    assert [(body["status"], body["output"]) for body in begun] == [("in_progress", [])] * 2
    assert all(begun[0].get(name) is None for name in ("usage", "completed_at", "error"))
    assert each[-1]["response"] == plain(ask, answers)
    assert b"[DONE]" not in raw


# What the original stream lacks or misplaces, so that clients stumble over it.
UNREADABLE = {"groq", "misplaced_items", "only_deltas"}
READABLE = [
    name
    for name in COMPLETE
    if "stream" in VECTORS[name] and name not in UNREADABLE and not name.startswith("output_left")
]


def http_client(raw: bytes) -> httpx2.Client:
    """The network, which answers with these events."""
    reply = httpx2.Response(200, content=raw, headers={"content-type": "text/event-stream"})
    return httpx2.Client(transport=httpx2.MockTransport(lambda _: reply))


def heard(raw: bytes) -> tuple[dict[Any, str], Any]:
    """What OpenAI's stream helper comes to: the words at each place, and the whole at the end."""
    words: dict[Any, str] = {}
    whole: Any = None
    with (
        openai.OpenAI(api_key="k", base_url="http://t/v1", http_client=http_client(raw)) as client,
        client.responses.stream(model="m", input="Hello") as stream,
    ):
        for each in stream:
            event = each.to_dict(warnings=False)
            if each.type.endswith(".delta"):
                names = ("type", "output_index", "content_index", "summary_index")
                place = tuple(event.get(name) for name in names)
                words[place] = words.get(place, "") + str(event["delta"])
            elif each.type in ENDS:
                whole = event["response"]
    return words, whole


# The client warns of a part that it does not know, whoever tells it.
@pytest.mark.parametrize("name", [name for name in READABLE if name != "unheard_of"])
def test_the_openai_client_hears_the_same(name: str) -> None:
    """Its stream helper makes of the replay what it makes of the provider's own events."""
    ask, answers = recorded(name)
    replayed = heard(dialect.replay(streamed(ask), answers))
    assert replayed == heard(sent(VECTORS[name])[1])
    assert replayed[1]["output"] is not None


def understood(raw: bytes) -> dict[str, Any]:
    """The message that LangChain puts together from events."""
    model = ChatOpenAI(
        model="m",
        api_key=SecretStr("k"),
        base_url="http://t/v1",
        use_responses_api=True,
        http_client=http_client(raw),
    )
    whole: BaseMessageChunk | None = None
    for chunk in model.stream("Hello"):
        whole = chunk if whole is None else whole + chunk
    assert whole is not None
    return whole.model_dump()


@pytest.mark.parametrize("name", READABLE)
def test_langchain_understands_the_same(name: str) -> None:
    """ChatOpenAI's message from the replay is its message from the provider's own events."""
    ask, answers = recorded(name)
    assert understood(dialect.replay(streamed(ask), answers)) == understood(sent(VECTORS[name])[1])


def test_the_generation_reads_like_a_chat() -> None:
    """The text that a person would read, the items as a message, and what surrounds them."""
    _, answers = recorded("function_calls")
    (kept,), body = answers[0], VECTORS["function_calls"]["body"]
    assert isinstance(kept, ChatGeneration)
    assert kept.text == "I look that up."
    assert kept.message == {"role": "assistant", "content": body["output"]}
    assert kept.generation_info is not None
    assert kept.generation_info["envelope"].keys() == body.keys() - {"output"}


def test_text_is_what_a_person_would_read() -> None:
    """The texts of all messages are joined; thoughts, refusals and calls are left out."""
    thought = {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "Hm."}]}
    refusal = {"type": "message", "content": [{"type": "refusal", "refusal": "No."}, None]}
    answers = answered(ask_for(), thought, saying("a", "b"), refusal, saying("c"), {"type": []})
    assert answers[0][0].text == "abc"


def test_a_message_is_told_part_by_part() -> None:
    """Each part opens empty, comes in pieces of whole characters, and closes whole."""
    ask, text = ask_for(), "🐔é" * PIECE_CHARS
    item = saying(text, status="completed")
    first, *rest, last = told(ask, answered(ask, item))[2:-1]
    assert (first["item"], last["item"]) == ({**item, "content": [], "status": "in_progress"}, item)
    assert kinds(rest) == [
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
    ]
    assert [each["delta"] for each in rest[1:3]] == [text[:PIECE_CHARS], text[PIECE_CHARS:]]
    assert rest[0]["part"] == {"type": "output_text", "text": "", "annotations": []}
    assert (rest[3]["text"], rest[4]["part"]) == (text, item["content"][0])
    assert all(each["logprobs"] == [] for each in rest[1:4])
    place = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    assert all(each.items() >= place.items() for each in rest)


def test_tokens_are_streamed_each_with_its_logprob() -> None:
    """Where the tokens make up the text, but for their bytes; halves of a character come as one."""
    each = told(*recorded("plain_logprobs_of_half_characters"))
    deltas = [event for event in each if event["type"].endswith(".delta")]
    assert [event["delta"] for event in deltas] == ["So ", "🐔", "!"]
    assert [len(event["logprobs"]) for event in deltas] == [1, 2, 1]
    assert deltas[0]["logprobs"][0] == {
        "token": "So ",
        "logprob": -0.1,
        "top_logprobs": [{"token": "So ", "logprob": -0.1}],
    }


def test_logprobs_that_do_not_fit_come_with_the_last_piece() -> None:
    """Nothing of them is lost."""
    each = told(*recorded("plain_logprobs_of_another_text"))
    deltas = [event for event in each if event["type"].endswith(".delta")]
    assert [len(event["logprobs"]) for event in deltas] == [0, 0, 2]


@pytest.mark.parametrize(
    ("name", "between"),
    [
        ("annotations", ["annotation.added", "annotation.added"]),
        ("image_generation", ["in_progress", "generating", "completed"]),
        ("custom_tool_call", ["delta", "done"]),
    ],
)
def test_what_is_noted_and_done_is_told(name: str, between: list[str]) -> None:
    """Citations follow the text; a tool tells how it gets on, or what it is given."""
    each = told(*recorded(name))
    found = [kind.split(".", 1)[1] for kind in kinds(each)[3:-2] if "content_part" not in kind]
    assert [kind for kind in found if name != "annotations" or "annot" in kind] == between


def test_a_tool_that_failed_is_not_told_to_have_completed() -> None:
    """Its item says what happened."""
    failed = {"id": "mcp_1", "type": "mcp_call", "arguments": "{}", "status": "failed"}
    each = told(ask_for(), answered(ask_for(), failed))
    assert kinds(each)[3:-2] == ["mcp_call_arguments.delta", "mcp_call_arguments.done"]
    assert each[-2]["item"] == failed


def test_a_picture_is_not_told_twice_before_the_end() -> None:
    """It is large."""
    ask, answers = recorded("image_generation")
    raw = dialect.replay(streamed(ask), answers)
    assert raw.count(b"iVBORw0KGgo=") == 2


def test_an_encrypted_thought_comes_back_to_the_letter() -> None:
    """Wherever a client looks for it."""
    ask, answers = recorded("reasoning")
    encrypted = VECTORS["reasoning"]["body"]["output"][0]["encrypted_content"]
    items = [each["item"] for each in told(ask, answers) if "item" in each]
    assert [item["encrypted_content"] for item in items[:2]] == [encrypted] * 2


@pytest.mark.parametrize("field", ["content", "summary", "arguments", "input", "code"])
@pytest.mark.parametrize("odd", [None, 7, "text", {"a": 1}, ["text"], [{"type": []}, {}]])
@pytest.mark.parametrize("kind", ["message", "reasoning", "function_call", "mcp_call", [], None])
def test_odd_items_are_told_whole(kind: Any, field: str, odd: Any) -> None:
    """What is not of the known form is not taken apart, and raises nothing."""
    ask, item = ask_for(), {"type": kind, field: odd}
    answers = answered(ask, item)
    assert told(ask, answers)[-2]["item"] == item
    assert dialect.facts(ask, answers).finish_reasons == ("completed",)


def test_an_end_is_waited_for_no_longer_than_needed() -> None:
    """After the last event nothing but the end of the body is to come."""
    head, raw = sent(VECTORS["text"])
    recorder = dialect.recorder(ask_for(stream=True), head, 1)
    before, last = raw[: raw.rindex(b"event: ")], raw[raw.rindex(b"event: ") :]
    recorder.feed(before)
    assert not recorder.ended
    recorder.feed(last)
    assert recorder.ended
    assert not dialect.recorder(ask_for(), JSON_HEAD, 1).ended


def test_the_reply_says_how_it_is_to_be_read() -> None:
    """Some servers stream unasked, others answer a streamed request in one piece."""
    assert record(ask_for(), *sent(VECTORS["text"])) is not None
    assert record(ask_for(stream=True), *sent(VECTORS["plain"])) is not None


KEPT = {"envelope": {"status": "completed"}}


def row(info: Any, message: Any) -> Generation:
    return ChatGeneration("", info, message=message)


def test_a_stored_stranger_is_not_replayed() -> None:
    """Rows that another program wrote are recognised before they are told."""
    ask, empty = ask_for(), row(KEPT, {"content": []})
    assert dialect.can_replay(ask, [[empty]])
    rows: list[list[Generation]] = [[], [empty, empty], [Generation("x", KEPT)]]
    rows += [[row(KEPT, {"content": content})] for content in (None, "x", [None])]
    infos: list[Any] = [None, {}, {"envelope": []}, {"envelope": {}}, {"envelope": {"status": []}}]
    rows += [[row(info, {"content": []})] for info in infos]
    rows += [[row(KEPT, {})], [row(KEPT, [])], [row({**KEPT, "repeated": "user"}, {"content": []})]]
    assert not dialect.can_replay(ask, [])
    for each in rows:
        assert not dialect.can_replay(ask, [each])


ANNA = VECTORS["echoes"]["request"]
BOB = {
    "user": "bob",
    "safety_identifier": "bob-1",
    "metadata": {"run": "8", "new": ""},
    "prompt_cache_key": "bob-2",
    "prompt_cache_options": {"mode": "implicit"},
    "prompt_cache_retention": "in_memory",
}
NOBODY: dict[str, Any] = {
    "user": None,
    "safety_identifier": None,
    "metadata": {},
    "prompt_cache_key": None,
    "prompt_cache_options": None,
    "prompt_cache_retention": None,
}


def test_what_repeats_the_request_repeats_the_current_one() -> None:
    """One caller's names are neither stored nor told to another; what is chosen for all stays."""
    ask, answers = recorded("echoes")
    for own in (value for name, value in ANNA.items() if name in BOB):
        assert str(own) not in str(answers)
    assert (
        plain(ask_for(**BOB), answers).items()
        >= (BOB | {"prompt_cache_options": {"mode": "implicit", "ttl": "30m"}}).items()
    )
    only_ttl = {"prompt_cache_options": {"ttl": "12h"}}
    assert plain(ask_for(**only_ttl), answers).items() >= (NOBODY | only_ttl).items()
    assert plain(ask_for(), answers).items() >= NOBODY.items()
    assert plain(ask_for(**NOBODY), answers).items() >= NOBODY.items()
    assert plain(ask, answers) == VECTORS["echoes"]["body"]


def test_each_event_repeats_the_current_request() -> None:
    """The first events tell the response as the last one does."""
    _, answers = recorded("echoes")
    each = told(ask_for(user="bob"), answers)
    assert [each[at]["response"]["user"] for at in (0, 1, -1)] == ["bob"] * 3
    assert "anna" not in str([event["response"] for event in each if "response" in event])


def test_an_answer_to_nobody_names_its_caller() -> None:
    """Whoever asked first without a name."""
    body = {**VECTORS["text"]["body"], "prompt_cache_options": {"mode": "implicit", "ttl": "30m"}}
    answers = record(ask_for(), JSON_HEAD, orjson.dumps(body))
    assert answers is not None
    assert plain(ask_for(), answers) == body
    options = {"prompt_cache_options": {"mode": "implicit", "ttl": "12h"}}
    assert plain(ask_for(**BOB | {"prompt_cache_options": {"ttl": "12h"}}), answers) == (
        body | {name: BOB[name] for name in BOB if name in body} | options
    )


def test_what_repeats_the_request_in_other_words_is_not_kept() -> None:
    """A provider may add to what it was given, or hash it."""
    ask = ask_for(user="anna", metadata={"run": 7}, safety_identifier="anna")
    said = {"user": "ANNA@org", "metadata": {"run": "7", "tier": "x"}, "safety_identifier": "3f"}
    answers = answered(ask, **said)
    assert plain(ask_for(), answers).items() >= (
        {"user": None, "metadata": {}, "safety_identifier": None}.items()
    )
    assert plain(ask_for(user="bob"), answers)["user"] == "bob"


def test_who_repeats_nothing_is_not_made_to() -> None:
    """Ollama says null and {} whatever it is given, others leave it out."""
    ask, answers = recorded("ollama")
    assert plain(ask_for(user="bob", metadata={"run": "8"}), answers).items() >= (
        {"user": None, "metadata": {}}.items()
    )
    assert "user" not in plain(ask_for(user="bob"), answered(ask, saying("Hi")))


def test_facts_tell_reasons_and_tokens() -> None:
    """Policy and savings learn how the response ended and what it took."""
    facts = dialect.facts(*recorded("text"))
    assert facts.finish_reasons == ("completed",)
    assert (facts.input_tokens, facts.output_tokens) == (11, 7)
    assert dialect.facts(ask_for(), answered(ask_for())).input_tokens is None


@pytest.mark.parametrize(
    ("details", "reason", "unfinished"),
    [
        ({"reason": "max_output_tokens"}, "max_output_tokens", ""),
        ({"reason": "content_filter"}, "content_filter", "content_filter"),
        ({"reason": "max_messages"}, "max_messages", "max_messages"),
        ({"reason": "steered"}, "steered", "steered"),
        ({"reason": "the moon is full"}, "incomplete", "incomplete"),
        ({"reason": ["x"]}, "incomplete", "incomplete"),
        ({}, "incomplete", "incomplete"),
        (None, "incomplete", "incomplete"),
    ],
)
def test_facts_say_why_a_response_ended_early(details: Any, reason: str, unfinished: str) -> None:
    """The limit that was asked for is as good an end as any; unknown reasons are not counted."""
    answers = answered(ask_for(), status="incomplete", incomplete_details=details)
    facts = dialect.facts(ask_for(), answers)
    assert (facts.finish_reasons, facts.unfinished) == ((reason,), unfinished)


@pytest.mark.parametrize(
    ("item", "calls"),
    [
        (calling("{}"), True),
        ({"type": "custom_tool_call", "input": ""}, True),
        ({"type": "computer_call"}, True),
        ({"type": "shell_call"}, True),
        ({"type": "tool_search_call", "execution": "client"}, True),
        ({"type": "tool_search_call", "execution": "server"}, False),
        ({"type": "web_search_call"}, False),
        (saying("Hi"), False),
    ],
)
def test_facts_tell_of_calls_that_the_caller_is_to_act_on(item: Any, calls: bool) -> None:
    """What the provider has done itself is no such call."""
    ask = ask_for()
    assert dialect.facts(ask, answered(ask, saying("Hi"), item)).has_tool_calls is calls


def test_facts_tell_of_tools_that_ran_at_the_provider() -> None:
    """The request need not show them: a stored prompt brings some, a provider may add others."""
    for ask in (ask_for(), ask_for(prompt={"id": "pmpt_1", "version": "2"})):
        assert dialect.facts(ask, answered(ask, saying("Hi"), calling("{}"))).acted == ""
        acted = answered(ask, {"type": "web_search_call"}, saying("Hi"))
        assert dialect.facts(ask, acted).acted == "web_search_call"


JSON_WISH = {"text": {"format": {"type": "json_schema", "name": "n", "schema": {}}}}
CUT_SHORT = {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}
REFUSED: dict[str, Any] = {"type": "message", "content": [{"type": "refusal", "refusal": "No."}]}
HALF = saying('{"a":')


@pytest.mark.parametrize(
    ("wish", "output", "envelope", "broken"),
    [
        (JSON_WISH, [saying('{"a": 1}')], {}, ""),
        (JSON_WISH, [REFUSED, saying("{}", '{"a":')], {}, "output[1].content[1].text"),
        (JSON_WISH, [saying("")], {}, "output[0].content[0].text"),
        (JSON_WISH, [saying('{"a":')], CUT_SHORT, ""),
        (JSON_WISH, [saying("Wait.", phase="commentary"), saying("{}")], {}, ""),
        (JSON_WISH, [{**REFUSED, "content": REFUSED["content"] + HALF["content"]}], {}, ""),
        (JSON_WISH, [saying("I call."), calling("{}")], {}, ""),
        (
            {"text": {"format": {"type": "json_object"}}},
            [saying("x")],
            {},
            "output[0].content[0].text",
        ),
        ({"text": {"format": {"type": "text"}}}, [saying("Hi")], {}, ""),
        ({"text": "json_object"}, [saying("Hi")], {}, ""),
        ({}, [saying("Hi")], {}, ""),
        ({}, [calling(""), calling('{"a":')], {}, "output[1].arguments"),
        ({}, [calling('{"a":')], CUT_SHORT, ""),
        ({}, [{"type": "custom_tool_call", "input": '{"a":', "arguments": "x"}], {}, ""),
    ],
)
def test_facts_name_json_that_does_not_parse(
    wish: dict[str, Any], output: list[Any], envelope: dict[str, Any], broken: str
) -> None:
    """By its place; what was cut at the limit that was asked for is not judged."""
    ask = ask_for(**wish)
    assert dialect.facts(ask, answered(ask, *output, **envelope)).broken_json == broken


THOUGHT = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAA"}
TURN = {"role": "user", "content": [{"type": "input_text", "text": "Hello"}]}

SAME: list[dict[str, Any]] = [
    {"stream": True, "stream_options": {"include_obfuscation": False}},
    {"user": "someone", "metadata": {"a": "b"}, "safety_identifier": "x"},
    {"prompt_cache_key": "k", "prompt_cache_retention": "24h", "service_tier": "flex"},
    {"prompt_cache_options": {"mode": "explicit"}},
    {"background": False, "include": [], "store": True, "tools": []},
    {"background": None, "include": None, "store": None, "conversation": None, "prompt": None},
    {"max_output_tokens": None, "max_tool_calls": None, "moderation": None, "reasoning": None},
    {"temperature": None, "top_p": None, "previous_response_id": None, "context_management": None},
]
OTHER: list[dict[str, Any]] = [
    {"model": "other"},
    {"input": "Hello "},
    {"input": [{"role": "user", "content": "Hello"}]},
    {"instructions": "Be brief."},
    {"store": False},
    {"previous_response_id": "resp_1"},
    {"prompt": {"id": "pmpt_1", "version": "1"}},
    {"temperature": 0},
    {"temperature": 1},
    {"top_p": 1},
    {"max_output_tokens": 16},
    {"max_tool_calls": 1},
    {"reasoning": {"effort": "low"}},
    {"reasoning": {}},
    {"text": {"format": {"type": "text"}}},
    {"text": {"verbosity": "low"}},
    {"tools": [{"type": "function", "name": "f", "parameters": {}}]},
    {"tool_choice": "none"},
    {"tool_choice": None},
    {"parallel_tool_calls": None},
    {"parallel_tool_calls": True},
    {"include": ["reasoning.encrypted_content"]},
    {"top_logprobs": 1},
    {"top_logprobs": None},
    {"truncation": "auto"},
    {"truncation": None},
    {"context_management": [{"type": "compaction"}]},
    {"moderation": {"model": "omni-moderation-latest"}},
    {"access_programs": {"cyber": "standard"}},
    {"image": {"context_compression": "enabled"}},
    {"personality": "friendly"},
    {"cache_salt": "a"},
    {"request_id": "resp_mine"},
    {"unheard_of": None},
]


@pytest.mark.parametrize("fields", SAME, ids=json.dumps)
def test_what_cannot_change_the_answer_is_not_in_the_key(fields: dict[str, Any]) -> None:
    """Ignored and neutral fields lead to the same entry."""
    assert key_of(**fields) == key_of()


@pytest.mark.parametrize("fields", OTHER, ids=json.dumps)
def test_what_can_change_the_answer_is_in_the_key(fields: dict[str, Any]) -> None:
    """All else leads to an entry of its own."""
    assert key_of(**fields) != key_of()


@pytest.mark.parametrize("mark", ["cache_control", "prompt_cache_breakpoint"])
def test_cache_marks_are_not_in_the_key(mark: str) -> None:
    """Neither on parts nor on items; they are named among what is ignored."""
    (part,) = TURN["content"]
    marked = {**TURN, "content": [{**part, mark: {"type": "x"}}]}  # type: ignore[dict-item]
    assert key_of(input=[marked]) == key_of(input=[TURN])
    assert key_of(input=[{**TURN, mark: {}}]) == key_of(input=[TURN])
    assert f"input.*.content.*.{mark}" in [path for path, _ in ask_for(input=[marked]).ignored]


def test_the_order_within_tools_and_what_they_said_is_in_the_key() -> None:
    """What a model reads as it stands is not sorted; the fields of an item are."""
    tool = {"type": "function", "name": "f", "parameters": {"a": 1, "b": 2}}
    turned = {**tool, "parameters": {"b": 2, "a": 1}}
    assert key_of(tools=[tool]) != key_of(tools=[turned])
    said = {"type": "function_call_output", "call_id": "c", "output": {"a": 1, "b": 2}}
    assert key_of(input=[said]) != key_of(input=[{**said, "output": {"b": 2, "a": 1}}])
    assert key_of(input=[said]) == key_of(input=[dict(reversed(said.items()))])


REMINDERS: dict[str, dict[str, Any]] = {
    "previous_response_id": {"previous_response_id": "resp_1"},
    "reasoning": {"input": [TURN, THOUGHT]},
    "compaction": {"input": [{"type": "compaction", "encrypted_content": "gAAA"}]},
    "item_reference": {"input": [{"type": "item_reference", "id": "rs_1"}]},
}


@pytest.mark.parametrize("fields", REMINDERS.values(), ids=REMINDERS)
@pytest.mark.parametrize("name", ["user", "safety_identifier"])
def test_thoughts_are_one_end_users(name: str, fields: dict[str, Any]) -> None:
    """OpenAI withholds them from the model where another end user asks."""
    mine, yours = {name: "anna"}, {name: "bob"}
    assert key_of(**fields, **mine) != key_of(**fields, **yours)
    assert key_of(**fields, **mine) == key_of(**fields, **mine, metadata={"run": "1"})
    assert key_of(**fields, **{name: None}) == key_of(**fields)
    ask = ask_for(**fields, **mine)
    assert ask.echoed == mine
    assert name not in [path for path, _ in ask.ignored]


KEPT_BOUNDS = Bounds(account="the provider stores the response", keep_s=29 * 86400)
FUNCTION = {"type": "function", "name": "f", "parameters": {}}
FILE = {"type": "input_file", "file_id": "file_1"}


@pytest.mark.parametrize(
    ("fields", "bounds"),
    [
        ({}, KEPT_BOUNDS),
        ({"store": True}, KEPT_BOUNDS),
        ({"store": None, "previous_response_id": "resp_1"}, KEPT_BOUNDS),
        ({"store": False}, Bounds()),
        ({"store": False, "input": [TURN]}, Bounds()),
        ({"store": False, "input": [{"type": "mcp_list_tools", "tools": [{}]}]}, Bounds()),
        ({"store": False, "prompt": {"id": "p", "version": "1"}}, Bounds(account="prompt")),
        *[({"store": False, **REMINDERS[name]}, Bounds(account=name)) for name in REMINDERS],
        ({"store": False, "input": [{"id": "msg_1"}]}, Bounds(account="item_reference")),
        ({"store": False, "input": [{**TURN, "content": [FILE]}]}, Bounds(account="file_id")),
        (
            {"store": False, "input": [{"type": "computer_call_output", "output": FILE}]},
            Bounds(account="file_id"),
        ),
    ],
)
def test_what_leads_back_to_the_provider_is_bound(fields: dict[str, Any], bounds: Bounds) -> None:
    """A stored response is its account's, and for no longer than the provider keeps it."""
    assert ask_for(**fields).bounds == bounds


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"background": True}, "background"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"conversation": {"id": "conv_1"}}, "conversation"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt without a version"),
        ({"prompt": {"id": "pmpt_1", "version": None}}, "prompt without a version"),
        ({"prompt": "pmpt_1"}, "prompt without a version"),
        ({"prompt_cache_options": {"prewarm": True}}, "prewarm"),
        ({"prompt_cache_options": {"comparison_response_id": "r"}}, "comparison_response_id"),
        ({"generate": False}, "generate"),
        ({"input": [{"type": "mcp_approval_response", "approve": True}]}, "tool mcp"),
        ({"input": [{"type": "additional_tools", "tools": [{"type": "mcp"}]}]}, "tool mcp"),
        (
            {"input": [{"type": "tool_search_output", "tools": [{"type": "web_search"}]}]},
            "tool web_search",
        ),
    ],
)
def test_what_is_not_of_the_request_alone_is_not_cached(
    fields: dict[str, Any], reason: str
) -> None:
    """It acts, or its answer depends on what others may change; whether it is stored or not."""
    assert ask_for(**fields).bounds == Bounds(uncached=reason)
    assert ask_for(**fields, store=False).bounds == Bounds(uncached=reason)


@pytest.mark.parametrize(
    ("tool", "reason"),
    [
        (FUNCTION, ""),
        ({"type": "custom", "name": "run"}, ""),
        ({"type": "computer"}, ""),
        ({"type": "computer_use_preview"}, ""),
        ({"type": "apply_patch"}, ""),
        ({"type": "local_shell"}, ""),
        ({"type": "image_generation"}, ""),
        ({"type": "shell", "environment": {"type": "local"}}, ""),
        ({"type": "namespace", "name": "n", "tools": [FUNCTION]}, ""),
        ({"type": "tool_search", "execution": "client"}, ""),
        ({"type": "tool_search"}, "tool tool_search"),
        ({"type": "shell", "environment": {"type": "container_auto"}}, "tool shell"),
        ({"type": "shell", "environment": None}, "tool shell"),
        ({"type": "shell"}, "tool shell"),
        ({"type": "web_search"}, "tool web_search"),
        ({"type": "web_search_2025_08_26"}, "tool web_search"),
        ({"type": "web_search_preview_2025_03_11"}, "tool web_search"),
        ({"type": "file_search", "vector_store_ids": []}, "tool file_search"),
        ({"type": "code_interpreter", "container": {}}, "tool code_interpreter"),
        ({"type": "mcp", "server_label": "x"}, "tool mcp"),
        ({"type": "programmatic_tool_calling"}, "tool programmatic_tool_calling"),
        ({"type": "namespace", "tools": [{"type": "mcp"}]}, "tool mcp"),
        ({"type": "namespace", "tools": [{"type": "namespace"}]}, "a tool of the provider's"),
        ({"type": "x_search"}, "a tool of the provider's"),
        ({"type": "functionality"}, "a tool of the provider's"),
        ({"type": ["mcp"]}, "a tool of the provider's"),
        ({}, "a tool of the provider's"),
        ("web_search", "a tool of the provider's"),
    ],
)
def test_tools_that_act_or_search_are_not_cached(tool: Any, reason: str) -> None:
    """Only what is known to be harmless is; a reason names only what is known."""
    assert ask_for(tools=[tool], store=False).bounds == Bounds(uncached=reason)
    if not reason:
        assert ask_for(tools=[tool, {"type": "mcp"}]).bounds.uncached == "tool mcp"


def test_a_search_among_the_tools_of_the_request_is_cached() -> None:
    """It finds what the key holds."""
    tools = [{"type": "tool_search"}, {**FUNCTION, "defer_loading": True}]
    assert ask_for(tools=tools, store=False).bounds == Bounds()


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (7, "input: expected text or a list of items, got a number."),
        (True, "input: expected text or a list of items, got true or false."),
        ({}, "input: expected text or a list of items, got an object."),
        ([TURN, 7], "input[1]: expected an object, got a number."),
        ([None], "input[0]: expected an object, got null."),
        (
            [{"role": "user", "content": 7.5}],
            "input[0].content: expected text or a list of parts, got a number.",
        ),
    ],
)
def test_input_that_no_provider_takes_is_refused(asked: Any, message: str) -> None:
    """The message names the place and what was expected."""
    with pytest.raises(UnreadableRequest) as refused:
        ask_for(input=asked)
    assert str(refused.value) == message


@pytest.mark.parametrize("asked", ["", [], None, ["Hello"], [{"content": None}], [{"content": {}}]])
def test_input_that_somebody_may_take_is_read(asked: Any) -> None:
    """It is for the provider to refuse it; so it is for a request without any."""
    assert ask_for(input=asked).parts == ({"input": asked},)
    assert read({"model": "m"}).parts == ({},)


@pytest.mark.parametrize("path", ["input", "tools", "metadata", "unheard_of"])
def test_what_is_nested_too_deeply_is_refused(path: str) -> None:
    """Wherever it stands; deeper than any JSON parser reads is refused by the parser."""
    for depth in (300, 900, 5000):
        deep = b'[{"type":"namespace","tools":' * depth + b"[]" + b"}]" * depth
        call = call_with({})
        raw = b'{"model":"m","%b":%b}' % (path.encode(), deep)
        with pytest.raises(UnreadableRequest):
            ask_and_use(Call(call.provider, call.path, "", call.url, [], raw))


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


def one_of(*names: str) -> st.SearchStrategy[str]:
    return st.sampled_from(names)


odd_logprobs = st.lists(odd("token", "bytes", "logprob", top_logprobs=st.lists(odd("bytes"))))
odd_parts = st.lists(
    odd(
        "refusal",
        "",
        type=one_of("output_text", "refusal", "reasoning_text", "summary_text"),
        text=st.text(max_size=60),
        logprobs=odd_logprobs,
        annotations=st.lists(odd("type", "url"), max_size=2),
    ),
    max_size=3,
)
odd_items = odd(
    "id",
    "status",
    "result",
    "phase",
    "",
    type=one_of(
        "message",
        "reasoning",
        "function_call",
        "custom_tool_call",
        "code_interpreter_call",
        "image_generation_call",
        "web_search_call",
        "mcp_call",
        "tool_search_call",
    ),
    content=odd_parts,
    summary=odd_parts,
    arguments=st.text(max_size=60),
    input=st.text(max_size=60),
    code=st.text(max_size=60),
)
items = st.dictionaries(st.text(max_size=4), json_values) | odd_items
bodies = st.fixed_dictionaries(
    {"status": one_of("completed", "incomplete"), "output": st.lists(items, max_size=3)},
    optional={
        "id": json_values,
        "usage": json_values,
        "incomplete_details": json_values | st.just({"reason": "max_output_tokens"}),
        "completed_at": json_values,
        "metadata": json_values,
        "user": json_values,
        "text": json_values,
        "error": st.none(),
        "unheard of": json_values,
    },
)


@given(bodies)
def test_any_answer_rebuilds_from_its_own_stream(body: dict[str, Any]) -> None:
    """Odd items, parts, logprobs and unknown fields all come back; nothing raises."""
    ask = ask_for(**JSON_WISH)
    answers = record(ask, JSON_HEAD, orjson.dumps(body))
    assert answers is not None
    assert dialect.can_replay(ask, answers)
    assert plain(ask, answers) == body
    assert dialect.facts(ask, answers).finish_reasons
    again = record(ask, EVENT_HEAD, dialect.replay(streamed(ask), answers))
    assert again is not None
    assert plain(ask, again) == body


@given(bodies, odd(*NOBODY, metadata=st.dictionaries(st.text(), st.text())))
def test_any_callers_names_come_back_and_go_nowhere(body: dict[str, Any], names: Any) -> None:
    """A provider that repeats what it is given is repeated, to this caller and the next."""
    ask = ask_for(**names)
    repeating = {**body, **NOBODY, **{k: v for k, v in names.items() if v not in (None, {})}}
    answers = record(ask, JSON_HEAD, orjson.dumps(repeating))
    assert answers is not None
    assert plain(ask, answers) == repeating
    assert plain(ask_for(), answers) == {**body, **NOBODY}


odd_events = odd(
    "item",
    "output_index",
    "error",
    type=one_of(*ENDS, "response.created", "response.output_item.done", "response.x.delta"),
    response=odd("id", "error", status=one_of("completed", "failed"), output=st.lists(odd_items)),
)


@given(st.lists(odd_events | json_values, max_size=5))
def test_any_stream_is_recorded_or_not_kept(sent: list[Any]) -> None:
    """Whatever a provider sends, recording it raises nothing, and what is kept can be told."""
    ask = ask_for(stream=True, metadata={"a": "b"})
    answers = record(ask, EVENT_HEAD, sse.encode(map(orjson.dumps, sent)))
    if answers is None:
        return
    assert dialect.can_replay(ask, answers)
    again = record(ask, EVENT_HEAD, dialect.replay(ask, answers))
    assert again is not None
    assert plain(ask, again) == plain(ask, answers)


@given(
    odd(
        "stream",
        "store",
        "include",
        "text",
        "metadata",
        "user",
        "conversation",
        "prompt_cache_options",
        "previous_response_id",
        input=st.lists(
            odd("role", "id", "output", type=one_of("reasoning"), content=st.lists(odd("file_id")))
        ),
        tools=st.lists(odd("tools", "environment", type=one_of("namespace", "shell", "mcp"))),
        prompt=odd("id", "version"),
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


@given(json_values, json_values)
def test_any_row_is_told_or_not(info: Any, content: Any) -> None:
    """Nonsense in the cache is no answer, and no traceback."""
    for kept in (info, {"envelope": info}, {"envelope": {"status": "completed"}, "silent": info}):
        answers = [[row(kept, {"content": content})]]
        if dialect.can_replay(ask_for(user="anna"), answers):
            assert dialect.replay(ask_for(user="anna", stream=True), answers)
