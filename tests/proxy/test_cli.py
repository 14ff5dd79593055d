"""Tests of the command line, and of what it prints."""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from proxy import __version__, demo
from proxy.cli import app
from proxy.cli.console import banner, cache_place
from proxy.config import Cache, Server, Settings
from proxy.demo.provider import JOKE, JokeProvider
from proxy.local_token import local_token

pytestmark = pytest.mark.usefixtures("logging_as_it_was")

BODY = {
    "model": "gpt-4o",
    "user": "me",
    "stream": True,
    "n": 1,
    "messages": [{"role": "user", "content": "[b]hi[/b]"}],
}


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in os.environ:
        if name.startswith("LLM_CACHE_PROXY_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("LLM_CACHE_PROXY_CACHE__URL", f"sqlite:///{tmp_path}/cache.db")
    monkeypatch.setenv("LLM_CACHE_PROXY_URL", "http://127.0.0.1:1")  # where no proxy runs


def command(*arguments: str, given: bytes | None = None) -> Result:
    return CliRunner().invoke(app, list(arguments), input=given, env={"COLUMNS": "200"})


def explained(tmp_path: Path, request: Any = BODY, *arguments: str) -> dict[str, Any]:
    """What `explain --json` prints of a request."""
    file = tmp_path / "request.json"
    file.write_text(json.dumps(request))
    result = command("explain", str(file), "--json", *arguments)
    assert result.exit_code == 0, result.output
    told: dict[str, Any] = json.loads(result.stdout)
    return told


def test_version() -> None:
    """`--version` prints name and version."""
    assert command("--version").stdout == f"llm-cache-proxy {__version__}\n"


def test_help_loads_nothing_heavy() -> None:
    """Help comes at once: neither the server nor the settings are imported for it."""
    script = (
        "import sys, proxy.cli\n"
        "heavy = {'pydantic', 'httpx', 'uvicorn', 'aiohttp', 'fastapi', 'proxy.config'}\n"
        "sys.exit(str(heavy & sys.modules.keys()) if heavy & sys.modules.keys() else 0)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=30)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["serve", "--upstream", "ftp://a"], "llm-cache-proxy: --upstream: upstream.base_url: "),
        (["serve", "--port", "99999"], "llm-cache-proxy: --port: server.port: "),
        (["serve", "--log-level", "loud"], "llm-cache-proxy: --log-level: server.log_level: "),
        (["serve", "--cache", "memory://", "--workers", "2"], "--cache: cache.url: workers cannot"),
        (["serve", "--cache", "nothing"], "llm-cache-proxy: cache.url: "),
        (["serve", "--config", "/no/such.toml"], "/no/such.toml: cannot be read: No such file"),
        (["explain", "/no/such.json"], "/no/such.json: cannot be read: No such file"),
        (["explain", "-", "--header", "secret"], "--header: expected NAME:VALUE"),
        (["explain", "-", "--path", "/v1/files"], "/v1/files is passed through"),
        (["explain", "-", "--path", "/gorq/x"], "Did you mean http://127.0.0.1:8484/groq"),
    ],
)
def test_what_cannot_be_used(arguments: list[str], said: str) -> None:
    """What was given wrongly is one line on stderr, and the exit status is 2."""
    result = command(*arguments, given=b"{}")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert said in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"5", b'{"model": "a", "stream": "yes"}'])
def test_explain_refuses_what_is_no_request(text: bytes) -> None:
    """A file that no provider would accept is refused with the reason."""
    result = command("explain", "-", given=text)
    assert result.exit_code == 2
    assert result.stderr.startswith("llm-cache-proxy: ")


def test_explain(tmp_path: Path) -> None:
    """Both strings, the id and what was ignored are told."""
    told = explained(tmp_path)
    assert json.loads(told["prompts"][0]) == {"messages": BODY["messages"]}
    parameters = json.loads(told["llm_string"])["parameters"]
    assert parameters == {"model": "gpt-4o"}
    assert {path for path, _ in told["ignored"]} == {"user", "stream", "n"}
    assert all(why for _, why in told["ignored"])
    assert len(told["ids"][0]) == 64
    assert told["url"] == "https://api.openai.com/v1/chat/completions"
    assert told["cache"] == "read and written; does not expire"


