"""A pytest plugin: the answers of LLM providers, recorded once and replayed from then on.

Each test module that uses the fixture `llm_cassette` has a proxy of its own, in a process, and a
cassette beside it, `cassettes/<module>.ndjson`. Nothing of this distribution is imported: what is
tested is whatever the tests' own environment has.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

MODES = ("auto", "offline", "refresh")
# Proxies that take longer to start, or to end, are done away with.
PATIENCE_S = 60.0
# What clients are told where they have no key: they refuse to start without one.
DUMMY_KEY = "none-needed-for-replay"


@dataclass(frozen=True)
class Cassette:
    """A module's proxy. `base_url` is what a client of OpenAI is given."""

    path: Path
    mode: str
    origin: str

    @property
    def base_url(self) -> str:
        return f"{self.origin}/v1"

    def url_of(self, provider: str) -> str:
        """What stands in the place of a provider's scheme and host: `url_of("groq")`."""
        return f"{self.origin}/{provider}"


@dataclass
class Module:
    """What is known of the tests of a module that this process has, and of its cassette."""

    collected: int = 0
    passed: int = 0
    partial: bool = False
    path: str = ""
    entries: int = 0
    recorded: int = 0
    unused: set[str] | None = None  # of all processes that replayed from it
    said: str = ""  # what its proxy warned of

    def add(self, other: Module) -> None:
        """What another process knows of it."""
        self.collected = max(self.collected, other.collected)
        self.passed += other.passed
        self.partial |= other.partial
        self.path = self.path or other.path
        self.entries = max(self.entries, other.entries)
        self.recorded += other.recorded
        self.said += other.said
        if other.unused is not None:
            self.unused = other.unused if self.unused is None else self.unused & other.unused

    @property
    def whole(self) -> bool:
        """Did all of its tests run and pass? Else nobody knows what they would have used."""
        return not self.partial and self.passed == self.collected > 0


@dataclass
class Session:
    """What is known of all modules, by their paths."""

    modules: dict[str, Module] = field(default_factory=dict)

    def module(self, path: object) -> Module:
        return self.modules.setdefault(str(path), Module())


STATE = pytest.StashKey[Session]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("llm-cache-proxy", "recorded answers of LLM providers")
    group.addoption(
        "--cassette-mode",
        choices=MODES,
        help="auto: replay what is recorded, record what is not; offline: only replay; refresh: "
        "record all anew. Default: offline where the environment has CI, else auto.",
    )
    group.addoption(
        "--cassette-prune",
        action="store_true",
        help="Drop what was not used, of modules of which all tests ran and passed.",
    )
    parser.addini("llm_cassette", "auto: every module uses the fixture llm_cassette", default="")
    parser.addini("llm_cassette_mode", "as --cassette-mode", default="")
    parser.addini("llm_cassette_args", "more arguments of llm-cache-proxy serve", type="args")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[STATE] = Session()
    said = config.getini("llm_cassette_mode")
    if said and said not in MODES:
        raise pytest.UsageError(f"llm_cassette_mode: expected one of {', '.join(MODES)}")
    if config.getini("llm_cassette") not in ("", "auto"):
        raise pytest.UsageError("llm_cassette: expected auto, or nothing")


@pytest.fixture(scope="module")
def llm_cassette(request: pytest.FixtureRequest) -> Iterator[Cassette]:
    """The module's proxy; to its last test, clients that are made with no base URL talk to it."""
    path = request.path.parent / "cassettes" / f"{request.path.stem}.ndjson"
    module = request.config.stash[STATE].module(request.path)
    module.path = str(path)
    with pytest.MonkeyPatch.context() as environment:
        cassette, proxy = _start(request.config, path)
        try:
            _point_clients_at(cassette, environment)
            yield cassette
        finally:
            _stop(proxy, module)


@pytest.fixture(scope="module", autouse=True)
def _llm_cassette_for_all(request: pytest.FixtureRequest) -> None:
    if request.config.getini("llm_cassette") == "auto":
        request.getfixturevalue("llm_cassette")


def _mode(config: pytest.Config) -> str:
    said = config.getoption("--cassette-mode") or config.getini("llm_cassette_mode")
    on_ci = os.environ.get("CI", "").lower() not in ("", "0", "false")
    return str(said or ("offline" if on_ci else "auto"))


@dataclass
class _Proxy:
    process: subprocess.Popen[bytes]
    stderr: Any

    def warnings(self) -> str:
        self.stderr.seek(0)
        return str(self.stderr.read().decode(errors="replace"))


