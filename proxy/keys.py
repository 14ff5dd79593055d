"""How a key is made: canonical JSON, the partition of the caller, the two strings of a Question.

A key holds everything that can change an answer. What a dialect or a rule leaves out is named in
`Question.ignored`; whatever nobody has heard of yet stays in.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import string
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import unquote

import orjson

from cache_backends.base import Key
from proxy.errors import UnreadableRequest
from proxy.models import Ask, Call, Headers, Ignored, Levelling, Question, Scope, Verdict

# Raised when the meaning of a key changes: entries made before are then no longer found.
KEY_VERSION = 1

# Request headers that can change an answer. More can be named in the config.
KEYED_HEADERS = frozenset(
    {
        b"openai-beta",
        b"openai-version",
        b"anthropic-version",
        b"anthropic-beta",
        b"api-version",
        b"azureml-model-deployment",
        b"extra-parameters",  # Azure AI: fields that the model does not know: drop or pass on?
        b"groq-model-version",
        b"helicone-model-override",
        b"helicone-target-url",
        b"x-amzn-bedrock-guardrailidentifier",
        b"x-amzn-bedrock-guardrailversion",
        b"x-amzn-bedrock-trace",
        b"x-anthropic-beta",  # OpenRouter passes it on as anthropic-beta
        b"x-ms-model-mesh-model-name",
        b"x-ms-oai-image-generation-deployment",
        b"x-portkey-config",
        b"x-portkey-custom-host",
        b"x-portkey-provider",
        b"x-portkey-virtual-key",
        b"x-vertex-ai-llm-request-type",
    }
)

# Request headers that say who asks and for whose account.
CREDENTIAL_HEADERS = frozenset(
    {
        b"authorization",
        b"api-key",
        b"x-api-key",
        b"x-goog-api-key",
        b"x-goog-user-project",
        b"x-amz-security-token",
        b"x-auth-token",
        b"cf-aig-authorization",
        b"helicone-auth",
        b"x-portkey-api-key",
        b"ocp-apim-subscription-key",
        b"openai-organization",
        b"openai-project",
        b"anthropic-workspace-id",
        b"anthropic-user-profile-id",
        b"chatgpt-account-id",
    }
)
# Names the caller where nothing else does. Beside a key it is what a provider's edge has set (and
# sets anew every half hour), not who asks.
COOKIE = b"cookie"
_COOKIES = frozenset({COOKIE})
# The same, where a key is put into the query.
CREDENTIAL_PARAMETERS = frozenset(
    {"key", "api_key", "api-key", "apikey", "access_token", "token", "subscription-key"}
)
# What changes an answer and can hold a secret: headers with a configuration in them, and the fields
# of a body by which gateways take a provider's credential. Their digests stand in the key.
_SECRET_HEADERS = ("x-portkey-config", "x-portkey-virtual-key")
_SECRET_FIELDS = frozenset(
    {
        "api_key",
        "access_token",
        "authorization",
        "aws_access_key_id",
        "aws_secret_access_key",
        "aws_session_token",
        "azure_ad_token",
        "vertex_credentials",
    }
)

# What a dialect knows of an object: the fields that hold known objects, or lists of them.
Shape = Mapping[str, "Shape"]

_QUOTE = re.compile(r"%([0-9A-Fa-f]{2})")
_BROKEN_QUOTE = re.compile(r"%(?![0-9A-Fa-f]{2})")
# RFC 3986: unreserved, and what may stand in a path but parts it nowhere.
_SAME_IF_QUOTED = frozenset(string.ascii_letters + string.digits + "-._~!$&'()*+,=:@")

_MAX_EXACT = 2.0**53  # a float up to this is a whole number without loss
_TOO_DEEP = "The body is nested too deeply: more than 250 levels."


def question(
    call: Call, ask: Ask, verdict: Verdict, keyed_headers: frozenset[bytes] = KEYED_HEADERS
) -> Question:
    """Make the two strings for each part of what is asked."""
    parts, parameters = ask.parts, ask.parameters
    ignored = ask.ignored
    for path in verdict.ignore:
        before = parts, parameters
        parts = tuple(_without(part, path.split(".")) for part in parts)
        parameters = _without(parameters, path.split("."))
        if (parts, parameters) != before:
            ignored += (Ignored(path, "a rule of the config"),)
    if verdict.level:
        parts = tuple(_levelled_texts(part, verdict.level) for part in parts)
    llm_string = canonical(
        {
            "version": KEY_VERSION,
            "dialect": ask.dialect,
            "provider": call.provider.name,
            "url": _url(call),
            "headers": _headers(call.headers, keyed_headers),
            "scope": verdict.scope,
            "namespace": verdict.namespace,
            "sample": verdict.sample,
            "parameters": _without_secrets(parameters),
        }
    )
    made = tuple(Key.of(canonical(part), llm_string) for part in parts)
    if verdict.redaction is None:
        return Question(made, ignored)
    redacted = tuple(map(verdict.redaction.key, made))
    if redacted != made:
        ignored += (Ignored("*", "what matches cassette.redact is replaced"),)
    return Question(redacted, ignored)


def canonical(value: Any) -> str:
    """JSON without white space, in UTF-8. Order is that of `value`: `level` is what sorts."""
    try:
        return orjson.dumps(value).decode()
    except TypeError as exc:
        raise UnreadableRequest(_TOO_DEEP) from exc


def level(value: dict[str, Any], shape: Shape) -> dict[str, Any]:
    """Sort the names and level the numbers of an object that the dialect knows.

    `1`, `1.0` and `1e0` become one. Everything below a field that `shape` does not name is kept
    as it is: the order of a schema's properties changes what a model writes.
    """
    levelled = {}
    for name in sorted(value):
        item = value[name]
        if type(item) is float:
            item = _level_number(item)
        elif name in shape:
            item = _level_below(item, shape[name])
        levelled[name] = item
    return levelled


def _level_below(item: Any, shape: Shape) -> Any:
    if type(item) is dict:
        return level(item, shape)
    if type(item) is list:
        return [level(each, shape) if type(each) is dict else each for each in item]
    return item


def drop(
    levelled: dict[str, Any], shape: Shape, names: frozenset[str], path: str = ""
) -> list[str]:
    """Remove names from an object that `level` has made and from those in it that `shape` names.

    Gives the path of each that was there: `messages.*.content.*.cache_control`.
    """
    found = [path + name for name in names & levelled.keys()]
    for name in names & levelled.keys():
        del levelled[name]
    for name in shape.keys() & levelled.keys():
        item = levelled[name]
        if type(item) is dict:
            found += drop(item, shape[name], names, f"{path}{name}.")
        elif type(item) is list:
            below, inside = shape[name], f"{path}{name}.*."
            for each in item:
                if type(each) is dict:
                    found += drop(each, below, names, inside)
    return found


def _level_number(number: float) -> float:
    return int(number) if number.is_integer() and abs(number) <= _MAX_EXACT else number


def partition(scope: Scope, call: Call, secret: bytes) -> str:
    """Name the group of callers that share entries; readable, and no secret can be read from it."""
    if scope is Scope.SHARED:
        return "shared"
    if scope is Scope.CLIENT and call.client is not None:
        return f"client:{call.client}"
    named = CREDENTIAL_HEADERS
    if call.provider.auth_header != "authorization":
        named |= {call.provider.auth_header.encode()}
    presented = _of(call.headers, named) or _of(call.headers, _COOKIES)
    if call.query:
        presented += [
            (name.encode(), value.encode())
            for name, value in _parameters(call.query)
            if _names_caller(name)
        ]
    return _credential_scope(tuple(presented), secret)


def _of(headers: Headers, named: frozenset[bytes]) -> Headers:
    """Those with one of these names. Mostly there are none or one: no look at each header."""
    if named.isdisjoint(dict(headers)):
        return []
    return [pair for pair in headers if pair[0] in named]


# A caller sends the same credential with every request: 0.1 us instead of 4 us for the digest.
@lru_cache(maxsize=256)
def _credential_scope(presented: tuple[tuple[bytes, bytes], ...], secret: bytes) -> str:
    digest = hmac.new(secret, digestmod=hashlib.sha256)
    for name, value in sorted(presented):
        digest.update(b"%d:%b%d:%b" % (len(name), name, len(value), value))
    return f"credential:{digest.hexdigest()}"


def is_plain(raw: bytes, parsed: Any) -> bool:
    """Does a body say what was parsed of it to the letter? Then `ambiguity` would find nothing.

    Most clients write JSON as orjson does. This takes 0.7 us where the strict parse takes 5.
    """
    try:
        return orjson.dumps(parsed) == raw
    except TypeError:
        return False


def ambiguity(raw: bytes) -> str:
    """Say what in a body two parsers may read differently, or "" if nothing is.

    orjson keeps the last of two equal names and turns integers beyond 64 bits into floats: two
    such requests could share a key and not an answer.
    """
    try:
        json.loads(raw, object_pairs_hook=_refuse_duplicates, parse_int=_refuse_huge)
    except _Ambiguous as found:
        return str(found)
    except (ValueError, RecursionError):
        return "a body that only one JSON parser reads"
    return ""


class _Ambiguous(Exception):
    pass


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> None:
    names = {name for name, _ in pairs}
    if len(names) < len(pairs):
        raise _Ambiguous("a name stands twice in one object")


def _refuse_huge(digits: str) -> None:
    # 19 digits always fit into 64 bits with sign; longer ones are looked at.
    if len(digits) > 18 and not -(2**63) <= int(digits) < 2**64:
        raise _Ambiguous("an integer is beyond 64 bits")


def _headers(headers: Headers, keyed: frozenset[bytes]) -> dict[str, str]:
    found = [(name.decode("latin-1"), value) for name, value in _of(headers, keyed)]
    joined: dict[str, str] = {}
    for name, value in sorted(found, key=lambda pair: pair[0]):
        text = value.decode("latin-1")
        joined[name] = f"{joined[name]}, {text}" if name in joined else text
    for name in _SECRET_HEADERS:
        if name in joined:
            joined[name] = _digest(joined[name].encode("latin-1"))
    return joined


def _without_secrets(parameters: dict[str, Any]) -> dict[str, Any]:
    named = _SECRET_FIELDS & parameters.keys()
    if not named:
        return parameters
    return {
        name: _digest(canonical(value).encode()) if name in named else value
        for name, value in parameters.items()
    }


def _digest(secret: bytes) -> str:
    return f"sha256:{hashlib.sha256(secret).hexdigest()}"


def _url(call: Call) -> str:
    """Where the question goes, without what names the caller."""
    base = _level_quotes(call.url.partition("?")[0])
    kept = [f"{name}={value}" for name, value in _parameters(call.query) if not _names_caller(name)]
    return f"{base}?{'&'.join(kept)}" if kept else base


def _level_quotes(path: str) -> str:
    """Undo the quotes that say nothing, as `%3A`. `%2F` is no slash, and so on: those stay."""
    if "%" not in path or _BROKEN_QUOTE.search(path):
        return path
    return _QUOTE.sub(_unquoted, path)


def _unquoted(quote: re.Match[str]) -> str:
    char = chr(int(quote[1], 16))
    return char if char in _SAME_IF_QUOTED else quote[0].upper()


def _names_caller(parameter: str) -> bool:
    return unquote(parameter).lower() in CREDENTIAL_PARAMETERS


def _parameters(query: str) -> Iterable[tuple[str, str]]:
    for pair in query.split("&") if query else ():
        name, _, value = pair.partition("=")
        yield name, value


def _without(value: Any, path: list[str]) -> Any:
    """A copy of `value` without what the dotted path names; `*` stands for every item."""
    name, *rest = path
    if isinstance(value, list) and name == "*":
        return [_without(item, rest) for item in value] if rest else []
    if not isinstance(value, dict):
        return value
    if name == "*":
        return {each: _without(item, rest) for each, item in value.items()} if rest else {}
    if name not in value:
        return value
    if rest:
        return {**value, name: _without(value[name], rest)}
    return {each: item for each, item in value.items() if each != name}


def _levelled_texts(value: Any, levellings: tuple[Levelling, ...]) -> Any:
    if isinstance(value, str):
        for levelling in levellings:
            value = re.sub(levelling.pattern, levelling.replacement, value)
        return value
    if isinstance(value, list):
        return [_levelled_texts(item, levellings) for item in value]
    if isinstance(value, dict):
        return {name: _levelled_texts(item, levellings) for name, item in value.items()}
    return value