def test_explain_keeps_its_word(tmp_path: Path) -> None:
    """Asked again, the id is the same; for another caller or another text it is not."""
    first = explained(tmp_path)["ids"]
    assert explained(tmp_path)["ids"] == first
    assert explained(tmp_path, BODY, "-H", "Authorization: Bearer other")["ids"] != first
    assert explained(tmp_path, BODY | {"messages": []})["ids"] != first
    assert explained(tmp_path, BODY | {"user": "you"})["ids"] == first


def test_explain_control(tmp_path: Path) -> None:
    """Directives and headers are heeded as they are in a request."""
    told = explained(tmp_path, BODY, "--path", "/~ttl=60/v1/chat/completions")
    assert told["cache"] == "read and written; fresh for 60 s"
    told = explained(tmp_path, BODY, "--header", "Cache-Control: no-store")
    assert told["cache"] == "past the cache: no-store"
    told = explained(tmp_path, BODY, "--header", "Cache-Control: no-cache")
    assert told["cache"] == "written, not read: no-cache; does not expire"


def test_explain_a_whole_request(tmp_path: Path) -> None:
    """A file may hold path and headers around the body."""
    around = {
        "path": "/groq/openai/v1/embeddings?a=1",
        "headers": {"Cache-Control": "no-store"},
        "body": {"model": "e", "input": ["a", "b"]},
    }
    told = explained(tmp_path, around)
    assert told["url"] == "https://api.groq.com/openai/v1/embeddings?a=1"
    assert (told["provider"], len(told["ids"])) == ("groq", 2)
    assert told["cache"].startswith("past the cache")


def test_explain_rules(tmp_path: Path) -> None:
    """The rules of a config are applied, and named for what they leave out."""
    config = tmp_path / "config.toml"
    config.write_text(
        '[cache]\nscope = "shared"\n[[rules]]\nmodel = "gpt*"\nignore = ["x.run", "x.none"]\n'
        'level = [{pattern = "h.", replacement = "HI"}]\n'
    )
    body = BODY | {"x": {"run": 1, "y": 1}}
    told = explained(tmp_path, body, "--config", str(config))
    assert "HI" in told["prompts"][0]
    assert {"x.run", "x.none"} & {path for path, _ in told["ignored"]} == {"x.run"}
    llm_string = json.loads(told["llm_string"])
    assert (llm_string["scope"], llm_string["parameters"]["x"]) == ("shared", {"y": 1})


def test_explain_for_people(tmp_path: Path) -> None:
    """Without --json the same is printed to read; texts are exactly as they are in the key."""
    told = explained(tmp_path)
    shown = command("explain", "-", given=json.dumps(BODY).encode()).stdout
    lines = shown.splitlines()
    assert told["llm_string"] in lines
    assert told["prompts"][0] in lines
    assert told["ids"][0] in lines
    assert "\x1b" not in shown


