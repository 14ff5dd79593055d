"""The pytest plugin, in sessions of its own before the real proxy: record, replay, prune."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from textwrap import dedent

import orjson
import pytest

from tests.fakes.provider import FakeProvider
from tests.fakes.pytest_session import Told, run_pytest

# As clients do that take base URL and key from the environment; importing one takes a second.
JOKES = """
    import json
    import os
    import urllib.request

    import pytest

    pytestmark = pytest.mark.usefixtures("llm_cassette")

    def ask(text):
        body = {"model": "m", "messages": [{"role": "user", "content": text}]}
        asked = urllib.request.Request(
            os.environ["OPENAI_BASE_URL"] + "/chat/completions",
            json.dumps(body).encode(),
            {"authorization": "Bearer " + os.environ["OPENAI_API_KEY"]},
        )
        with urllib.request.urlopen(asked) as answer:
            return json.load(answer)["choices"][0]["message"]["content"]

    def test_a_joke():
        assert ask("Tell me a joke") == ask("Tell me a joke")

    def test_another():
        assert ask("Tell me another")
"""
OPENAI = """
    from openai import OpenAI

    def ask(text):
        said = OpenAI().chat.completions.create(
            model="m", messages=[{"role": "user", "content": text}]
        )
        return said.choices[0].message.content
"""


Run = Callable[..., Awaitable[Told]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A project with one test module."""
    (tmp_path / "test_jokes.py").write_text(dedent(JOKES))
    return tmp_path


@pytest.fixture
def cassette(folder: Path) -> Path:
    return folder / "cassettes" / "test_jokes.ndjson"


@pytest.fixture
def damaged(cassette: Path) -> Path:
    cassette.parent.mkdir()
    cassette.write_text("<<<<<<< HEAD\n")
    return cassette


@pytest.fixture
def run(folder: Path, provider: FakeProvider) -> Run:
    """`await run("--cassette-prune")`: a session of pytest in the project."""
    (folder / "pytest.ini").write_text(
        f"[pytest]\nllm_cassette_args = --upstream {provider.base_url}\n"
    )

    async def start(*arguments: str, **variables: str) -> Told:
        return await run_pytest(folder, *arguments, **variables)

    return start


def text_of(cassette: Path) -> str:
    return cassette.read_text()


def prompts(cassette: Path) -> list[str]:
    lines = map(orjson.loads, text_of(cassette).splitlines())
    return [line["prompt"]["messages"][0]["content"] for line in lines]


def rewrite(folder: Path, before: str, after: str) -> None:
    file = folder / "test_jokes.py"
    file.write_text(file.read_text().replace(before, after))


async def test_recorded_once_and_replayed_without_a_provider(
    run: Run, cassette: Path, provider: FakeProvider
) -> None:
    """No key is needed for it, and the file stays as it was; with CI set nothing is recorded."""
    first = await run()
    assert first.status == 0, first.text
    assert f"{cassette}: 2 recorded" in first.text
    assert prompts(cassette) == ["Tell me a joke", "Tell me another"]
    assert len(provider.calls) == 2
    await provider.stop()
    text = text_of(cassette)
    for variables in ({}, {"CI": "true"}):
        again = await run(**variables)
        assert again.status == 0, again.text
        assert "recorded" not in again.text
    assert text_of(cassette) == text


async def test_a_changed_prompt_fails_where_nothing_is_recorded(
    run: Run, folder: Path, provider: FakeProvider
) -> None:
    """At once, with the client's own error, which says what is different."""
    rewrite(folder, "def test_a_joke", f"{dedent(OPENAI)}\n\ndef test_a_joke")
    await run()
    calls = len(provider.calls)
    rewrite(folder, 'ask("Tell me another")', 'ask("Tell me one more")')
    changed = await run("--cassette-mode=offline")
    assert changed.status == 1
    assert "Error code: 424" in changed.text
    assert 'stored: "Tell me another", asked: "Tell me one more"' in changed.text
    assert len(provider.calls) == calls
    assert (await run()).status == 0


async def test_what_is_not_used_any_more_can_be_dropped(
    run: Run, folder: Path, cassette: Path
) -> None:
    """Only where all tests ran and passed; else nobody knows what they would have used."""
    await run()
    rewrite(folder, 'ask("Tell me another")', 'ask("Tell me one more")')
    told = await run()
    assert "1 recorded, 1 not used: --cassette-prune drops them" in told.text
    for arguments in (["-k", "another"], ["test_jokes.py::test_another"]):
        await run("--cassette-prune", *arguments)
        assert len(prompts(cassette)) == 3
    assert "1 dropped" in (await run("--cassette-prune")).text
    assert prompts(cassette) == ["Tell me a joke", "Tell me one more"]


async def test_nothing_is_dropped_where_a_test_fails(
    run: Run, folder: Path, cassette: Path
) -> None:
    """It may have stopped before it asked."""
    await run()
    rewrite(folder, 'assert ask("Tell me another")', "assert False")
    assert "1 not used, and kept" in (await run("--cassette-prune")).text
    assert len(prompts(cassette)) == 2


async def test_all_is_recorded_anew(run: Run, provider: FakeProvider) -> None:
    """On demand; each question is asked again, the same one in a test too."""
    await run()
    assert (await run("--cassette-mode=refresh")).status == 0
    assert len(provider.calls) == 5


async def test_every_module_can_have_one(run: Run, folder: Path) -> None:
    """With one setting, no test has to name the fixture; each module has its own file."""
    rewrite(folder, "pytestmark = ", "unused = ")
    (folder / "sub").mkdir()
    (folder / "sub" / "test_more.py").write_text((folder / "test_jokes.py").read_text())
    with (folder / "pytest.ini").open("a") as file:
        file.write("llm_cassette = auto\n")
    told = await run()
    assert told.status == 0, told.text
    assert prompts(folder / "sub" / "cassettes" / "test_more.ndjson") == [
        "Tell me a joke",
        "Tell me another",
    ]


async def test_several_processes_share_a_cassette(
    run: Run, folder: Path, cassette: Path, provider: FakeProvider
) -> None:
    """As pytest-xdist deals the tests out; what one of them used is not dropped."""
    assert (await run("-n", "2")).status == 0
    assert prompts(cassette) == ["Tell me a joke", "Tell me another"]
    await provider.stop()
    told = await run("-n", "2", "--cassette-prune", "--cassette-mode=offline")
    assert told.status == 0, told.text
    assert "dropped" not in told.text
    assert len(prompts(cassette)) == 2
    rewrite(folder, 'ask("Tell me another")', 'ask("Tell me a joke")')
    assert "1 dropped" in (await run("-n", "2", "--cassette-prune")).text
    assert prompts(cassette) == ["Tell me a joke"]


async def test_a_proxy_that_does_not_start_says_why(run: Run, damaged: Path) -> None:
    """A damaged cassette fails the tests that need it, with the line."""
    told = await run()
    assert told.status == 1
    assert "test_jokes.ndjson: line 1: in a git merge conflict" in told.text
    assert "Traceback" not in told.text


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("llm_cassette_mode = replay", "llm_cassette_mode: expected one of auto, offline"),
        ("llm_cassette = yes", "llm_cassette: expected auto, or nothing"),
    ],
)
async def test_wrong_settings_are_told(run: Run, folder: Path, line: str, message: str) -> None:
    """Before any test runs."""
    with (folder / "pytest.ini").open("a") as file:
        file.write(f"{line}\n")
    told = await run()
    assert told.status == 4
    assert message in told.text
