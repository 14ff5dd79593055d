"""Tests of where paths lead."""

from __future__ import annotations

import pytest

from proxy.config import ProviderSettings, Settings, Upstream
from proxy.errors import BadRequest, UnknownPath
from proxy.models import Provider
from proxy.provider_table import EXAMPLE_BASE_URL, KNOWN
from proxy.providers import Providers, build_providers, error_dialect, split_directives

AZURE = "https://me.openai.azure.com/openai/v1"


@pytest.fixture
def providers() -> Providers:
    return build_providers(Settings(providers={"azure": ProviderSettings(base_url=AZURE)}))


@pytest.mark.parametrize(
    ("path", "query", "url"),
    [
        ("/v1/chat/completions", "", "https://api.openai.com/v1/chat/completions"),
        ("/v1/models", "limit=2", "https://api.openai.com/v1/models?limit=2"),
        ("/v1", "", "https://api.openai.com/v1"),
        ("/groq/openai/v1/models", "", "https://api.groq.com/openai/v1/models"),
        ("/groq", "", "https://api.groq.com"),
        ("/ollama/api/chat", "", "http://localhost:11434/api/chat"),
        ("/azure/openai/v1/files", "", "https://me.openai.azure.com/openai/v1/files"),
        ("/v1/models/a%2Fb%3A0:x", "q=%20+", "https://api.openai.com/v1/models/a%2Fb%3A0:x?q=%20+"),
        ("/v1//models//", "", "https://api.openai.com/v1//models//"),
        ("/groq/@evil.test//x", "", "https://api.groq.com/@evil.test//x"),
        ("/v1/a..b/...", "", "https://api.openai.com/v1/a..b/..."),
    ],
)
def test_url(providers: Providers, path: str, query: str, url: str) -> None:
    """`/v1` stands for the base URL, `/<provider>` for the origin, and the rest stays raw."""
    assert providers.route(path, query).url == url


def test_path_is_below_the_origin(providers: Providers) -> None:
    """The route's path is what the provider sees, whichever way it was asked for."""
    by_default = providers.route("/v1/chat/completions", "a=1")
    by_name = providers.route("/openai/v1/chat/completions", "a=1")
    assert by_default == by_name
    assert by_default.path == "/v1/chat/completions"


@pytest.mark.parametrize(
    ("path", "dialect"),
    [
        ("/v1/chat/completions", "chat"),
        ("/v1/completions", "completions"),
        ("/v1/embeddings", "embeddings"),
        ("/v1/responses", "responses"),
        ("/azure/openai/responses", "responses"),
        ("/v1/responses/input_tokens", "input_tokens"),
        ("/v1/responses/compact", None),
        ("/v1/responses/resp_1", None),
        ("/v1/responses/resp_1/cancel", None),
        ("/anthropic/v1/messages", "messages"),
        ("/openrouter/api/v1/messages", "messages"),
        ("/anthropic/v1/messages/count_tokens", "count_tokens"),
        ("/anthropic/v1/messages/batches", None),
        ("/anthropic/v1/chat/completions", "chat"),
        ("/v1/threads/thread_1/messages", None),
        ("/azure/openai/deployments/gpt/chat/completions", "chat"),
        ("/azure/openai/deployments/gpt/embeddings", "embeddings"),
        ("/vertex-like/v1/projects/p/endpoints/openapi/chat/completions", "chat"),
        ("/perplexity/chat/completions", "chat"),
        ("/mistral/v1/fim/completions", None),
        ("/mistral/v1/agents/completions", None),
        ("/ollama/api/embeddings", None),
        ("/llamacpp/completions", None),
        ("/v1/chat/completions/chatcmpl-1", None),
        ("/v1/chat/completions/", None),
        ("/v1/models", None),
        ("/v1", None),
    ],
)
def test_dialect(path: str, dialect: str | None) -> None:
    """The end of a path tells the dialect; neighbours that look alike are passed through."""
    table = [*KNOWN.values(), Provider("vertex-like", "https://v.test/v1")]
    table = [each for each in table if each.name != "azure"] + [Provider("azure", AZURE)]
    assert Providers(table, "openai").route(path).dialect == dialect


@pytest.mark.parametrize(
    "path",
    [
        "/v1/../admin",
        "/groq/..",
        "/groq/./x",
        "/groq/%2e%2E/x",
        "/groq/.%2e/x",
        "/groq/a%2f..%2fx",
        "/groq/..%5cx",
        "/groq/..;a/x",
        "/groq/..%3Ba/x",
        "/groq/a\\..\\x",
        "/groq/%00",
        "/groq/a%0d%0aHost:x",
        "/groq/a b",
        "/groq/\r\nx",
        "/groq/ü",
        "/groq/a?b",
        "/groq/a#b",
        "https://evil.test/v1/models",
        "groq/x",
        "",
    ],
)
def test_trickery(providers: Providers, path: str) -> None:
    """A path that another server could read as leading elsewhere is refused."""
    with pytest.raises(BadRequest):
        providers.route(path)


def test_query_trickery(providers: Providers) -> None:
    """A query cannot begin a new line of the request."""
    with pytest.raises(BadRequest):
        providers.route("/v1/models", "a=1\r\nHost: x")


