"""`check-config` and `doctor`: what is wrong is found, and the way out told."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Any

import orjson
import pytest

from proxy.local_token import local_token, token_path
from tests.fakes.admin import FULL, TOKENS
from tests.fakes.commands import Commands
from tests.fakes.live_proxy import StartProxy
from tests.fakes.provider import Answer, FakeProvider

Checks = dict[str, dict[str, str]]


class Machine:
    """Where the proxy would run: its config file, and the commands that look at it."""

    def __init__(self, folder: Path, base_url: str) -> None:
        self.folder = folder
        self.config = folder / "config.toml"
        self.base_url = base_url
        self.run = Commands("", "")

    def write(self, **sections: dict[str, Any]) -> None:
        """Settings beside these, which can be used."""
        known: dict[str, dict[str, Any]] = {
            "server": {"port": 0},
            "upstream": {"base_url": self.base_url},
            "cache": {"url": f"sqlite:///{self.folder}/cache.db"},
        }
        for name, values in sections.items():
            known[name] = known.get(name, {}) | values
        lines = [
            f"[{name}]\n"
            + "".join(f"{key} = {orjson.dumps(it).decode()}\n" for key, it in of.items())
            for name, of in known.items()
        ]
        self.config.write_text("".join(lines))

    async def doctor(self, **sections: dict[str, Any]) -> tuple[int, Checks]:
        """The exit code of `doctor`, and what it found, by name."""
        self.write(**sections)
        result = await self.run("doctor", "--config", str(self.config), "--json")
        told = orjson.loads(result.stdout)
        assert told["ok"] is (result.exit_code == 0)
        return result.exit_code, {each["name"]: each for each in told["checks"]}


@pytest.fixture
def machine(tmp_path: Path, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch) -> Machine:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    for name in ("URL", "ADMIN__TOKEN", "CONFIG", "CACHE__URL"):
        monkeypatch.delenv(f"LLM_CACHE_PROXY_{name}", raising=False)
    return Machine(tmp_path, provider.base_url)


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    """Another program's socket."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        yield other


async def test_a_config_that_can_be_used(machine: Machine) -> None:
    """Is said to be, and nothing is made."""
    machine.write()
    name = str(machine.config)
    assert await machine.run.done("check-config", name) == f"{name}: can be used\n"
    assert await machine.run.json("check-config", name) == {
        "ok": True,
        "config": name,
        "errors": [],
    }
    assert not (machine.folder / "cache.db").exists()


@pytest.mark.parametrize(
    ("section", "values", "said"),
    [
        ("server", {"prot": 1}, "did you mean port"),
        ("cache", {"url": "nothing"}, "cache.url"),
        ("cache", {"url": "langchain:no_such_module:Cache"}, "cache.url"),
        ("clients.alice", {"token_env": "NO_SUCH_TOKEN"}, "NO_SUCH_TOKEN is not set"),
    ],
)
async def test_a_config_that_cannot(
    machine: Machine, section: str, values: dict[str, Any], said: str
) -> None:
    """Is told with the place and the way out, and the exit code is 1."""
    machine.write(**{section: values})
    result = await machine.run("check-config", str(machine.config))
    assert (result.exit_code, result.stdout) == (1, "")
    assert said in result.stderr
    told = orjson.loads((await machine.run("check-config", str(machine.config), "--json")).stdout)
    assert said in told["errors"][0]


async def test_a_machine_that_is_well(machine: Machine) -> None:
    """Before the first start: all is ok, and what was tried left nothing behind."""
    status, checks = await machine.doctor()
    assert (status, {each["state"] for each in checks.values()}) == (0, {"ok"})
    names = ["config", "data", "token", "cache file", "cache", "openai", "port"]
    assert list(checks) == names
    assert "stored, read and removed" in checks["cache"]["found"]
    assert not token_path().exists()
    _, checks = await machine.doctor()
    assert checks["cache file"]["state"] == "ok"


async def test_the_doctor_for_people(machine: Machine) -> None:
    """Lines of fields; on a terminal a table that fits, with the way out below."""
    machine.write(upstream={"base_url": "http://127.0.0.1:1/v1"})
    said = "doctor", "--config", str(machine.config)
    result = await machine.run(*said)
    wrong = [line.split("\t") for line in result.stdout.splitlines() if line.startswith("wrong\t")]
    assert (result.exit_code, len(wrong)) == (1, 1)
    assert wrong[0][1] == "openai"
    assert "check the base URL" in wrong[0][3]
    status, shown = await machine.run.on_terminal(*said)
    assert status == 1
    assert "> check the base URL" in shown


async def test_a_config_stops_the_doctor(machine: Machine) -> None:
    """What cannot be read tells nothing of the rest."""
    status, checks = await machine.doctor(server={"port": "many"})
    assert (status, list(checks)) == (1, ["config"])
    assert "config.toml:2: server.port" in checks["config"]["found"]


