"""Tests of the settings: where they come from, and what is said of those that cannot be used."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from proxy.config import Admin, Cache, Server, Settings, environment_of, load_settings, units
from proxy.errors import ConfigError
from proxy.models import Scope


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("LLM_CACHE_PROXY_"):
            monkeypatch.delenv(name)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return tmp_path / "config.toml"


def refusal(path: Path | None, text: str = "", **overrides: object) -> str:
    """What is said of a file (and flags) that cannot be used, without the file's folder."""
    if path is not None:
        path.write_text(text)
    with pytest.raises(ConfigError) as told:
        load_settings(path, overrides)
    return str(told.value).replace(f"{path}", "FILE")


def test_defaults() -> None:
    """Without any configuration there are settings that can be used."""
    settings = load_settings()
    assert settings == Settings()
    assert settings.on_loopback
    assert settings.server.url == "http://127.0.0.1:8484"
    assert settings.cache.url.startswith("sqlite:////")
    assert settings.cache.url.endswith("/llm-cache-proxy/cache.db")
    assert settings.cache.ttl is None


def test_precedence(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Flags win over the environment, the environment over the file, the file over defaults."""
    config.write_text("[server]\nport = 1\nworkers = 2\nhost = '127.0.0.2'\n")
    monkeypatch.setenv("LLM_CACHE_PROXY_SERVER__PORT", "3")
    monkeypatch.setenv("LLM_CACHE_PROXY_SERVER__WORKERS", "4")
    server = load_settings(config, {"server": {"port": 5}}).server
    assert server == Server(port=5, workers=4, host="127.0.0.2")


def test_file_named_in_the_environment(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """LLM_CACHE_PROXY_CONFIG names the file where no other is given."""
    config.write_text('[cache]\nttl = "7d"\nmax_entry = "1.5 MiB"\n')
    monkeypatch.setenv("LLM_CACHE_PROXY_CONFIG", str(config))
    cache = load_settings().cache
    assert (cache.ttl, cache.max_entry) == (7 * 86400, 3 * 2**19)


def test_another_process_reads_the_same(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file and flags can be handed on as environment variables."""
    config.write_text("[server]\nport = 1\n")
    overrides = {"server": {"workers": 2}, "upstream": {"base_url": "http://[::1]:9/v1"}}
    here = load_settings(config, overrides)
    for name, value in environment_of(config, overrides).items():
        monkeypatch.setenv(name, value)
    assert load_settings() == here


def test_lists_and_tables_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lists are parted by commas, rules are JSON, names of providers are part of the name."""
    monkeypatch.setenv("LLM_CACHE_PROXY_CACHE__KEY_HEADERS", "X-A, X-B")
    monkeypatch.setenv("LLM_CACHE_PROXY_RULES", '[{"model": ["gpt*"], "cache": false}]')
    monkeypatch.setenv("LLM_CACHE_PROXY_PROVIDERS__MINE__BASE_URL", "http://mine.test/v1/")
    settings = load_settings()
    assert settings.cache.key_headers == ("x-a", "x-b")
    assert settings.rules[0].model == ("gpt*",)
    assert settings.providers["mine"].base_url == "http://mine.test/v1"


def test_what_a_cache_is_told(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table of the file, or JSON in the environment; never shown, as a password may be in it."""
    config.write_text('[cache.options]\nprefix = "llm:"\nttl = 60\n')
    cache = load_settings(config).cache
    assert cache.told == {"max_bytes": None, "prefix": "llm:", "ttl": 60}
    assert "llm:" not in repr(cache)
    monkeypatch.setenv("LLM_CACHE_PROXY_CACHE__OPTIONS", '{"max_bytes": 5}')
    assert load_settings(config).cache.told == {"max_bytes": 5}
    monkeypatch.setenv("LLM_CACHE_PROXY_CACHE__OPTIONS", "secret")
    with pytest.raises(ConfigError) as raised:
        load_settings(config)
    assert str(raised.value).startswith("LLM_CACHE_PROXY_CACHE__OPTIONS: cache.options: ")
    assert "secret" not in str(raised.value)


def test_empty_variables_say_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable that is set to nothing, as compose files do, is as if unset."""
    monkeypatch.setenv("LLM_CACHE_PROXY_SERVER__PORT", "")
    assert load_settings().server.port == 8484


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[server\nport = 1\n", "FILE:1: not TOML: "),
        ("[server]\nport = \n", "FILE:2: not TOML: "),
        ("[server]\nport = [\n", "not TOML: "),
        ("\n[server]\n\nprot = 1\n", "FILE:4: server.prot: there is no such setting; did you mean"),
        ("[sever]\nport = 1\n", "FILE:1: sever: there is no such setting; did you mean server?"),
        ("[ops]\nxyz = 1\n", "FILE:2: ops.xyz: there is no such setting; there are host, port"),
        ("server.port = 'abc'\n", "FILE:1: server.port: should be a valid integer"),
        ("server = 5\n", "FILE:1: server: "),
        ("[server]\nport = 70000\n", "should be less than or equal to 65535, got '70000'"),
        ("[cache]\nttl = '7 parsecs'\n", "FILE:2: cache.ttl: expected seconds or a duration"),
        ("[cache]\nmax_entry = '1 XB'\n", "FILE:2: cache.max_entry: expected bytes or a size"),
        ("[cache]\nscope = 'all'\n", "should be 'credential', 'client' or 'shared', got 'all'"),
        ("[[rules]]\n[[rules]]\nttl = -1\n", "FILE:3: rules[2].ttl: expected"),
        (
            "[[rules]]\nlevel = [\n {pattern='('},\n]\n",
            "FILE:2: rules[1].level[1].pattern: not a regular",
        ),
        (
            "[[rules]]\n[[rules.level]]\npattern='a'\nreplacement='\\9'\n",
            "FILE:4: rules[1].level[1].replacement: ",
        ),
        (
            "[[rules]]\n[[rules.level]]\nreplacement='a'\n",
            "FILE:2: rules[1].level[1].pattern: is missing",
        ),
        ("[[rules]]\nlevl = []\n", "did you mean level?"),
        (
            "[upstream]\nprovider = 'opnai'\n",
            "FILE:2: upstream.provider: unknown; choose one of openai, anthropic",
        ),
        (
            "[upstream]\nprovider = 'azure'\n",
            "azure needs upstream.base_url: https://RESOURCE.openai",
        ),
        (
            "[upstream]\nbase_url = 'api.openai.com/v1'\n",
            "FILE:2: upstream.base_url: expected a URL",
        ),
        ("[upstream]\nbase_url = 'https://a/v1?x=1'\n", "no query"),
        ("[upstream]\nbase_url = 'https://a:b/v1'\n", "FILE:2: upstream.base_url: not a URL"),
        ("[providers.mine]\nlocal = true\n", "FILE:1: providers.mine: needs a base_url"),
        ("[providers.azure]\nlocal = true\n", "needs a base_url: https://RESOURCE.openai"),
        (
            "[providers.'a/b']\nbase_url = 'http://a'\n",
            "FILE:1: providers.a/b: a provider's name has",
        ),
        ("[providers.v1]\nbase_url = 'http://a'\n", "a provider's name has"),
        (
            "[providers.groq]\napi_key_env = 'UNSET_KEY'\n",
            "FILE:2: providers.groq.api_key_env: the environment variable UNSET_KEY",
        ),
        (
            "[cache]\nscope = 'client'\n",
            'FILE:2: cache.scope: "client" needs [clients.<name>] token_env',
        ),
        (
            "[server]\nhost = '0.0.0.0'\n[cache]\nscope = 'shared'\n",
            "FILE:4: cache.scope: anyone who reaches 0.0.0.0",
        ),
        (
            "[cache]\nurl = 'memory://'\n[server]\nworkers = 2\n",
            "FILE:2: cache.url: workers cannot share",
        ),
        ("[ops]\nhost = '0.0.0.0'\n", "FILE:2: ops.host: needs ops.port as well"),
        ("[ops]\nport = 8484\n", "FILE:2: ops.port: is taken by [server]"),
    ],
)
def test_what_is_said_of_a_file(config: Path, text: str, said: str) -> None:
    """Whatever is wrong in a file is named with its line, its name and the way out."""
    assert said in refusal(config, text)


def test_all_that_is_wrong_is_said(config: Path) -> None:
    """Two mistakes are two lines: nobody has to start twice to learn of both."""
    said = refusal(config, "[server]\nport = 'x'\nworkers = 0\n").splitlines()
    assert [line.partition(": ")[0] for line in said] == ["FILE:2", "FILE:3"]


def test_unreadable_files(config: Path) -> None:
    """A file that is missing, a folder or not text is named."""
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        load_settings(config)
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load_settings(config.parent)
    config.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load_settings(config)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        (
            "SERVER__PORT",
            "abc",
            "LLM_CACHE_PROXY_SERVER__PORT: server.port: should be a valid integer",
        ),
        ("SERVER__PROT", "1", "__PROT: server.prot: there is no such setting; did you mean port?"),
        ("SERVR__PORT", "1", "did you mean LLM_CACHE_PROXY_SERVER__PORT?"),
        ("SERVER_PORT", "1", "did you mean LLM_CACHE_PROXY_SERVER__PORT?"),
        ("RULES", "[{", "LLM_CACHE_PROXY_RULES: rules: expected JSON"),
        ("SERVER", "1", "LLM_CACHE_PROXY_SERVER: server: "),
    ],
)
def test_what_is_said_of_a_variable(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str
) -> None:
    """Whatever is wrong in the environment is named with its variable."""
    monkeypatch.setenv(f"LLM_CACHE_PROXY_{name}", value)
    assert said in refusal(None)


def test_variables_that_others_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kubernetes' variables for a service of this name, and tokens, are not taken for settings."""
    monkeypatch.setenv("LLM_CACHE_PROXY_SERVICE_PORT", "8484")
    monkeypatch.setenv("LLM_CACHE_PROXY_SERVER_PORT", "tcp://10.0.0.1:8484")
    monkeypatch.setenv("LLM_CACHE_PROXY_PORT_8484_TCP_ADDR", "10.0.0.1")
    monkeypatch.setenv("LLM_CACHE_PROXY_CLIENT__EVALS", "token")
    clients = {"evals": {"token_env": "LLM_CACHE_PROXY_CLIENT__EVALS"}}
    assert load_settings(None, {"clients": clients}).server == Server()


def test_what_is_said_of_a_flag(config: Path) -> None:
    """What a flag gave is named with the flag, also where the file has the same setting."""
    said = refusal(config, "[upstream]\nbase_url = 'http://a'\n", upstream={"base_url": "ftp://b"})
    assert said.startswith("--upstream: upstream.base_url: expected a URL")


@pytest.mark.parametrize(
    "text",
    [
        "[upstream]\nbase_url = 'ftp://user:hunter2@a/v1'\n",
        "[upstream]\nbase_url = 'https://user:hunter2@a/v1'\n",
        "[upstream]\nbase_url = 'https://a:hunter2/v1'\n",
        "[providers.groq]\napi_key_env = 'sk-hunter2'\n",
        "[providers.groq]\napi_key_env = 'gsk_hunter2'\n",
        "[clients.a]\ntoken_env = 'hunter2'\n",
        "[admin]\ntoken = ['hunter2']\n",
        "[admin]\ntoken = 424242\n",
        "[cache]\nscope_secret = {a = 'hunter2'}\n",
        "[cache]\nurl = ['redis://:hunter2@a']\n",
        "[cache]\nurl = 'memory://:hunter2'\n[server]\nworkers = 2\n",
    ],
)
def test_secrets_are_not_shown(config: Path, text: str) -> None:
    """No error repeats a value that may be a key, a token or a password."""
    said = refusal(config, text)
    assert "hunter2" not in said
    assert "424242" not in said


def test_settings_do_not_show_secrets() -> None:
    """Neither the settings' repr nor pydantic's own errors show secrets."""
    settings = Settings.model_validate(
        {"admin": {"token": "hunter2"}, "cache": {"scope_secret": "hunter2"}}
    )
    assert "hunter2" not in repr(settings)
    with pytest.raises(ValidationError) as told:
        Settings.model_validate({"admin": {"token": ["hunter2"]}})
    assert "hunter2" not in str(told.value)
    with pytest.raises(ValidationError) as told:
        Admin.model_validate({"token": ["hunter2"]})
    assert "hunter2" not in str(told.value)


def test_settings_are_frozen() -> None:
    """Nothing changes settings after they were read."""
    settings = Settings()
    with pytest.raises(ValidationError):
        settings.cache = Cache()  # type: ignore[misc]  # that is what is tested
    with pytest.raises(ValidationError):
        settings.server.port = 1  # type: ignore[misc]  # as above


BEYOND = {"server": {"host": "0.0.0.0"}}
TOKEN = "0123456789abcdef"


def test_beyond_loopback_a_key_needs_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key of the operator is not lent to everyone who reaches the port."""
    monkeypatch.setenv("KEY", "sk")
    monkeypatch.setenv("TOKEN", TOKEN)
    injected = {"providers": {"groq": {"api_key_env": "KEY"}}}
    assert load_settings(None, injected).on_loopback
    assert "could spend this key" in refusal(None, "", **injected, **BEYOND)
    clients = {"clients": {"a": {"token_env": "TOKEN"}}}
    assert not load_settings(None, {**injected, **BEYOND, **clients}).on_loopback


def test_beyond_loopback_tokens_are_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """A token that can be tried from elsewhere has at least 16 characters."""
    monkeypatch.setenv("TOKEN", TOKEN[:-1])
    clients = {"clients": {"a": {"token_env": "TOKEN"}}}
    assert load_settings(None, clients).clients
    assert "clients.a.token_env: a token that can be tried" in refusal(
        None, "", **clients, **BEYOND
    )


def test_tokens_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two clients with one token could not be told apart."""
    monkeypatch.setenv("ONE", TOKEN)
    monkeypatch.setenv("TWO", TOKEN)
    clients = {"one": {"token_env": "ONE"}, "two": {"token_env": "TWO"}}
    assert "clients.two.token_env: the same token as that of one" in refusal(
        None, "", clients=clients
    )


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.9", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.0.1", False),
        ("localhost.evil.test", False),
        ("", False),
    ],
)
def test_loopback(host: str, loopback: bool) -> None:
    """Only addresses that nobody else can reach are loopback."""
    assert Settings(server=Server(host=host)).on_loopback == loopback