def test_explain_says_what_it_cannot_know(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a cache in memory the running proxy's secret is known only if it is configured."""
    monkeypatch.setenv("LLM_CACHE_PROXY_CACHE__URL", "memory://")
    said = BODY, "--path", "/v1/chat/completions"
    assert "others there" in explained(tmp_path, *said)["notes"][0]
    monkeypatch.setenv("LLM_CACHE_PROXY_CACHE__SCOPE_SECRET", "a secret of my own")
    assert explained(tmp_path, *said)["notes"] == []


@pytest.mark.parametrize(
    ("body", "dialect"),
    [
        ({"model": "m", "messages": []}, "chat/1"),
        ({"model": "m", "input": "Hi"}, "responses/1"),
        ({"model": "m", "input": "Hi", "encoding_format": "float"}, "embeddings/1"),
        ({"model": "m", "prompt": "Hi"}, "completions/1"),
        ({"body": {"model": "m", "input": "Hi"}}, "responses/1"),
        ({"path": "/anthropic/v1/messages", "body": {"messages": []}}, "messages/1"),
    ],
)
def test_explain_guesses_where_a_body_is_sent(
    tmp_path: Path, body: dict[str, Any], dialect: str
) -> None:
    """By its fields, and says so."""
    told = explained(tmp_path, body)
    assert told["dialect"] == dialect
    assert ("--path" in str(told["notes"])) is ("path" not in body)


def test_demo(capsys: pytest.CaptureFixture[str]) -> None:
    """The demo shows misses, then hits with the same answer, and that they saved tokens."""
    shown = io.StringIO()
    status = demo.run(provider=JokeProvider(0.02, 0), console=Console(file=shown, width=100))
    text = shown.getvalue()
    assert status == 0
    assert (text.count("MISS"), text.count("HIT")) == (2, 3)
    assert "same answer    yes" in text
    assert f"tokens saved   {3 * (4 + len(JOKE.split()))}" in text
    assert capsys.readouterr().out == ""


def test_demo_fails_when_nothing_hits() -> None:
    """Where the cache does not work, the demo says so and its exit status tells."""
    shown = io.StringIO()
    console = Console(file=shown, width=100)
    status = demo.run(provider=JokeProvider(0, 0), cache_url="null://", console=console)
    assert status == 1
    assert "the cache does not work here" in shown.getvalue()


def test_demo_ignores_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody's configuration does not reach the demo."""
    monkeypatch.setenv("LLM_CACHE_PROXY_CACHE__URL", "null://")
    monkeypatch.setenv("LLM_CACHE_PROXY_RULES", '[{"cache": false}]')
    assert demo.run(provider=JokeProvider(0, 0), console=Console(file=io.StringIO())) == 0


def test_banner() -> None:
    """The banner tells the base URL to use, and shows no password and no colours off a terminal."""
    shown = io.StringIO()
    settings = Settings(
        server=Server(port=1234), cache=Cache(url="redis://:hunter2@cache.test:6379/0")
    )
    banner(settings, Console(file=shown, width=100))
    text = shown.getvalue()
    assert "OPENAI_BASE_URL=http://127.0.0.1:1234/v1" in text
    assert "https://api.openai.com/v1" in text
    assert "redis://cache.test:6379/0" in text
    assert "hunter2" not in text
    assert "\x1b" not in text


def test_the_banner_links_to_the_dashboard(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With the token that was made for this machine; never with one that was given."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))

    def link(**sections: Any) -> str:
        shown = io.StringIO()
        banner(Settings(**sections), Console(file=shown, width=60))
        return shown.getvalue().partition("dashboard: ")[2].partition("\n")[0]

    assert link() == f"http://127.0.0.1:8484/admin/#token={local_token()}"
    assert link(ops={"port": 9}).startswith("http://127.0.0.1:9/admin/#token=")
    given = {"token": "a-token-of-the-operator"}
    assert link(admin=given) == "http://127.0.0.1:8484/admin/"
    assert link(admin=given, ops={"host": "0.0.0.0", "port": 9}) == "http://127.0.0.1:9/admin/"
    assert link(server={"host": "0.0.0.0"}) == ""


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("sqlite:////var/cache.db", "/var/cache.db"),
        ("memory://", "memory://"),
        ("postgresql://u:p@h/d?password=p", "postgresql://h/d"),
        ("my.module:Class", "my.module:Class"),
        ("langchain:my.module:make?url=redis://:secret@host", "langchain:my.module:make"),
        ("redis://me:a?b@host:1/0?ssl_ca_certs=c", "redis://host:1/0"),
    ],
)
def test_cache_place(url: str, place: str) -> None:
    """A cache's place is told without what may be a password."""
    assert cache_place(url) == place


@pytest.fixture
def port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


@pytest.mark.parametrize("workers", ["1", "2"])
def test_serve(port: int, workers: str, tmp_path: Path) -> None:
    """`python -m proxy serve` serves until it is told to stop, then exits with 0."""
    arguments = ["serve", "--port", str(port), "--workers", workers, "--log-level", "error"]
    environment = os.environ | {"XDG_DATA_HOME": str(tmp_path)}
    process = subprocess.Popen([sys.executable, "-m", "proxy", *arguments], env=environment)
    try:
        _wait_for(f"http://127.0.0.1:{port}/healthz", process)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 0
    finally:
        process.kill()
        process.wait()


def test_a_cache_of_ones_own_may_lie_in_the_current_folder(port: int, tmp_path: Path) -> None:
    """As servers find the app that they are to serve."""
    (tmp_path / "mine.py").write_text("from cache_backends import InMemoryCache as Mine\n")
    command = [sys.executable, "-P", "-m", "proxy", "serve", "--port", str(port)]
    process = subprocess.Popen(
        [*command, "--cache", "mine:Mine"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        stdout=subprocess.DEVNULL,
    )
    try:
        _wait_for(f"http://127.0.0.1:{port}/readyz", process)
    finally:
        process.kill()
        process.wait()


def _wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(url, trust_env=False).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.05)
    raise AssertionError("the proxy did not come up")
