"""The operator's rules, over real sockets: what they match, and what is then different."""

from __future__ import annotations

from typing import Any

import httpx
import orjson
import pytest

from tests.fakes.chat import MINE, asking
from tests.fakes.clock import FakeClock
from tests.fakes.live_proxy import LiveProxy, StartProxy
from tests.fakes.oracle import chat_answer
from tests.fakes.provider import Answer, FakeProvider


def asker(client: httpx.AsyncClient, live: LiveProxy) -> Any:
    """`ask(body, headers)`: the response to any body."""

    async def ask(
        body: dict[str, Any] | bytes, headers: dict[str, str] | None = None, path: str = "/v1"
    ) -> httpx.Response:
        raw = body if isinstance(body, bytes) else orjson.dumps(body)
        sent = {"content-type": "application/json", **MINE, **(headers or {})}
        return await client.post(f"{live.origin}{path}/chat/completions", content=raw, headers=sent)

    return ask


def answering(**changes: Any) -> Answer:
    """An answer whose first choice is changed."""
    answer = chat_answer(asking(), "", "", 1)
    answer["choices"][0] |= changes
    return Answer(body=orjson.dumps(answer))


@pytest.mark.parametrize(
    ("match", "other"),
    [
        ({"model": "m*"}, {"body": asking(model="other")}),
        ({"model": ["x", "m"]}, {"body": asking(model="mm")}),
        ({"header": {"X-Team": "evals"}}, {"headers": {"x-team": "chat"}}),
        ({"header": {"X-Team": "*"}}, {"headers": {}}),
        ({"provider": "openai"}, {"path": "/mine/v1"}),
        ({"path": "/v1/*"}, {"path": "/mine/v2"}),
        ({"client": "ci"}, {"headers": {"authorization": "Bearer token-of-dev-0002"}}),
    ],
    ids=str,
)
async def test_a_rule_holds_for_what_it_matches(
    proxy: StartProxy,
    provider: FakeProvider,
    client: httpx.AsyncClient,
    monkeypatch: pytest.MonkeyPatch,
    match: dict[str, Any],
    other: dict[str, Any],
) -> None:
    """The one goes past the cache, and says which rule it was; the other does not."""
    sections: dict[str, Any] = {"providers": {"mine": {"base_url": f"{provider.origin}/v1"}}}
    if "client" in match:
        for name, token in (("CI", "token-of-ci-00001"), ("DEV", "token-of-dev-0002")):
            monkeypatch.setenv(name, token)
            sections.setdefault("clients", {})[name.lower()] = {"token_env": name}
    live = await proxy(rules=[{**match, "cache": False}], **sections)
    ask = asker(client, live)
    mine = {"x-team": "evals", "authorization": "Bearer token-of-ci-00001"}
    bypassed = await ask(asking(), mine)
    assert bypassed.headers["x-cache"] == "BYPASS"
    assert bypassed.headers["cache-status"].endswith('stored=?0; detail="rule 1"')
    told = await ask(**{"body": asking(), "headers": mine, **other})
    assert told.headers["x-cache"] == "MISS"
    assert await live.stored() == 1
    await live.settled()


async def test_the_first_rule_that_matches_counts(
    proxy: StartProxy, provider: FakeProvider, client: httpx.AsyncClient
) -> None:
    """What it does not say is as configured for all, whatever later rules say."""
    rules = [{"model": "m", "ttl": 5}, {"cache": False}]
    live = await proxy(rules=rules, cache={"ttl": 60}, clock=FakeClock())
    ask = asker(client, live)
    await ask(asking())
    assert "; hit; ttl=5;" in (await ask(asking())).headers["cache-status"]
    assert (await ask(asking(model="other"))).headers["x-cache"] == "BYPASS"


