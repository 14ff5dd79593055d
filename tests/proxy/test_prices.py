"""What answers cost: the operator's prices first, then those that are known."""

from __future__ import annotations

import pytest
from genai_prices import Usage, calc_price

from proxy.models import AnswerFacts, Bill, Provider
from proxy.prices import Price, Prices
from proxy.provider_table import KNOWN

OPENAI = KNOWN["openai"]
PLAIN = AnswerFacts(input_tokens=1_000_000, output_tokens=100_000)


def facts(model: str, read: int, written: int, **bill: int) -> AnswerFacts:
    return AnswerFacts(input_tokens=read, output_tokens=written, bill=Bill(model, **bill))


@pytest.mark.parametrize(
    ("provider", "model"),
    [
        ("openai", "gpt-4o"),
        ("openai", "gpt-5-mini"),
        ("anthropic", "claude-opus-4-6"),
        ("gemini", "gemini-2.5-pro"),
        ("deepseek", "deepseek-chat"),
        ("xai", "grok-4"),
        ("perplexity", "sonar-deep-research"),
    ],
)
@pytest.mark.parametrize("read", [1000, 250_000])
def test_a_price_is_that_of_the_library(provider: str, model: str, read: int) -> None:
    """Also with cached input, reasoning, fees for each request, and above a prompt's threshold."""
    told = facts(model, read, 300, cached=400, kept=100, kept_for_an_hour=50, reasoned=20)
    usage = Usage(
        input_tokens=read,
        output_tokens=300,
        cache_read_tokens=400,
        cache_write_tokens=100,
        cache_write_1h_tokens=50,
        output_reasoning_tokens=20,
    )
    theirs = calc_price(usage, model, provider_id=provider).total_price
    assert Prices().usd(KNOWN[provider], model, told) == pytest.approx(float(theirs))


def test_cached_input_is_cheaper() -> None:
    """What the provider's own cache knew is not charged as if it had been read anew."""
    plain, cached = facts("gpt-4o", 1000, 0), facts("gpt-4o", 1000, 0, cached=1000)
    assert Prices().usd(OPENAI, "gpt-4o", plain) == pytest.approx(0.0025)
    assert Prices().usd(OPENAI, "gpt-4o", cached) == pytest.approx(0.00125)


def test_a_tier_of_service_has_its_price() -> None:
    """What was answered when there was time for it is cheaper, as the answer tells."""
    plain, flex = Bill("gpt-5"), Bill("gpt-5", service_tier="flex")
    prices = [
        Prices().usd(OPENAI, "gpt-5", AnswerFacts(input_tokens=10**6, bill=bill))
        for bill in (plain, flex)
    ]
    assert prices == [1.25, 0.625]


@pytest.mark.parametrize(
    ("provider", "model"),
    [
        (OPENAI, "nobody-knows-this"),
        (OPENAI, ""),
        (KNOWN["nvidia"], "gpt-4o"),
        (KNOWN["ollama"], "gpt-4o"),
        (Provider("mine", "http://127.0.0.1:9/v1", local=True), "gpt-4o"),
    ],
)
def test_what_is_unknown_has_no_price(provider: Provider, model: str) -> None:
    """Nor has a provider that sets none, or a model on the user's own machine."""
    assert Prices().usd(provider, model, PLAIN) is None


def test_an_answer_without_usage_has_no_price() -> None:
    """Nothing is not the same as no cost."""
    assert Prices().usd(OPENAI, "gpt-4o", AnswerFacts()) is None


def test_the_answer_knows_the_model_better() -> None:
    """A deployment's name says nothing; the answer names the model."""
    told = facts("gpt-4o-2024-08-06", 1000, 0)
    assert Prices().usd(KNOWN["azure"], "our-deployment", told) == pytest.approx(0.0025)


def test_a_provider_of_ones_own_is_known_by_its_address() -> None:
    """Else the model's name tells whose it is."""
    groq = Provider("fast", "https://api.groq.com/openai/v1")
    assert Prices().usd(groq, "llama-3.3-70b-versatile", PLAIN) == pytest.approx(0.669)
    gateway = Provider("gateway", "https://gateway.example/v1")
    assert Prices().usd(gateway, "gpt-4o", PLAIN) == pytest.approx(3.5)


def test_the_operators_prices_come_first() -> None:
    """The first pattern that fits counts, for models nobody knows and on the own machine too."""
    prices = Prices({"gpt-4*": Price(1.0, 2.0, cached_input=0.5), "*": Price(7.0)})
    told = facts("gpt-4o", 1_000_000, 1_000_000, cached=500_000)
    assert prices.usd(OPENAI, "gpt-4o", told) == pytest.approx(0.75 + 2.0)
    assert prices.usd(KNOWN["vllm"], "my-model", PLAIN) == 7.0


def test_made_up_counts_do_not_make_it_negative() -> None:
    """A provider may tell more cached tokens than it read."""
    assert Prices().usd(OPENAI, "gpt-4o", facts("gpt-4o", 10, 0, cached=10**6)) == 0.0
