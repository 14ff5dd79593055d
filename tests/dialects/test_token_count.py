"""Counts of tokens are read as what they count, and told again as they came."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from cache_backends.base import Generation
from proxy.dialects.messages import Messages
from proxy.dialects.responses import Responses
from proxy.dialects.token_count import TokenCount
from proxy.errors import BadRequest
from proxy.models import Ask, Call, Head, Provider

PLAIN = Head(200, [(b"content-type", b"application/json")])
RESPONSES = TokenCount("input_tokens", Responses())
MESSAGES = TokenCount("count_tokens", Messages())
HELLO: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "Hello"}]}


def read(dialect: TokenCount, body: dict[str, Any]) -> Ask:
    url = "https://api.example.com/v1/x"
    return dialect.read(Call(Provider("p", url), "/v1/x", "", url, [], orjson.dumps(body)))


def recorded(dialect: TokenCount, told: bytes) -> list[list[Generation]] | None:
    recorder = dialect.recorder(read(dialect, HELLO), PLAIN, 1)
    recorder.feed(told)
    return recorder.finish()


@pytest.mark.parametrize("dialect", [RESPONSES, MESSAGES], ids=lambda each: each.name)
@pytest.mark.parametrize(
    "told",
    [
        {"input_tokens": 14},
        {"object": "response.input_tokens", "input_tokens": 0},
        {"input_tokens": 14, "context_management": {"original_input_tokens": 70}, "new": [1.0]},
    ],
)
def test_a_count_is_told_again(dialect: TokenCount, told: dict[str, Any]) -> None:
    """With all that stands beside it."""
    answers = recorded(dialect, orjson.dumps(told))
    assert answers is not None
    assert answers[0][0].text == str(told["input_tokens"])
    ask = read(dialect, HELLO)
    assert dialect.can_replay(ask, answers)
    assert orjson.loads(dialect.replay(ask, answers)) == told


@pytest.mark.parametrize("told", [b"", b"{}", b"[1]", b'{"input_tokens":"1"}', b'{"error":{}}'])
def test_what_is_no_count_is_not_kept(told: bytes) -> None:
    """Nor anything else that came with status 200."""
    assert recorded(MESSAGES, told) is None


@pytest.mark.parametrize("info", [None, {}, {"envelope": 7}, {"envelope": {"input_tokens": None}}])
def test_nonsense_in_the_cache_is_not_told(info: dict[str, Any] | None) -> None:
    """An entry that holds no count is a miss."""
    assert not MESSAGES.can_replay(read(MESSAGES, HELLO), [[Generation("1", info)]])


def test_a_count_shares_no_key_with_what_it_counts() -> None:
    """Question and count have dialects of their own, and are split alike."""
    ask, counted = (
        read(MESSAGES, HELLO),
        Messages().read(Call(Provider("p", "u"), "/", "", "u", [], orjson.dumps(HELLO))),
    )
    assert (ask.parts, ask.parameters) == (counted.parts, counted.parameters)
    assert ask.dialect == "count_tokens/1" != counted.dialect


def test_a_count_leads_nowhere() -> None:
    """It holds no id of a response that the provider keeps: no limit in time or to one account."""
    ask = read(RESPONSES, {"model": "m", "input": "Hello"})
    assert ask.bounds.keep_s is None
    assert not ask.bounds.account
    assert not ask.sampled


def test_what_others_change_is_not_counted_from_memory() -> None:
    """A conversation grows while its name stays."""
    assert read(RESPONSES, {"input": "Hi", "conversation": "conv_1"}).bounds.uncached


def test_bad_input_is_refused_as_it_is_beside_it() -> None:
    """The same message, in the same wire format."""
    with pytest.raises(BadRequest, match="messages: expected a list") as refused:
        read(MESSAGES, {"messages": 7})
    told = orjson.loads(MESSAGES.error(refused.value))
    assert told["type"] == "error"
    assert told["error"]["message"] == str(refused.value)
