"""Imports run down the ladder only, and each library has one door."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# From the top down: a module may import from lower rungs only. A package stands for its modules.
LADDER = (
    ("proxy.__main__", "proxy.pytest_plugin"),
    ("proxy.cli",),
    ("proxy.demo", "proxy.importing"),
    ("proxy.server",),
    ("proxy.app", "proxy.logs", "proxy.lane_protocol"),
    ("proxy.protocol",),
    ("proxy.application",),
    ("proxy.routes",),
    ("proxy.forecast",),
    ("proxy.engine", "proxy.lane"),
    ("proxy.replies",),
    ("proxy.fetch",),
    (
        "proxy.passage",
        "proxy.turns",
        "proxy.modes",
        "proxy.runs",
        "proxy.recent",
        "proxy.ledger",
        "proxy.standing",
    ),
    ("proxy.transfer", "proxy.warming", "proxy.broadcast", "proxy.siblings"),
    ("proxy.catalogue", "proxy.explain"),
    ("proxy.store", "proxy.upstream", "proxy.flights", "proxy.policy", "proxy.journal"),
    ("proxy.aiohttp_transport", "proxy.inflate", "proxy.end_to_end", "proxy.metrics"),
    ("proxy.aiohttp_exchange",),
    ("proxy.aiohttp_faults",),
    ("proxy.charts",),
    ("proxy.figures",),
    ("proxy.tally",),
    ("proxy.savings", "proxy.tracing"),
    ("proxy.access", "proxy.memo", "proxy.offline"),
    ("proxy.inquiry", "proxy.credentials"),
    ("proxy.correction", "proxy.nearest"),
    ("proxy.dialects",),
    ("proxy.differences",),
    (
        "proxy.keys",
        "proxy.lines",
        "proxy.sse",
        "proxy.providers",
        "proxy.control",
        "proxy.cache_status",
    ),
    ("proxy.environment", "proxy.local_token"),
    ("proxy.config",),
    ("proxy.prices",),
    ("proxy.provider_table",),
    ("proxy.models",),
    ("proxy.errors", "proxy.patience"),
    ("cache_backends",),
)

# Within these packages the files do not know each other, but for what they share, and for parts
# of their own: `sqlite_rows` is a part of `sqlite`.
STRANGERS = {
    "proxy.routes": ("", "admin_gate", "caller"),
    "proxy.dialects": ("", "base", "checks", "facts", "pieces", "recorders", "relays", "usage"),
    "cache_backends": (
        "",
        "base",
        "batches",
        "codec",
        "cursors",
        "extras",
        "known_purges",
        "lanes",
        "loops",
        "memory",
        "ndjson",
        "plain",
        "redaction",
        "s3fifo",
        "shared",
        "steady",
        "texts",
        "urls",
    ),
}

# Who may import a library or a part; a package stands for its modules.
DOORS = {
    "proxy.config": (
        "proxy.config",
        "proxy.cli",
        "proxy.server",
        "proxy.app",
        "proxy.demo",
        "proxy.providers",
    ),
    "fastapi": ("proxy.app", "proxy.application", "proxy.routes"),
    "starlette": ("proxy.app", "proxy.application", "proxy.routes", "proxy.server"),
    "uvicorn": ("proxy.server", "proxy.protocol", "proxy.demo"),
    "httpx": (
        "proxy.upstream",
        "proxy.aiohttp_transport",
        "proxy.aiohttp_exchange",
        "proxy.aiohttp_faults",
        "proxy.inflate",
        "proxy.app",
        "proxy.cli",
        "proxy.demo",
    ),
    "aiohttp": ("proxy.aiohttp_transport", "proxy.aiohttp_exchange", "proxy.aiohttp_faults"),
    "genai_prices": ("proxy.prices",),
    "prometheus_client": ("proxy.metrics",),
    "typer": ("proxy.cli",),
    "apsw": (
        "cache_backends.sqlite",
        "cache_backends.sqlite_crews",
        "cache_backends.sqlite_figures",
        "cache_backends.sqlite_file",
        "cache_backends.sqlite_leases",
        "cache_backends.sqlite_listing",
        "cache_backends.sqlite_log",
        "cache_backends.sqlite_rows",
        "cache_backends.sqlite_schema",
        "cache_backends.sqlite_texts",
        "proxy.importing.rows",
    ),
    "sqlite3": (),
    "redis": (
        "cache_backends.redis_cluster",
        "cache_backends.redis_connection",
        "cache_backends.redis_errors",
        "cache_backends.redis_place",
        "cache_backends.redis_server",
    ),
    "asyncpg": ("cache_backends.postgres_session",),
    "langchain_openai": ("proxy.importing.request", "proxy.cli.commands"),
    "langchain_core": ("cache_backends.langchain", "cache_backends.langchain_values"),
}

# Who reads bytes does no I/O.
NEVER_WAIT = (
    "proxy.cache_status",
    "proxy.control",
    "proxy.dialects",
    "proxy.errors",
    "proxy.keys",
    "proxy.models",
    "proxy.policy",
    "proxy.provider_table",
    "proxy.sse",
    "cache_backends.codec",
    "cache_backends.ndjson",
)


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


PATHS = {
    name_of(path): path
    for package in ("proxy", "cache_backends")
    for path in sorted((ROOT / package).rglob("*.py"))
}


@cache
def tree_of(module: str) -> ast.Module:
    return ast.parse(PATHS[module].read_text(encoding="utf-8"))


@cache
def imports_of(module: str) -> frozenset[str]:
    """All that a module imports, wherever in the file: modules of ours, else top-level names."""
    return frozenset(_imports(module))


def _imports(module: str) -> Iterator[str]:
    for node in ast.walk(tree_of(module)):
        if isinstance(node, ast.Import):
            yield from (_ours_or_top(alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: imports are absolute"
            origin = str(node.module)
            for alias in node.names:
                inner = f"{origin}.{alias.name}"
                yield inner if inner in PATHS else _ours_or_top(origin)


def _ours_or_top(name: str) -> str:
    return name if name in PATHS else name.partition(".")[0]


def within(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def rung_of(module: str) -> int | None:
    """The number of the module's rung, from the top."""
    for number, rung in enumerate(LADDER):
        if any(within(module, package) for package in rung):
            return number
    return None


