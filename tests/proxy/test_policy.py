"""Rules, wishes and freshness: what may be read, what is kept, for how long."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from cache_backends.base import Entry, Generation, Key
from proxy.errors import ConfigError
from proxy.models import (
    UNBOUNDED,
    AnswerFacts,
    Ask,
    Bounds,
    Call,
    Control,
    Freshness,
    Headers,
    KeepRules,
    Levelling,
    Mode,
    Provider,
    Scope,
    Verdict,
)
from proxy.policy import Policy, Rule

NOW = 1_000_000.0
MIB = 2**20


def make_call(
    control: Control | None = None,
    provider: str = "openai",
    headers: Headers | None = None,
    client: str | None = None,
) -> Call:
    return Call(
        provider=Provider(provider, "https://api.example.com/v1"),
        path="/v1/chat/completions",
        query="",
        url="https://api.example.com/v1/chat/completions",
        headers=headers or [],
        body=b"{}",
        control=control or Control(),
        client=client,
    )


def make_ask(
    model: str = "gpt-4o-mini", sampled: bool = True, bounds: Bounds = UNBOUNDED, **body: Any
) -> Ask:
    asked: dict[str, Any] = {"parts": ({},), "parameters": {}, "body": body, "raw": b"{}"}
    return Ask(dialect="chat/1", model=model, sampled=sampled, bounds=bounds, **asked)


def judge(policy: Policy, control: Control | None = None, **body: Any) -> Verdict:
    return policy.judge(make_call(control), make_ask(**body), "shared")


def test_without_rules_everything_may_be_read_and_kept() -> None:
    """The usual request: read, write, no expiry, the partition that was handed in."""
    verdict = judge(Policy())
    assert verdict == Verdict(may_read=True, may_write=True, scope="shared")


def test_the_same_call_of_another_credential_gets_its_own_scope() -> None:
    """Verdicts are remembered, never across partitions."""
    policy = Policy()
    scopes = [policy.judge(make_call(), make_ask(), scope).scope for scope in ("a", "b", "a")]
    assert scopes == ["a", "b", "a"]


@pytest.mark.parametrize(
    ("rule", "matches"),
    [
        (Rule(), True),
        (Rule(provider="openai"), True),
        (Rule(provider=["groq", "open*"]), True),
        (Rule(provider="groq"), False),
        (Rule(path="*/chat/completions"), True),
        (Rule(path="*/embeddings"), False),
        (Rule(model=["gpt-4o*", "o1"]), True),
        (Rule(model="gpt-4o"), False),
        (Rule(client="evals-*"), True),
        (Rule(client="prod"), False),
        (Rule(header={"X-Team": "search*"}), True),
        (Rule(header={"x-team": "ads"}), False),
        (Rule(header={"x-absent": "*"}), False),
        (Rule(model="gpt-4o*", provider="groq"), False),
    ],
)
def test_a_rule_matches_by_every_field_it_names(rule: Rule, matches: bool) -> None:
    """All named fields must match; of several patterns one is enough."""
    settled = Rule(**{name: getattr(rule, name) for name in MATCHED}, namespace="matched")
    call = make_call(headers=[(b"x-team", b"search-eu")], client="evals-1")
    verdict = Policy([settled]).judge(call, make_ask(), "shared")
    assert (verdict.namespace == "matched") is matches


MATCHED = ("provider", "path", "model", "client", "header")


def test_a_client_pattern_needs_a_client() -> None:
    """`*` means any named client, not a caller without a token."""
    verdict = Policy([Rule(client="*", cache=False)]).judge(make_call(), make_ask(), "shared")
    assert verdict.may_read


def test_the_first_matching_rule_counts() -> None:
    """Later rules add nothing to an earlier one that matched."""
    rules = [Rule(model="o1*", ttl=1), Rule(ttl=2, namespace="b"), Rule(ttl=3, tool_calls=False)]
    verdict = judge(Policy(rules, ttl=9))
    assert (verdict.ttl, verdict.namespace, verdict.keep.tool_calls) == (2, "b", True)


def test_what_a_rule_does_not_say_is_as_configured_for_all() -> None:
    """A rule changes what it names and nothing else."""
    keep = KeepRules(tool_calls=False, max_bytes=7)
    rule = Rule(unparsable_json=True)
    policy = Policy([rule], ttl=60, namespace="v2", stale_if_error=5, retain_stale=9, keep=keep)
    verdict = judge(policy)
    assert (verdict.ttl, verdict.stale_if_error, verdict.retain_stale) == (60, 5, 9)
    assert verdict.namespace == "v2"
    assert verdict.keep == KeepRules(tool_calls=False, max_bytes=7, unparsable_json=True)


def test_a_rule_changes_what_it_says() -> None:
    """Every setting of a rule reaches the Verdict."""
    rule = Rule(
        ttl=math.inf,
        ignore=["metadata.run_id"],
        level=[Levelling(r"\d{4}-\d\d-\d\d", "<date>")],
        refuse_finish_reasons=["LENGTH"],
        tool_calls=False,
        max_temperature=0.5,
        max_bytes=1,
        stale_if_error=2.0,
        retain_stale=3.0,
    )
    verdict = judge(Policy([rule], ttl=60), temperature=0)
    assert (verdict.ttl, verdict.stale_if_error, verdict.retain_stale) == (None, 2, 3)
    assert verdict.ignore == ("metadata.run_id",)
    assert verdict.level == (Levelling(r"\d{4}-\d\d-\d\d", "<date>"),)
    assert verdict.keep == KeepRules(frozenset({"length"}), False, False, 0.5, 1)


def test_a_rule_that_switches_the_cache_off_is_named() -> None:
    """The reason leads to the rule, counted from 1 as a person counts."""
    verdict = judge(Policy([Rule(model="o1"), Rule(cache=False)]), Control(no_cache=True))
    assert (verdict.may_read, verdict.may_write, verdict.reason) == (False, False, "rule 2")


@pytest.mark.parametrize(
    ("rule", "named"),
    [
        (Rule(level=[Levelling("(", "x")]), "rule 2: level: '('"),
        (Rule(level=[Levelling("a", r"\1")]), "rule 2: level: 'a'"),
        (Rule(level=[Levelling("a", r"\g<b>")]), "rule 2: level: 'a'"),
        (Rule(ignore=["metadata..id"]), "rule 2: ignore: 'metadata..id'"),
        (Rule(ignore=[""]), "rule 2: ignore: ''"),
    ],
)
def test_a_rule_that_cannot_be_used_is_named(rule: Rule, named: str) -> None:
    """A mistake in a rule ends the program at its start, not a request later."""
    with pytest.raises(ConfigError) as refused:
        Policy([Rule(), rule])
    assert str(refused.value).startswith(named)


@pytest.mark.parametrize(
    ("control", "may_read", "may_write", "reason"),
    [
        (Control(no_cache=True), False, True, "no-cache"),
        (Control(no_store=True), False, False, "no-store"),
        (Control(no_store=True, no_cache=True), False, False, "no-store"),
        (Control(only_if_cached=True), True, True, ""),
    ],
)
def test_a_caller_may_keep_out_of_the_cache(
    control: Control, may_read: bool, may_write: bool, reason: str
) -> None:
    """no-cache refreshes; no-store neither reads nor writes."""
    verdict = judge(Policy(), control)
    assert (verdict.may_read, verdict.may_write, verdict.reason) == (may_read, may_write, reason)
    assert verdict.only_if_cached is control.only_if_cached


def test_what_a_caller_asks_reaches_the_verdict() -> None:
    """Names lead to other entries, limits to what counts as fresh."""
    asked: dict[str, Any] = {"max_age": 1, "min_fresh": 2, "max_stale": 3, "stale_if_error": 4}
    control = Control(namespace="evals", sample=7, tags=("a",), **asked)
    verdict = judge(Policy([Rule(namespace="usual", stale_if_error=9)]), control)
    assert (verdict.namespace, verdict.sample, verdict.tags) == ("evals", 7, ("a",))
    assert {name: getattr(verdict, name) for name in asked} == asked


def test_the_weaker_namespace_gives_way() -> None:
    """All, rule, caller: whoever is nearer to the request names the namespace, also as none."""
    policy = Policy([Rule(model="o1*", namespace="rule")], namespace="all")
    named = policy.judge(make_call(), make_ask(model="o1"), "shared").namespace
    assert (judge(policy).namespace, named) == ("all", "rule")
    assert judge(policy, Control(namespace="")).namespace == ""


def test_a_caller_may_refuse_stale_answers() -> None:
    """`stale-if-error=0` switches the operator's off for one request."""
    verdict = judge(Policy(stale_if_error=60), Control(stale_if_error=0.0))
    assert (verdict.stale_if_error, verdict.retain_stale) == (0, 60)


