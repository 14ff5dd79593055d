"""The operator's rules and the caller's wishes: what may be read, what is kept, for how long.

The first rule that matches counts; what it does not say is as configured for all. Within that the
caller may ask (Control):

- `no-cache`, `no-store`, `only-if-cached`, always. `no-store` neither writes nor reads: who wants
  no trace of the question does not want it answered from another's trace either.
- `ttl`, up to `max_ttl`; where none is configured, up to the operator's ttl; else freely.
- which stored answers will do (`max-age`, `min-fresh`, `max-stale`, `stale-if-error`). An expired
  entry is gone when the operator's retention ends, whatever is asked.
- `namespace`, `sample`, `run`, `tags`: they lead to other entries of the same partition.

Above all stands the mode: no rule and no wish loosens it.
"""

from __future__ import annotations

import fnmatch
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TypeVar

from cache_backends.base import Entry
from cache_backends.redaction import Redaction
from proxy.errors import ConfigError
from proxy.models import (
    UNBOUNDED,
    AnswerFacts,
    Ask,
    Bounds,
    Call,
    Control,
    Freshness,
    KeepRules,
    Levelling,
    Mode,
    Scope,
    Verdict,
)

# One pattern or several, as the shell's (fnmatch): "gpt-4o*". None at all: anything matches.
Patterns = str | Sequence[str]

_NOTHING_ASKED = Control()
_KEEP = KeepRules()


@dataclass(frozen=True, slots=True)
class Rule:
    """For which requests what is different. `None`: as configured for all. Seconds, bytes.

    All of provider, path, model, client and header must match; of several patterns, one.
    """

    provider: Patterns = ()
    path: Patterns = ()
    model: Patterns = ()
    client: Patterns = ()  # requests without a client token match none
    header: Mapping[str, Patterns] = field(default_factory=dict)

    cache: bool | None = None
    ttl: float | None = None  # inf: entries do not expire
    namespace: str | None = None
    ignore: Sequence[str] | None = None
    level: Sequence[Levelling] | None = None
    refuse_finish_reasons: Iterable[str] | None = None
    tool_calls: bool | None = None
    unparsable_json: bool | None = None
    max_temperature: float | None = None
    max_bytes: int | None = None
    stale_if_error: float | None = None
    retain_stale: float | None = None


class Policy:
    """Judges before the cache is asked, and again when an answer is there. `ConfigError` if a rule
    cannot be used."""

    def __init__(
        self,
        rules: Iterable[Rule] = (),
        *,
        ttl: float | None = None,
        scope: Scope = Scope.CREDENTIAL,
        namespace: str = "",
        stale_if_error: float = 0.0,
        retain_stale: float = 0.0,
        keep: KeepRules = _KEEP,
        honour_client_control: bool = True,
        max_ttl: float | None = None,
        one_account: bool = False,
        redaction: Redaction | None = None,
    ) -> None:
        self.scope = scope
        self._one_account = one_account
        self._honour_client_control = honour_client_control
        self._max_ttl = max_ttl
        usual = Rule(
            ttl=math.inf if ttl is None else ttl,
            namespace=namespace,
            stale_if_error=stale_if_error,
            retain_stale=retain_stale,
        )
        self._usual = replace(_settle(usual, usual, keep), redaction=redaction)
        self._rules = [
            _ReadyRule(
                f"rule {number}", rule, replace(_settle(rule, usual, keep), redaction=redaction)
            )
            for number, rule in enumerate(rules, 1)
        ]

    def judge(self, call: Call, ask: Ask, partition: str, mode: Mode = Mode.NORMAL) -> Verdict:
        """Say what may be done for one Ask; `partition` is who shares its entries."""
        verdict = self._usual
        for rule in self._rules:
            if rule.matches(call, ask):
                verdict = rule.verdict
                break
        control = call.control if self._honour_client_control else _NOTHING_ASKED
        if mode is Mode.OFFLINE and control.no_cache:
            control = replace(control, no_cache=False)  # as below
        verdict = _heed(verdict, control, partition, self._max_ttl)
        if ask.bounds is not UNBOUNDED:
            # With a key of the operator's there is one account, whoever asks.
            one_account = self._one_account or call.provider.api_key is not None
            shared = self.scope is Scope.SHARED and not one_account
            verdict = _heed_bounds(verdict, ask.bounds, shared)
        if verdict.keep.max_temperature is not None and ask.sampled:
            verdict = _heed_temperature(verdict, ask, verdict.keep.max_temperature)
        return verdict if mode is Mode.NORMAL else _heed_mode(verdict, mode)

    def freshness(self, verdict: Verdict, entry: Entry, now: float) -> Freshness:
        """Say how an entry may be used (RFC 9111 5.2.1, RFC 5861 4), given that it may be read."""
        age = max(0.0, now - entry.stored_at)
        left = math.inf if entry.expires_at is None else entry.expires_at - now
        wanted = (verdict.max_age is None or age <= verdict.max_age) and (
            verdict.min_fresh is None or left >= verdict.min_fresh
        )
        if wanted and left > 0:
            return Freshness.FRESH
        if wanted and verdict.max_stale > 0 and -left <= verdict.max_stale:
            return Freshness.STALE
        # Also what is only older than the caller would like: better than the provider's error.
        if verdict.stale_if_error > 0 and -left <= verdict.stale_if_error:
            return Freshness.IF_ERROR
        return Freshness.UNUSABLE

    def keep(self, verdict: Verdict, facts: AnswerFacts, size: int) -> str:
        """Return "" to store a complete answer of `size` bytes, else why it is not stored."""
        keep = verdict.keep
        if not verdict.may_write:
            return verdict.reason
        if size > keep.max_bytes:
            return f"{_in_words(size)} is more than {_in_words(keep.max_bytes)}"
        if facts.unfinished:
            return f"unfinished: {facts.unfinished}"
        if facts.acted:
            return f"{facts.acted} at the provider"
        for reason in facts.finish_reasons:
            if reason.lower() in keep.refuse_finish_reasons:
                return f"finish_reason {reason}"
        if facts.has_tool_calls and not keep.tool_calls:
            return "tool calls"
        if facts.broken_json and not keep.unparsable_json:
            return f"{facts.broken_json} is not JSON"
        return ""

    def expiry(self, verdict: Verdict, now: float) -> tuple[float | None, float | None]:
        """Return `expires_at` and `retained_until` of an entry that is stored now."""
        if verdict.ttl is None:
            return None, None
        expires_at = now + verdict.ttl
        return expires_at, expires_at + verdict.retain_stale


