"""Shows Prometheus what was counted, and how it stands at the moment."""

from __future__ import annotations

import asyncio

from proxy.flights import Flights
from proxy.metrics import Metrics, State
from proxy.store import Store
from proxy.tally import Taken


class Standing:
    """Looks at the parts that have a state."""

    def __init__(self, metrics: Metrics, store: Store, flights: Flights) -> None:
        self._metrics = metrics
        self._store = store
        self._flights = flights

    def add(self, taken: Taken) -> None:
        """Count what was taken from the tally, and note how it stands."""
        self._metrics.add(taken)
        self._metrics.note(self._state())

    async def page(self, accept: str) -> tuple[bytes, str]:
        """What Prometheus reads, and its content type."""
        totals = await self._store.totals()
        state = self._state()
        if totals is not None:
            state = state._replace(entries=totals.entries, bytes=totals.bytes)
        # With several workers it reads files.
        return await asyncio.to_thread(self._metrics.tell, state, accept)

    def _state(self) -> State:
        return State(
            flights=len(self._flights),
            backlog_bytes=self._flights.backlogs.bytes,
            cache_skipped=self._store.state == "skipped",
        )