@pytest.mark.parametrize(
    ("asked", "operators", "max_ttl", "expected"),
    [
        (None, None, None, None),
        (None, 60, None, 60),
        (None, 60, 30, 60),
        (10, None, None, 10),
        (10, 60, None, 10),
        (90, 60, None, 60),
        (90, 60, 120, 90),
        (900, 60, 120, 120),
        (900, None, 120, 120),
        (0, 60, None, 0),
    ],
)
def test_the_operator_bounds_the_ttl(
    asked: float | None, operators: float | None, max_ttl: float | None, expected: float | None
) -> None:
    """A caller's ttl goes up to max_ttl, without one up to the operator's, else freely."""
    policy = Policy(ttl=operators, max_ttl=max_ttl)
    assert judge(policy, Control(ttl=asked)).ttl == expected


def test_an_operator_may_ignore_what_callers_ask() -> None:
    """With honour_client_control off, a request says nothing to the cache."""
    control = Control(no_store=True, namespace="x", sample=3, only_if_cached=True, ttl=1)
    assert judge(Policy(honour_client_control=False), control) == judge(Policy())


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"temperature": 0}, ""),
        ({"temperature": 0.3}, ""),
        ({"temperature": 0.7}, "temperature above 0.3"),
        ({}, "temperature above 0.3"),
        ({"temperature": None}, "temperature above 0.3"),
        ({"temperature": "hot"}, "temperature above 0.3"),
    ],
)
def test_temperature_above_the_limit_passes_by(body: dict[str, Any], reason: str) -> None:
    """Left out, the temperature is the provider's default of 1."""
    verdict = judge(Policy(keep=KeepRules(max_temperature=0.3)), Control(no_cache=True), **body)
    assert verdict.may_write is not bool(reason)
    assert verdict.reason == (reason or "no-cache")


