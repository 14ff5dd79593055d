"""How recent misses are remembered: bounded, the newest first, each client's apart."""

from __future__ import annotations

from cache_backends.base import Key
from proxy.dialects.chat import Chat
from proxy.errors import NotCached
from proxy.inquiry import Inquiry
from proxy.models import Ask, Call, Provider, Question, Verdict
from proxy.recent import MAX_KEY_BYTES, Miss, Recent


def inquiry(prompt: str, client: str | None = None) -> Inquiry:
    provider = Provider("openai", "https://api.example.com/v1")
    call = Call(provider, "/v1/chat/completions", "", "https://x", [], b"{}", client=client)
    ask = Ask(dialect="chat/1", parts=({},), parameters={}, model="m", body={}, raw=b"{}")
    verdict = Verdict(may_read=True, may_write=True)
    return Inquiry(call, Chat(), ask, verdict, Question((Key.of(prompt, "{}"),)))


def missed(recent: Recent, *prompts: str, client: str | None = None) -> None:
    for prompt in prompts:
        recent.failed(inquiry(prompt, client), NotCached("gone"))


def prompts(misses: list[Miss]) -> list[str]:
    return [each.key[0] for each in misses if each.key]


def test_the_newest_come_first() -> None:
    """As many as are asked for."""
    missed(recent := Recent(), "a", "b", "c")
    assert prompts(recent.last(2)) == ["c", "b"]


def test_so_many_are_kept_and_the_oldest_goes() -> None:
    """By count and by bytes."""
    missed(few := Recent(max_count=2), "a", "b", "c")
    assert prompts(few.last(9)) == ["c", "b"]
    missed(small := Recent(max_bytes=20_000), *(letter * 6000 for letter in "abcd"))
    assert [each[0] for each in prompts(small.last(9))] == ["d", "c"]


def test_of_a_very_large_request_the_id_is_kept() -> None:
    """It would push all others out."""
    missed(recent := Recent(), "x" * MAX_KEY_BYTES)
    (miss,) = recent.last(1)
    assert (miss.key, recent.of_id(miss.id)) == (None, miss)


def test_a_client_finds_its_own() -> None:
    """In the list and by id."""
    recent = Recent()
    missed(recent, "a", client="alice")
    missed(recent, "b", client="bob")
    assert prompts(recent.last(9, "alice")) == ["a"]
    (bobs,) = recent.last(1)
    assert recent.of_id(bobs.id, "alice") is None
