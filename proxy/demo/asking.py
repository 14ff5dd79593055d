"""Asks through the proxy as any client does, and shows what came of it."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import httpx
import orjson
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from proxy.demo.provider import JOKE

PLAIN, STREAMED = "Tell me a joke", "Tell me another joke"
EXPECTED = ["MISS", "HIT", "MISS", "HIT", "HIT"]


class Answer(NamedTuple):
    """What came back through the proxy, and how fast (seconds)."""

    text: str
    outcome: str  # X-Cache
    status: str  # Cache-Status
    tokens: int
    first_s: float
    whole_s: float


async def ask_all(client: httpx.AsyncClient, base_url: str) -> list[Answer]:
    asked = [(PLAIN, False)] * 2 + [(STREAMED, True)] * 2 + [(PLAIN, True)]
    return [await _ask(client, base_url, question, stream) for question, stream in asked]


async def _ask(client: httpx.AsyncClient, base_url: str, question: str, stream: bool) -> Answer:
    body: dict[str, Any] = {
        "model": "joker",
        "messages": [{"role": "user", "content": question}],
    }
    if stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    began = time.perf_counter()
    first_s, received = 0.0, b""
    request = client.stream("POST", f"{base_url}/chat/completions", json=body)
    async with request as response:
        async for piece in response.aiter_bytes():
            first_s = first_s or time.perf_counter() - began
            received += piece
    whole_s = time.perf_counter() - began
    response.raise_for_status()
    text, tokens = _read_events(received) if stream else _read_answer(received)
    outcome, status = (response.headers.get(name, "") for name in ("x-cache", "cache-status"))
    return Answer(text, outcome, status, tokens, first_s, whole_s)


def _read_answer(body: bytes) -> tuple[str, int]:
    answer = orjson.loads(body)
    return answer["choices"][0]["message"]["content"], answer["usage"]["total_tokens"]


def _read_events(body: bytes) -> tuple[str, int]:
    text, tokens = "", 0
    for line in body.decode().splitlines():
        if not line.startswith("data: {"):
            continue
        chunk = orjson.loads(line.removeprefix("data: "))
        text += "".join(choice["delta"].get("content") or "" for choice in chunk["choices"])
        tokens = (chunk.get("usage") or {}).get("total_tokens", tokens)
    return text, tokens


def show(answers: list[Answer], console: Console) -> int:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for title in ("asked", "", "X-Cache"):
        table.add_column(title, no_wrap=True)
    for title in ("first word", "whole answer", "faster"):
        table.add_column(title, justify="right", no_wrap=True)
    streamed = ["", "", "streamed", "streamed", "streamed"]
    questions = [PLAIN, PLAIN, STREAMED, STREAMED, PLAIN]
    slow = [None, answers[0], None, answers[2], answers[0]]
    for question, how, answer, miss in zip(questions, streamed, answers, slow, strict=True):
        colour = "green" if answer.outcome == "HIT" else "yellow"
        table.add_row(
            question,
            how,
            Text(answer.outcome, f"bold {colour}"),
            _milliseconds(answer.first_s) if how else "",
            _milliseconds(answer.whole_s),
            f"{miss.whole_s / answer.whole_s:,.0f} x" if miss else "",
        )
    console.print(Padding(table, (0, 0, 0, 2)))
    same = all(answer.text == JOKE for answer in answers)
    as_expected = [answer.outcome for answer in answers] == EXPECTED
    saved = sum(answer.tokens for answer in answers if answer.outcome == "HIT")
    console.print(f"\n  same answer    {'yes' if same else 'NO'}")
    console.print(f"  tokens saved   {saved}")
    console.print(f"  Cache-Status   {answers[1].status}", highlight=False)
    console.print("\n  The last line: one entry serves plain and streamed requests.\n")
    console.print(Padding(Text(JOKE, "italic dim"), (0, 2, 1, 2)))
    if not as_expected:
        console.print(f"Expected {', '.join(EXPECTED)}: the cache does not work here.")
    return 0 if same and as_expected else 1


def show_how_to_ask(base_url: str, console: Console) -> None:
    console.print(f"Both go on until Ctrl-C. Try it:\n\n  curl -si {base_url}/chat/completions \\")
    body = '{"model": "joker", "messages": [{"role": "user", "content": "Tell me a joke"}]}'
    console.print(f"    -d '{body}'\n", highlight=False, soft_wrap=True)


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:,.0f} ms" if seconds >= 0.01 else f"{seconds * 1000:.1f} ms"
