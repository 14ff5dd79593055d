"""`/chat/completions`: what of a request is in the key, and a chat's answers kept and told again.

Sources: OpenAI's API reference, "Chat"; the references of Groq, Mistral, DeepSeek, OpenRouter,
vLLM, llama.cpp, Databricks and Together for the fields that they add.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson

from cache_backends.base import ChatGeneration, Generation
from proxy.dialects import chat_tell
from proxy.dialects.base import CACHING, CALLER, QUEUE, TELLING, Fields, Recorder
from proxy.dialects.chat_merge import Merge, MergeError
from proxy.dialects.checks import check_messages
from proxy.dialects.facts import bill_of, count, is_json, usage_of
from proxy.dialects.recorders import EventRecorder, JsonRecorder
from proxy.dialects.usage import UsageDialect
from proxy.models import AnswerFacts, Answers, Ask, Head, Ignored

_REQUEST = "names the request"
_SPEED = "speed only"
_JSON_FORMATS = ("json_object", "json_schema")

# How an answer came: "stream" or "plain", and whether its usage came with the last choice.
_Keep = Callable[[dict[str, Any], str, bool], Answers | None]


class Chat(UsageDialect):
    """OpenAI's chat completions, as it and its many followers speak them."""

    name = "chat"
    version = 1
    fields = Fields(
        asked=("messages",),
        ignored={
            "stream": TELLING,
            "stream_options": TELLING,
            "user": CALLER,
            "safety_identifier": CALLER,
            "metadata": "labels of the caller",
            "usage_context": "labels of the caller (Databricks)",
            "client_request_id": f"{_REQUEST} (Databricks)",
            "request_id": f"{_REQUEST} (vLLM)",
            "session_id": "groups requests (OpenRouter)",
            "store": "whether the provider keeps a copy",
            "compliance": "whether the provider keeps a copy (Together)",
            "prompt_cache_key": CACHING,
            "prompt_cache_retention": CACHING,
            "prompt_cache_options": CACHING,
            "service_tier": QUEUE,
            "priority": f"{QUEUE} (vLLM)",
            "cache_prompt": f"{_SPEED} (llama.cpp)",
            "id_slot": f"{_SPEED} (llama.cpp)",
            "keep_alive": f"{_SPEED} (Ollama)",
        },
        # Only what all providers take for the default. `temperature: 1` and the like are missing
        # here: vLLM's and Ollama's defaults come with the model.
        neutral={
            "n": (1,),
            "tools": ([],),
            "functions": ([],),
            "logit_bias": ({},),
            "logprobs": (False,),
        },
        # `tool_choice`, `parallel_tool_calls` and `top_logprobs` are missing here: vLLM takes them
        # for "none", false and no logprobs at all when they are null, not when they are left out.
        nullable=frozenset(
            {
                "audio",
                "frequency_penalty",
                "function_call",
                "functions",
                "include_reasoning",
                "logit_bias",
                "logprobs",
                "max_completion_tokens",
                "max_tokens",
                "modalities",
                "model",  # AzureChatOpenAI: the deployment stands in the URL
                "moderation",
                "n",
                "prediction",
                "presence_penalty",
                "reasoning_effort",
                "reasoning_format",
                "response_format",
                "seed",
                "stop",
                "temperature",
                "tools",
                "top_p",
                "verbosity",
                "web_search_options",
            }
        ),
        # All that is ignored and might be repeated. `service_tier` is none of them: the answer
        # tells the tier that was used.
        echoed=frozenset(
            {
                "client_request_id",
                "compliance",
                "metadata",
                "prompt_cache_key",
                "prompt_cache_options",
                "prompt_cache_retention",
                "request_id",
                "safety_identifier",
                "session_id",
                "store",
                "usage_context",
                "user",
            }
        ),
        shape={
            "messages": {
                "audio": {},
                "content": {"file": {}, "image_url": {}, "input_audio": {}, "video_url": {}},
            }
        },
        marks=frozenset({"cache_control", "prompt_cache_breakpoint"}),
    )

    def recorder(self, ask: Ask, head: Head, parts: int) -> Recorder:
        def keep(body: dict[str, Any], source: str, usage_with_choice: bool) -> Answers | None:
            return _answers(ask, body, source, usage_with_choice)

        if head.streams:
            return _StreamRecorder(_wanted(ask), keep)
        return JsonRecorder(lambda body: keep(body, "plain", False))

    def can_replay(self, ask: Ask, answers: Answers) -> bool:
        if len(answers) != 1 or not answers[0] or not all(map(_is_choice, answers[0])):
            return False
        info = _info(answers[0][0])
        if not isinstance(info.get("envelope"), dict):
            return False
        # A plain answer without usage is all that the provider says; a stream may not have been
        # asked for it, or the provider does not tell it in streams (llama-cpp-python).
        told = info["envelope"].get("usage") is not None or info.get("source") == "plain"
        return told or not ask.wants_usage or (ask.stream and info.get("usage_withheld", False))

    def replay(self, ask: Ask, answers: Answers) -> bytes:
        info = _info(answers[0][0])
        body = {**_envelope(ask, info), "choices": [_choice(each) for each in answers[0]]}
        if not ask.stream:
            return orjson.dumps(body)
        return chat_tell.tell(
            body,
            with_usage=ask.wants_usage,
            usage_with_choice=info.get("usage_with_choice", False),
        )

    def facts(self, ask: Ask, answers: Answers) -> AnswerFacts:
        choices = [_choice(each) for each in answers[0]]
        reasons = [choice.get("finish_reason") for choice in choices]
        envelope = _info(answers[0][0])["envelope"]
        usage = usage_of(envelope)
        bill = bill_of(envelope, "prompt_tokens_details", "completion_tokens_details")
        return AnswerFacts(
            finish_reasons=tuple(reason for reason in reasons if isinstance(reason, str)),
            has_tool_calls=any(_calls(choice["message"]) for choice in choices),
            broken_json=_broken_json(choices, wants_json=_wants_json(ask)),
            input_tokens=count(usage, "prompt_tokens"),
            output_tokens=_written(usage, bill.reasoned),
            bill=bill,
        )

    def _split(
        self, body: dict[str, Any]
    ) -> tuple[dict[str, Any], dict[str, Any], tuple[Ignored, ...]]:
        if "messages" in body:
            check_messages(body["messages"], "parts")
        return super()._split(body)


