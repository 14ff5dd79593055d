"""Reads the settings: flags before environment before file before defaults.

Whatever cannot be used is a ConfigError that names the place: the file's line, the environment
variable or the flag. Values are shown only where no secret can be.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import EnvSettingsSource

from proxy.config import places
from proxy.config.settings import ENV_PREFIX, Settings
from proxy.config.values import SettingError
from proxy.errors import ConfigError

CONFIG_VARIABLE = f"{ENV_PREFIX}CONFIG"

# The flags of `serve`, and what they set.
FLAGS: Mapping[str, tuple[str, str]] = {
    "--host": ("server", "host"),
    "--port": ("server", "port"),
    "--upstream": ("upstream", "base_url"),
    "--cache": ("cache", "url"),
    "--mode": ("cache", "mode"),
    "--cassette-prune": ("cassette", "prune"),
    "--workers": ("server", "workers"),
    "--log-level": ("server", "log_level"),
}

# A password or a key may stand in these.
_NOT_SHOWN = {"token", "scope_secret", "url", "options", "base_url", "api_key_env", "token_env"}
_NOT_SHOWN |= {"header", "read_token"}
_MAX_SHOWN = 60


def load_settings(path: Path | None = None, overrides: Mapping[str, Any] | None = None) -> Settings:
    """Read the settings; `path` defaults to the file that LLM_CACHE_PROXY_CONFIG names.

    `overrides` has sections as the file has, and wins over all. Raises ConfigError.
    """
    if path is None and os.environ.get(CONFIG_VARIABLE):
        path = Path(os.environ[CONFIG_VARIABLE])
    text = _read(path) if path else ""
    file = _Source(_parse(path, text) if path else {}, path, text)
    environment = _Source(EnvSettingsSource(Settings)())
    flags = _Source(dict(overrides or {}))
    values = _merged(_merged(file.values, environment.values), flags.values)
    try:
        settings = Settings(**values)
    except ValidationError as exc:
        told = [_tell(error, flags, environment, file) for error in exc.errors()]
        raise ConfigError("\n".join(told)) from None
    _refuse_misspelt_variables(settings)
    return settings


def environment_of(path: Path | None, overrides: Mapping[str, Any]) -> dict[str, str]:
    """The variables that say to another process what a config file and flags say to this one."""
    variables = {
        variable(section, name): str(value)
        for section, names in overrides.items()
        for name, value in names.items()
    }
    if path is not None:
        variables[CONFIG_VARIABLE] = str(path.absolute())
    return variables


def variable(*path: str | int) -> str:
    """Name the environment variable of a setting."""
    return ENV_PREFIX + "__".join(str(part) for part in path).upper()


class _Source(NamedTuple):
    values: dict[str, Any]
    path: Path | None = None
    text: str = ""


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as exc:
        raise ConfigError(f"{path}: cannot be read: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise ConfigError(f"{path}: is not UTF-8 text") from exc


def _parse(path: Path, text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        message, _, where = str(exc).rpartition(" (at ")
        line = where.removeprefix("line ").partition(",")[0]
        if not line.isdigit():  # "(at end of document)"
            message, line = str(exc), str(text.count("\n") + 1)
        raise ConfigError(f"{path}:{line}: not TOML: {message}") from exc


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    both = dict(below)
    for name, value in above.items():
        old = both.get(name)
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            value = _merged(old, value)
        both[name] = value
    return both


def _tell(error: ErrorDetails, flags: _Source, environment: _Source, file: _Source) -> str:
    fault = error.get("ctx", {}).get("error")
    at = error["loc"] + (fault.at if isinstance(fault, SettingError) else ())
    name = _dotted(at)
    return f"{_place(at, flags, environment, file)}{name}: {_what(error, at)}"


def _place(at: places.Path, flags: _Source, environment: _Source, file: _Source) -> str:
    """Name the source whose value counted: the first that has the most of the path."""
    depths = [_depth(source.values, at) for source in (flags, environment, file)]
    deepest = max(depths)
    if deepest == 0:
        return f"{file.path}: " if file.path else ""
    if deepest == depths[0]:
        flag = next((flag for flag, path in FLAGS.items() if path == at[:2]), "")
        return f"{flag}: " if flag else ""
    if deepest == depths[1]:
        return f"{variable(*at[:deepest])}: "
    return f"{file.path}:{places.line_of(file.text, at)}: "


def _depth(values: Any, at: places.Path) -> int:
    for depth, part in enumerate(at):
        try:
            values = values[part]
        except (KeyError, IndexError, TypeError):
            return depth
    return len(at)


def _dotted(at: places.Path) -> str:
    dotted = ""
    for part in at:
        dotted += f"[{part + 1}]" if isinstance(part, int) else f".{part}"
    return dotted.removeprefix(".")


def _what(error: ErrorDetails, at: places.Path) -> str:
    if error["type"] == "extra_forbidden":
        return f"there is no such setting; {_way_out(at)}"
    message = error["msg"].removeprefix("Value error, ").removeprefix("Input ")
    if error["type"] == "missing":
        return "is missing"
    value = error["input"]
    if not _NOT_SHOWN.isdisjoint(at) or not isinstance(value, str | int | float):
        return message
    return f"{message}, got {str(value)[:_MAX_SHOWN]!r}"


def _way_out(at: places.Path) -> str:
    names = _names(Settings, at[:-1])
    close = difflib.get_close_matches(str(at[-1]), names, n=1, cutoff=0.6)
    return f"did you mean {close[0]}?" if close else f"there are {', '.join(sorted(names))}"


def _names(model: type[BaseModel], path: places.Path) -> list[str]:
    """The settings of the section at `path`."""
    for part in path:
        if isinstance(part, int) or part not in model.model_fields:
            continue  # the number of a rule, the name of a provider
        model = _section(model.model_fields[part].annotation) or model
    return list(model.model_fields)


def _section(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = (_section(part) for part in get_args(annotation))
    return next((section for section in found if section), None)


def _refuse_misspelt_variables(settings: Settings) -> None:
    """Refuse LLM_CACHE_PROXY_SERVR__PORT and LLM_CACHE_PROXY_SERVER_PORT.

    Others with the prefix are let be: Kubernetes makes LLM_CACHE_PROXY_SERVICE_HOST and the like
    for a service of this name, and a token may be kept in one.
    """
    named = {client.token_env for client in settings.clients.values()}
    named |= {provider.api_key_env or "" for provider in settings.providers.values()}
    known = {variable(*path): path for path in setting_paths()}
    single = {name.replace("__", "_"): name for name in known}
    for name in sorted(os.environ):
        if not name.upper().startswith(ENV_PREFIX) or name in named:
            continue
        right = single.get(name.upper())
        if right and right != name.upper() and "://" not in os.environ[name]:
            raise ConfigError(f"{name}: there is no such setting; did you mean {right}?")
        section = name.upper().removeprefix(ENV_PREFIX).partition("__")
        if section[1] and section[0].lower() not in Settings.model_fields:
            close = difflib.get_close_matches(name.upper(), known, n=1, cutoff=0.6)
            way_out = f"did you mean {close[0]}?" if close else "see config.example.toml"
            raise ConfigError(f"{name}: there is no such setting; {way_out}")


def setting_paths() -> Iterator[tuple[str, str]]:
    """All settings that have a fixed name."""
    for section, field in Settings.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            for name in field.annotation.model_fields:
                yield section, name
