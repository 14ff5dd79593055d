"""The server's protocol with the hit lane: what it knows is answered before there is a task."""

from __future__ import annotations

import asyncio

from proxy.lane import HEAD_END, HEAD_EXTENSION, LANE, Lane
from proxy.protocol import Protocol


class LaneProtocol(Protocol):
    """Offers each read to the lane while the connection is quiet: no message has begun, none is
    being answered, and what was sent is taken. All else goes on, unread, to `Protocol`.

    The lane is what the app has put into the lifespan's state; without one this is `Protocol`.
    """

    _lane: Lane | None = None
    _unread: bytes | None = None  # what the parser is given, if a message begins with it
    _head_source: bytes | None = None  # the same, once that message has begun
    _missing = 0  # bytes of the request that is being gathered
    _used_at = 0.0  # in the loop's seconds

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in `Protocol`
        super().connection_made(transport)
        self._gathered: list[bytes] = []
        config = self.config
        # What the server adds to answers, logs or refuses of its own, the lane does not.
        plain = config.date_header and not config.encoded_headers and not self.access_log
        if plain and self.limit_concurrency is None:
            self._lane = self.app_state.get(LANE)

    def data_received(self, data: bytes) -> None:
        lane = self._lane
        if lane is None:
            super().data_received(data)
            return
        if self._missing:
            self._gathered.append(data)
            self._missing -= len(data)
            self._used_at = self.loop.time()
            if self._missing > 0:
                return
            data = self._all_gathered()
        if self._is_quiet():
            answer = lane.answer(data)
            if answer is not None:
                self.transport.write(answer)
                self._has_answered()
                return
            data = self._one_by_one(lane, data)
            if not data:
                return
            self._unread = data
        super().data_received(data)
        self._unread = self._head_source = None

    def _is_quiet(self) -> bool:
        cycle = self.cycle
        return (
            not self._begun
            and (cycle is None or cycle.response_complete)
            and not self.pipeline
            and not self.flow.write_paused
            and not self._refused
        )

    def _one_by_one(self, lane: Lane, data: bytes) -> bytes:
        """Answer those of several requests that are known, in their order; return the rest.

        Nothing is left where the last one is known so far and its body is yet to come.
        """
        at = 0
        while at < len(data) and not self.flow.write_paused:
            body = data.find(HEAD_END, at) + len(HEAD_END)
            length = lane.length(data[at:body]) if body >= at + len(HEAD_END) else None
            if length is None:
                break
            end = body + length
            if len(data) < end:
                self._gather(data[at:], end - len(data))
                return b""
            answer = lane.answer(data[at:end]) if at or end < len(data) else None
            if answer is None:
                break
            self.transport.write(answer)
            self._has_answered()
            at = end
        return data[at:]

    def _gather(self, begun: bytes, missing: int) -> None:
        self._gathered.append(begun)
        self._missing = missing
        self._is_used()

    def _all_gathered(self) -> bytes:
        data = b"".join(self._gathered)
        self._gathered.clear()
        self._missing = 0
        return data

    def _has_answered(self) -> None:
        self.server_state.total_requests += 1
        self._is_used()

    def _is_used(self) -> None:
        """Begin the time anew that the connection may be idle, or a body late."""
        # The timer is not set anew each time: it looks when it goes off.
        self._used_at = self.loop.time()
        if self._deadline is not None:
            self._stop_deadline()
        if self.timeout_keep_alive_task is None:
            self._set_keep_alive(self.timeout_keep_alive)

    def timeout_keep_alive_handler(self) -> None:
        left = self._used_at + self.timeout_keep_alive - self.loop.time()
        if left > 0:
            self._set_keep_alive(left)
        else:
            super().timeout_keep_alive_handler()

    def shutdown(self) -> None:
        if self._missing:
            super().data_received(self._all_gathered())  # who has begun to ask is answered
        super().shutdown()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head_source, self._unread = self._unread, None

    def on_headers_complete(self) -> None:
        source, self._head_source = self._head_source, None
        super().on_headers_complete()
        if source is not None:
            end = source.find(HEAD_END) + len(HEAD_END)
            self.scope["extensions"][HEAD_EXTENSION] = {"head": source[:end]}