class _StreamRecorder(EventRecorder):
    """Listens to a chat that comes in chunks."""

    def __init__(self, wanted: int, keep: _Keep) -> None:
        super().__init__()
        self._wanted = wanted
        self._keep = keep
        self._merge = Merge()

    def add(self, chunk: dict[str, Any]) -> bool:
        try:
            self._merge.add(chunk)
        except MergeError:
            return False
        return True

    def answers(self) -> Answers | None:
        if not self._merge.has_choices(self._wanted):
            return None
        answers = self._keep(self._merge.body(), "stream", self._merge.usage_with_choice)
        if answers and not self.ended:  # the usage may have been cut off, not withheld
            _info(answers[0][0]).pop("usage_withheld", None)
        return answers


def _wanted(ask: Ask) -> int:
    n = ask.body.get("n")
    if isinstance(n, float) and n.is_integer():
        n = int(n)
    return n if type(n) is int and n > 0 else 1


def _answers(
    ask: Ask, body: dict[str, Any], source: str, usage_with_choice: bool
) -> Answers | None:
    """One Generation for each choice; `None` if one has not come to its end."""
    choices = body.pop("choices", None)
    if not isinstance(choices, list) or not choices or not all(map(_is_finished, choices)):
        return None
    # Two choices under one index could not be told apart in a stream.
    choices = sorted(choices, key=_index)
    if len({_index(choice) for choice in choices}) < len(choices):
        return None
    generations = [_generation(choice) for choice in choices]
    _info(generations[0]).update(_surroundings(ask, body, source, usage_with_choice))
    return [generations]


