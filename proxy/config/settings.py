"""All settings together, and what must hold between them."""

from __future__ import annotations

import ipaddress
import os
import re
from typing import Annotated, Self

from pydantic import BeforeValidator, Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from proxy.config.sections import (
    Admin,
    Cache,
    Cassette,
    Client,
    Ops,
    PriceSettings,
    ProviderSettings,
    Rule,
    Server,
    Upstream,
)
from proxy.config.values import SettingError, from_json
from proxy.models import Scope
from proxy.provider_table import EXAMPLE_BASE_URL, KNOWN, RESERVED_NAMES

ENV_PREFIX = "LLM_CACHE_PROXY_"
MIN_TOKEN_CHARACTERS = 16
_SHORT = (
    f"a token that can be tried from elsewhere needs at least {MIN_TOKEN_CHARACTERS} characters: "
    "openssl rand -hex 24"
)


class Settings(BaseSettings):
    """All settings, frozen. `Settings()` reads the environment; `load_settings` also a file."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
        env_prefix=ENV_PREFIX,
        env_nested_delimiter="__",
        env_ignore_empty=True,
        enable_decoding=False,
    )

    server: Server = Server()
    upstream: Upstream = Upstream()
    cache: Cache = Field(default_factory=Cache)
    cassette: Cassette = Cassette()
    rules: Annotated[tuple[Rule, ...], BeforeValidator(from_json)] = ()
    providers: dict[str, ProviderSettings] = Field(default_factory=dict)
    prices: Annotated[dict[str, PriceSettings], BeforeValidator(from_json)] = Field(
        default_factory=dict
    )
    clients: dict[str, Client] = Field(default_factory=dict)
    admin: Admin = Admin()
    ops: Ops = Ops()

    @property
    def on_loopback(self) -> bool:
        return is_loopback(self.server.host)

    @property
    def admin_host(self) -> str:
        """Where the admin API listens."""
        apart = self.ops.port is not None and self.ops.host is not None
        return str(self.ops.host) if apart else self.server.host

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        self._check_providers()
        self._check_clients()
        self._check_admin()
        self._check_cache()
        self._check_ops()
        return self

    def _check_providers(self) -> None:
        for name, provider in self.providers.items():
            if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", name) or name in RESERVED_NAMES:
                raise SettingError(
                    "a provider's name has small letters, digits, - and _, and is none of "
                    + ", ".join(sorted(RESERVED_NAMES)),
                    "providers",
                    name,
                )
            if not provider.base_url and not self._known_base_url(name):
                raise SettingError(f"needs a base_url{_example(name)}", "providers", name)
            _require_variable(provider.api_key_env, "providers", name, "api_key_env")
        default = self.upstream.provider
        if default not in KNOWN and default not in self.providers:
            names = ", ".join([*KNOWN, *self.providers])
            raise SettingError(
                f"unknown; choose one of {names}, or add [providers.{default}]",
                "upstream",
                "provider",
            )
        if not self._known_base_url(default) and not self.providers.get(default):
            raise SettingError(
                f"{default} needs upstream.base_url{_example(default)}", "upstream", "provider"
            )

    def _known_base_url(self, name: str) -> str:
        if name == self.upstream.provider and self.upstream.base_url:
            return self.upstream.base_url
        return KNOWN[name].base_url if name in KNOWN else ""

    def _check_clients(self) -> None:
        tokens: dict[str, str] = {}
        for name, client in self.clients.items():
            at = ("clients", name, "token_env")
            token = _require_variable(client.token_env, *at)
            if token in tokens:
                raise SettingError(f"the same token as that of {tokens[token]}", *at)
            if len(token) < MIN_TOKEN_CHARACTERS and not self.on_loopback:
                raise SettingError(_SHORT, *at)
            tokens[token] = name
        if self.clients or self.on_loopback:
            return
        for name, provider in self.providers.items():
            if provider.api_key_env:
                raise SettingError(
                    f"anyone who reaches {self.server.host} could spend this key; "
                    "add [clients.<name>] token_env, or listen on 127.0.0.1",
                    "providers",
                    name,
                    "api_key_env",
                )

    def _check_admin(self) -> None:
        taken = {client.token: f"clients.{name}" for name, client in self.clients.items()}
        for name in ("token", "read_token"):
            secret = getattr(self.admin, name)
            if secret is None:
                continue
            token = secret.get_secret_value()
            if not re.fullmatch("[!-~]([ -~]*[!-~])?", token):
                raise SettingError("has ASCII characters only, no spaces around", "admin", name)
            if len(token) < MIN_TOKEN_CHARACTERS and not is_loopback(self.admin_host):
                raise SettingError(_SHORT, "admin", name)
            if token in taken:
                raise SettingError(f"the same token as {taken[token]}", "admin", name)
            taken[token] = f"admin.{name}"

    def _check_cache(self) -> None:
        scope = self.cache.scope
        if scope is Scope.CLIENT and not self.clients:
            raise SettingError('"client" needs [clients.<name>] token_env', "cache", "scope")
        if scope is Scope.SHARED and not self.clients and not self.on_loopback:
            raise SettingError(
                f"anyone who reaches {self.server.host} could read all answers; "
                "add [clients.<name>] token_env, or listen on 127.0.0.1",
                "cache",
                "scope",
            )
        if self.cache.records:
            self._check_cassette()
        if self.cache.url.startswith("memory:") and self.server.workers > 1:
            raise SettingError(
                "workers cannot share a cache in memory; use sqlite:///FILE, or 1 worker",
                "cache",
                "url",
            )

    def _check_cassette(self) -> None:
        if self.server.workers > 1:
            raise SettingError("a cassette is for 1 worker", "server", "workers")
        if self.cache.scope is Scope.CREDENTIAL and self.cache.scope_secret is None:
            raise SettingError(
                "the hash of a credential would be another each time, and nothing in the cassette "
                'found again; use "shared", or set scope_secret',
                "cache",
                "scope",
            )

    def _check_ops(self) -> None:
        if self.ops.host is not None and self.ops.port is None:
            raise SettingError("needs ops.port as well", "ops", "host")
        here = (self.server.host, self.server.port)
        if self.ops.port and (self.ops.host or self.server.host, self.ops.port) == here:
            raise SettingError("is taken by [server]; choose another", "ops", "port")


def _require_variable(name: str | None, *at: str) -> str:
    if name is None:
        return ""
    value = os.environ.get(name, "")
    if not value:
        # A key pasted here by mistake can look like a name: only what surely is one is shown.
        shown = name if name.isupper() else "that it names"
        raise SettingError(f"the environment variable {shown} is not set", *at)
    return value


def _example(name: str) -> str:
    return f": {EXAMPLE_BASE_URL[name]}" if name in EXAMPLE_BASE_URL else ""


def is_loopback(host: str) -> bool:
    """Can only this machine reach a listener there?"""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