def package_of(module: str) -> str:
    return next((each for rung in LADDER for each in rung if within(module, each)), module)


@pytest.mark.parametrize("module", [name for name in PATHS if name != "proxy"])
def test_imports_run_down_the_ladder(module: str) -> None:
    """A module knows only what is below it, and files of its own package."""
    rung = rung_of(module)
    assert rung is not None, f"{module} has no place on the ladder: add it to LADDER"
    for imported in imports_of(module) & PATHS.keys():
        if package_of(imported) == package_of(module) or imported == "proxy":
            continue
        below = rung_of(imported)
        assert below is not None, f"{imported} has no place on the ladder"
        assert below > rung, f"{module} must not import {imported}"


@pytest.mark.parametrize("package", STRANGERS)
def test_neighbours_do_not_know_each_other(package: str) -> None:
    """A route, a dialect or a backend can be removed without touching its neighbours."""
    shared = {package + (f".{name}" if name else "") for name in STRANGERS[package]}
    for module in PATHS:
        if within(module, package) and module not in shared:
            known = {each for each in imports_of(module) if within(each, package)} - shared
            strangers = {each for each in known if _first_word(each) != _first_word(module)}
            assert not strangers, f"{module} imports {sorted(strangers)}"


def _first_word(module: str) -> str:
    return module.rpartition(".")[2].partition("_")[0]


@pytest.mark.parametrize("part", DOORS)
def test_each_library_has_its_door(part: str) -> None:
    """Only the modules that are named for it import a library, or the settings."""
    for module in PATHS:
        if any(within(imported, part) for imported in imports_of(module)):
            assert any(within(module, door) for door in DOORS[part]), f"{module} imports {part}"


def test_the_cache_can_be_used_without_the_proxy() -> None:
    """`cache_backends` imports nothing of `proxy`."""
    for module in PATHS:
        if within(module, "cache_backends"):
            assert not any(within(imported, "proxy") for imported in imports_of(module)), module


@pytest.mark.parametrize(
    "module", [name for name in PATHS if any(map(name.startswith, NEVER_WAIT))]
)
def test_who_reads_bytes_never_waits(module: str) -> None:
    """Dialects, keys, event streams, policy and control are plain functions."""
    waits = (ast.AsyncFunctionDef, ast.Await, ast.AsyncFor, ast.AsyncWith)
    lines = [node.lineno for node in ast.walk(tree_of(module)) if isinstance(node, waits)]
    assert not lines, f"{module} waits in lines {lines}"


def test_the_pytest_plugin_stands_alone() -> None:
    """It is loaded into the tests of others, and starts the proxy as a process."""
    assert not imports_of("proxy.pytest_plugin") & PATHS.keys()


def test_the_package_root_is_light() -> None:
    """Importing `proxy` starts nothing and loads nothing."""
    assert not imports_of("proxy") & PATHS.keys()
