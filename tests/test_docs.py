"""The settings, the example and the README agree: nothing undocumented, nothing stale."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel
from typer.testing import CliRunner

from proxy.cli import app
from proxy.config import (
    FLAGS,
    Client,
    PriceSettings,
    ProviderSettings,
    Rule,
    Settings,
    load_settings,
)
from proxy.provider_table import KNOWN

ROOT = Path(__file__).parents[1]
EXAMPLE = ROOT / "config.example.toml"
README = ROOT / "README.md"
TEXT = EXAMPLE.read_text(encoding="utf-8")

SECTIONS: dict[str, type[BaseModel]] = {
    name: field.annotation
    for name, field in Settings.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
} | {"[rules]": Rule, "providers.gateway": ProviderSettings, "clients.evals": Client}
SECTIONS['prices."gpt-4o*"'] = PriceSettings


def told() -> Iterator[tuple[str, str, str]]:
    """Section, setting and comment of everything in the example, shown or commented out."""
    section, comment = "", ""
    for line in TEXT.splitlines():
        if header := re.fullmatch(r'#?\[([a-z0-9."*\[\]-]+)\]', line):
            section, comment = header[1], ""
        elif setting := re.match(r"#?([a-z_]+) = ", line):
            yield section, setting[1], " ".join(comment.split())
            comment = ""
        else:
            comment += line.removeprefix("#")


def test_example_has_every_setting() -> None:
    """Each setting stands in its section of the example once, below what the code says of it."""
    settings = [
        (section, name, " ".join(str(field.description).split()))
        for section, model in SECTIONS.items()
        for name, field in model.model_fields.items()
    ]
    assert sorted(told()) == sorted(settings)


def test_example_shows_the_defaults() -> None:
    """The example as it is changes nothing."""
    assert load_settings(EXAMPLE) == Settings()


def test_example_leaves_out_what_has_no_default() -> None:
    """Commented out is only what is unset by default, and where the cache is."""
    shown = tomllib.loads(TEXT)
    hidden = {
        f"{section}.{name}"
        for section, name, _ in told()
        if section in shown and name not in shown[section]
    }
    unset = {
        f"{section}.{name}"
        for section in shown
        for name, field in SECTIONS[section].model_fields.items()
        if field.default is None
    }
    assert hidden == unset | {"cache.url"}


def test_examples_can_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With every example switched on, the file is still read without an error."""
    monkeypatch.setenv("MY_GATEWAY_KEY", "key")
    monkeypatch.setenv("EVALS_TOKEN", "token")
    path = tmp_path / "config.toml"
    path.write_text(re.sub(r"(?m)^#(?=[a-z\[])", "", TEXT))
    settings = load_settings(path)
    assert all(getattr(settings.rules[0], name) is not None for name in Rule.model_fields)
    assert settings.providers["gateway"].api_key_env == "MY_GATEWAY_KEY"


def test_example_names_the_providers() -> None:
    """The example names each provider that needs no section, and each that needs its base URL."""
    prose = " ".join(TEXT.replace("#", " ").split())
    assert all(re.search(rf"\b{name}\b", prose) for name in KNOWN)


def test_flags_set_settings() -> None:
    """Every flag in the table sets a setting that exists, and `serve` has it."""
    shown = CliRunner().invoke(app, ["serve", "--help"], env={"COLUMNS": "200"}).output
    for flag, (section, name) in FLAGS.items():
        assert name in SECTIONS[section].model_fields
        assert flag in shown


def readme() -> str:
    return README.read_text(encoding="utf-8") if README.exists() else ""


def test_readme_names_real_variables() -> None:
    """Environment variables in the README are settings."""
    for variable in re.findall(r"LLM_CACHE_PROXY_([A-Z_]+__[A-Z_]+)", readme()):
        section, _, name = variable.lower().partition("__")
        first = name.partition("__")[0]
        assert section in Settings.model_fields, variable
        assert section not in SECTIONS or first in SECTIONS[section].model_fields, variable


def test_readme_names_real_flags() -> None:
    """Commands after `llm-cache-proxy` in the README exist, and their flags."""
    lines = re.findall(r"llm-cache-proxy ([a-z]+(?:-[a-z]+)*)(?![\w/])([^\n`]*)", readme())
    for command, rest in lines:
        shown = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200"})
        assert shown.exit_code == 0, command
        for flag in re.findall(r"(?<!\S)--[a-z-]+", rest):
            assert flag in shown.output, f"{command} {flag}"


def test_readme_configuration_can_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each TOML block in the README is a config that is read without an error."""
    for number, block in enumerate(re.findall(r"```toml\n(.*?)```", readme(), re.DOTALL)):
        for name in re.findall(r'_env = "(\w+)"', block):
            monkeypatch.setenv(name, f"a token of some length, {number} {name}")
        path = tmp_path / f"{number}.toml"
        path.write_text(block)
        load_settings(path)
