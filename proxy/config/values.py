"""The kinds of values that settings have, and how they are read."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field

from proxy.config import units


class SettingError(ValueError):
    """What is wrong with a setting elsewhere than where it was noticed; `at` is its path."""

    def __init__(self, message: str, *at: str) -> None:
        super().__init__(message)
        self.at = at


def _split(value: Any) -> Any:
    """One text stands for a list; commas part it, for the sake of environment variables."""
    if not isinstance(value, str):
        return value
    return tuple(part.strip() for part in value.split(",") if part.strip())


def _lower(texts: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(text.lower() for text in texts)


def from_json(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        raise ValueError("expected JSON in an environment variable") from None


def _base_url(url: str) -> str:
    # Messages leave the URL out: a password may stand in it.
    if not re.fullmatch(r"[!-~]+", url):
        raise ValueError("a URL has only ASCII characters and no spaces")
    try:
        parts = urlsplit(url)
        _ = parts.port  # read on access
    except ValueError:
        raise ValueError("not a URL: its host or port cannot be read") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("expected a URL such as https://api.openai.com/v1")
    if "@" in parts.netloc or "\\" in url:
        raise ValueError("credentials do not belong in a URL: use api_key_env")
    if "?" in url or "#" in url:
        raise ValueError("a base URL has no query and no fragment")
    return url.rstrip("/")


def _variable_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise ValueError("expected the name of an environment variable, not the secret itself")
    return name


def _regex(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as exc:
        raise ValueError(f"not a regular expression: {exc}") from None
    return pattern


Seconds = Annotated[float, BeforeValidator(units.seconds)]
Patience = Annotated[Seconds, Field(gt=0)]
Lease = Annotated[Seconds, Field(ge=0.5, le=60)]
Lifetime = Annotated[float, BeforeValidator(units.lifetime)]
Size = Annotated[int, BeforeValidator(units.size)]
Texts = Annotated[tuple[str, ...], BeforeValidator(_split)]
LowerTexts = Annotated[Texts, AfterValidator(_lower)]
Port = Annotated[int, Field(ge=0, le=65535)]
HeaderName = Annotated[str, Field(pattern=r"^[A-Za-z0-9-]+$"), AfterValidator(str.lower)]
BaseUrl = Annotated[str, AfterValidator(_base_url)]
Regex = Annotated[str, AfterValidator(_regex)]
VariableName = Annotated[str, AfterValidator(_variable_name)]
