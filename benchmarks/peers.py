"""`python -m benchmarks.peers FOLDER`: hits beside those of LiteLLM, installed in this folder."""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks import hits, rows, wire
from benchmarks.hits import OURS, Cache
from benchmarks.load import UnexpectedError
from benchmarks.rows import Row, at_least, per_s
from benchmarks.samples import Samples
from benchmarks.servers import Cores, Servers, Started, StartError, on, running

LITELLM = "LiteLLM"
TARGET = 500.0
_ROUNDS = 3
# It answers a few hundred in this time.
_SECONDS = 4
# It adds fields of its own to an answer.
_LIKE = 0.5
_ENVIRONMENT = {
    # It is asked from this machine only, and the proxy beside it asks nobody for a key either.
    "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_LOG": "ERROR",
    "OPENAI_API_KEY": "sk-benchmark",
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument("environment", type=Path)
    parser.add_argument("--quick", action="store_true", help="one round")
    said = parser.parse_args()
    try:
        print(_table(said.environment, 1 if said.quick else _ROUNDS, Cores.found()))
    except (StartError, UnexpectedError) as exc:
        sys.exit(f"benchmarks: {exc}")


def _table(environment: Path, rounds: int, cores: Cores) -> str:
    title = f"{LITELLM} {_version(environment)}, in memory"
    samples = Samples()
    with (
        on(cores.load),
        tempfile.TemporaryDirectory() as folder,
        running(Path(folder), cores) as servers,
    ):
        provider = servers.provider()
        ours = servers.proxy("proxy", provider, servers.sqlite("proxy"))
        theirs = _start(servers, environment, provider)
        caches = {OURS: Cache(ours, hits.HIT), title: Cache(theirs, b"200 OK")}
        for cache in caches.values():
            hits.warm(cache, hits.PLAIN.asking, _LIKE)
        asked = servers.asked(provider)
        for _ in range(rounds):
            for whom, cache in caches.items():
                asking = hits.asking_of(cache, hits.PLAIN, _SECONDS)
                samples.take(hits.PLAIN.what, whom, cache.server, asking)
        if more := servers.asked(provider) - asked:
            raise UnexpectedError(f"{more} of what should be hits went to the provider")
    return rows.text([peer_row(samples, title)])


def peer_row(samples: Samples, title: str) -> Row:
    what = hits.PLAIN.what
    verdict = samples.compare(what, OURS, title)
    row = Row(
        "hits/s, 32 connections",
        per_s(samples.per_s(what, OURS)),
        title,
        per_s(samples.per_s(what, title)),
        f"{verdict.by_rate:,.0f}",
        f"{verdict.by_cpu:,.0f}",
    )
    return at_least(row, verdict.ratio, TARGET)


def _start(servers: Servers, environment: Path, provider: Started) -> Started:
    """Its proxy before the same provider, with its cache in memory."""
    folder = servers.folder / "litellm"
    folder.mkdir()
    settings = folder / "config.yaml"
    # JSON is YAML.
    settings.write_text(json.dumps(_settings(provider.port)), encoding="utf-8")
    program = str(environment.absolute() / "bin" / "litellm")

    def command(port: str) -> list[str]:
        where = ["--host", "127.0.0.1", "--port", port]
        return [program, "--config", str(settings), *where, "--telemetry", "False"]

    told = {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(folder), **_ENVIRONMENT}
    return servers.start("litellm", servers.cores.server, command, cwd=folder, env=told)


def _settings(port: int) -> dict[str, object]:
    upstream = {"model": f"openai/{wire.MODEL}", "api_base": f"http://127.0.0.1:{port}/v1"}
    return {
        "model_list": [{"model_name": wire.MODEL, "litellm_params": upstream}],
        "litellm_settings": {"cache": True, "cache_params": {"type": "local"}},
    }


def _version(environment: Path) -> str:
    pip = str(environment / "bin" / "pip")
    command = [pip, "--disable-pip-version-check", "show", "litellm"]
    shown = subprocess.run(command, capture_output=True, text=True, check=False)
    found = re.search(r"^Version: (.+)$", shown.stdout, re.MULTILINE)
    if found is None:
        raise StartError(f"{environment} has no litellm: make bench-peers installs it")
    return found[1]


if __name__ == "__main__":
    main()