def _start(config: pytest.Config, path: Path) -> tuple[Cassette, _Proxy]:
    mode = _mode(config)
    stderr = tempfile.TemporaryFile()  # noqa: SIM115 - `_stop` closes it
    command = [sys.executable, "-P", "-m", "proxy", "serve", "--host", "127.0.0.1", "--port", "0"]
    command += ["--cassette", str(path), "--mode", mode, "--log-level", "warning"]
    process = subprocess.Popen(  # noqa: S603 - ourselves
        [*command, *config.getini("llm_cassette_args")],
        cwd=config.rootpath,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=stderr,
    )
    proxy = _Proxy(process, stderr)
    line = _first_line(process)
    try:
        origin = json.loads(line)["url"].removesuffix("/v1")
    except (ValueError, KeyError):
        process.kill()
        process.communicate()
        said = proxy.warnings().strip() or "it does not start"
        stderr.close()
        pytest.fail(f"llm-cache-proxy, for {path.name}: {said}", pytrace=False)
    return Cassette(path, mode, origin), proxy


def _first_line(process: subprocess.Popen[bytes]) -> bytes:
    assert process.stdout is not None
    patience = threading.Timer(PATIENCE_S, process.kill)
    patience.start()
    try:
        return process.stdout.readline()
    finally:
        patience.cancel()


def _point_clients_at(cassette: Cassette, environment: pytest.MonkeyPatch) -> None:
    environment.setenv("OPENAI_BASE_URL", cassette.base_url)
    environment.setenv("ANTHROPIC_BASE_URL", cassette.url_of("anthropic"))
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY"):
        if not os.environ.get(name):
            environment.setenv(name, DUMMY_KEY)
    for name in ("NO_PROXY", "no_proxy"):
        environment.setenv(name, "127.0.0.1", prepend=",")


def _stop(proxy: _Proxy, module: Module) -> None:
    proxy.process.terminate()
    try:
        told, _ = proxy.process.communicate(timeout=PATIENCE_S)
    except subprocess.TimeoutExpired:
        proxy.process.kill()
        told, _ = proxy.process.communicate()
    for line in told.splitlines():
        said = json.loads(line)
        if said.get("event") == "cassette":
            module.entries, module.recorded = said["entries"], said["recorded"]
            module.unused = set(said["unused"])
    module.said = proxy.warnings()
    proxy.stderr.close()


def pytest_deselected(items: list[pytest.Item]) -> None:
    for item in items:
        item.config.stash[STATE].module(item.path).partial = True


def pytest_collection_finish(session: pytest.Session) -> None:
    config = session.config
    state = config.stash[STATE]
    for path, collected in Counter(item.path for item in session.items).items():
        state.module(path).collected = collected
    # With --lf, and where single tests are named, the others are not even collected.
    for argument in config.args:
        name, single, _ = argument.partition("::")
        if single:
            state.module((config.invocation_params.dir / name).resolve()).partial = True
    if config.getoption("lf", False):
        for module in state.modules.values():
            module.partial = True


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    module = item.config.stash[STATE].module(item.path)
    if report.when != "call":
        module.partial |= report.failed
    elif report.passed or hasattr(report, "wasxfail"):
        module.passed += 1
    return report


def pytest_sessionfinish(session: pytest.Session) -> None:
    config = session.config
    if hasattr(config, "workeroutput"):  # a process of pytest-xdist: all is told to the first one
        modules = config.stash[STATE].modules
        config.workeroutput["llm_cassettes"] = {
            path: {**vars(module), "unused": module.unused and sorted(module.unused)}
            for path, module in modules.items()
        }
    elif config.getoption("--cassette-prune"):
        for module in config.stash[STATE].modules.values():
            if module.whole and module.unused:
                _prune(Path(module.path), module.unused)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """A process of pytest-xdist has ended."""
    told = getattr(node, "workeroutput", {}).get("llm_cassettes", {})
    for path, said in told.items():
        unused = said["unused"]
        module = Module(**{**said, "unused": None if unused is None else set(unused)})
        node.config.stash[STATE].module(path).add(module)


def _prune(path: Path, unused: set[str]) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    kept = [line for line in lines if line.strip() and json.loads(line)["id"] not in unused]
    new = path.with_name(f".{path.name}.new")
    new.write_bytes(b"".join(kept))
    shutil.copymode(path, new)
    new.replace(path)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    if hasattr(config, "workeroutput"):
        return
    pruned = bool(config.getoption("--cassette-prune"))
    told = [_line(module, pruned) for module in config.stash[STATE].modules.values()]
    if any(told):
        terminalreporter.section("recorded answers of LLM providers")
        terminalreporter.write("".join(told))


def _line(module: Module, pruned: bool) -> str:
    unused = len(module.unused or ())
    told = [f"{module.recorded} recorded"] if module.recorded else []
    if unused and pruned:
        told.append(f"{unused} dropped" if module.whole else f"{unused} not used, and kept")
    elif unused and module.whole:
        told.append(f"{unused} not used: --cassette-prune drops them")
    line = f"{module.path}: {', '.join(told)}\n" if told else ""
    return line + module.said
