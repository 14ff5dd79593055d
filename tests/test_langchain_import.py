"""From LangChain's SQLite cache to hits here: filled, imported and asked for by real models."""

from __future__ import annotations

import asyncio
import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import orjson
import pytest
from langchain_community.cache import SQLiteCache
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from typer.testing import CliRunner, Result

import cache_backends
from cache_backends import Filter
from proxy.cli import app
from tests.fakes.clients import KEY, Clients, without_run
from tests.fakes.live_proxy import LiveProxy, StartProxy
from tests.fakes.provider import Answer, FakeProvider

SCHEMA = {"title": "Joke", "type": "object", "properties": {"b": {"type": "string"}, "a": {}}}
CALLED = {
    "id": "chatcmpl-calls",
    "object": "chat.completion",
    "created": 1,
    "model": "m-1",
    "choices": [
        {
            "index": 0,
            "message": {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {
                        "id": "call_1",
                        "type": "function",
                        "function": {"name": "weather", "arguments": '{"city": "Köln", "n": 1.0}'},
                    },
                    {
                        "id": "call_2",
                        "type": "function",
                        "function": {"name": "weather", "arguments": "{}"},
                    },
                ],
            },
            "finish_reason": "tool_calls",
        }
    ],
    "usage": {
        "prompt_tokens": 5,
        "completion_tokens": 7,
        "total_tokens": 12,
        "prompt_tokens_details": {"cached_tokens": 3},
    },
}


@tool
def weather(city: str) -> str:
    """Tell the weather."""
    return f"rain in {city}"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / ".langchain.db"


@pytest.fixture
async def live(proxy: StartProxy, tmp_path: Path) -> LiveProxy:
    return await proxy(cache={"url": f"sqlite:///{tmp_path}/cache.db"})


@pytest.fixture
def before(clients: Clients, provider: FakeProvider, file: Path) -> Callable[..., Any]:
    """A model as it was before: at the provider, with LangChain's cache."""
    cache = SQLiteCache(str(file))

    def make(**options: Any) -> Any:
        there: Any = provider  # has a base_url as well
        return clients.langchain(ChatOpenAI, there, cache=cache, **options)

    return make


@pytest.fixture
def after(clients: Clients, live: LiveProxy) -> Callable[..., Any]:
    """The same model, pointed at the proxy and without that cache."""

    def make(**options: Any) -> Any:
        base_url = f"{live.origin}/~namespace=old/v1"
        return clients.langchain(ChatOpenAI, live, **{"base_url": base_url} | options)

    return make


async def imported(
    file: Path, live: LiveProxy, tmp_path: Path, *arguments: str, namespace: str = "old"
) -> Result:
    """What the command printed."""
    given = [str(file), "--namespace", namespace, "--cache", f"sqlite:///{tmp_path}/cache.db"]
    env = {"COLUMNS": "200", "OPENAI_API_KEY": KEY}
    upstream = ("--upstream", live.provider.base_url)
    run = CliRunner().invoke
    return await asyncio.to_thread(
        run, app, ["import-langchain", *given, *upstream, *arguments], env=env
    )


def counts(result: Result) -> dict[str, int]:
    """The numbers of the summary; of what was skipped, by reason."""
    assert result.exit_code == 0, result.output
    lines = re.findall(r"(?m)^(\w[\w ]*?) +(\d+) +(.*\S)", result.stdout)
    return {why if what == "skipped" else what: int(count) for what, count, why in lines}