def test_scope_shared_on_loopback() -> None:
    """On loopback answers may be shared without client tokens."""
    assert Settings(cache=Cache(scope=Scope.SHARED)).cache.scope is Scope.SHARED


@pytest.mark.parametrize(
    ("value", "read"),
    [
        (90, 90),
        (0.25, 0.25),
        ("90", 90),
        ("250ms", 0.25),
        ("1h30m", 5400),
        ("1h 30m", 5400),
        ("7D", 604800),
        ("2w", 1209600),
        ("1.5h", 5400),
    ],
)
def test_durations(value: object, read: float) -> None:
    """Durations are seconds, or text with units."""
    assert units.seconds(value) == pytest.approx(read)


@pytest.mark.parametrize(
    "value", ["", "h", "1x", "-1", "1h-1m", True, None, -1, float("nan"), float("inf"), [], "never"]
)
def test_no_durations(value: object) -> None:
    """What cannot be read as a duration is refused, not taken for something else."""
    with pytest.raises(ValueError, match="expected"):
        units.seconds(value)


@pytest.mark.parametrize(
    ("value", "read"),
    [
        (5, 5),
        ("5", 5),
        ("5b", 5),
        ("500 kB", 500_000),
        ("64 MiB", 2**26),
        ("1.5gib", 3 * 2**29),
        ("2 TB", 2 * 10**12),
    ],
)
def test_sizes(value: object, read: int) -> None:
    """Sizes are bytes, or text with units."""
    assert units.size(value) == read


