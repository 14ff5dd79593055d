"""Keys: what can change an answer is in them, what cannot is not, and nobody shares by accident."""

from __future__ import annotations

import copy
import json
import random
from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from cache_backends.redaction import Redaction
from proxy import keys
from proxy.dialects.chat import Chat
from proxy.errors import UnreadableRequest
from proxy.models import Call, Headers, Ignored, Levelling, Provider, Question, Scope, Verdict

dialect = Chat()
MAY = Verdict(may_read=True, may_write=True)
SECRET = b"a secret of the store"
CREDENTIAL = b"Bearer sk-very-secret"
PROVIDER = Provider("openai", "https://api.openai.com/v1")
TOOL = {
    "type": "function",
    "function": {
        "name": "find",
        "parameters": {
            "type": "object",
            "properties": {"first": {"type": "string"}, "second": {"minimum": 1}},
        },
    },
}
REQUEST: dict[str, Any] = {
    "model": "gpt-4o",
    "messages": [
        {"role": "system", "content": "You are 4.0 times as brief."},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Look"},
                {"type": "image_url", "image_url": {"url": "data:,x", "detail": "low"}},
            ],
        },
    ],
    "temperature": 1,
    "max_tokens": 100,
    "tools": [TOOL],
    "seed": 7,
    "unheard_of": {"a": [1, {"b": None}], "c": "d"},
}


def call_with(
    raw: bytes, *, headers: Headers | None = None, query: str = "", provider: Provider = PROVIDER
) -> Call:
    path = "/v1/chat/completions"
    url = f"https://api.openai.com{path}" + (f"?{query}" if query else "")
    return Call(provider, path, query, url, headers or [], raw)


def question(body: Any, verdict: Verdict = MAY, **options: Any) -> Question:
    """What a body asks; bytes are taken as they are."""
    call = call_with(body if isinstance(body, bytes) else orjson.dumps(body), **options)
    return keys.question(call, dialect.read(call), verdict)


def id_of(body: Any, verdict: Verdict = MAY, **options: Any) -> str:
    return question(body, verdict, **options).id


def places(value: Any) -> list[tuple[Any, ...]]:
    """The path of every value within a JSON value."""
    inner: list[tuple[Any, ...]] = []
    pairs = value.items() if isinstance(value, dict) else enumerate(value)
    for name, item in pairs:
        inner.append((name,))
        if isinstance(item, dict | list):
            inner += [(name, *rest) for rest in places(item)]
    return inner


def put(value: Any, path: tuple[Any, ...], item: Any) -> Any:
    """A copy of a JSON value with another value at the path."""
    value = copy.deepcopy(value)
    parent = value
    for name in path[:-1]:
        parent = parent[name]
    parent[path[-1]] = item
    return value


def shuffled(value: dict[str, Any], seed: int) -> dict[str, Any]:
    names = list(value)
    random.Random(seed).shuffle(names)
    return {name: value[name] for name in names}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=4,
)


fractions = st.integers(-9, 9).map(lambda number: number + 0.5)


@given(st.sampled_from(places(REQUEST)), json_values | fractions)
def test_any_change_of_what_matters_changes_the_id(path: tuple[Any, ...], item: Any) -> None:
    """At any depth, in known and unknown fields."""
    changed = put(REQUEST, path, item)
    assume(json.dumps(changed, sort_keys=True) != json.dumps(REQUEST, sort_keys=True))
    assume(len(path) > 1 or item not in (None, []))  # says what is said without it
    try:
        assert id_of(changed) != id_of(REQUEST)
    except UnreadableRequest:
        assert path[0] == "messages"  # is no request any more


@given(st.sampled_from(places(REQUEST)))
def test_leaving_anything_out_changes_the_id(path: tuple[Any, ...]) -> None:
    """A field, a message, a part, an item of a list."""
    body = copy.deepcopy(REQUEST)
    parent: Any = body
    for name in path[:-1]:
        parent = parent[name]
    del parent[path[-1]]
    assert id_of(body) != id_of(REQUEST)


@given(st.text(min_size=1), json_values)
def test_a_field_that_nobody_has_heard_of_changes_the_id(name: str, value: Any) -> None:
    """Also if it is null: unknown nulls stay."""
    table = dialect.fields
    assume(name not in {*table.ignored, *table.nullable, *table.neutral, *REQUEST})
    assert id_of({**REQUEST, name: value}) != id_of(REQUEST)


