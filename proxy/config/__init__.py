"""The configuration: frozen settings from a TOML file, the environment and flags."""

from proxy.config.load import FLAGS, environment_of, load_settings
from proxy.config.sections import (
    Admin,
    Cache,
    Cassette,
    Client,
    Level,
    Ops,
    PriceSettings,
    ProviderSettings,
    Rule,
    Server,
    Upstream,
)
from proxy.config.settings import Settings, is_loopback

__all__ = [
    "FLAGS",
    "Admin",
    "Cache",
    "Cassette",
    "Client",
    "Level",
    "Ops",
    "PriceSettings",
    "ProviderSettings",
    "Rule",
    "Server",
    "Settings",
    "Upstream",
    "environment_of",
    "is_loopback",
    "load_settings",
]
