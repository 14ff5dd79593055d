"""The real servers that tests start do what the tests of the backends rely on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from psycopg import sql
from redis import Redis, RedisCluster, RedisError

from tests.fakes import redis_servers
from tests.fakes.postgres_server import PostgresServer
from tests.fakes.redis_servers import RedisSentinel, RedisServer
from tests.fakes.servers import wait_until


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
    with (
        Redis(port=server.port, retry=None, socket_timeout=1.0) as stranger,
        pytest.raises(RedisError),
    ):
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
    with RedisCluster.from_url(redis_cluster_url) as client:
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
        asked = ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", redis_servers.SERVICE)
        return int(group.sentinel.ask(*asked)[1])

    assert primary() == group.primary.port
    group.primary.kill()
    wait_until(lambda: primary() == group.replica.port, "nobody takes over")


def test_a_postgres_is_shared(postgres_url: str, fresh_name: str) -> None:
    """The URL lets one make a schema and write to it."""
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        schema = sql.Identifier(fresh_name)
        connection.execute(sql.SQL("CREATE SCHEMA {}").format(schema))
        connection.execute(sql.SQL("DROP SCHEMA {}").format(schema))


def test_a_postgres_keeps_what_was_committed(
    postgres_server: Callable[..., PostgresServer],
) -> None:
    """Restarted, and also after a crash, it has its rows on the same port."""
    server = postgres_server(max_connections=5)
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 1 AS row")
        assert connection.execute("SHOW max_connections").fetchone() == ("5",)
        server.kill()
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
    server.restart()
    with psycopg.connect(server.url) as connection:
        assert connection.execute("SELECT row FROM kept").fetchone() == (1,)