def test_temperature_does_not_concern_embeddings() -> None:
    """Nothing is sampled where vectors are asked for."""
    policy = Policy(keep=KeepRules(max_temperature=0.0))
    assert policy.judge(make_call(), make_ask(sampled=False), "shared").may_read


def test_temperature_is_no_matter_without_a_limit() -> None:
    """Out of the box every temperature is cached, as LangChain does."""
    assert judge(Policy(), temperature=2).may_write


def test_a_request_may_rule_itself_out() -> None:
    """What acts, or looks at what others may change, goes past the cache whatever rules say."""
    ask = make_ask(bounds=Bounds(uncached="background"))
    verdict = Policy([Rule(cache=True)]).judge(make_call(), ask, "shared")
    assert verdict.may_read is verdict.may_write is False
    assert verdict.reason == "background"


@pytest.mark.parametrize(
    ("scope", "cached"),
    [(Scope.CREDENTIAL, True), (Scope.CLIENT, True), (Scope.SHARED, False)],
)
def test_what_belongs_to_an_account_is_not_shared(scope: Scope, cached: bool) -> None:
    """Entries for everybody hold nothing that leads into one account."""
    ask = make_ask(bounds=Bounds(account="store is not false"))
    verdict = Policy(scope=scope).judge(make_call(), ask, "p")
    assert verdict.may_read is verdict.may_write is cached
    assert verdict.reason == ("" if cached else "store is not false")


def test_the_operators_account_is_shared_by_all() -> None:
    """Where the proxy holds the key, there is no other account that an answer could lead into."""
    call = make_call()
    call = replace(call, provider=replace(call.provider, api_key="key"))
    ask = make_ask(bounds=Bounds(account="store is not false"))
    assert Policy(scope=Scope.SHARED).judge(call, ask, "shared").may_read