@pytest.mark.parametrize(
    "path",
    [
        ("tools", 0, "function", "parameters", "properties"),
        ("tools", 0, "function"),
        ("tools", 0),
        ("unheard_of",),
    ],
    ids=str,
)
def test_order_within_schemas_and_unknown_fields_is_kept(path: tuple[Any, ...]) -> None:
    """The order of a schema's properties changes what a model writes."""
    inner: Any = REQUEST
    for name in path:
        inner = inner[name]
    turned = dict(reversed(inner.items()))
    assert id_of(put(REQUEST, path, turned)) != id_of(REQUEST)


@given(st.integers())
def test_order_of_known_objects_is_levelled(seed: int) -> None:
    """The top level, messages, their parts, and what these hold."""
    body = shuffled(REQUEST, seed)
    body["messages"] = [shuffled(message, seed) for message in body["messages"]]
    parts = [shuffled(part, seed) for part in REQUEST["messages"][1]["content"]]
    parts[1]["image_url"] = shuffled(parts[1]["image_url"], seed)
    body["messages"][1]["content"] = parts
    assert id_of(body) == id_of(REQUEST)


def test_lists_stay_in_order() -> None:
    """The order of messages and parts is meaning."""
    assert id_of(put(REQUEST, ("messages",), REQUEST["messages"][::-1])) != id_of(REQUEST)
    parts = REQUEST["messages"][1]["content"]
    assert id_of(put(REQUEST, ("messages", 1, "content"), parts[::-1])) != id_of(REQUEST)


@given(
    st.fixed_dictionaries({}, optional=dict.fromkeys(set(dialect.fields.ignored), json_values)),
    st.booleans(),
)
def test_ignored_fields_do_not_change_the_id(fields: dict[str, Any], stream: bool) -> None:
    """Whatever they hold; each is named with its reason."""
    body = {**fields, **REQUEST, "stream": stream}
    asked = question(body)
    assert asked.id == id_of(REQUEST)
    assert {path for path, why in asked.ignored if why} == {*fields, "stream"}


@given(st.integers(0, 8), st.booleans())
def test_white_space_and_escapes_do_not_change_the_id(indent: int, ascii_only: bool) -> None:
    """Some clients send raw UTF-8, others escapes and spaces."""
    body = put(REQUEST, ("messages", 0, "content"), "Grüße 🐔")
    raw = json.dumps(body, indent=indent, ensure_ascii=ascii_only).encode()
    assert id_of(b"\n " + raw + b"\r\n") == id_of(body)


@pytest.mark.parametrize("form", [b"1", b"1.0", b"1e0", b"10e-1", b"1.000"])
def test_the_form_of_a_number_is_levelled_where_it_is_known(form: bytes) -> None:
    """At the top level it says nothing."""
    raw = orjson.dumps(REQUEST).replace(b'"temperature":1,', b'"temperature":%b,' % form)
    assert id_of(raw) == id_of(REQUEST)


@pytest.mark.parametrize("known", [b'"minimum":1', b'"a":[1'])
def test_the_form_of_a_number_is_kept_where_it_may_matter(known: bytes) -> None:
    """A model reads its tools as they are written."""
    raw = orjson.dumps(REQUEST)
    assert known in raw
    assert id_of(raw.replace(known, known + b".0")) != id_of(REQUEST)


def test_true_is_not_one() -> None:
    """Python takes them for equal."""
    ids = {id_of({**REQUEST, "seed": seed}) for seed in (True, 1, "1", False, 0, None)}
    assert len(ids) == 6


def test_unicode_is_not_normalised() -> None:
    """Two spellings of one letter are two tokens."""
    composed, decomposed = "\u00e9", "e\u0301"
    path = ("messages", 0, "content")
    assert id_of(put(REQUEST, path, composed)) != id_of(put(REQUEST, path, decomposed))


@given(
    st.lists(
        st.tuples(st.sampled_from(["a", "b"]), st.sampled_from(["", "x", "y"]), st.integers(0, 2)),
        min_size=2,
        unique=True,
    )
)
def test_scope_namespace_and_sample_keep_apart(where: list[tuple[str, str, int]]) -> None:
    """Whoever differs in one of them has entries of his own."""
    verdict = MAY
    ids = {
        id_of(REQUEST, replace(verdict, scope=scope, namespace=namespace, sample=sample))
        for scope, namespace, sample in where
    }
    assert len(ids) == len(where)


