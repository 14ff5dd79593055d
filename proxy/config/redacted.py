"""The settings as they may be shown: without secrets, and what may hold one."""

from __future__ import annotations

from typing import Any

from pydantic import SecretStr

from proxy.config.settings import Settings

HIDDEN = "***"
# Texts among a cache's options in which no secret is kept.
_HARMLESS_OPTIONS = {"prefix", "schema"}


def redacted(settings: Settings) -> dict[str, Any]:
    """JSON values, by section. What is hidden is told as `***`, what is unset as null."""
    told: dict[str, Any] = _shown(settings.model_dump())
    told["cache"]["url"] = cache_place(settings.cache.url)
    told["cache"]["options"] = {
        name: value if _is_harmless(name, value) else HIDDEN
        for name, value in settings.cache.options.items()
    }
    for rule in told["rules"]:
        rule["header"] = dict.fromkeys(rule["header"], HIDDEN)
    if "cassette" in told:  # what must not be told may stand in its patterns
        told["cassette"]["redact"] = [HIDDEN] * len(told["cassette"]["redact"])
    return told


def cache_place(url: str) -> str:
    """Where the cache is, without the password that a URL may hold."""
    if url.startswith("sqlite:///"):
        return url.removeprefix("sqlite:///")
    place = url.partition("?")[0]
    if "://" not in place:
        return place
    scheme, separator, rest = url.partition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2].partition('?')[0]}"


def _is_harmless(name: str, value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float) or name in _HARMLESS_OPTIONS


def _shown(value: Any) -> Any:
    if isinstance(value, SecretStr):
        return HIDDEN
    if isinstance(value, dict):
        return {str(name): _shown(each) for name, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_shown(each) for each in value]
    return value