def _surroundings(
    ask: Ask, body: dict[str, Any], source: str, usage_with_choice: bool
) -> dict[str, Any]:
    """What is kept beside the first choice: all outside the choices, and how it came."""
    # What repeats the request, also where the provider has changed it on the way, is not kept:
    # another caller may get this answer.
    echoes = [name for name, said in ask.echoed.items() if name in body and said is not None]
    envelope = body
    if echoes:
        envelope = {name: value for name, value in body.items() if name not in echoes}
    kept: dict[str, Any] = {"envelope": envelope, "source": source}
    if echoes:
        kept["echoes"] = echoes
    if usage_with_choice:
        kept["usage_with_choice"] = True
    was_asked = ask.stream and (ask.wants_usage or ask.asks_usage_upstream)
    if source == "stream" and was_asked and envelope.get("usage") is None:
        kept["usage_withheld"] = True
    return kept


def _is_finished(choice: Any) -> bool:
    return (
        isinstance(choice, dict)
        and isinstance(choice.get("message"), dict)
        and bool(choice.get("finish_reason"))
        and not choice.get("error")
        and type(_index(choice)) is int
    )


def _index(choice: dict[str, Any]) -> int:
    index: int = choice.get("index", 0)
    return index


def _generation(choice: dict[str, Any]) -> Generation:
    rest = dict(choice)
    message = rest.pop("message")
    return ChatGeneration(_text(message.get("content")), {"choice": rest}, message=message)


def _text(content: Any) -> str:
    """What a person would read of a message's content."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    texts = [part.get("text") if isinstance(part, dict) else part for part in parts]
    return "".join(text for text in texts if isinstance(text, str))


def _is_choice(generation: Generation) -> bool:
    return isinstance(generation, ChatGeneration) and isinstance(
        _info(generation).get("choice"), dict
    )


def _info(generation: Generation) -> dict[str, Any]:
    return generation.generation_info or {}


def _choice(generation: Generation) -> dict[str, Any]:
    assert isinstance(generation, ChatGeneration)
    return {"message": generation.message, **_info(generation)["choice"]}


def _envelope(ask: Ask, info: dict[str, Any]) -> dict[str, Any]:
    """All outside the choices. What repeats the request repeats the current one."""
    envelope: dict[str, Any] = info["envelope"]
    repeated = {*envelope, *info.get("echoes", ())}
    return {**envelope, **{name: ask.echoed[name] for name in ask.echoed if name in repeated}}


def _written(usage: dict[str, Any], reasoned: int) -> int | None:
    """All that the model wrote: xAI and Perplexity do not count reasoning among it, as the sum
    shows."""
    written = count(usage, "completion_tokens")
    if written is None:
        return None
    apart = (
        count(usage, "total_tokens") == (count(usage, "prompt_tokens") or 0) + written + reasoned
    )
    return written + reasoned if apart else written


def _wants_json(ask: Ask) -> bool:
    wish = ask.body.get("response_format")
    return isinstance(wish, dict) and wish.get("type") in _JSON_FORMATS


def _broken_json(choices: list[dict[str, Any]], *, wants_json: bool) -> str:
    """Where the first text stands that should be JSON and does not parse."""
    for place, choice in enumerate(choices):
        if choice.get("finish_reason") == "length":
            continue  # cut short as asked: the limit is in the key
        message = choice["message"]
        path = f"choices[{place}].message"
        calls = _calls(message)
        is_text = not calls and not message.get("refusal")
        if wants_json and is_text and not is_json(_text(message.get("content"))):
            return f"{path}.content"
        for name, call in calls:
            arguments = call.get("arguments")
            if isinstance(arguments, str) and arguments and not is_json(arguments):
                return f"{path}.{name}.arguments"
    return ""


def _calls(message: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """The calls of a message, each with its place: what is called is not looked at further."""
    found: list[tuple[str, Any]] = []
    if isinstance(calls := message.get("tool_calls"), list):
        for place, call in enumerate(calls):
            function = call.get("function") if isinstance(call, dict) else None
            found.append((f"tool_calls[{place}].function", function))
    if message.get("function_call"):
        found.append(("function_call", message["function_call"]))
    return [(path, call if isinstance(call, dict) else {}) for path, call in found]
