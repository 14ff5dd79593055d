"""Redis URLs: what they say, and what is told of them."""

from __future__ import annotations

from typing import Any

import pytest

from cache_backends import open_cache
from cache_backends.redis import RedisCache
from cache_backends.redis_place import Place


@pytest.mark.parametrize(
    ("url", "shown", "hosts"),
    [
        ("redis://", "redis://localhost:6379/0", [("localhost", 6379)]),
        ("redis://host", "redis://host:6379/0", [("host", 6379)]),
        ("redis://host:1/2", "redis://host:1/2", [("host", 1)]),
        ("rediss://[::1]:1/", "rediss://::1:1/0", [("::1", 1)]),
        ("redis+cluster://a,b:1", "redis+cluster://a:6379,b:1", [("a", 6379), ("b", 1)]),
        ("rediss+cluster://a:1/0", "rediss+cluster://a:1", [("a", 1)]),
        ("redis+sentinel://a/s", "redis+sentinel://a:26379/s/0", [("a", 26379)]),
        ("redis+sentinel://a:1,b/s/3", "redis+sentinel://a:1,b:26379/s/3", None),
    ],
)
def test_a_url_names_servers(url: str, shown: str, hosts: list[tuple[str, int]] | None) -> None:
    """With the usual ports and database 0 where nothing is said."""
    place = Place.of(url)
    assert place.shown == shown
    assert hosts is None or list(place.hosts) == hosts
    assert place.tls == url.startswith("rediss")


def test_a_url_may_hold_a_user_a_password_and_options() -> None:
    """Escaped as in any URL; they are for the connections only."""
    place = Place.of("redis://us%40er:p%2Fw%3Fd@host/1?health_check_interval=5&client_name=x")
    assert place.options == {
        "username": "us@er",
        "password": "p/w?d",
        "health_check_interval": 5,
        "client_name": "x",
        "db": 1,
    }
    assert place.shown == "redis://host:6379/1"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://host", "begins with one of redis"),
        ("redis:host", "begins with one of redis"),
        ("redis://:secret@host:port", "host and port"),
        ("redis://:secret@host/first", "database must be a number"),
        ("redis://:secret@a,b", "takes one host"),
        ("redis+cluster://:secret@a/1", "only database 0"),
        ("redis+sentinel://:secret@a", "name the service"),
        ("redis://:secret@host?socket_timeout=long", "socket_timeout"),
        ("redis://:secret@host?pasword=secret", "no option 'pasword'"),
        ("redis://:secret@host?ssl_ca_certs=/secret", "no option 'ssl_ca_certs'"),
    ],
)
def test_a_url_that_says_nothing_sensible_is_refused(url: str, expected: str) -> None:
    """The message says why, and tells no secret."""
    with pytest.raises(ValueError, match=expected) as told:
        Place.of(url)
    assert "secret" not in str(told.value)


@pytest.mark.parametrize(
    "scheme",
    ["redis", "rediss", "redis+cluster", "rediss+cluster", "redis+sentinel", "rediss+sentinel"],
)
def test_a_cache_is_opened_by_its_url(scheme: str) -> None:
    """Nothing is sent yet; what it says of itself leaves the password out."""
    options: dict[str, Any] = {"prefix": "p:", "ttl": 60, "timeout": 1, "max_connections": 2}
    path = "service/0" if "sentinel" in scheme else ""
    cache = open_cache(f"{scheme}://user:secret@host:1/{path}", **options)
    assert isinstance(cache, RedisCache)
    assert repr(cache).startswith(f"<RedisCache {scheme}://host:1")
    assert "secret" not in repr(cache)
