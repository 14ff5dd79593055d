"""The chunks of a streamed chat completion, put together to the body that says the same.

Source: OpenAI's API reference, "Chat completion chunk". What others add to it is kept:
`reasoning`, `reasoning_content`, `citations`, `x_groq`, `content_filter_results`, ...
"""

from __future__ import annotations

from typing import Any

# Texts that are sent once or repeated, never in pieces. llama-cpp-python repeats the name of a
# tool in every fragment.
_SENT_ONCE = frozenset({"id", "type", "name"})
# Objects of a message that arrive in fragments.
_FRAGMENTED = frozenset({"audio", "function_call", "function", "custom"})


class MergeError(Exception):
    """A chunk that is not of this format, or that contradicts an earlier one."""


class Merge:
    """Puts the chunks of a stream together."""

    def __init__(self) -> None:
        self._envelope: dict[str, Any] = {}
        self._repeated: dict[str, Any] = {}  # of the envelope, as the last chunk told it
        self._choices: dict[int, _Choice] = {}
        # Mistral, DeepSeek and others tell usage unasked, with the last chunk that has choices.
        self.usage_with_choice = False

    def add(self, chunk: dict[str, Any]) -> None:
        """Take in a chunk, which is taken apart."""
        choices = chunk.pop("choices", None) or []
        if not isinstance(choices, list):
            raise MergeError
        for choice in choices:
            self._add_choice(choice)
        tells_usage, usage = "usage" in chunk, chunk.pop("usage", None)
        chunk.pop("obfuscation", None)
        if chunk != self._repeated:
            self._repeated = chunk
            for name, value in chunk.items():
                self._envelope[name] = _latest(self._envelope.get(name), value)
        if tells_usage:
            self._add_usage(usage, bool(choices))

    def has_choices(self, wanted: int) -> bool:
        """Have as many choices been seen as were asked for?"""
        return sum(0 <= index < wanted for index in self._choices) == wanted

    def body(self) -> dict[str, Any]:
        """The plain answer that says the same."""
        choices = [self._choices[index].whole(index) for index in sorted(self._choices)]
        body = {**self._envelope, "object": "chat.completion", "choices": choices}
        groq = body.get("x_groq")
        if not body.get("usage") and isinstance(groq, dict) and groq.get("usage"):
            body["usage"] = groq["usage"]
        return body

    def _add_usage(self, usage: Any, with_choice: bool) -> None:
        if usage is not None:
            self._envelope["usage"] = usage
            self.usage_with_choice = with_choice
        else:
            self._envelope.setdefault("usage", None)

    def _add_choice(self, choice: Any) -> None:
        # Some send the message so far beside each delta (Perplexity); alone it may be anything.
        if not isinstance(choice, dict) or ("message" in choice and "delta" not in choice):
            raise MergeError
        index = choice.get("index", 0)
        if type(index) is not int:
            raise MergeError
        known = self._choices.get(index)
        if known is None:
            known = self._choices[index] = _Choice()
        known.add(choice)


class _Choice:
    """One choice as it grows."""

    def __init__(self) -> None:
        self._message = _Growing()
        self.fields: dict[str, Any] = {}

    def add(self, choice: dict[str, Any]) -> None:
        delta = choice.get("delta") or {}
        if not isinstance(delta, dict):
            raise MergeError
        self._message.add(delta)
        for name, value in choice.items():
            if name not in ("index", "delta", "message"):
                self.fields[name] = _gathered(self.fields.get(name), value)

    def whole(self, index: int) -> dict[str, Any]:
        message = {"role": "assistant", "content": None, **self._message.whole()}
        if message["content"] == "" and message.get("tool_calls"):
            message["content"] = None  # as the plain answer has it
        return {"index": index, "message": message, **self.fields}


class _Text(list[str]):
    """A text in pieces: a thousand of them are joined once."""


class _Calls(dict[int, "_Growing"]):
    """Tool calls, each under its index."""


