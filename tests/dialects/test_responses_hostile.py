"""`/responses` under attack: what must not be kept, not be told to others, and not take long."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from proxy import keys, sse
from proxy.dialects import responses_ask
from proxy.dialects.responses import Responses
from proxy.models import Answers, Ask, Call, Head, Provider, Verdict

PLAIN = Head(200, [(b"content-type", b"application/json")])
STREAM = Head(200, [(b"content-type", b"text/event-stream")])

dialect = Responses()


def call_with(headers: dict[bytes, bytes] | None = None, **fields: Any) -> Call:
    body = orjson.dumps({"model": "m", "input": "Hello", **fields})
    url, headers = "http://test/v1/responses", headers or {}
    return Call(
        Provider("test", "http://test/v1"), "/v1/responses", "", url, [*headers.items()], body
    )


def ask_for(**fields: Any) -> Ask:
    return dialect.read(call_with(**fields))


def key_of(call: Call) -> str:
    return keys.question(call, dialect.read(call), Verdict(True, True)).id


def response(*output: Any, **envelope: Any) -> dict[str, Any]:
    return {"id": "resp_1", "status": "completed", "output": output, **envelope}


def record(*events: dict[str, Any]) -> Answers | None:
    recorder = dialect.recorder(ask_for(stream=True), STREAM, 1)
    recorder.feed(sse.encode(map(orjson.dumps, events)))
    return recorder.finish()


def answered(ask: Ask, **envelope: Any) -> Answers:
    recorder = dialect.recorder(ask, PLAIN, 1)
    recorder.feed(orjson.dumps(response(**envelope)))
    answers = recorder.finish()
    assert answers is not None
    return answers


def told(ask: Ask, answers: Answers) -> dict[str, Any]:
    body: dict[str, Any] = orjson.loads(dialect.replay(ask, answers))
    return body


def test_an_error_within_the_last_event_is_not_kept() -> None:
    """Whatever status stands beside it; as of a plain answer."""
    whole = response(error=None)
    assert record({"type": "response.completed", "response": whole}) is not None
    broken = response(error={"code": "server_error", "message": "sorry"})
    assert record({"type": "response.completed", "response": broken}) is None


@pytest.mark.parametrize(
    ("kind", "field"), [("function_call", "arguments"), ("custom_tool_call", "input")]
)
def test_an_end_that_lost_what_a_tool_is_given_is_not_kept(kind: str, field: str) -> None:
    """It was told before: a caller would run the tool with nothing."""
    item = {"type": kind, "id": "c_1", "name": "rm", field: '{"path": "/tmp/x"}'}
    done = {"type": "response.output_item.done", "output_index": 0, "item": item}
    whole = {"type": "response.completed", "response": response(item)}
    assert record(done, whole) is not None
    assert record(done, {**whole, "response": response({**item, field: ""})}) is None


def test_what_is_heard_and_written_nowhere_is_not_kept() -> None:
    """The last event holds no sound: a hit would be silent."""
    message = {"type": "message", "role": "assistant", "content": []}
    whole = {"type": "response.completed", "response": response(message)}
    assert record(whole) is not None
    for kind in ("response.audio.delta", "response.audio.transcript.delta"):
        assert record({"type": kind, "delta": "AAAA"}, whole) is None


def test_a_picture_that_failed_is_not_stored() -> None:
    """The response says that it completed; the next try may do better."""
    failed = {"type": "image_generation_call", "status": "failed", "result": None}
    ask = ask_for()
    for output, unfinished in (([failed], "failed"), ([{**failed, "status": "completed"}], "")):
        assert dialect.facts(ask, answered(ask, output=output)).unfinished == unfinished


def test_an_end_user_told_under_another_name_is_not_told_to_another() -> None:
    """`safety_identifier` replaces `user`: a provider may say the one in place of the other."""
    answers = answered(ask_for(user="alice"), user="alice", safety_identifier="alice")
    for ask in (ask_for(user="bob"), ask_for()):
        assert b"alice" not in dialect.replay(ask, answers)
    assert told(ask_for(safety_identifier="bob"), answers)["safety_identifier"] == "bob"


def test_codex_may_ask_again_in_another_session() -> None:
    """Its `client_metadata` names installation, thread and turn, and leads to the same entry."""
    one, other = [{"x-codex-turn-metadata": f'{{"turn_id":"{turn}"}}'} for turn in "ab"]
    assert key_of(call_with(client_metadata=one)) == key_of(call_with(client_metadata=other))
    assert key_of(call_with(client_metadata=one)) == key_of(call_with())
    answers = answered(ask_for(client_metadata=one), client_metadata=one)
    assert told(ask_for(client_metadata=other), answers)["client_metadata"] == other
    assert not told(ask_for(), answers)["client_metadata"]


def test_another_session_of_openrouters_finds_the_same() -> None:
    """It groups requests; who is told it is told his own."""
    one, other = [call_with(session_id=session) for session in ("one", "other")]
    assert key_of(one) == key_of(other) == key_of(call_with())
    answers = answered(dialect.read(one), session_id="one")
    assert told(dialect.read(other), answers)["session_id"] == "other"
    assert told(ask_for(), answers)["session_id"] is None


@pytest.mark.parametrize(
    "name",
    [b"x-anthropic-beta", b"x-ms-oai-image-generation-deployment", b"groq-model-version"],
)
def test_what_a_header_chooses_is_in_the_key(name: bytes) -> None:
    """A feature of OpenRouter's, a deployment of Azure's, a version of Groq's."""
    one, other = [key_of(call_with({name: value})) for value in (b"one", b"other")]
    assert one != other


def test_the_mask_of_a_picture_is_its_accounts() -> None:
    """A file by its id leads elsewhere for another."""
    tool = {"type": "image_generation", "input_image_mask": {"file_id": "file-1"}}
    assert responses_ask.bounds({"store": False, "tools": [tool]}).account == "file_id"
    tool["input_image_mask"] = {"image_url": "data:image/png;base64,AA=="}
    assert not responses_ask.bounds({"store": False, "tools": [tool]}).account


def test_a_picture_by_its_id_is_its_accounts() -> None:
    """The provider keeps it, and hands it to nobody else; one sent whole is the caller's."""
    picture = {"type": "image_generation_call", "id": "ig_1"}
    bounds = responses_ask.bounds({"store": False, "input": [picture]})
    assert bounds.account == "image_generation_call"
    whole = {**picture, "result": "AAAA"}
    assert not responses_ask.bounds({"store": False, "input": [whole]}).account


def test_many_tools_are_read_once() -> None:
    """A body of one megabyte must not hold up all others for a minute."""
    looks = 0

    class Tool(dict[str, Any]):
        def get(self, *args: Any) -> Any:
            nonlocal looks
            looks += 1
            return super().get(*args)

    tools = [Tool(type="tool_search") for _ in range(1000)] + [Tool(type="function")]
    assert not responses_ask.bounds({"store": False, "tools": tools}).uncached
    assert looks < 20 * len(tools)
