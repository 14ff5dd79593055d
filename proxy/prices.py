"""What an answer costs: by the operator's prices, else by those that genai-prices brings along.

Its data is part of the package; nothing is fetched, and prices are as old as the package.
"""

from __future__ import annotations

import fnmatch
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache, partial
from typing import TYPE_CHECKING, NamedTuple, Protocol

from proxy.models import AnswerFacts, Bill, Provider
from proxy.provider_table import KNOWN

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, ModelPrice, TieredPrices

# Models whose price is remembered. Callers make their names up.
MAX_MODELS = 1000
_MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class Price:
    """USD per million tokens. `None`: as what it is a part of."""

    input: float = 0.0
    output: float = 0.0
    cached_input: float | None = None
    kept_input: float | None = None
    input_kept_for_an_hour: float | None = None
    audio_input: float | None = None
    audio_output: float | None = None
    reasoning: float | None = None
    request: float = 0.0  # USD for each

    def of(self, facts: AnswerFacts) -> float:
        """What an answer costs."""
        read, written = facts.input_tokens or 0, facts.output_tokens or 0
        usd = read * self.input + written * self.output
        if any(facts.bill[2:]):  # what is counted apart
            usd += self._apart(facts.bill)
        return max(0.0, round(usd / _MILLION + self.request, 12))

    def _apart(self, bill: Bill) -> float:
        """What is to be added for tokens that have prices of their own."""
        kept = bill.kept - bill.kept_for_an_hour
        hour = _or(self.input_kept_for_an_hour, _or(self.kept_input, self.input))
        parts = (
            (bill.cached, _more(self.cached_input, self.input)),
            (kept, _more(self.kept_input, self.input)),
            (bill.kept_for_an_hour, hour - self.input),
            (bill.heard, _more(self.audio_input, self.input)),
            (bill.spoken, _more(self.audio_output, self.output)),
            (bill.reasoned, _more(self.reasoning, self.output)),
        )
        return sum(count * price for count, price in parts if count)


class _Listed(Protocol):
    """What is known of a model: its price for such an answer, now."""

    def price(self, facts: AnswerFacts) -> Price | None: ...


class Prices:
    """Tells what answers cost. `own` are the operator's, by model pattern as in rules."""

    def __init__(self, own: Mapping[str, Price] | None = None) -> None:
        self._own = [
            (re.compile(fnmatch.translate(pattern)), _Fixed(price))
            for pattern, price in (own or {}).items()
        ]
        self._known = lru_cache(maxsize=MAX_MODELS)(self._look_up)

    def usd(self, provider: Provider, model: str, facts: AnswerFacts) -> float | None:
        """What the provider takes for the answer; `None` if nobody knows.

        `model` is what was asked for; the answer may name another.
        """
        if facts.input_tokens is None and facts.output_tokens is None:
            return None
        known = self._known(provider, model, facts.bill.model)
        price = known.price(facts) if known is not None else None
        return None if price is None else price.of(facts)

    def _look_up(self, provider: Provider, asked: str, told: str) -> _Listed | None:
        for pattern, price in self._own:
            if pattern.match(asked) or pattern.match(told):
                return price
        if provider.local:
            return None
        names = dict.fromkeys(name for name in (told, asked) if name)
        return next((found for name in names if (found := _find(provider, name))), None)


def load() -> None:
    """Read the data now, 60 ms and 5 MB, so that no answer waits for it."""
    _find(KNOWN["openai"], "gpt-4o")


class _Fixed(NamedTuple):
    """A price that the operator gave."""

    known: Price

    def price(self, facts: AnswerFacts) -> Price:  # noqa: ARG002 - it is the same for all
        return self.known


class _Model:
    """A model that genai-prices knows."""

    def __init__(self, info: ModelInfo, has_tiers: bool) -> None:
        self._info = info
        self._has_tiers = has_tiers  # do the provider's service tiers have their own prices?
        # Some prices change with the hour, none with the second; and finding one takes 20 us.
        self._now = lru_cache(maxsize=16)(self._in_minute)

    def price(self, facts: AnswerFacts) -> Price | None:
        tier = facts.bill.service_tier if self._has_tiers else ""
        found, of_any_length = self._now(tier, int(time.time()) // 60)
        if found is None:
            return of_any_length
        return _read(found, facts.input_tokens or 0)

    def _in_minute(self, tier: str, minute: int) -> tuple[ModelPrice | None, Price | None]:
        """What depends on the length of the prompt, else the price."""
        context = {"service_tier": tier} if tier else None
        found = self._info.get_prices(datetime.fromtimestamp(minute * 60, UTC), context)
        if any(hasattr(each, "tiers") for each in vars(found).values()):
            return found, None
        return None, _read(found, 0)


def _find(provider: Provider, model: str) -> _Model | None:
    """A provider that has no prices of its own has nobody else's; one that the operator named is
    known by its address, or the model is by its name."""
    # Takes 30 ms.
    from genai_prices import Usage, calc_price

    price = partial(calc_price, Usage(input_tokens=1), model)
    ways = [partial(price, provider_id=provider.name)]
    if provider.name not in KNOWN:
        ways = [partial(price, provider_api_url=provider.base_url), price]
    for ask in ways:
        try:
            found = ask()
        except (LookupError, ValueError):
            continue
        own = any(found.model is each for each in found.provider.models)
        return _Model(found.model, has_tiers=own and bool(found.model.price_variants))
    return None


def _read(prices: ModelPrice, input_tokens: int) -> Price | None:
    """The price in our terms, for a prompt of this length."""
    listed: Mapping[str, Decimal | TieredPrices | None] = vars(prices)

    def at(name: str) -> float | None:
        return _at(listed.get(name), input_tokens)

    read, written = at("input_mtok"), at("output_mtok")
    if read is None and written is None:
        return None  # not by tokens: by minutes or pictures
    return Price(
        read or 0.0,
        written or 0.0,
        cached_input=at("cache_read_mtok"),
        kept_input=at("cache_write_mtok"),
        input_kept_for_an_hour=at("cache_write_1h_mtok"),
        audio_input=at("input_audio_mtok"),
        audio_output=at("output_audio_mtok"),
        reasoning=at("output_reasoning_mtok"),
        request=(at("requests_kcount") or 0.0) / 1000,
    )


def _at(price: Decimal | TieredPrices | None, input_tokens: int) -> float | None:
    """Above a threshold of the prompt's length, all tokens have another price."""
    if price is None:
        return None
    if isinstance(price, Decimal):
        return float(price)
    fitting = price.base
    for tier in price.tiers:
        if input_tokens > tier.start:
            fitting = tier.price
    return float(fitting)


def _or(price: float | None, otherwise: float) -> float:
    return otherwise if price is None else price


def _more(price: float | None, than: float) -> float:
    """What a token costs more than one that is not apart; less than 0 if less."""
    return 0.0 if price is None else price - than