ASKED: dict[str, tuple[dict[str, Any], Any]] = {
    "text": ({}, "Tell me a joke"),
    "settings": ({"temperature": 0.0, "max_tokens": 9, "seed": 1, "stop": ["x"]}, "Hi ☂"),
    "system": ({}, [SystemMessage("Be kind."), HumanMessage("Hi")]),
    "history": ({}, [HumanMessage("Hi"), AIMessage("Hello", id="1"), HumanMessage("And?")]),
    "parts": ({}, [HumanMessage([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}])]),
    "more": ({"extra_body": {"top_k": 3}, "model_kwargs": {"user": "me"}}, "Hi"),
    "organization": ({"openai_organization": "org-1"}, "Hi"),
    "streamed": ({"streaming": True, "stream_usage": True}, "Tell me a joke"),
    "log probabilities": ({"logprobs": True, "top_logprobs": 2}, "Tell me a joke"),
    "reasoning": ({"model": "o3-mini", "reasoning_effort": "low"}, [SystemMessage("s")]),
}


@pytest.mark.parametrize("name", ASKED)
async def test_a_model_hits_what_it_had_asked_before(
    before: Callable[..., Any],
    after: Callable[..., Any],
    clients: Clients,
    provider: FakeProvider,
    live: LiveProxy,
    file: Path,
    tmp_path: Path,
    name: str,
) -> None:
    """The same question at the proxy is a hit, with the same message, whole and streamed."""
    options, asked = ASKED[name]
    original = await before(**options).ainvoke(asked)
    assert counts(await imported(file, live, tmp_path))["imported"] == 1
    again = await after(**options).ainvoke(asked)
    streamed = "".join([chunk.text async for chunk in after(**options).astream(asked)])
    assert without_run(again) == without_run(original)
    assert streamed == original.text
    assert clients.outcomes[1:] == ["HIT", "HIT"]
    assert len(provider.calls) == 1


async def test_tool_calls_and_what_follows(
    before: Callable[..., Any],
    after: Callable[..., Any],
    clients: Clients,
    provider: FakeProvider,
    live: LiveProxy,
    file: Path,
    tmp_path: Path,
) -> None:
    """A whole run of an agent, calls and results, is repeated from imported answers."""
    provider.script(Answer(body=orjson.dumps(CALLED)))

    async def converse(model: Any) -> list[Any]:
        said: list[Any] = [HumanMessage("Rain?")]
        for _ in range(2):
            told = await model.bind_tools([weather]).ainvoke(said)
            said += [told, *(weather.invoke(call) for call in told.tool_calls if call["args"])]
        return [without_run(each) for each in said if isinstance(each, AIMessage)]

    original = await converse(before())
    assert len(original[0]["tool_calls"]) == 2
    assert counts(await imported(file, live, tmp_path))["imported"] == 2
    assert await converse(after()) == original
    assert clients.outcomes[-2:] == ["HIT", "HIT"]


@pytest.mark.parametrize("method", ["json_schema", "function_calling", "json_mode"])
async def test_structured_output(
    before: Callable[..., Any],
    after: Callable[..., Any],
    clients: Clients,
    provider: FakeProvider,
    live: LiveProxy,
    file: Path,
    tmp_path: Path,
    method: str,
) -> None:
    """What was asked by a schema is found by it, the order of its properties kept."""
    answer = orjson.loads(orjson.dumps(CALLED).replace(b"weather", b"Joke"))
    if method != "function_calling":
        message = {"role": "assistant", "content": '{"b": "ha", "a": 1}'}
        answer["choices"][0] |= {"message": message, "finish_reason": "stop"}
    provider.script(Answer(body=orjson.dumps(answer)))
    asked = "a joke as JSON"
    original = await before().with_structured_output(SCHEMA, method=method).ainvoke(asked)
    assert counts(await imported(file, live, tmp_path))["imported"] == 1
    again = await after().with_structured_output(SCHEMA, method=method).ainvoke(asked)
    assert again == original
    assert clients.outcomes[-1] == "HIT"


async def test_several_choices(
    before: Callable[..., Any],
    after: Callable[..., Any],
    live: LiveProxy,
    file: Path,
    tmp_path: Path,
) -> None:
    """All of them come back in order; of each only what LangChain had kept."""
    [original] = (await before(n=3).agenerate([[HumanMessage("Hi")]])).generations
    assert counts(await imported(file, live, tmp_path))["imported"] == 1
    [again] = (await after(n=3).agenerate([[HumanMessage("Hi")]])).generations
    assert [each.text for each in again] == [each.text for each in original]
    assert len({each.text for each in again}) == 3


