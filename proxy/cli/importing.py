"""`import-langchain`: joins the parts of the import, shows how far it is and what came of it."""

from __future__ import annotations

import asyncio
import os
import re
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from cache_backends import CacheError
from proxy import app as parts
from proxy.config import Settings
from proxy.errors import ConfigError
from proxy.importing import Importer, Summary, count_rows, read_rows
from proxy.models import Headers, Scope
from proxy.providers import build_providers

_NAMESPACE = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,127}")
# What OpenAI's client sends of its environment beside the key.
_ACCOUNT = {"OPENAI_ORG_ID": b"openai-organization", "OPENAI_PROJECT_ID": b"openai-project"}


@dataclass(frozen=True, slots=True)
class Import:
    """What is asked for: the file, and for whom its answers shall be."""

    file: Path
    namespace: str
    key_env: str
    client: str | None


def import_langchain(settings: Settings, wanted: Import) -> None:
    """Import, and print what became of each row. Raises ConfigError."""
    if not _NAMESPACE.fullmatch(wanted.namespace):
        raise ConfigError("--namespace: expected letters, digits, _, . and -, a letter first")
    if settings.cache.url.startswith(("memory:", "null:")):
        raise ConfigError(f"--cache: {settings.cache.url} would keep nothing of it")
    headers = _headers(settings, wanted)
    try:
        summary = asyncio.run(_run(settings, wanted, headers))
    except CacheError as exc:
        raise ConfigError(f"the cache failed: {exc}") from exc
    _show(summary, settings, wanted)


async def _run(settings: Settings, wanted: Import, headers: Headers) -> Summary:
    cache = parts.build_cache(settings)
    store = parts.build_store(settings, cache)
    try:
        await store.start()
        if store.scope_secret is None:
            raise ConfigError(f"the cache does not open: {store.degraded}")
        importer = Importer(
            cache,
            providers=build_providers(settings),
            dialect=parts.DIALECTS["chat"],
            policy=parts.build_policy(settings),
            scope_secret=store.scope_secret,
            keyed_headers=parts.build_keyed_headers(settings),
            namespace=wanted.namespace,
            headers=headers,
            client=wanted.client,
        )
        total = count_rows(wanted.file)
        with Progress(console=Console(stderr=True)) as progress:
            task = progress.add_task(str(wanted.file), total=total)
            return await importer.run(
                read_rows(wanted.file),
                lambda row: progress.advance(task, len(row.responses)),
            )
    finally:
        await store.aclose()


def _headers(settings: Settings, wanted: Import) -> Headers:
    """What the caller sends for whom the entries shall be, as far as it says who that is."""
    scope = settings.cache.scope
    if wanted.client is not None and wanted.client not in settings.clients:
        raise ConfigError(f"--client: there is no [clients.{wanted.client}]")
    if scope is Scope.CLIENT and wanted.client is None:
        raise ConfigError("--client: needed, as cache.scope is client: whose shall the answers be?")
    if scope is not Scope.CREDENTIAL:
        return []
    key = os.environ.get(wanted.key_env)
    if not key:
        raise ConfigError(
            f"--key-env: {wanted.key_env} is not set. Entries belong to who presents the API key "
            "that it should hold; with cache.scope shared they belong to all"
        )
    account = [
        (name, os.environ[env].encode()) for env, name in _ACCOUNT.items() if env in os.environ
    ]
    return [(b"authorization", f"Bearer {key}".encode()), *account]


def _show(summary: Summary, settings: Settings, wanted: Import) -> None:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(justify="right")
    table.add_column(overflow="fold")
    table.add_row("imported", str(summary.imported), f"into the namespace {wanted.namespace}")
    if summary.known:
        table.add_row(
            "known", str(summary.known), "answered by the cache already, and left as it is"
        )
    if summary.stale:
        table.add_row(
            "left out", str(summary.stale), "rows of older answers that LangChain left behind"
        )
    for reason, count in summary.skipped.most_common():
        table.add_row("skipped", str(count), reason)
    console = Console()
    console.print(table)
    own = "" if wanted.namespace == settings.cache.namespace else f"/~namespace={wanted.namespace}"
    base_url = f"{settings.server.url}{own}/v1"
    console.print(
        Text(f"\nHits for {_whom(settings, wanted)} at base_url {base_url}"), soft_wrap=True
    )


def _whom(settings: Settings, wanted: Import) -> str:
    if settings.cache.scope is Scope.SHARED:
        return "everyone"
    if settings.cache.scope is Scope.CLIENT:
        return f"the client {wanted.client}"
    return f"who presents the key in {wanted.key_env}"
