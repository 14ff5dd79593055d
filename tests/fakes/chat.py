"""Chat requests as the tests send them, and the words of the answers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import orjson

from tests.fakes.live_proxy import LiveProxy

PATH = "/v1/chat/completions"
MINE = {"authorization": "Bearer mine"}
YOURS = {"authorization": "Bearer yours"}


def asking(prompt: str = "Tell me a joke", **fields: Any) -> dict[str, Any]:
    """The body of a request; `stream=True` for events."""
    return {"model": "m", "messages": [{"role": "user", "content": prompt}], **fields}


def saying(control: str, name: str = "cache-control") -> dict[str, str]:
    """Headers of a caller who asks something of the cache."""
    return {**MINE, name: control}


def own(control: str) -> dict[str, str]:
    """The same, in the proxy's own header."""
    return saying(control, "llm-cache-control")


def tells(answer: httpx.Response) -> tuple[str, str]:
    """What an answer says became of the request."""
    return answer.headers["x-cache"], answer.headers["cache-status"]


def words(body: bytes) -> str:
    """The text of the first choice, told as JSON or as events."""
    if not body.startswith(b"data: "):
        text: str = orjson.loads(body)["choices"][0]["message"]["content"]
        return text
    told = [choice for event in events(body) for choice in event["choices"]]
    return "".join(choice["delta"].get("content") or "" for choice in told if not choice["index"])


def events(body: bytes) -> list[dict[str, Any]]:
    """The objects of a stream, without its `[DONE]`."""
    data = [line[6:] for line in body.split(b"\n") if line.startswith(b"data: ")]
    return [orjson.loads(each) for each in data if each != b"[DONE]"]


def asker(client: httpx.AsyncClient, live: LiveProxy) -> Callable[..., Awaitable[httpx.Response]]:
    """`ask(stream=True)`: the answer to a chat request."""

    async def ask(headers: dict[str, str] = MINE, **fields: Any) -> httpx.Response:
        url = f"{live.base_url}/chat/completions"
        return await client.post(url, json=asking(**fields), headers=headers)

    return ask