@pytest.mark.parametrize(
    ("path", "way_out"),
    [
        ("/chat/completions", "http://127.0.0.1:8484/v1"),
        ("/messages", "http://127.0.0.1:8484/anthropic as base_url"),
        ("/antropic/v1/messages", "http://127.0.0.1:8484/anthropic?"),
        ("/gorq/openai/v1/models", "http://127.0.0.1:8484/groq/openai/v1"),
        ("/v2/models", "http://127.0.0.1:8484/v1"),
        ("/", "http://127.0.0.1:8484/v1"),
        ("//evil.test/v1", "http://127.0.0.1:8484/v1"),
        ("/groq@evil.test/x", "/groq"),
        ("/bedrock/openai/v1/models", "providers.bedrock.base_url"),
    ],
)
def test_unknown_path(providers: Providers, path: str, way_out: str) -> None:
    """A path that leads nowhere is answered with what was probably meant."""
    with pytest.raises(UnknownPath, match=way_out.replace(".", r"\.")):
        providers.route(path)


def test_messages_are_the_default_providers_too() -> None:
    """`/v1/messages` and its base URL work where Anthropic is the one behind `/v1`."""
    anthropic = build_providers(Settings(upstream=Upstream(provider="anthropic")))
    for path in ("/v1/messages", "/anthropic/v1/messages"):
        route = anthropic.route(path)
        assert route.url == "https://api.anthropic.com/v1/messages"
        assert route.dialect == "messages"


@pytest.mark.parametrize("end", ["messages", "messages/count_tokens"])
def test_a_key_for_anthropic_is_not_sent_to_openai(providers: Providers, end: str) -> None:
    """Who forgot `/anthropic` is told so; a provider elsewhere may well speak that wire."""
    elsewhere = build_providers(Settings(upstream=Upstream(base_url="http://127.0.0.1:9999/v1")))
    for headers in ([], [(b"anthropic-version", b"2023-06-01")]):
        with pytest.raises(UnknownPath, match=r"use http://.*/anthropic as base_url"):
            providers.refuse_stray(providers.route(f"/v1/{end}"), headers)
        elsewhere.refuse_stray(elsewhere.route(f"/v1/{end}"), headers)


def test_what_names_a_version_of_anthropic_is_for_anthropic(providers: Providers) -> None:
    """Also on paths that OpenAI has as well: its key must not get there."""
    models = providers.route("/v1/models")
    providers.refuse_stray(models, [(b"authorization", b"Bearer sk")])
    with pytest.raises(UnknownPath):
        providers.refuse_stray(models, [(b"anthropic-version", b"2023-06-01")])


@pytest.mark.parametrize(
    "path",
    ["/anthropic/v1/messages", "/anthropic/messages", "/anthropic/v1/v1/messages"],
)
def test_anthropic_with_and_without_the_version(providers: Providers, path: str) -> None:
    """Some of its clients add `/v1` to the base URL by themselves, others do not."""
    for end in ("", "/batches", "/count_tokens"):
        url = providers.route(f"{path}{end}").url
        assert url == f"https://api.anthropic.com/v1/messages{end}"


@pytest.mark.parametrize(
    ("path", "dialect"),
    [
        ("/anthropic/v1/nothing", "messages"),
        ("/nowhere/v1/messages", "messages"),
        ("/v1/threads/t/messages", "chat"),
        ("/v1/messages/batches", "messages"),
        ("/v1/responses", "chat"),
        ("/anthropics", "chat"),
        ("/", "chat"),
    ],
)
def test_error_dialect(path: str, dialect: str) -> None:
    """Errors come as whoever asks for a path expects them, also where the path leads nowhere."""
    assert error_dialect(path) == dialect


@pytest.mark.parametrize(
    ("path", "parted"),
    [
        ("/~ttl=60,namespace=a/v1/models", ("ttl=60,namespace=a", "/v1/models")),
        ("/~no-store", ("no-store", "/")),
        ("/~/v1/models", ("", "/v1/models")),
        ("/v1/~x/models", (None, "/v1/~x/models")),
    ],
)
def test_split_directives(path: str, parted: tuple[str | None, str]) -> None:
    """A leading segment that starts with ~ holds directives and is not part of the path."""
    assert split_directives(path) == parted


def test_settings_change_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """What [providers] and [upstream] say replaces what is known, and only that."""
    monkeypatch.setenv("GROQ_KEY", "gsk")
    settings = Settings(
        upstream=Upstream(provider="mine", base_url="http://127.0.0.1:9/v1"),
        providers={
            "groq": ProviderSettings(api_key_env="GROQ_KEY", local=True),
            "mine": ProviderSettings(base_url="http://ignored.test", auth_header="X-Key"),
        },
    )
    providers = build_providers(settings)
    groq = providers.route("/groq/x").provider
    assert groq == Provider("groq", "https://api.groq.com/openai/v1", api_key="gsk", local=True)
    assert "gsk" not in repr(groq)
    assert providers.default == Provider("mine", "http://127.0.0.1:9/v1", auth_header="x-key")


def test_include_usage_can_be_switched_off() -> None:
    """`upstream.include_usage = false` holds for every provider."""
    providers = build_providers(Settings(upstream=Upstream(include_usage=False)))
    assert not providers.default.include_usage
    assert not providers.route("/groq/x").provider.include_usage


def test_table_is_complete() -> None:
    """Every known provider has a base URL without a slash at its end, or an example of one."""
    for provider in KNOWN.values():
        url = provider.base_url or EXAMPLE_BASE_URL[provider.name]
        assert url.startswith(("https://", "http://localhost:"))
        assert not url.endswith("/")
        assert provider.local == url.startswith("http://localhost:")
