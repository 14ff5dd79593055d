"""What the README says of recording and replaying is what happens: its examples are run."""

from __future__ import annotations

import re
from pathlib import Path

import httpx
import pytest

from tests.fakes.process import ProxyProcess
from tests.fakes.provider import FakeProvider
from tests.fakes.pytest_session import ROOT, run_pytest

README = (ROOT / "README.md").read_text(encoding="utf-8")
SECTION = README.partition("\n## Record and replay\n")[2].partition("\n## ")[0]
TESTS = re.findall(r"```python\n# (test_\w+\.py)\n(.*?)```", SECTION, re.DOTALL)
RUN = re.findall(r"OPENAI_BASE_URL=http://127\.0\.0\.1:8484(/~\S*)run=monday(\S+)", SECTION)


@pytest.mark.parametrize(("name", "text"), TESTS, ids=[name for name, _ in TESTS])
async def test_the_tests_record_and_replay(
    name: str, text: str, tmp_path: Path, provider: FakeProvider
) -> None:
    """As they stand there: recorded once, then without a provider where CI is set."""
    (tmp_path / name).write_text(text)
    upstream = f"llm_cassette_args=--upstream {provider.base_url}"
    for on_ci in ("", "true"):
        told = await run_pytest(tmp_path, "-o", upstream, CI=on_ci)
        assert told.status == 0, told.text
        await provider.stop()
    assert len(provider.calls) == 1
    assert (tmp_path / "cassettes" / name).with_suffix(".ndjson").stat().st_size > 0


async def test_runs_of_a_harness_are_told_apart_and_replayed(
    tmp_path: Path, provider: FakeProvider, client: httpx.AsyncClient
) -> None:
    """Three attempts are three answers; in the next run they come again, for nothing."""
    ((before, after),) = RUN
    cassette = tmp_path / "evals.ndjson"
    served = await ProxyProcess.start(
        tmp_path, "--cassette", str(cassette), "--upstream", provider.base_url
    )
    await served.up()
    body = {"model": "m", "messages": [{"role": "user", "content": "Is 7 prime?"}]}
    told = []
    for run in ("monday", "tuesday"):
        url = f"{served.origin}{before}run={run}{after}/chat/completions"
        told.append([(await client.post(url, json=body)).json()["id"] for _ in range(3)])
    assert told[0] == told[1]
    assert len(set(told[0])) == len(provider.calls) == 3
    served.terminate()
    assert await served.ended() == 0
    said = served.lines[-1]
    assert said["event"] == "cassette"
    assert (said["entries"], said["recorded"], said["unused"]) == (3, 3, [])