@pytest.mark.parametrize(
    ("ttl", "retained", "expected"),
    [
        (None, 0.0, (100.0, 0.0)),
        (500.0, 10.0, (100.0, 0.0)),
        (60.0, 10.0, (60.0, 10.0)),
        (60.0, 500.0, (60.0, 40.0)),
    ],
)
def test_an_answer_is_kept_no_longer_than_what_it_refers_to(
    ttl: float | None, retained: float, expected: tuple[float, float]
) -> None:
    """Neither fresh nor stale: after that the provider knows nothing of it."""
    policy = Policy(ttl=ttl, retain_stale=retained)
    verdict = policy.judge(make_call(), make_ask(bounds=Bounds(keep_s=100.0)), "p")
    assert (verdict.ttl, verdict.retain_stale) == expected


def test_a_refusal_of_the_operator_is_told_first() -> None:
    """The reason is that of the rule, also where the request rules itself out."""
    policy = Policy([Rule(cache=False)])
    ask = make_ask(bounds=Bounds(uncached="background"))
    assert policy.judge(make_call(), ask, "p").reason == "rule 1"


def test_what_was_broken_off_is_never_kept() -> None:
    """Not even where every finish reason is welcome."""
    policy = Policy(keep=KeepRules(refuse_finish_reasons=frozenset()))
    facts = AnswerFacts(unfinished="content_filter")
    assert policy.keep(judge(policy), facts, 10) == "unfinished: content_filter"


FRESH, STALE = Freshness.FRESH, Freshness.STALE
IF_ERROR, UNUSABLE = Freshness.IF_ERROR, Freshness.UNUSABLE


@pytest.mark.parametrize(
    ("age", "left", "asked", "expected"),
    [
        # nothing asked
        (10, None, {}, FRESH),
        (10, 1, {}, FRESH),
        (10, 0, {}, UNUSABLE),
        (10, -1, {}, UNUSABLE),
        # a clock that was set back
        (-10, None, {"max_age": 0.0}, FRESH),
        # max-age=N: the entry if age <= N
        (10, None, {"max_age": 10.0}, FRESH),
        (10, None, {"max_age": 9.9}, UNUSABLE),
        (10, 50, {"max_age": 9.9}, UNUSABLE),
        # min-fresh=N: the entry if what is left >= N; without expiry always
        (10, 50, {"min_fresh": 50.0}, FRESH),
        (10, 50, {"min_fresh": 50.1}, UNUSABLE),
        (10, None, {"min_fresh": 1e9}, FRESH),
        # max-stale[=N]: expired by <= N; without a number any
        (10, -5, {"max_stale": 5.0}, STALE),
        (10, -5, {"max_stale": 4.9}, UNUSABLE),
        (10, -1e9, {"max_stale": math.inf}, STALE),
        (10, 0, {"max_stale": 5.0}, STALE),
        (10, 50, {"max_stale": 5.0}, FRESH),
        # together: each limit holds
        (10, -5, {"max_stale": 5.0, "max_age": 9.0}, UNUSABLE),
        (10, -5, {"max_stale": 5.0, "max_age": 10.0}, STALE),
        (10, -5, {"max_stale": 5.0, "min_fresh": 1.0}, UNUSABLE),
        # stale-if-error=N: expired by <= N, or not what was wanted
        (10, -5, {"stale_if_error": 5.0}, IF_ERROR),
        (10, -5, {"stale_if_error": 4.9}, UNUSABLE),
        (10, 0, {"stale_if_error": 5.0}, IF_ERROR),
        (10, 50, {"stale_if_error": 5.0}, FRESH),
        (10, 50, {"stale_if_error": 5.0, "max_age": 9.0}, IF_ERROR),
        (10, None, {"stale_if_error": 5.0, "max_age": 9.0}, IF_ERROR),
        (10, 50, {"stale_if_error": 5.0, "min_fresh": 60.0}, IF_ERROR),
        (10, -5, {"stale_if_error": 9.0, "max_stale": 5.0}, STALE),
        (10, -7, {"stale_if_error": 9.0, "max_stale": 5.0}, IF_ERROR),
    ],
)
def test_freshness(
    age: float, left: float | None, asked: dict[str, Any], expected: Freshness
) -> None:
    """The request directives of RFC 9111 5.2.1 and RFC 5861, case by case."""
    entry = Entry(
        Key("id", "p", "l"),
        [Generation("hi")],
        stored_at=NOW - age,
        expires_at=None if left is None else NOW + left,
    )
    verdict = judge(Policy(), Control(**asked))
    assert Policy().freshness(verdict, entry, NOW) is expected


