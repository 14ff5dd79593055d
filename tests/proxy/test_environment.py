"""Proxies and certificates that the environment names."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from proxy.environment import Environment
from proxy.errors import ConfigError

LOCALHOST_PEM = str(Path(__file__).parents[1] / "fakes" / "localhost.pem")
VARIABLES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE")
PROXIES = {"http": "http://plain:1", "https": "http://me:pw@secure:2"}


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*VARIABLES, "http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def test_the_scheme_of_the_request_chooses_the_proxy() -> None:
    """With `all` for schemes that have none of their own."""
    assert Environment(PROXIES).proxy_for("https", "api.openai.com") == PROXIES["https"]
    assert Environment({"all": "proxy:3128"}).proxy_for("https", "x.test") == "http://proxy:3128"
    assert Environment().proxy_for("https", "api.openai.com") is None


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.8.8.8", "::1", "ollama.localhost"])
def test_this_machine_is_reached_directly(host: str) -> None:
    """A proxy elsewhere would look for it in itself."""
    assert Environment(PROXIES).proxy_for("http", host) is None


@pytest.mark.parametrize(
    ("exceptions", "host", "direct"),
    [
        ("openai.com", "api.openai.com", True),
        (".openai.com", "openai.com", True),
        ("*.openai.com", "api.openai.com", True),
        ("OpenAI.com:443", "api.openai.com", True),
        ("penai.com", "openai.com", False),
        ("a.test, 10.0.0.0/8", "10.1.2.3", True),
        ("10.0.0.0/8", "11.1.2.3", False),
        ("10.1.2.3", "10.1.2.3", True),
        ("fd00::/8", "fd00::1", True),
        ("10.0.0.0/8", "10.example", False),
        ("*", "anything.test", True),
        (" , ", "anything.test", False),
    ],
)
def test_exceptions_are_read_as_curl_reads_them(exceptions: str, host: str, direct: bool) -> None:
    """Names with all below them, networks, and `*`."""
    environment = Environment({**PROXIES, "no": exceptions})
    assert (environment.proxy_for("https", host) is None) is direct


def test_a_proxy_that_cannot_be_used_is_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """SOCKS is not spoken here: whoever relies on it must know."""
    monkeypatch.setenv("ALL_PROXY", "socks5://me:pw@tor:9050")
    environment = Environment.read()
    assert environment.proxy_for("https", "api.openai.com") is None
    (line,) = environment.describe()
    assert "ALL_PROXY is not used" in line


def test_the_description_names_all_and_no_credential(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is printed at start can be shown to anyone."""
    monkeypatch.setenv("HTTPS_PROXY", "http://me:p@w@secure:2")
    monkeypatch.setenv("HTTP_PROXY", "me:pw@plain:1")
    monkeypatch.setenv("NO_PROXY", "corp.test")
    monkeypatch.setenv("SSL_CERT_FILE", LOCALHOST_PEM)
    environment = Environment.read()
    assert environment.describe() == [
        "proxy http://plain:1 for http:// requests",
        "proxy http://secure:2 for https:// requests",
        "no proxy for corp.test",
        f"trusted certificates from SSL_CERT_FILE={LOCALHOST_PEM}",
    ]
    assert "pw" not in repr(environment)


def test_an_environment_without_any_of_it_has_no_description() -> None:
    """Nothing is printed where nothing is special."""
    assert Environment.read().describe() == []


@pytest.mark.parametrize("name", VARIABLES)
def test_certificates_that_are_not_there_are_named(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenSSL would trust nobody in silence, and every call would fail."""
    monkeypatch.setenv(name, "/nowhere/ca.pem")
    with pytest.raises(ConfigError, match=f"{name}=/nowhere/ca.pem"):
        Environment.read()


@pytest.mark.parametrize("name", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"])
def test_named_certificates_are_trusted(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both OpenSSL's own variable and the one of requests."""
    monkeypatch.setenv(name, LOCALHOST_PEM)
    subjects = [each["subject"] for each in Environment.read().ssl_context().get_ca_certs()]
    assert ((("commonName", "127.0.0.1"),),) in subjects


def test_without_a_system_store_certifi_stands_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bare container has no certificates of its own."""
    nothing = ssl.DefaultVerifyPaths(None, None, "", "", "", "")
    monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: nothing)
    monkeypatch.setattr(ssl.SSLContext, "set_default_verify_paths", lambda _: None)
    monkeypatch.setattr(ssl.SSLContext, "load_default_certs", lambda *_: None)
    assert len(Environment().ssl_context().get_ca_certs()) > 50