def test_how_entries_may_be_used_is_not_in_the_key() -> None:
    """Lifetimes and tags are facts of the entry, not of the question."""
    verdict = Verdict(False, True, reason="x", ttl=5.0, max_age=3.0, tags=("a",))
    assert id_of(REQUEST, verdict) == id_of(REQUEST)


@pytest.mark.parametrize("name", sorted(keys.KEYED_HEADERS))
def test_headers_that_matter_to_the_output_are_in_the_key(name: bytes) -> None:
    """Their lines are joined in order, wherever they stand among others."""
    one = id_of(REQUEST, headers=[(name, b"1")])
    assert one != id_of(REQUEST)
    assert one == id_of(REQUEST, headers=[(b"user-agent", b"x"), (name, b"1"), (b"accept", b"*")])
    both = id_of(REQUEST, headers=[(name, b"1"), (name, b"2")])
    assert both == id_of(REQUEST, headers=[(name, b"1, 2")])
    assert both != id_of(REQUEST, headers=[(name, b"2"), (name, b"1")])


def test_secrets_are_in_the_key_as_digests() -> None:
    """A gateway's headers and fields that hold keys part answers, and cannot be read from them."""
    body = REQUEST | {"api_key": "sk-field", "vertex_credentials": {"private_key": "sk-nested"}}
    headers = [(b"x-portkey-config", b'{"api_key":"sk-header"}')]
    made = question(body, headers=headers)
    assert "sk-" not in made.keys[0].llm_string
    assert made.id != id_of(REQUEST, headers=headers) != id_of(REQUEST)
    assert made.id != id_of(body | {"api_key": "sk-other"}, headers=headers)


def test_what_is_redacted_is_in_no_key() -> None:
    """Neither of what is asked nor of how; what is different only there is one question."""
    verdict = replace(MAY, redaction=Redaction([("sk-[a-z]+", "KEY")]))
    one = question(REQUEST | {"prompt_cache_key": "sk-one", "new": ["sk-a"]}, verdict)
    other = question(REQUEST | {"prompt_cache_key": "sk-two", "new": ["KEY"]}, verdict)
    assert one.keys == other.keys
    assert "sk-" not in "".join(one.keys[0])
    assert Ignored("*", "what matches cassette.redact is replaced") in one.ignored
    assert question(REQUEST, verdict).ignored == question(REQUEST).ignored


@given(st.lists(st.tuples(st.sampled_from([b"user-agent", b"traceparent"]), st.binary())))
def test_other_headers_are_not(headers: Headers) -> None:
    """Among them the credential, which only the scope may tell."""
    headers = [*headers, (b"authorization", CREDENTIAL), (b"x-stainless-os", b"Linux")]
    assert id_of(REQUEST, headers=headers) == id_of(REQUEST)


def test_where_a_question_goes_is_in_the_key() -> None:
    """Provider, path and query; but not the credential that stands in a query."""
    ids = {
        id_of(REQUEST),
        id_of(REQUEST, provider=replace(PROVIDER, name="other")),
        id_of(REQUEST, query="api-version=1"),
        id_of(REQUEST, query="api-version=2"),
    }
    assert len(ids) == 4
    for credential in ("key=sk-1", "API_KEY=sk-2", "access_token=sk-3"):
        assert id_of(REQUEST, query=credential) == id_of(REQUEST)
        with_version = id_of(REQUEST, query=f"{credential}&api-version=1")
        assert with_version == id_of(REQUEST, query="api-version=1")


def test_a_quoted_path_is_the_same_path() -> None:
    """boto3 writes `%3A` where others write a colon."""
    assert id_at("/model/a:0%C3%A9/x") == id_at("/model/a%3a0%c3%a9/x")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("/d/a%2Fb/x", "/d/a/b/x"),
        ("/d/%ff/x", "/d/%fe/x"),
        ("/x%3Fapi-version=1/x", "/x?api-version=1/x"),
        ("/d/%253A/x", "/d/%3A/x"),
        ("/d/%%411/x", "/d/%A1/x"),
    ],
)
def test_quotes_that_mean_something_stay(one: str, other: str) -> None:
    """A quoted slash parts no path: two deployments, two answers."""
    assert id_at(one) != id_at(other)