class _Growing:
    """An object that arrives in fragments: a message, a tool call, a function, an audio."""

    def __init__(self) -> None:
        self._fields: dict[str, Any] = {}

    def add(self, fragment: dict[str, Any]) -> None:
        for name, value in fragment.items():
            known = self._fields.get(name)
            if type(known) is _Text and type(value) is str:
                known.append(value)  # as nearly always
            elif value is None:
                self._fields.setdefault(name, None)
            elif name == "role":
                self._fields[name] = value or known
            elif name in _SENT_ONCE:
                self._fields[name] = _sent_once(name, known, value)
            elif name in _FRAGMENTED and isinstance(value, dict):
                self._fields[name] = _fragment(known, value)
            elif name == "tool_calls" and isinstance(value, list):
                self._fields[name] = _calls(known, value)
            else:
                self._fields[name] = _grown(known, value)

    def whole(self) -> dict[str, Any]:
        return {name: _whole(value) for name, value in self._fields.items()}


def _whole(value: Any) -> Any:
    if isinstance(value, _Text):
        return "".join(value)
    if isinstance(value, _Calls):
        return [value[index].whole() for index in sorted(value)]
    return value.whole() if isinstance(value, _Growing) else value


def _sent_once(name: str, known: Any, value: Any) -> Any:
    """The first that is not empty. A second name is a second call under the same index."""
    if name == "name" and known and value and value != known:
        raise MergeError
    return known or value


def _fragment(known: Any, value: dict[str, Any]) -> _Growing:
    growing = _Growing() if known is None else known
    if not isinstance(growing, _Growing):
        raise MergeError
    growing.add(value)
    return growing


def _calls(known: Any, entries: list[Any]) -> _Calls:
    calls = _Calls() if known is None else known
    if not isinstance(calls, _Calls) or not all(isinstance(entry, dict) for entry in entries):
        raise MergeError
    for entry in entries:
        index = entry.get("index")
        if type(index) is not int:  # Gemini leaves it out and sends each call whole
            index = len(calls) if entry.get("id") or not calls else max(calls)
        rest = {name: value for name, value in entry.items() if name != "index"}
        calls.setdefault(index, _Growing()).add(rest)
    return calls


def _grown(known: Any, value: Any) -> Any:
    """Texts are joined, lists extended; objects may be repeated; of all else the last stands."""
    if known is None:
        return _Text([value]) if isinstance(value, str) else value
    if isinstance(known, _Text) and isinstance(value, str):
        known.append(value)
        return known
    if isinstance(known, list) and isinstance(value, str | list):
        return _extended(_parts(known), _parts(value))
    if isinstance(known, list | dict | _Growing) or isinstance(value, str | list | dict):
        if type(known) is not dict or known != value:
            raise MergeError
        return known
    return value


def _parts(content: list[Any] | str) -> list[Any]:
    """Mistral's reasoning models change from parts to text and back within one message."""
    if isinstance(content, _Text):
        content = "".join(content)
    if isinstance(content, str):
        return [{"type": "text", "text": content}] if content else []
    return content


def _extended(parts: list[Any], more: list[Any], *, within: bool = True) -> list[Any]:
    """Append parts; one that goes on in the next chunk stays one part."""
    if parts and more and (joined := _joined(parts[-1], more[0], within)):
        parts[-1], more = joined, more[1:]
    parts.extend(more)
    return parts


def _joined(last: Any, following: Any, within: bool) -> dict[str, Any] | None:
    name = _sole_field(last)
    if not name or name != _sole_field(following):
        return None
    one, other = last[name], following[name]
    if isinstance(one, str) and isinstance(other, str):
        return {"type": name, name: one + other}
    if within and isinstance(one, list) and isinstance(other, list):
        return {"type": name, name: _extended(one, other, within=False)}
    return None


def _sole_field(part: Any) -> str:
    """The name of what a part holds, if it is a text or a thought and nothing else is known."""
    for name in ("text", "thinking"):
        if isinstance(part, dict) and part.keys() == {"type", name} and part["type"] == name:
            return name
    return ""


def _latest(known: Any, value: Any) -> Any:
    """Fields of the envelope are repeated: the last that says something stands."""
    if isinstance(known, dict) and isinstance(value, dict):
        return {**known, **value}
    # Azure's first and last chunks have empty names and times.
    return value if value or known is None else known


def _gathered(known: Any, value: Any) -> Any:
    """Fields of a choice tell what is new: lists (logprobs, token ids) are extended."""
    if isinstance(known, list) and isinstance(value, list):
        known.extend(value)
        return known
    if isinstance(known, dict) and isinstance(value, dict):
        for name, item in value.items():
            array = known.get(name)
            if isinstance(array, list) and isinstance(item, list):
                array.extend(item)
            elif item is not None or name not in known:
                known[name] = item
        return known
    return known if value is None else value
