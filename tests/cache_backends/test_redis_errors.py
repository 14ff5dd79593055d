"""What is told of a Redis that refuses: what is wrong and the way out, none of its own texts."""

from __future__ import annotations

import ssl
from collections.abc import Callable

import pytest
from redis import Redis, exceptions

from cache_backends import CacheError, Key
from cache_backends.redis import RedisCache
from cache_backends.redis_errors import is_wrong_type, reason, unwrapped
from cache_backends.redis_rows import Names
from cache_backends.shared import EVERYTHING
from tests.cache_backends.conformance import entry_of
from tests.fakes.clock import FakeClock
from tests.fakes.redis_servers import CERTIFICATE, RedisSentinel, RedisServer

KEY = Key.of("prompt", "llm")
START_SERVER = Callable[..., RedisServer]
# What a script's error is wrapped in by Redis 6.
WRAPPED = "Error running script (call to f_0a): @user_script:31: "


async def told(url: str) -> str:
    """What the error says after the address."""
    cache = RedisCache(url, timeout=5)
    with pytest.raises(CacheError) as raised:
        await cache.get(KEY)
    await cache.aclose()
    return str(raised.value).partition(" ")[2]


@pytest.mark.parametrize(
    ("scheme", "path", "said"),
    [
        ("redis", "/99", "has no database of this number"),
        ("redis+cluster", "", "is no cluster: use redis://"),
        ("redis+sentinel", "/primary", "is no sentinel: use redis://"),
    ],
)
async def test_a_url_that_does_not_fit_the_server_is_said(
    redis_url: str, scheme: str, path: str, said: str
) -> None:
    """With the one that would."""
    host = redis_url.split("/")[2]
    assert await told(f"{scheme}://{host}{path}") == said


async def test_a_database_of_a_clusters_node_is_said(redis_cluster_url: str) -> None:
    """A cluster has one only, and is asked in another way."""
    host = redis_cluster_url.split("/")[2]
    assert await told(f"redis://{host}/1") == "is a node of a cluster: use redis+cluster://"


async def test_a_service_that_no_sentinel_knows_is_said(
    redis_sentinel: Callable[[], RedisSentinel],
) -> None:
    """A sentinel that is away is another thing."""
    watched = redis_sentinel()
    other = watched.url.replace("/primary/", "/other/")
    assert (
        await told(other) == "has no primary of this name that is up: check the service in the URL"
    )
    watched.sentinel.stop()
    assert await told(other) == "cannot be reached"


async def test_a_server_with_too_many_clients_is_said(redis_server: START_SERVER) -> None:
    """It names the two settings that could be changed."""
    server = redis_server()
    with Redis.from_url(server.url) as other:
        other.config_set("maxclients", 1)
        assert "raise its maxclients or lower max_connections" in await told(server.url)


async def test_a_file_that_is_not_there_is_said(redis_server: START_SERVER) -> None:
    """The server is not at fault then."""
    url = redis_server(tls=True).url.partition("?")[0]
    said = await told(f"{url}?ssl_ca_certs={CERTIFICATE}.gone")
    assert said == "cannot be reached: a file that its URL names is not there"


@pytest.mark.parametrize(
    ("code", "said"),
    [(10, "expired"), (62, "of another host"), (64, "of another host"), (18, "ssl_ca_certs=")],
)
def test_what_is_wrong_with_a_certificate_is_said(code: int, said: str) -> None:
    """Only one whose authority is unknown is helped by naming the authority."""
    error = exceptions.ConnectionError("Error 1 connecting to secret")
    error.__cause__ = ssl.SSLCertVerificationError(1, "secret")
    error.__cause__.verify_code = code
    assert said in reason(error)
    assert "secret" not in reason(error)


def test_tls_where_there_is_none_is_said() -> None:
    """A server without it breaks off the greeting."""
    error = exceptions.ConnectionError("Error 1 connecting to secret")
    error.__cause__ = ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] wrong version number")
    assert "check redis:// or rediss://" in reason(error)


async def test_a_server_that_takes_no_writes_is_said(redis_server: START_SERVER) -> None:
    """And why: too few follow it."""
    cache = RedisCache(redis_server(min_replicas_to_write=1).url, timeout=5)
    with pytest.raises(CacheError, match="fewer replicas than its min-replicas-to-write"):
        await cache.put(entry_of("prompt", FakeClock()))
    await cache.aclose()


async def test_what_scripts_say_is_told_as_elsewhere(redis_server: START_SERVER) -> None:
    """Of any version: a full server, and a key that holds something else."""
    server = redis_server(maxmemory="4mb", maxmemory_policy="noeviction")
    cache = RedisCache(server.url, timeout=5)
    server.ask("SET", Names("llm-cache:").index, "secret")
    with pytest.raises(CacheError, match="holds something else under a key of the cache"):
        await cache.put(entry_of("prompt", FakeClock()))
    server.ask("CONFIG", "SET", "maxmemory", 1)
    with pytest.raises(CacheError, match="is out of memory"):
        await cache.announce(EVERYTHING)
    await cache.aclose()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("-OOM command not allowed when used memory > 'maxmemory'.", "is out of memory"),
        ("-READONLY You can't write against a read only replica.", "is a replica"),
        ("@user_script: 9: secret", "refused a command"),
    ],
)
def test_errors_in_scripts_are_unwrapped(text: str, said: str) -> None:
    """As an older server tells them."""
    error = exceptions.ResponseError(WRAPPED.replace(":31:", ": 31:") + text)
    assert reason(unwrapped(error)).startswith(said)
    assert is_wrong_type(exceptions.ResponseError(WRAPPED + "WRONGTYPE Operation against a key"))
