"""A Redis cluster from one event loop: which node has which keys, learnt anew after a failure."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from redis import exceptions
from redis.crc import key_slot

from cache_backends.redis_place import Place
from cache_backends.redis_server import Command, Scan, Single

Address = tuple[str, int]
# From the first slot to the last, both included.
Range = tuple[int, int, Address]


class Cluster:
    """Sends each command to the node that has its key. A command's keys are all of one slot.

    While slots move, a node names the one to ask instead: that is followed once.
    """

    def __init__(self, place: Place, options: dict[str, Any]) -> None:
        self._place = place
        self._options = options
        self._nodes: dict[Address, Single] = {}
        self._ranges: list[Range] = []
        self._learning = asyncio.Lock()

    async def run(self, commands: Sequence[Command]) -> list[Any]:
        try:
            replies = await self._send(commands, [await self._owner(each) for each in commands])
            await self._follow(commands, replies)
        except (exceptions.RedisError, OSError):
            self._ranges = []
            raise
        return replies

    async def scan(self, at: Scan, pattern: str, count: int) -> tuple[list[bytes], Scan]:
        if not self._ranges:
            await self._learn()
        owners = sorted({address for *_, address in self._ranges})
        if at.node >= len(owners):
            return [], Scan()
        found, after = await self._node(owners[at.node]).scan(at, pattern, count)
        return found, after if after.cursor else Scan(at.node + 1)

    async def aclose(self) -> None:
        nodes, self._nodes = self._nodes, {}
        for node in nodes.values():
            await node.aclose()

    async def _send(self, commands: Sequence[Command], owners: Sequence[Address]) -> list[Any]:
        parts: dict[Address, list[int]] = {}
        for place, owner in enumerate(owners):
            parts.setdefault(owner, []).append(place)
        sent = (
            self._node(owner).run([commands[place] for place in places])
            for owner, places in parts.items()
        )
        replies: list[Any] = [None] * len(commands)
        # All are waited for: none goes on behind the back of a caller who was told of an error.
        answered = await asyncio.gather(*sent, return_exceptions=True)
        for places, part in zip(parts.values(), answered, strict=True):
            if isinstance(part, BaseException):
                raise part
            for place, reply in zip(places, part, strict=True):
                replies[place] = reply
        return replies

    async def _follow(self, commands: Sequence[Command], replies: list[Any]) -> None:
        """Ask again where another node was named."""
        for place, reply in enumerate(replies):
            if isinstance(reply, exceptions.AskError):  # MovedError is one
                replies[place] = await self._ask_there(commands[place], reply)
            elif isinstance(reply, exceptions.TryAgainError | exceptions.ClusterDownError):
                raise reply

    async def _ask_there(self, command: Command, named: exceptions.AskError) -> Any:
        node = self._node((named.host, named.port))
        if isinstance(named, exceptions.MovedError):
            self._ranges = []
            return (await node.run([command]))[0]
        return (await node.run([("ASKING",), command]))[1]

    def _node(self, address: Address) -> Single:
        node = self._nodes.get(address)
        if node is None:
            node = Single.at(*address, tls=self._place.tls, options=self._options)
            self._nodes[address] = node
        return node

    async def _owner(self, command: Command) -> Address:
        if not self._ranges:
            await self._learn()
        key = command[3 if command[0] == "EVAL" else 1]
        slot = key_slot(key.encode())
        for first, last, address in self._ranges:
            if first <= slot <= last:
                return address
        raise exceptions.SlotNotCoveredError("no node has the slot of a key")

    async def _learn(self) -> None:
        async with self._learning:
            if self._ranges:  # somebody else just did
                return
            failure: Exception = exceptions.ConnectionError("no node is known")
            for address in dict.fromkeys((*self._nodes, *self._place.hosts)):
                try:
                    (reply,) = await self._node(address).run([("CLUSTER", "SLOTS")])
                    if isinstance(reply, exceptions.ResponseError):
                        raise reply
                    self._ranges = [_range(row, address) for row in reply]
                except (exceptions.RedisError, OSError) as exc:
                    failure = exc
                    continue
                await self._drop_others()
                return
            raise failure

    async def _drop_others(self) -> None:
        known = {address for *_, address in self._ranges}
        for address in [each for each in self._nodes if each not in known]:
            await self._nodes.pop(address).aclose()


def _range(row: Any, asked: Address) -> Range:
    first, last, (host, port, *_), *_ = row
    # A node that does not know its own name is where it was asked.
    return first, last, (host.decode() if host else asked[0], port)
