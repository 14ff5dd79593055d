"""HTTP to Call and Reply to HTTP: the data path, plain ASGI.

Source of the messages: the ASGI specification, "HTTP & WebSocket ASGI Message Format".
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from urllib.parse import quote

from starlette.types import Receive, Scope, Send

from proxy.access import Access
from proxy.control import read_control
from proxy.dialects.base import Dialect
from proxy.engine import Engine
from proxy.errors import NotCached, NotSupported, PlainHttpOnly, ProxyError
from proxy.inquiry import Inquiry
from proxy.lane import Lane
from proxy.memo import Memo, RequestBytes, bytes_of
from proxy.models import Call, Control, Event, Headers, Outcome, Passing, Reply
from proxy.providers import Providers, Route, error_dialect, split_directives
from proxy.replies import MAX_TOLD_CHARS, event_of
from proxy.routes.caller import Caller, CallerLeft
from proxy.tracing import trace_id

log = logging.getLogger("proxy.routes.llm")

# RFC 10008 QUERY is what a POST to these paths means: safe, and the body is part of the key.
ASKING_METHODS = frozenset({"POST", "QUERY"})

# Told to nobody but the log; as nginx calls it.
CALLER_LEFT = 499

_WEBSOCKETS = (
    "WebSockets cannot be cached and are not carried. Use the HTTP endpoints, or give the "
    "client the provider's own address for its WebSocket URL."
)
_OWN_FAULT = "The proxy failed on this request; its log says why."


class LLMRoute:
    """Everything below `/v1`, `/<provider>` and `/~directives`."""

    def __init__(
        self,
        *,
        engine: Engine,
        providers: Providers,
        access: Access,
        dialects: Mapping[str, Dialect],
        listener: Callable[[Event], None],
        lane: Lane,
        honour_control: bool = True,
        max_cacheable_body: int = 32 * 2**20,
        send_timeout_s: float = 30.0,
    ) -> None:
        self._engine = engine
        self._providers = providers
        self._access = access
        self._dialects = dialects
        self._listener = listener
        self._lane = lane
        self._honour_control = honour_control
        self._max_cacheable_body = max_cacheable_body
        self.send_timeout_s = send_timeout_s
        self._memo = Memo()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = _Exchange(scope, Caller(scope, receive, send, self.send_timeout_s))
        try:
            await self._answer(scope, exchange)
        except ProxyError as error:
            await self._tell(scope, exchange, error)
        except CallerLeft:
            return
        except Exception:
            log.exception("a request failed by a fault of the proxy")
            await self._tell(scope, exchange, ProxyError(_OWN_FAULT))
        finally:
            if exchange.reply is None and exchange.inquiry is not None:
                exchange.reply = self._of_one_who_left(exchange.inquiry)
            exchange.end()
            if exchange.reply is not None and exchange.reply.close is not None:
                await exchange.reply.close()

    def _of_one_who_left(self, inquiry: Inquiry) -> Reply:
        """What is counted of a caller who did not wait for the beginning of the answer."""
        verdict = inquiry.verdict
        asks_the_cache = verdict.may_read or verdict.may_write
        event = event_of(inquiry, Outcome.MISS if asks_the_cache else Outcome.BYPASS)
        event.status = CALLER_LEFT
        if asks_the_cache:
            event.reason = ""  # what is fetched may still be stored
        return Reply(CALLER_LEFT, [], b"", event, lambda: self._listener(event))

    async def _answer(self, scope: Scope, exchange: _Exchange) -> None:
        if not scope.get("raw_path"):  # ASGI leaves it to the server
            scope["raw_path"] = quote(scope["path"]).encode()
        body = await exchange.caller.body_in_one_piece()
        request = bytes_of(scope, body) if body is not None else None
        known = self._memo.find(request, scope["headers"]) if request is not None else None
        if request is not None and known is not None and known.mode is not self._engine.mode:
            self._memo.forget(request)
            known = None
        if request is not None and known is not None:
            await self._ask_again(exchange, request, known)
        else:
            await self._read(scope, exchange, request)

    async def _ask_again(self, exchange: _Exchange, request: RequestBytes, known: Inquiry) -> None:
        size = known.rendering.size
        try:
            await self._ask(exchange, known)
        finally:
            if known.rendering.size > size:  # the memo counts on the former answer
                self._memo.forget(request)

    async def _read(self, scope: Scope, exchange: _Exchange, request: RequestBytes | None) -> None:
        headers: Headers = scope["headers"]
        client = self._access.admit(headers)
        path, query = _raw(scope)
        directives, path = split_directives(path)
        control = read_control(headers, directives)
        route = self._providers.route(path, query)
        self._providers.refuse_stray(route, headers)
        dialect = self._dialects[route.dialect] if route.dialect else None
        exchange.dialect = dialect
        exchange.provider, exchange.client = route.provider.name, client or ""
        exchange.trace_id = trace_id(headers)
        if dialect is None or scope["method"] not in ASKING_METHODS:
            if any(name == b"upgrade" and b"websocket" in value.lower() for name, value in headers):
                raise (PlainHttpOnly if dialect else NotSupported)(_WEBSOCKETS)
            reason = f"{scope['method']} is not cached" if dialect else "path not cached"
            self._refuse_to_ask(control, reason)
            await self._pass_on(scope, exchange, route, client, reason, "method")
            return
        reason = _past_reading(headers)
        body = None if reason else await exchange.caller.body(self._max_cacheable_body)
        if body is None:
            reason = reason or "request body too large to be cached"
            self._refuse_to_ask(control, reason)
            await self._pass_on(scope, exchange, route, client, reason, "bypass")
            return
        call = Call(
            route.provider,
            route.path,
            query,
            route.url,
            headers,
            body,
            control,
            client,
            exchange.trace_id,
        )
        inquiry = self._engine.inquire(call, dialect)
        await self._ask(exchange, inquiry)
        if request is not None and exchange.hit and not inquiry.verdict.counted:
            self._memo.add(request, headers, inquiry)

    def _refuse_to_ask(self, control: Control, reason: str) -> None:
        if control.only_if_cached and self._honour_control:
            raise NotCached(f"Nothing of this is stored, and only-if-cached was asked: {reason}.")

    async def _ask(self, exchange: _Exchange, inquiry: Inquiry) -> None:
        exchange.reply = self._engine.at_hand(inquiry)
        if exchange.reply is not None:
            await exchange.caller.send(exchange.reply)
            if exchange.caller.finished:
                self._lane.offer(exchange.scope, inquiry, exchange.reply)
            return
        exchange.dialect, exchange.inquiry = inquiry.dialect, inquiry

        async def answer() -> None:
            exchange.reply = await self._engine.answer(inquiry)
            await exchange.caller.send(exchange.reply)

        await exchange.caller.unless_gone(answer())

    async def _pass_on(
        self,
        scope: Scope,
        exchange: _Exchange,
        route: Route,
        client: str | None,
        reason: str,
        forwarded: str,
    ) -> None:
        headers: Headers = scope["headers"]
        passing = Passing(
            scope["method"],
            route.provider,
            route.path,
            route.url,
            headers,
            exchange.caller.upload() if exchange.caller.has_body else None,
            reason,
            forwarded,
            client,
            exchange.trace_id,
        )

        async def pass_on() -> None:
            exchange.reply = await self._engine.pass_on(passing)
            await exchange.caller.send(exchange.reply)

        await exchange.caller.unless_gone(pass_on())

    async def _tell(self, scope: Scope, exchange: _Exchange, error: ProxyError) -> None:
        """An error of the proxy's own, in the format of whoever asked."""
        if exchange.caller.started:
            await exchange.caller.cut()
            return
        path = split_directives(_raw(scope)[0])[1]
        dialect = exchange.dialect or self._dialects[error_dialect(path)]
        body = dialect.error(error)
        headers = [(b"content-type", b"application/json")]
        if not error.retry_helps:
            headers.append((b"x-should-retry", b"false"))
        if isinstance(error, PlainHttpOnly):  # RFC 9110, section 15.5.22
            headers.append((b"upgrade", b"HTTP/1.1"))
        if error.retry_after is not None:
            headers.append((b"retry-after", b"%d" % error.retry_after))
        event = exchange.event(scope["path"])
        event.status, event.reason = error.status, error.code
        exchange.reply = Reply(error.status, headers, body, event, lambda: self._listener(event))
        await exchange.caller.send(exchange.reply)


