"""Filling the cache ahead of time: requests by the line, asked of the proxy as clients would.

{"path": "/v1/chat/completions", "headers": {...}, "body": {...}}
{"model": ..., "messages": [...]}                                   the body alone
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

import orjson

from proxy.credentials import presented
from proxy.errors import BadRequest, ProxyError
from proxy.keys import CREDENTIAL_HEADERS
from proxy.lines import LineSplitter
from proxy.models import Headers
from proxy.providers import Providers, split_directives

MAX_LINE_BYTES = 64 * 2**20
MAX_CONCURRENCY = 64
# Of an error's body so much is read, and of its message so much told.
_ERROR_BYTES = 64 * 2**10
_ERROR_CHARS = 500
Message = MutableMapping[str, Any]
# An ASGI app.
LLM = Callable[
    [
        MutableMapping[str, Any],
        Callable[[], Awaitable[Message]],
        Callable[[Message], Awaitable[None]],
    ],
    Awaitable[None],
]

_AROUND = {"path", "headers", "body"}
_HEADERS = {"content-type": "application/json"}


@dataclass(slots=True)
class Warmed:
    """What became of one line."""

    line: int
    outcome: str | None = None
    id: str | None = None
    status: int | None = None
    error: str | None = None

    def as_json(self) -> dict[str, Any]:
        told = {name: getattr(self, name) for name in ("line", "outcome", "id", "status", "error")}
        return {name: value for name, value in told.items() if value is not None}


@dataclass(slots=True)
class Sums:
    """What became of all."""

    lines: int = 0
    failed: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)

    def add(self, warmed: Warmed) -> None:
        self.lines += 1
        self.failed += warmed.error is not None
        if warmed.outcome is not None:
            self.outcomes[warmed.outcome] += 1

    def as_json(self) -> dict[str, Any]:
        return {"done": True, "lines": self.lines, "failed": self.failed, "outcomes": self.outcomes}


@dataclass(frozen=True, slots=True)
class _Asked:
    path: str
    headers: Headers = field(repr=False)
    body: bytes = field(repr=False)


class Warmer:
    """Asks `llm`, the proxy's own route, `concurrency` requests at a time and at most `rate` a
    second. `credential` is presented with each that has none of its own."""

    def __init__(
        self,
        llm: LLM,
        providers: Providers,
        *,
        path: str = "",
        credential: str | None = None,
        concurrency: int = 4,
        rate: float | None = None,
    ) -> None:
        self._llm = llm
        self._providers = providers
        self._path = path
        self._credential = credential
        self._concurrency = concurrency
        self._pause_s = 1 / rate if rate else 0.0
        self._next_at = 0.0

    async def run(self, pieces: AsyncIterator[bytes]) -> AsyncIterator[dict[str, Any]]:
        """Give each line's end as it comes, and the sums at last. Closed, it asks no more."""
        sums = Sums()
        asking: set[asyncio.Task[Warmed]] = set()
        lines = self._lines(pieces)
        try:
            async for number, line in lines:
                if len(asking) >= self._concurrency:
                    done, asking = await asyncio.wait(asking, return_when=asyncio.FIRST_COMPLETED)
                    for task in done:
                        yield self._told(task, sums)
                await self._wait_for_turn()
                asking.add(asyncio.create_task(self._warm(number, line)))
            while asking:
                done, asking = await asyncio.wait(asking, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    yield self._told(task, sums)
            yield sums.as_json()
        finally:
            for task in asking:
                task.cancel()
            await asyncio.gather(*asking, return_exceptions=True)

    @staticmethod
    def _told(task: asyncio.Task[Warmed], sums: Sums) -> dict[str, Any]:
        sums.add(task.result())
        return task.result().as_json()

    @staticmethod
    async def _lines(pieces: AsyncIterator[bytes]) -> AsyncIterator[tuple[int, bytes | None]]:
        splitter = LineSplitter(MAX_LINE_BYTES)
        async for piece in pieces:
            for each in splitter.feed(piece):
                yield each
        for each in splitter.finish():
            yield each

    async def _wait_for_turn(self) -> None:
        now = asyncio.get_running_loop().time()
        if self._next_at > now:
            await asyncio.sleep(self._next_at - now)
        self._next_at = max(now, self._next_at) + self._pause_s

    async def _warm(self, number: int, line: bytes | None) -> Warmed:
        warmed = Warmed(number)
        try:
            await self._ask(self._read(line), warmed)
        except ProxyError as error:
            warmed.error = str(error)
        except Exception as error:  # noqa: BLE001 - the other lines go on
            warmed.error = f"the proxy failed: {type(error).__name__}"
        return warmed

    def _read(self, line: bytes | None) -> _Asked:
        if line is None:
            raise BadRequest(f"more than {MAX_LINE_BYTES} bytes")
        try:
            said = orjson.loads(line)
        except orjson.JSONDecodeError as exc:
            raise BadRequest(f"not JSON: {exc.msg}") from exc
        if not isinstance(said, dict):
            raise BadRequest("expected an object")
        around = "body" in said and said.keys() <= _AROUND
        body = said["body"] if around else said
        path = said.get("path", self._path) if around else self._path
        given = said.get("headers", {}) if around else {}
        if not isinstance(path, str) or not path.startswith("/") or not path.isascii():
            raise BadRequest("path: say where it is sent, such as /v1/chat/completions")
        if not isinstance(body, dict):
            raise BadRequest("body: expected an object")
        raw = line if not around else orjson.dumps(body)
        return _Asked(path, self._headers(given, path, raw), raw)

    def _headers(self, given: Any, path: str, body: bytes) -> Headers:
        if not isinstance(given, dict) or not all(
            isinstance(value, str) and value.isprintable() for value in given.values()
        ):
            raise BadRequest("headers: expected an object of texts")
        said = {name.lower(): value for name, value in (_HEADERS | given).items()}
        said |= {"content-length": str(len(body))}
        headers = [
            (name.encode("latin-1", "replace"), value.encode("latin-1", "replace"))
            for name, value in said.items()
        ]
        if self._credential is None or any(name in CREDENTIAL_HEADERS for name, _ in headers):
            return headers
        plain, _, query = split_directives(path)[1].partition("?")
        route = self._providers.route(plain, query)
        return [*headers, *presented(self._credential, route.provider, route.dialect or "")]

    async def _ask(self, asked: _Asked, warmed: Warmed) -> None:
        exchange = _Exchange(asked.body)
        await self._llm(_scope(asked), exchange.receive, exchange.send)
        warmed.status = exchange.status
        warmed.outcome = exchange.header(b"x-cache")
        warmed.id = exchange.header(b"x-llm-cache-id")
        if not exchange.ended:
            warmed.error = "the answer broke off"
        elif exchange.status >= 400:
            warmed.error = _message(exchange.error) or f"status {exchange.status}"


class _Exchange:
    """One request in this process, by ASGI: what is told is not kept, but for errors."""

    def __init__(self, body: bytes) -> None:
        self._body: bytes | None = body
        self.status = 0
        self.ended = False
        self.error = b""
        self._headers: Headers = []

    async def receive(self) -> Message:
        if self._body is None:
            await asyncio.Event().wait()  # who asks does not leave before the end
        body, self._body = self._body, None
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self._headers = list(message.get("headers", ()))
            return
        if self.status >= 400 and len(self.error) < _ERROR_BYTES:
            self.error += message.get("body", b"")
        self.ended = not message.get("more_body", False)

    def header(self, name: bytes) -> str | None:
        return next((value.decode("latin-1") for key, value in self._headers if key == name), None)


def _scope(asked: _Asked) -> dict[str, Any]:
    path, _, query = asked.path.partition("?")
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": unquote(path),
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": asked.headers,
        "client": None,
        "server": None,
        "extensions": {},
    }


def _message(body: bytes) -> str:
    """What an error says, in whichever dialect."""
    try:
        told = orjson.loads(body)["error"]
        message = told["message"] if isinstance(told, Mapping) else told
        return str(message)[:_ERROR_CHARS]
    except (ValueError, TypeError, KeyError):
        return ""