@pytest.mark.parametrize(
    ("rule", "one", "same", "other"),
    [
        (
            {"ignore": ["metadata.run_id"]},
            asking(metadata={"run_id": "1", "x": "1"}, store=True),
            asking(metadata={"run_id": "2", "x": "1"}, store=True),
            asking("Another joke", metadata={"run_id": "1", "x": "1"}, store=True),
        ),
        (
            {"ignore": ["messages.*.id"]},
            {"model": "m", "messages": [{"role": "user", "content": "a", "id": "1"}]},
            {"model": "m", "messages": [{"role": "user", "content": "a", "id": "2"}]},
            {"model": "m", "messages": [{"role": "user", "content": "b", "id": "1"}]},
        ),
        (
            {"level": [{"pattern": r"\d{4}-\d\d-\d\d", "replacement": "DATE"}]},
            asking("Today is 2026-08-01. Tell me a joke"),
            asking("Today is 2026-08-02. Tell me a joke"),
            asking("Today is 2026-08-02. Tell me two"),
        ),
    ],
    ids=["ignore a field", "ignore in a list", "level"],
)
async def test_what_a_rule_levels_shares_an_answer(
    proxy: StartProxy,
    provider: FakeProvider,
    client: httpx.AsyncClient,
    rule: dict[str, Any],
    one: dict[str, Any],
    same: dict[str, Any],
    other: dict[str, Any],
) -> None:
    """For the key only: the provider gets what the caller sent, byte for byte."""
    live = await proxy(rules=[rule])
    ask = asker(client, live)
    raw = orjson.dumps(one, option=orjson.OPT_INDENT_2)
    assert (await ask(raw)).headers["x-cache"] == "MISS"
    assert provider.calls[0].body == raw
    assert (await ask(same)).headers["x-cache"] == "HIT"
    assert (await ask(other)).headers["x-cache"] == "MISS"
    await live.settled()


async def test_a_rule_gives_a_namespace(
    proxy: StartProxy, provider: FakeProvider, client: httpx.AsyncClient
) -> None:
    """Its entries are those that a caller reaches by the name."""
    live = await proxy(rules=[{"header": {"x-team": "evals"}, "namespace": "evals"}])
    ask = asker(client, live)
    await ask(asking(), {"x-team": "evals"})
    assert (await ask(asking())).headers["x-cache"] == "MISS"
    named = await ask(asking(), {"llm-cache-control": "namespace=evals"})
    assert named.headers["x-cache"] == "HIT"


CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
HALF_CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a'}}
AS_JSON = asking(response_format={"type": "json_object"})


def message(**fields: Any) -> dict[str, Any]:
    return {"message": {"role": "assistant", "content": None, **fields}}


@pytest.mark.parametrize(
    ("rule", "body", "answer", "why"),
    [
        ({}, asking(), answering(finish_reason="content_filter"), "finish_reason content_filter"),
        (
            {"refuse_finish_reasons": ["length"]},
            asking(),
            answering(finish_reason="length"),
            "finish_reason length",
        ),
        (
            {"tool_calls": False},
            asking(),
            answering(finish_reason="tool_calls", **message(tool_calls=[CALL])),
            "tool calls",
        ),
        (
            {},
            asking(),
            answering(finish_reason="tool_calls", **message(tool_calls=[HALF_CALL])),
            "is not JSON",
        ),
        ({}, AS_JSON, answering(**message(content='{"a": ')), "is not JSON"),
        ({"max_temperature": 0.5}, asking(temperature=0.6), Answer(), "temperature above 0.5"),
        ({"max_temperature": 0.5}, asking(), Answer(), "temperature above 0.5"),
        ({"max_entry": 100}, asking(), Answer(), "100 bytes"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_what_is_not_worth_keeping_is_passed_on_only(
    proxy: StartProxy,
    provider: FakeProvider,
    client: httpx.AsyncClient,
    rule: dict[str, Any],
    body: dict[str, Any],
    answer: Answer,
    why: str,
) -> None:
    """The caller gets it as it is; the log says why the next one is asked again."""
    provider.always = answer
    live = await proxy(rules=[rule])
    ask = asker(client, live)
    first, second = await ask(body), await ask(body)
    assert first.status_code == second.status_code == 200
    assert len(provider.calls) == 2
    if "max_entry" not in rule:
        assert why in first.headers["cache-status"]
        assert "stored=?0" in first.headers["cache-status"]
    assert await live.stored() == 0
    await live.settled()


@pytest.mark.parametrize(
    ("rule", "body", "answer"),
    [
        ({"refuse_finish_reasons": []}, asking(), answering(finish_reason="content_filter")),
        ({}, asking(), answering(finish_reason="length")),
        ({}, asking(), answering(finish_reason="tool_calls", **message(tool_calls=[CALL]))),
        ({"unparsable_json": True}, AS_JSON, answering(**message(content='{"a": '))),
        ({}, AS_JSON, answering(**message(content='{"a": 1}'))),
        ({"max_temperature": 0.5}, asking(temperature=0.5), Answer()),
    ],
)
async def test_what_the_operator_wants_kept_is_kept(
    proxy: StartProxy,
    provider: FakeProvider,
    client: httpx.AsyncClient,
    rule: dict[str, Any],
    body: dict[str, Any],
    answer: Answer,
) -> None:
    """The second of two is a hit."""
    provider.always = answer
    live = await proxy(rules=[rule])
    ask = asker(client, live)
    await ask(body)
    assert (await ask(body)).headers["x-cache"] == "HIT"
    assert len(provider.calls) == await live.stored() == 1
