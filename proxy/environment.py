"""What the machine's environment says of reaching providers: proxies and trusted certificates.

`.netrc` is never read: credentials come from the caller or from this proxy's own configuration.
"""

from __future__ import annotations

import ipaddress
import os
import ssl
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import certifi

from proxy.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Environment:
    """Read once, at start. `proxies` is as `urllib.request.getproxies` gives it: URLs by scheme,
    and under "no" what is reached directly; `certificates` a variable's name and its value."""

    proxies: Mapping[str, str] = field(default_factory=dict, repr=False)
    certificates: tuple[str, str] | None = None

    @classmethod
    def read(cls) -> Environment:
        return cls(urllib.request.getproxies(), _named_certificates())

    def proxy_for(self, scheme: str, host: str) -> str | None:
        """Return the URL of the proxy to take. This machine is always reached directly."""
        proxy = _as_url(self.proxies.get(scheme) or self.proxies.get("all") or "")
        if not _is_http(proxy) or _is_loopback(host):
            return None
        return None if _is_excepted(host, self.proxies.get("no", "")) else proxy

    def ssl_context(self) -> ssl.SSLContext:
        context = ssl.create_default_context()  # OpenSSL reads SSL_CERT_FILE and SSL_CERT_DIR
        context.set_alpn_protocols(["http/1.1"])
        name, path = self.certificates or ("", "")
        if name == "REQUESTS_CA_BUNDLE":
            place = "capath" if Path(path).is_dir() else "cafile"
            context.load_verify_locations(**{place: path})
        elif not name and not _has_system_store():
            context.load_verify_locations(certifi.where())
        return context

    def describe(self) -> list[str]:
        """Say in words what is used, a line for each thing; without credentials."""
        named = [(s, self.proxies[s]) for s in ("http", "https", "all") if self.proxies.get(s)]
        lines = [_describe_proxy(scheme, proxy) for scheme, proxy in named]
        if named and self.proxies.get("no"):
            lines.append(f"no proxy for {self.proxies['no']}")
        if self.certificates:
            lines.append("trusted certificates from {}={}".format(*self.certificates))
        return lines


def _named_certificates() -> tuple[str, str] | None:
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE"):
        path = os.environ.get(name)
        if path and not Path(path).exists():
            raise ConfigError(f"{name}={path}: nothing is there; correct the variable or unset it")
        if path:
            return name, path
    return None


def _has_system_store() -> bool:
    paths = ssl.get_default_verify_paths()
    return bool(paths.cafile or paths.capath)


def _as_url(proxy: str) -> str:
    return proxy if "://" in proxy or not proxy else f"http://{proxy}"


def _is_http(proxy: str) -> bool:
    return proxy.lower().startswith(("http://", "https://"))


def _is_loopback(host: str) -> bool:
    address = _address(host)
    if address is not None:
        return address.is_loopback
    return host == "localhost" or host.endswith(".localhost")


def _is_excepted(host: str, exceptions: str) -> bool:
    entries = [entry.strip().lower() for entry in exceptions.split(",")]
    return any(_covers(entry, host.lower()) for entry in entries if entry)


def _covers(entry: str, host: str) -> bool:
    """Read an entry of NO_PROXY as curl and Go do: a name with all below it, a network, `*`."""
    if entry == "*" or entry == host:
        return True
    address = _address(host)
    if address is None:
        name = entry.lstrip("*").lstrip(".").partition(":")[0]
        return host == name or host.endswith(f".{name}")
    try:
        return address in ipaddress.ip_network(entry, strict=False)
    except ValueError:
        return False


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _describe_proxy(scheme: str, proxy: str) -> str:
    url = _as_url(proxy)
    if not _is_http(url):
        return f"{scheme.upper()}_PROXY is not used: only http:// and https:// proxies are"
    kind, _, rest = url.partition("://")
    what = "all requests" if scheme == "all" else f"{scheme}:// requests"
    return f"proxy {kind}://{rest.rpartition('@')[2]} for {what}"