@pytest.mark.parametrize("value", ["", "MiB", "5 XB", "-5", -5, True, 1.5, None])
def test_no_sizes(value: object) -> None:
    """What cannot be read as a size is refused."""
    with pytest.raises(ValueError, match="expected"):
        units.size(value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[server]\nhost = "0.0.0.0"\n[admin]\ntoken = "short"', "at least 16 characters"),
        ('[ops]\nhost = "0.0.0.0"\nport = 1\n[admin]\nread_token = "short"', "at least 16"),
        ('[admin]\ntoken = "twice"\nread_token = "twice"', "the same token as admin.token"),
        ('[admin]\ntoken = " padded"', "ASCII characters only, no spaces around"),
        ('[admin]\nread_token = ""', "ASCII characters only, no spaces around"),
    ],
)
def test_admin_tokens_that_cannot_be_used(config: Path, text: str, said: str) -> None:
    """Too short for where it can be tried, not to be told apart, or not to be sent."""
    told = refusal(config, text)
    assert said in told
    assert "token" in told
    assert "short" not in told.replace("shorter", "")


def test_where_admin_listens() -> None:
    """With the data, unless probes and admin have a listener of their own."""
    assert load_settings().admin_host == "127.0.0.1"
    apart = load_settings(overrides={"ops": {"host": "0.0.0.0", "port": 1}})
    assert apart.admin_host == "0.0.0.0"
    assert apart.on_loopback
