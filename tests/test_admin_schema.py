"""The admin API answers as its own description says, whatever is sent to it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, settings

from cache_backends.ndjson import line_of
from proxy.app import create_app
from proxy.config import Settings
from proxy.routes.admin import description_of
from tests.fakes.admin import FULL, TOKENS, bearing
from tests.fakes.managed import an_entry
from tests.fakes.process import ProxyProcess

EXAMPLES = 25


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A proxy in a process of its own, with a few entries; its provider is never there."""
    folder = tmp_path_factory.mktemp("schema")
    with asyncio.Runner() as runner:
        process = runner.run(started(folder))
        try:
            lines = b"".join(line_of(an_entry(number)) for number in range(20))
            url = f"{process.origin}/admin/import"
            httpx.post(url, content=lines, headers=bearing(FULL), trust_env=False)
            yield process.origin
        finally:
            runner.run(process.kill())


async def started(folder: Path) -> ProxyProcess:
    config = folder / "config.toml"
    tokens = "".join(f'{name} = "{token}"\n' for name, token in TOKENS.items())
    config.write_text(f"[cache]\nmemory_lease_s = 0.5\n[admin]\n{tokens}")
    process = await ProxyProcess.start(
        folder,
        *("--config", str(config), "--upstream", "http://127.0.0.1:9/v1"),
        *("--cache", f"sqlite:///{folder}/cache.db"),
    )
    await process.up()
    return process


def description() -> dict[str, Any]:
    """Of the app that is served."""
    app = create_app(Settings(admin=TOKENS, cache={"url": "null://"}))  # type: ignore[arg-type] # as JSON
    return description_of(app.ops)


# Events have no end.
schema = schemathesis.openapi.from_dict(description()).exclude(path="/admin/events")


@schemathesis.serializer("application/x-ndjson")
def lines_as_they_are(context: object, value: object) -> bytes:
    return str(value).encode(errors="replace")


@schema.auth()
class Token:
    """The full one; the checks leave it out, to see whether that is noticed."""

    def get(self, case: schemathesis.Case, context: schemathesis.AuthContext) -> str:
        return FULL

    def set(self, case: schemathesis.Case, data: str, context: schemathesis.AuthContext) -> None:
        case.headers["authorization"] = f"Bearer {data}"


@schema.parametrize()
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
def test_the_description_is_true(case: schemathesis.Case, origin: str) -> None:
    """No fault of ours, no status and no shape that it does not tell; what it allows is taken, what
    it forbids is refused, and nothing is answered without the token."""
    case.call_and_validate(base_url=origin)


@pytest.mark.parametrize("path", ["/v1/#part", "/..", "/v1/../x", "/v1/a;.", "v1"])
def test_what_is_never_routed_is_forbidden(path: str) -> None:
    """A path to be explained is one that could be asked for."""
    described = description()["components"]["schemas"]["Described"]["properties"]["path"]
    pattern = next(each["pattern"] for each in described["anyOf"] if "pattern" in each)
    assert re.search(pattern, path) is None
    for asked in ("/v1/chat/completions", "/~ttl=0.5/azure/gpt-4.1/chat/completions?v=1.0"):
        assert re.search(pattern, asked)