def id_at(target: str) -> str:
    """The id of the same request to this path and query."""
    call = call_with(orjson.dumps(REQUEST))
    url = f"https://api.openai.com{target}"
    call = replace(call, url=url, query=target.partition("?")[2])
    return keys.question(call, dialect.read(call), MAY).id


def test_both_strings_can_be_read() -> None:
    """They are JSON that names what it holds; the prompt is what is asked, no more."""
    key = question(REQUEST, Verdict(True, True, scope="shared", namespace="evals")).keys[0]
    assert json.loads(key.prompt) == {"messages": REQUEST["messages"]}
    how = json.loads(key.llm_string)
    assert how["parameters"] == {k: v for k, v in REQUEST.items() if k != "messages"}
    assert (how["version"], how["dialect"], how["provider"]) == (1, "chat/1", "openai")
    assert (how["scope"], how["namespace"], how["sample"]) == ("shared", "evals", 0)


@pytest.mark.parametrize(
    ("path", "first", "second"),
    [
        ("trace.run_id", {"trace": {"run_id": "1", "x": 1}}, {"trace": {"run_id": "2", "x": 1}}),
        ("messages.*.id", {"messages": [{"id": "1"}]}, {"messages": [{"id": "2"}]}),
        ("trace.*", {"trace": {"a": 1}}, {"trace": {"b": 2}}),
        ("seed", {"seed": 1}, {}),
    ],
)
def test_a_rule_may_ignore_a_path(path: str, first: Any, second: Any) -> None:
    """`*` stands for every item; the path is named among what is ignored."""
    verdict = Verdict(True, True, ignore=(path,))
    assert id_of(first) != id_of(second)
    assert id_of(first, verdict) == id_of(second, verdict)
    assert Ignored(path, "a rule of the config") in question(first, verdict).ignored


def test_a_rule_ignores_nothing_else() -> None:
    """Neighbours of what is ignored stay, and so does the request."""
    verdict = Verdict(True, True, ignore=("trace.run_id", "messages.*.id"))
    body = {"trace": {"run_id": 1, "x": 1}, "messages": [{"id": "1", "content": "a"}]}
    call = call_with(orjson.dumps(body))
    ask = dialect.read(call)
    key = keys.question(call, ask, verdict).keys[0]
    assert json.loads(key.prompt) == {"messages": [{"content": "a"}]}
    assert json.loads(key.llm_string)["parameters"] == {"trace": {"x": 1}}
    assert ask.body == body
    assert ask.parts == ({"messages": [{"content": "a", "id": "1"}]},)


def test_a_rule_may_level_texts() -> None:
    """Wherever they stand in what is asked; what does not match stays."""
    dates = Verdict(True, True, level=(Levelling(r"\d{4}-\d\d-\d\d", "DATE"),))

    def on(day: str, **fields: Any) -> dict[str, Any]:
        part = {"type": "text", "text": f"Today is {day}."}
        return {"messages": [{"role": "user", "content": [part]}], **fields}

    assert id_of(on("2026-01-01"), dates) == id_of(on("2026-12-24"), dates)
    assert id_of(on("2026-01-01"), dates) != id_of(on("tomorrow"), dates)
    assert id_of(on("2026-01-01")) != id_of(on("2026-12-24"))
    assert id_of(on("x", stop="2026-01-01"), dates) != id_of(on("x", stop="2026-12-24"), dates)


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b'{"a":1,"a":1}', "a name stands twice in one object"),
        (b'{"x":[{"b":1,"c":2,"b":3}]}', "a name stands twice in one object"),
        (b'{"a":1,"\\u0061":2}', "a name stands twice in one object"),
        (b'{"a":18446744073709551616}', "an integer is beyond 64 bits"),
        (b'{"a":[-9223372036854775809]}', "an integer is beyond 64 bits"),
        (b"[" * 5000 + b"]" * 5000, "a body that only one JSON parser reads"),
        (b'{"a":1', "a body that only one JSON parser reads"),
        (b'{"a":18446744073709551615,"b":-9223372036854775808}', ""),
        (b'{"a":{"a":{"a":1}},"b":[{"a":1},{"a":1}],"c":1e300}', ""),
        (orjson.dumps(REQUEST), ""),
    ],
)
def test_what_parsers_read_differently_is_found(raw: bytes, why: str) -> None:
    """Two such requests could share a key and not an answer."""
    assert keys.ambiguity(raw) == why
    if why and not why.startswith("a body"):
        assert not keys.is_plain(raw, orjson.loads(raw))