async def test_a_provider_out_of_reach(machine: Machine) -> None:
    """Each that is configured is tried; one that answers, whatever it says, is reached."""
    other = {"base_url": "http://127.0.0.1:1/v1"}
    status, checks = await machine.doctor(**{"providers.mine": other})
    assert status == 1
    assert (checks["openai"]["state"], checks["mine"]["state"]) == ("ok", "wrong")
    assert "Connection refused" in checks["mine"]["found"]
    assert checks["mine"]["way_out"]


async def test_a_provider_in_trouble(machine: Machine, provider: FakeProvider) -> None:
    """Is a warning: it may be over soon."""
    provider.script(Answer(status=503))
    status, checks = await machine.doctor()
    assert (status, checks["openai"]["state"]) == (0, "warning")


@pytest.mark.parametrize(
    ("ahead", "state", "said"),
    [
        (3600, "wrong", "behind the provider's"),
        (-3600, "wrong", "ahead of the provider's"),
        (2, "ok", "as the provider's"),
    ],
)
async def test_the_clock(
    machine: Machine, provider: FakeProvider, ahead: int, state: str, said: str
) -> None:
    """Is held against the provider's Date."""
    date = formatdate(time.time() + ahead, usegmt=True).encode()
    provider.script(Answer(headers=[(b"date", date)]))
    status, checks = await machine.doctor()
    assert (status, checks["clock"]["state"]) == (int(state != "ok"), state)
    assert said in checks["clock"]["found"]


async def test_files_that_others_can_read(machine: Machine) -> None:
    """Cache and token, and the directory that others can write to."""
    await machine.doctor()
    local_token()
    token_path().chmod(0o644)
    token_path().parent.chmod(0o777)
    cache = machine.folder / "cache.db"
    cache.chmod(0o644)
    status, checks = await machine.doctor()
    assert status == 1
    wrong = {name for name, each in checks.items() if each["state"] == "wrong"}
    assert {"data", "token", "cache file"} <= wrong
    assert checks["cache file"]["way_out"] == f"chmod 600 {cache}"


@pytest.mark.parametrize(
    ("url", "state", "said"),
    [
        ("null://", "warning", "keeps nothing"),
        ("memory://", "ok", "empty after a restart"),
        ("sqlite:////proc/no/such.db", "wrong", "/proc/no/such.db"),
        ("redis://:hunter2@127.0.0.1:1/0", "wrong", "redis://127.0.0.1:1/0"),
        ("postgresql://me:hunter2@127.0.0.1:1/db", "wrong", "postgresql://127.0.0.1:1/db"),
    ],
    ids=["null", "memory", "sqlite", "redis", "postgres"],  # they name the folder
)
async def test_a_cache(machine: Machine, url: str, state: str, said: str) -> None:
    """Is tried, and told without its password."""
    _, checks = await machine.doctor(cache={"url": url})
    assert checks["cache"]["state"] == state
    assert said in checks["cache"]["found"]
    assert "hunter2" not in str(checks)


async def test_a_cassette_stays_as_it_is(machine: Machine) -> None:
    """Though what was not used is to be dropped."""
    file = machine.folder / "chat.ndjson"
    file.write_bytes(b"")
    _, checks = await machine.doctor(cache={"url": f"cassette:{file}"}, cassette={"prune": True})
    assert checks["cache"]["state"] == "ok"
    assert file.read_bytes() == b""


async def test_a_port_that_is_free(machine: Machine, listening: socket.socket) -> None:
    """Or taken by another program."""
    port = listening.getsockname()[1]

    async def bark(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.test ESMTP\r\n")
        writer.close()

    async with await asyncio.start_server(bark, sock=listening):
        status, checks = await machine.doctor(server={"port": port})
    assert (status, checks["port"]["state"]) == (1, "wrong")
    assert "taken by another program" in checks["port"]["found"]


async def test_a_proxy_that_runs(machine: Machine, proxy: StartProxy) -> None:
    """Is known for one, and the token is tried."""
    live = await proxy(admin=TOKENS)
    server = {"port": int(live.origin.rpartition(":")[2])}
    status, checks = await machine.doctor(server=server, admin={"token": FULL})
    assert status == 0
    assert "a proxy runs at" in checks["port"]["found"]
    assert "the mode is normal" in checks["admin"]["found"]
    status, checks = await machine.doctor(server=server, admin={"token": "another one"})
    assert (status, checks["admin"]["state"]) == (1, "wrong")
    assert "another one" not in str(checks)


async def test_no_admin_api(machine: Machine) -> None:
    """Where others than this machine can ask and no token is set: a warning."""
    status, checks = await machine.doctor(server={"host": "0.0.0.0"})
    assert (status, checks["token"]["state"]) == (0, "warning")
    assert "LLM_CACHE_PROXY_ADMIN__TOKEN" in checks["token"]["way_out"]