# Few callers, few wishes: mostly the same Verdict again, for the price of a hash.
@lru_cache(maxsize=4096)
def _heed(verdict: Verdict, control: Control, partition: str, max_ttl: float | None) -> Verdict:
    namespace, stale_if_error = control.namespace, control.stale_if_error
    return replace(
        verdict,
        may_read=verdict.may_read and not (control.no_cache or control.no_store),
        may_write=verdict.may_write and not control.no_store,
        reason=verdict.reason or _refusal(control),
        scope=partition,
        namespace=verdict.namespace if namespace is None else namespace,
        sample=control.sample or 0,
        run=control.run or "",
        counted=control.run is not None and control.sample is None,
        ttl=_bounded_ttl(control.ttl, verdict.ttl, max_ttl),
        max_age=control.max_age,
        min_fresh=control.min_fresh,
        max_stale=control.max_stale or 0.0,
        stale_if_error=verdict.stale_if_error if stale_if_error is None else stale_if_error,
        only_if_cached=control.only_if_cached,
        tags=control.tags,
    )


def _refusal(control: Control) -> str:
    if control.no_store:
        return "no-store"
    return "no-cache" if control.no_cache else ""


def _bounded_ttl(
    asked: float | None, operators: float | None, max_ttl: float | None
) -> float | None:
    if asked is None:
        return operators
    limit = operators if max_ttl is None else max_ttl
    return asked if limit is None else min(asked, limit)


@lru_cache(maxsize=4096)
def _heed_bounds(verdict: Verdict, bounds: Bounds, shared: bool) -> Verdict:
    refusal = bounds.uncached or (bounds.account if shared else "")
    if refusal:
        reason = verdict.reason if not verdict.may_write else refusal
        return replace(verdict, may_read=False, may_write=False, reason=reason)
    if bounds.keep_s is None:
        return verdict
    ttl = bounds.keep_s if verdict.ttl is None else min(verdict.ttl, bounds.keep_s)
    return replace(verdict, ttl=ttl, retain_stale=min(verdict.retain_stale, bounds.keep_s - ttl))


def _heed_temperature(verdict: Verdict, ask: Ask, highest: float) -> Verdict:
    temperature = ask.body.get("temperature")
    if not isinstance(temperature, int | float):
        temperature = 1.0  # what providers take when it is left out
    if temperature <= highest:
        return verdict
    # Reasons are counted: they must not be as many as there are numbers.
    reason = f"temperature above {highest:g}" if verdict.may_write else verdict.reason
    return replace(verdict, may_read=False, may_write=False, reason=reason)