@pytest.mark.parametrize(
    ("facts", "size", "reason"),
    [
        (AnswerFacts(("stop", "length")), 64 * MIB, ""),
        (AnswerFacts(has_tool_calls=True), 1, ""),
        (AnswerFacts(("stop", "content_filter")), 1, "finish_reason content_filter"),
        (AnswerFacts(("ERROR",)), 1, "finish_reason ERROR"),
        (
            AnswerFacts(broken_json="choices[0].message.content"),
            1,
            "choices[0].message.content is not JSON",
        ),
        (AnswerFacts(), 70 * MIB, "70 MiB is more than 64 MiB"),
        (AnswerFacts(), 64 * MIB + 1, "67108865 bytes is more than 64 MiB"),
    ],
)
def test_what_is_kept_out_of_the_box(facts: AnswerFacts, size: int, reason: str) -> None:
    """Complete answers are stored unless filtered, broken or too large."""
    policy = Policy()
    assert policy.keep(judge(policy), facts, size) == reason


def test_what_is_kept_can_be_configured() -> None:
    """Tool calls may be left out and unparsable JSON taken in."""
    policy = Policy(keep=KeepRules(tool_calls=False, unparsable_json=True))
    verdict = judge(policy)
    assert policy.keep(verdict, AnswerFacts(has_tool_calls=True), 1) == "tool calls"
    assert policy.keep(verdict, AnswerFacts(broken_json="x"), 1) == ""


def test_what_may_not_be_written_is_not_kept() -> None:
    """An answer is not stored against the Verdict, whatever it looks like."""
    policy = Policy()
    verdict = judge(policy, Control(no_store=True))
    assert policy.keep(verdict, AnswerFacts(), 1) == "no-store"


@pytest.mark.parametrize(
    ("ttl", "stale_if_error", "retain_stale", "expected"),
    [
        (None, 60, 60, (None, None)),
        (10, 0, 0, (NOW + 10, NOW + 10)),
        (10, 0, 60, (NOW + 10, NOW + 70)),
        (10, 60, 5, (NOW + 10, NOW + 70)),
    ],
)
def test_expiry(
    ttl: float | None, stale_if_error: float, retain_stale: float, expected: tuple[float, float]
) -> None:
    """An entry outlives its freshness by the longer of both windows for stale answers."""
    policy = Policy(ttl=ttl, stale_if_error=stale_if_error, retain_stale=retain_stale)
    assert policy.expiry(judge(policy), NOW) == expected


def test_a_caller_cannot_make_an_entry_stay_longer() -> None:
    """stale-if-error in a request is for that request, not for what the store keeps."""
    policy = Policy(ttl=10)
    assert policy.expiry(judge(policy, Control(stale_if_error=999)), NOW) == (NOW + 10, NOW + 10)


@pytest.mark.parametrize(
    ("mode", "asked", "may_read", "may_write", "reason"),
    [
        (Mode.OFFLINE, Control(no_cache=True), True, False, "offline mode"),
        (Mode.OFFLINE, Control(no_store=True), False, False, "no-store"),
        (Mode.REFRESH, Control(), False, True, "refresh mode"),
        (Mode.REFRESH, Control(no_store=True), False, False, "no-store"),
        (Mode.BYPASS, Control(no_cache=True), False, False, "bypass mode"),
        (Mode.READ_ONLY, Control(), True, False, "read-only mode"),
        (Mode.READ_ONLY, Control(no_cache=True), False, False, "read-only mode"),
    ],
)
def test_a_mode_only_takes_away(
    mode: Mode, asked: Control, may_read: bool, may_write: bool, reason: str
) -> None:
    """What rules and wishes refuse stays refused, and for the reason that they have."""
    verdict = Policy().judge(make_call(asked), make_ask(), "shared", mode)
    assert (verdict.may_read, verdict.may_write, verdict.reason) == (may_read, may_write, reason)
    refused = Policy([Rule(cache=False)]).judge(make_call(), make_ask(), "shared", mode)
    assert (refused.may_read, refused.may_write, refused.reason) == (False, False, "rule 1")