@given(st.dictionaries(st.text(), json_values, max_size=4))
def test_plain_json_is_not_ambiguous(body: dict[str, Any]) -> None:
    """Nothing is kept from the cache for no reason."""
    assert keys.ambiguity(json.dumps(body).encode()) == ""
    assert keys.is_plain(orjson.dumps(body), body)


def partition(headers: Headers, *, query: str = "", secret: bytes = SECRET) -> str:
    call = call_with(b"{}", headers=headers, query=query)
    return keys.partition(Scope.CREDENTIAL, call, secret)


credential_headers = st.lists(
    st.tuples(st.sampled_from(sorted(keys.CREDENTIAL_HEADERS)), st.binary(max_size=9)),
    max_size=4,
    unique_by=lambda pair: pair[0],
)


@given(credential_headers, st.randoms(use_true_random=False))
def test_the_order_of_header_lines_does_not_part(headers: Headers, rng: random.Random) -> None:
    """Nor do headers that say nothing of the caller."""
    mixed = [*headers, (b"user-agent", b"x"), (b"traceparent", b"y")]
    rng.shuffle(mixed)
    assert partition(mixed) == partition(headers)


@given(credential_headers, credential_headers)
def test_callers_with_other_credentials_are_parted(one: Headers, other: Headers) -> None:
    """Each header counts, with its name."""
    assume(sorted(one) != sorted(other))
    assert partition(one) != partition(other)


def test_values_do_not_run_into_each_other() -> None:
    """One header that spells two, and two whose border moves, are other callers."""
    ids = {
        partition([(b"api-key", b"ax-api-keyb")]),
        partition([(b"api-key", b"a"), (b"x-api-key", b"b")]),
        partition([(b"api-key", b"1"), (b"x-api-key", b"11")]),
        partition([(b"api-key", b"11"), (b"x-api-key", b"1")]),
    }
    assert len(ids) == 4


def test_a_cookie_parts_callers_without_a_key_only() -> None:
    """Beside a key it is what the provider's edge has set, anew every half hour."""
    assert partition([(b"cookie", b"a")]) != partition([(b"cookie", b"b")])
    key = (b"api-key", b"k")
    assert partition([key, (b"cookie", b"a")]) == partition([key, (b"cookie", b"b")])


def test_a_credential_in_the_query_parts() -> None:
    """Google's and others' keys stand there."""
    assert len({partition([], query=query) for query in ("", "key=a", "key=b", "token=a")}) == 4
    assert partition([], query="alt=sse") == partition([])
    assert "sk-1" not in question(REQUEST, query="api%5Fkey=sk-1").keys[0].llm_string


def test_the_header_of_the_providers_own_parts() -> None:
    """Where keys come in a header that only this provider has."""
    own = replace(PROVIDER, auth_header="x-house-key")

    def parted(key: bytes) -> str:
        call = call_with(b"{}", headers=[(b"x-house-key", key)], provider=own)
        return keys.partition(Scope.CREDENTIAL, call, SECRET)

    assert parted(b"a") != parted(b"b")


def test_the_secret_matters_and_the_credential_is_not_told() -> None:
    """Whoever sees a key can neither read nor guess whose it is."""
    headers = [(b"authorization", CREDENTIAL)]
    scope = partition(headers)
    assert scope != partition(headers, secret=b"another")
    verdict = Verdict(True, True, scope=scope)
    key = question(REQUEST, verdict, headers=headers, query="key=sk-very-secret").keys[0]
    assert "sk-very-secret" not in key.prompt + key.llm_string + key.id
    assert scope in key.llm_string


def test_scopes_wider_than_a_credential() -> None:
    """A client's name outlives its keys; one without a name is told by its credential."""
    call = call_with(b"{}", headers=[(b"authorization", CREDENTIAL)])
    named = replace(call, client="team-a")
    assert keys.partition(Scope.SHARED, call, SECRET) == "shared"
    assert keys.partition(Scope.CLIENT, named, SECRET) == "client:team-a"
    assert keys.partition(Scope.CLIENT, call, SECRET) == partition(call.headers)
    assert keys.partition(Scope.CREDENTIAL, named, SECRET) == partition(call.headers)