async def test_rows_of_older_answers_are_left_out(
    before: Callable[..., Any],
    after: Callable[..., Any],
    live: LiveProxy,
    file: Path,
    tmp_path: Path,
) -> None:
    """LangChain leaves the end of a longer answer behind a shorter one: it is not taken for one."""
    original = await before().ainvoke("Hi")
    change(file, "INSERT INTO full_llm_cache SELECT prompt, llm, 1, 'old' FROM full_llm_cache")
    told = counts(await imported(file, live, tmp_path))
    assert (told["imported"], told["left out"]) == (1, 1)
    [again] = (await after().agenerate([[HumanMessage("Hi")]])).generations
    assert [each.text for each in again] == [original.text]


async def test_bare_texts(
    before: Callable[..., Any],
    after: Callable[..., Any],
    live: LiveProxy,
    file: Path,
    tmp_path: Path,
) -> None:
    """The first versions stored an answer's text and nothing else."""
    await before().ainvoke("Hi")
    change(file, "UPDATE full_llm_cache SET response = 'Hello from long ago'")
    assert counts(await imported(file, live, tmp_path))["imported"] == 1
    assert (await after().ainvoke("Hi")).text == "Hello from long ago"


# What is done to a row, and what is said of it then.
SKIPPED = {
    "UPDATE full_llm_cache SET llm = replace(llm, 'ChatOpenAI', 'ChatAnthropic')": (
        "of ChatAnthropic, not of ChatOpenAI"
    ),
    "UPDATE full_llm_cache SET llm = '[(''model'', ''m'')]'": (
        "not of a chat model of LangChain's own"
    ),
    "UPDATE full_llm_cache SET llm = replace(llm, 'None', '<class ''Joke''>')": (
        "called with a Python object, whose schema the file does not hold"
    ),
    "UPDATE full_llm_cache SET llm = replace(llm, 'None', '__import__(''os'')')": (
        "called with a Python object, whose schema the file does not hold"
    ),
    "UPDATE full_llm_cache SET llm = replace(llm, '127.0.0.1:', 'elsewhere/')": (
        "asked of elsewhere, which is no provider here"
    ),
    """UPDATE full_llm_cache SET llm = replace(llm, '"m"', '["m"]')""": (
        "ChatOpenAI refuses its settings"
    ),
    """UPDATE full_llm_cache SET llm = replace(llm, '"m"', '{"lc": 1, "type": "secret"}')""": (
        "made with an object as model_name, which the file does not hold"
    ),
    "UPDATE full_llm_cache SET prompt = 'Hi'": "messages that cannot be read",
    "UPDATE full_llm_cache SET prompt = replace(prompt, 'HumanMessage', 'PromptTemplate')": (
        "messages that cannot be read"
    ),
    "UPDATE full_llm_cache SET response = substr(response, 1, 99)": "an answer that cannot be read",
    "UPDATE full_llm_cache SET response = replace(response, 'ChatGeneration', 'PromptTemplate')": (
        "an answer that cannot be read"
    ),
    "UPDATE full_llm_cache SET response = replace(response, '\"stop\"', '\"content_filter\"')": (
        "finish_reason content_filter"
    ),
    """UPDATE full_llm_cache SET llm = replace(llm, '"kwargs": {', '"kwargs": {"n": 2,')""": (
        "fewer choices than were asked for"
    ),
}


@pytest.mark.parametrize("damage", SKIPPED)
async def test_what_cannot_be_imported_is_told(
    before: Callable[..., Any], live: LiveProxy, file: Path, tmp_path: Path, damage: str
) -> None:
    """A row that is not understood makes no entry, and the summary says why."""
    await before().ainvoke("Hi")
    change(file, damage)
    told = counts(await imported(file, live, tmp_path, "--scope", "shared"))
    assert told == {"imported": 0, SKIPPED[damage]: 1}
    assert await live.stored() == 0


