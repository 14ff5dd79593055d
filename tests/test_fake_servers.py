"""The real servers that tests start do what the tests of the backends rely on."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from redis import Redis, RedisError
from redis.backoff import NoBackoff
from redis.cluster import RedisCluster as ClusterClient
from redis.retry import Retry

from tests.fakes import postgres_server as postgres
from tests.fakes.postgres_server import PostgresServer
from tests.fakes.redis_servers import SERVICE, RedisCluster, RedisSentinel, RedisServer
from tests.fakes.servers import ServerMissing, own_or_given, wait_until

ROOT = Path(__file__).parents[1]


def test_a_redis_is_shared(redis_url: str, fresh_name: str) -> None:
    """The URL is all that is needed to use it."""
    with Redis.from_url(redis_url) as client:
        client.set(fresh_name, "kept")
        assert client.get(fresh_name) == b"kept"


@pytest.mark.parametrize("options", [{"password": "let-me-in"}, {"tls": True}])
def test_a_redis_of_one_s_own_asks_for_what_it_is_told(
    redis_server: Callable[..., RedisServer], options: dict[str, Any]
) -> None:
    """Its URL has the password or the certificate; without them nobody gets in."""
    server = redis_server(**options)
    with Redis.from_url(server.url) as client:
        assert client.ping()
    once = Retry(NoBackoff(), 0)
    with Redis(port=server.port, retry=once) as stranger, pytest.raises(RedisError):
        stranger.ping()


@pytest.mark.parametrize(("options", "kept"), [({}, None), ({"appendonly": "yes"}, "v")])
def test_a_redis_forgets_when_it_is_restarted(
    redis_server: Callable[..., RedisServer], options: dict[str, str], kept: str | None
) -> None:
    """Unless it is asked to keep what it has on disk; the port stays."""
    server = redis_server(**options)
    before = server.url
    server.ask("SET", "k", "v")
    server.restart()
    assert server.ask("GET", "k") == kept
    assert server.url == before


def test_a_stopped_redis_is_gone(redis_server: Callable[..., RedisServer]) -> None:
    """Stopped or killed it refuses connections, until it is started again."""
    server = redis_server()
    for end in (server.stop, server.kill):
        end()
        with pytest.raises(RedisError):
            server.ask("PING")
        server.start()
        assert server.ask("PING")


def test_a_cluster_has_its_keys_on_all_nodes(redis_cluster_url: str, fresh_name: str) -> None:
    """Three nodes serve all slots."""
    with ClusterClient.from_url(redis_cluster_url) as client:
        names = [f"{fresh_name}:{number}" for number in range(30)]
        for name in names:
            client.set(name, name)
        assert [client.get(name) for name in names] == [name.encode() for name in names]
        assert len({client.get_node_from_key(name).port for name in names}) == 3


def test_a_sentinel_puts_the_replica_in_place(
    redis_sentinel: Callable[[], RedisSentinel],
) -> None:
    """When the primary is killed, the Sentinel soon names the other."""
    group = redis_sentinel()

    def primary() -> int:
        asked = ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)
        return int(group.sentinel.ask(*asked)[1])

    assert primary() == group.primary.port
    group.primary.kill()
    wait_until(lambda: primary() == group.replica.port, "nobody takes over")


async def test_a_postgres_is_shared(postgres_url: str, fresh_name: str) -> None:
    """The URL lets one make a schema and write to it."""
    connection = await asyncpg.connect(postgres_url)
    await connection.execute(f"CREATE SCHEMA {fresh_name}")
    await connection.execute(f"DROP SCHEMA {fresh_name}")
    await connection.close()


@pytest.mark.parametrize("end", ["stop", "kill"])
async def test_a_postgres_keeps_what_was_committed(
    postgres_server: Callable[..., PostgresServer], end: str
) -> None:
    """Restarted, and also after a crash, it has its rows on the same port."""
    server = postgres_server(max_connections=5)
    connection = await asyncpg.connect(server.url)
    await connection.execute("CREATE TABLE kept AS SELECT 1 AS row")
    getattr(server, end)()
    with pytest.raises((asyncpg.PostgresError, OSError)):
        await connection.execute("SELECT 1")
    server.start()
    connection = await asyncpg.connect(server.url)
    assert await connection.fetchval("SELECT row FROM kept") == 1
    assert await connection.fetchval("SHOW max_connections") == "5"
    await connection.close()


ABANDONED = """
from tests.fakes.redis_servers import RedisServer
with RedisServer() as server:
    print(server.port, server.folder, flush=True)
    input()
"""


def test_a_server_does_not_outlive_its_tests() -> None:
    """When tests are killed before they could stop it, it goes, and its folder with it."""
    with subprocess.Popen(
        [sys.executable, "-c", ABANDONED],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    ) as tests:
        assert tests.stdout is not None
        port, folder = tests.stdout.readline().split()
        socket.create_connection(("127.0.0.1", int(port))).close()
        tests.kill()
    wait_until(lambda: not Path(folder.decode()).exists(), "the folder stays")
    wait_until(lambda: not _answers(int(port)), "the server stays")


def _answers(port: int) -> bool:
    with socket.socket() as knocking:
        return knocking.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.parametrize(
    ("kind", "variable", "package"),
    [
        (RedisServer, "REDIS_URL", "redis-server"),
        (RedisCluster, "REDIS_CLUSTER_URL", "redis-server"),
        (PostgresServer, "POSTGRES_URL", "postgresql"),
    ],
)
def test_who_has_no_server_is_told_what_to_do(
    monkeypatch: pytest.MonkeyPatch, kind: type[Any], variable: str, package: str
) -> None:
    """Without the programs a server may be named; without that the tests fail, and say why."""
    monkeypatch.setattr(postgres, "DEBIAN", ROOT)
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv(variable, raising=False)
    with ExitStack() as stack:
        with pytest.raises(ServerMissing, match=f"apt-get install {package}") as missing:
            own_or_given(stack, kind, variable)
        assert variable in missing.value.__notes__[0]
        monkeypatch.setenv(variable, "scheme://elsewhere")
        assert own_or_given(stack, kind, variable) == "scheme://elsewhere"


def test_make_test_says_what_it_cannot_install(tmp_path: Path) -> None:
    """Who is not root gets the command to type."""
    (tmp_path / "id").write_text("#!/bin/sh\necho 1000\n")
    (tmp_path / "id").chmod(0o755)
    told = subprocess.run(
        [ROOT / ".ci" / "servers"],
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "apt-get install redis-server" in told.stderr