@lru_cache(maxsize=4096)
def _heed_mode(verdict: Verdict, mode: Mode) -> Verdict:
    reason = f"{mode} mode"
    if mode is Mode.REFRESH:
        return replace(verdict, may_read=False, reason=verdict.reason or reason)
    if mode is Mode.OFFLINE:
        # What is stored does, however old: nothing newer is to be had.
        return replace(
            verdict,
            may_write=False,
            reason=verdict.reason or reason,
            max_age=None,
            min_fresh=None,
            max_stale=math.inf,
        )
    may_read = verdict.may_read and mode is Mode.READ_ONLY
    reason = reason if verdict.may_write else verdict.reason
    return replace(verdict, may_read=may_read, may_write=False, reason=reason)


class _ReadyRule:
    """A rule with its patterns compiled and its Verdict made, but for the caller's part."""

    def __init__(self, name: str, rule: Rule, verdict: Verdict) -> None:
        _check(name, rule)
        refused = replace(verdict, may_read=False, may_write=False, reason=name)
        self.verdict = refused if rule.cache is False else verdict
        self._provider = _compile(rule.provider)
        self._path = _compile(rule.path)
        self._model = _compile(rule.model)
        self._client = _compile(rule.client)
        self._headers = [
            (header.lower().encode(), _compile(patterns))
            for header, patterns in rule.header.items()
        ]

    def matches(self, call: Call, ask: Ask) -> bool:
        return (
            _fits(self._provider, call.provider.name)
            and _fits(self._path, call.path)
            and _fits(self._model, ask.model)
            and _fits(self._client, call.client)
            and all(
                any(
                    line == name and _fits(pattern, value.decode("latin-1"))
                    for line, value in call.headers
                )
                for name, pattern in self._headers
            )
        )


def _fits(pattern: re.Pattern[str] | None, text: str | None) -> bool:
    return pattern is None or (text is not None and pattern.match(text) is not None)


def _compile(patterns: Patterns) -> re.Pattern[str] | None:
    several = [patterns] if isinstance(patterns, str) else patterns
    return re.compile("|".join(map(fnmatch.translate, several))) if several else None


def _check(name: str, rule: Rule) -> None:
    for path in rule.ignore or ():
        if not all(path.split(".")):
            raise ConfigError(
                f"{name}: ignore: {path!r}: expected steps with dots between, such as"
                " metadata.run_id or messages.*.id"
            )
    for pattern, replacement in rule.level or ():
        try:
            re.compile(pattern).sub(replacement, "")
        except (re.error, IndexError) as exc:
            raise ConfigError(
                f"{name}: level: {pattern!r} -> {replacement!r}: {exc}; expected a regular"
                " expression of Python's re and what replaces its matches"
            ) from exc


def _settle(rule: Rule, usual: Rule, keep: KeepRules) -> Verdict:
    """Return the Verdict for callers who ask nothing special."""
    ttl = _or(rule.ttl, usual.ttl)
    stale_if_error = _or(rule.stale_if_error, usual.stale_if_error) or 0.0
    retain_stale = _or(rule.retain_stale, usual.retain_stale) or 0.0
    return Verdict(
        may_read=True,
        may_write=True,
        namespace=_or(rule.namespace, usual.namespace) or "",
        ttl=None if ttl == math.inf else ttl,
        stale_if_error=stale_if_error,
        # An entry that may serve when the provider fails has to be there for it.
        retain_stale=max(retain_stale, stale_if_error),
        ignore=tuple(rule.ignore or ()),
        level=tuple(Levelling(*pair) for pair in rule.level or ()),
        keep=_keep_rules(rule, keep),
    )


def _keep_rules(rule: Rule, keep: KeepRules) -> KeepRules:
    refused = rule.refuse_finish_reasons
    reasons = keep.refuse_finish_reasons if refused is None else refused
    return KeepRules(
        refuse_finish_reasons=frozenset(reason.lower() for reason in reasons),
        tool_calls=_or(rule.tool_calls, keep.tool_calls),
        unparsable_json=_or(rule.unparsable_json, keep.unparsable_json),
        max_temperature=_or(rule.max_temperature, keep.max_temperature),
        max_bytes=_or(rule.max_bytes, keep.max_bytes),
    )


_T = TypeVar("_T")


def _or(said: _T | None, otherwise: _T) -> _T:
    return otherwise if said is None else said


def _in_words(size: int) -> str:
    for unit, name in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if size % unit == 0 and size:
            return f"{size // unit} {name}"
    return f"{size} bytes"