async def test_the_file_is_only_read(
    before: Callable[..., Any], live: LiveProxy, file: Path, tmp_path: Path
) -> None:
    """Not a byte of it changes, and a second import finds everything there."""
    for number in range(3):
        await before().ainvoke(str(number))
    held = bytes_of(file)
    assert counts(await imported(file, live, tmp_path)) == {"imported": 3}
    assert counts(await imported(file, live, tmp_path)) == {"imported": 0, "known": 3}
    assert bytes_of(file) == held


async def test_only_those_for_whom_it_was_imported_hit(
    before: Callable[..., Any],
    after: Callable[..., Any],
    clients: Clients,
    live: LiveProxy,
    file: Path,
    tmp_path: Path,
) -> None:
    """The key's owner in the namespace: another key, or no namespace, is a miss."""
    await before().ainvoke("Hi")
    assert counts(await imported(file, live, tmp_path))["imported"] == 1
    await after(api_key="another").ainvoke("Hi")
    await after(base_url=live.base_url).ainvoke("Hi")
    await after().ainvoke("Hi")
    assert clients.outcomes[1:] == ["MISS", "MISS", "HIT"]


async def test_a_purge_of_before_leaves_it_alone(
    before: Callable[..., Any],
    after: Callable[..., Any],
    clients: Clients,
    live: LiveProxy,
    file: Path,
    tmp_path: Path,
) -> None:
    """Only what was stored before a purge is gone by it, not what is imported afterwards."""
    await before().ainvoke("Hi")
    store = cache_backends.SQLiteCache(tmp_path / "cache.db")
    await store.announce(Filter())
    await store.aclose()
    assert counts(await imported(file, live, tmp_path))["imported"] == 1
    await after().ainvoke("Hi")
    assert clients.outcomes[-1] == "HIT"


async def test_entries_for_all(
    before: Callable[..., Any], proxy: StartProxy, clients: Clients, file: Path, tmp_path: Path
) -> None:
    """Where the proxy shares answers, the import does so, and no key is needed."""
    await before().ainvoke("Hi")
    live = await proxy(
        cache={"url": f"sqlite:///{tmp_path}/cache.db", "scope": "shared", "namespace": "old"}
    )
    told = await imported(file, live, tmp_path, "--scope", "shared", "--key-env", "NONE")
    assert "Hits for everyone at base_url http://127.0.0.1:8484/~namespace=old/v1" in told.stdout
    await clients.langchain(ChatOpenAI, live, api_key="anyone").ainvoke("Hi")
    assert clients.outcomes[-1] == "HIT"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["/no/such.db"], "/no/such.db: cannot be opened"),
        ([__file__], "is not a SQLite file that can be read"),
        (["--namespace", "a b"], "--namespace: expected letters"),
        (["--cache", "memory://"], "would keep nothing"),
        (["--key-env", "NOT_SET"], "--key-env: NOT_SET is not set"),
        (["--scope", "client"], "cache.scope"),
        (["--client", "evals"], "there is no [clients.evals]"),
    ],
)
def test_what_cannot_be_used(tmp_path: Path, arguments: list[str], said: str) -> None:
    """What was given wrongly is one line, and nothing is imported."""
    given = ["import-langchain", "--cache", f"sqlite:///{tmp_path}/cache.db", *arguments]
    env = {"COLUMNS": "200", "OPENAI_API_KEY": KEY}
    result = CliRunner().invoke(app, given, env=env)
    assert result.exit_code == 2
    assert said in result.stderr


def bytes_of(file: Path) -> bytes:
    return file.read_bytes()


def change(file: Path, statement: str) -> None:
    with closing(sqlite3.connect(file)) as database:
        database.execute(statement)
        database.commit()
