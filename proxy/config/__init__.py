"""The configuration: frozen settings from a TOML file, the environment and flags."""

from proxy.config.load import FLAGS, environment_of, load_settings
from proxy.config.sections import (
    Admin,
    Cache,
    Client,
    Level,
    Ops,
    ProviderSettings,
    Rule,
    Server,
    Upstream,
)
from proxy.config.settings import Settings

__all__ = [
    "FLAGS",
    "Admin",
    "Cache",
    "Client",
    "Level",
    "Ops",
    "ProviderSettings",
    "Rule",
    "Server",
    "Settings",
    "Upstream",
    "environment_of",
    "load_settings",
]
