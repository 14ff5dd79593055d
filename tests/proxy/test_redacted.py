"""The settings as they are shown: no secret is in them, wherever it stands."""

from __future__ import annotations

import orjson
import pytest

from proxy.config import Settings, load_settings
from proxy.config.redacted import redacted
from tests.fakes.admin import READ, TOKENS, AdminClient
from tests.fakes.live_proxy import StartProxy

SECRET = "hunter2-hunter2-hunter2"


def test_no_secret_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither tokens nor passwords, and nothing that may be one."""
    monkeypatch.setenv("MY_KEY", f"{SECRET}3")
    settings = load_settings(
        overrides={
            "admin": {"token": SECRET, "read_token": f"{SECRET}2"},
            "cache": {
                "url": f"redis://me:{SECRET}@cache.test:6379/0?password={SECRET}",
                "scope_secret": SECRET,
                "options": {"prefix": "llm:", "password": SECRET, "nested": {"a": SECRET}, "n": 1},
            },
            "rules": [{"header": {"x-team": SECRET}}],
            "clients": {"evals": {"token_env": "MY_KEY"}},
            "providers": {"groq": {"api_key_env": "MY_KEY"}},
            "cassette": {"redact": [{"pattern": SECRET}]},
        }
    )
    told = redacted(settings)
    assert SECRET not in orjson.dumps(told).decode()
    assert told["cache"]["url"] == "redis://cache.test:6379/0"
    options = {"prefix": "llm:", "password": "***", "nested": "***", "n": 1}
    assert told["cache"]["options"] == options
    assert told["admin"] == {"token": "***", "read_token": "***"}
    assert told["clients"] == {"evals": {"token_env": "MY_KEY"}}
    assert told["rules"][0]["header"] == {"x-team": "***"}


def test_what_is_unset_is_told_as_such() -> None:
    """And all sections are there."""
    told = redacted(Settings())
    assert told["admin"] == {"token": None, "read_token": None}
    assert told.keys() == Settings.model_fields.keys()
    assert told["cache"]["stale_if_error_s"] == 86400


async def test_it_is_served(proxy: StartProxy) -> None:
    """Also to who sees figures only."""
    live = await proxy(admin=TOKENS, cache={"ttl": 60})
    async with AdminClient(live.origin, READ) as reader:
        told = (await reader.get("/config")).json()
    assert told["cache"]["ttl"] == 60
    assert TOKENS["token"] not in str(told)