class _Exchange:
    """One request and its reply, from the first byte to the last."""

    def __init__(self, scope: Scope, caller: Caller) -> None:
        self.scope = scope
        self.caller = caller
        self.provider = self.client = self.trace_id = ""
        self.dialect: Dialect | None = None
        self.inquiry: Inquiry | None = None
        self.reply: Reply | None = None
        self._began = time.perf_counter()

    @property
    def hit(self) -> bool:
        return self.reply is not None and self.reply.event.outcome is Outcome.HIT

    def event(self, path: str) -> Event:
        """What is known so far, should it end with an error of the proxy's own."""
        if self.inquiry is not None:
            return event_of(self.inquiry)
        dialect = self.dialect.name if self.dialect else ""
        path = path[:MAX_TOLD_CHARS]
        return Event(
            path,
            provider=self.provider,
            dialect=dialect,
            client=self.client,
            trace_id=self.trace_id,
        )

    def end(self) -> None:
        reply = self.reply
        if reply is None:
            return
        event, caller = reply.event, self.caller
        event.seconds = round(time.perf_counter() - self._began, 6)
        event.request_bytes, event.answer_bytes = caller.received, caller.sent
        event.cut = not caller.finished
        reply.release()


def _raw(scope: Scope) -> tuple[str, str]:
    """Path and query as they came: what is decoded cannot be forwarded unchanged."""
    return scope["raw_path"].decode("latin-1"), scope["query_string"].decode("latin-1")


def _past_reading(headers: Headers) -> str:
    if b"content-encoding" not in dict(headers):
        return ""
    for name, value in headers:
        if name == b"content-encoding" and value.strip().lower() not in (b"", b"identity"):
            return "request body with a Content-Encoding"
    return ""
