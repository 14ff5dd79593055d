"""Redis as tests need it: alone, as a cluster, and watched over by a Sentinel."""

from __future__ import annotations

import signal
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from redis import Redis, RedisError
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.fakes.servers import HOST, Server, ServerMissing, program, wait_until

CERTIFICATE = Path(__file__).parent / "localhost.pem"
SLOTS = 16_384
# How a Sentinel calls what it watches over.
SERVICE = "primary"
# After so long without an answer a node counts as gone.
GONE_MS = 500


def redis_program() -> str:
    """The server's program; Valkey's where that is all there is."""
    if found := program("redis-server", "valkey-server"):
        return found
    raise ServerMissing("redis-server")


class RedisServer(Server):
    """A Redis that keeps nothing on disk, unless the options say so.

    Options are lines of redis.conf: `maxmemory="1mb"`, `appendonly="yes"`, `replicaof="HOST PORT"`.
    """

    stop_signal = signal.SIGTERM
    kill_signal = signal.SIGKILL

    def __init__(self, *, password: str = "", tls: bool = False, **options: Any) -> None:
        self._program = redis_program()
        super().__init__()
        self.password = password
        self._tls = tls
        self._options = options

    @property
    def url(self) -> str:
        scheme, query = ("rediss", f"?ssl_ca_certs={CERTIFICATE}") if self._tls else ("redis", "")
        login = f":{self.password}@" if self.password else ""
        return f"{scheme}://{login}{HOST}:{self.port}/0{query}"

    def prepare(self) -> None:
        lines: dict[str, Any] = {"bind": HOST, "dir": self.folder, "save": '""'}
        lines |= self._listening() | self._options
        if self.password:
            lines["requirepass"] = self.password
        told = [f"{name.replace('_', '-')} {value}\n" for name, value in lines.items()]
        self._file.write_text("".join(told))

    def command(self) -> list[str]:
        return [self._program, str(self._file)]

    def is_up(self) -> bool:
        try:
            return bool(self.ask("PING"))
        except RedisError:
            return False

    def ask(self, *command: Any) -> Any:
        """What it answers to one command, behind the backend's back; nothing is tried twice."""
        once = Retry(NoBackoff(), 0)
        with Redis.from_url(
            self.url, retry=once, socket_timeout=2.0, decode_responses=True
        ) as client:
            return client.execute_command(*command)

    @property
    def _file(self) -> Path:
        return self.folder / "redis.conf"

    def _listening(self) -> dict[str, Any]:
        if not self._tls:
            return {"port": self.port}
        files = dict.fromkeys(("tls-cert-file", "tls-key-file", "tls-ca-cert-file"), CERTIFICATE)
        return {"port": 0, "tls-port": self.port, "tls-auth-clients": "no", **files}


class Sentinel(RedisServer):
    """What watches over a primary and its replicas; it keeps what it learns in its file."""

    def command(self) -> list[str]:
        return [*super().command(), "--sentinel"]

    def prepare(self) -> None:
        self._file.write_text(
            f"port {self.port}\nbind {HOST}\ndir {self.folder}\n"
            f"sentinel monitor {SERVICE} {HOST} {self._options['watched']} 1\n"
            f"sentinel down-after-milliseconds {SERVICE} {GONE_MS}\n"
            f"sentinel failover-timeout {SERVICE} {2 * GONE_MS}\n"
        )


class Group:
    """Servers that belong together, started and closed together."""

    def __init__(self) -> None:
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        raise NotImplementedError

    def close(self) -> None:
        self._stack.close()

    def _add(self, kind: Callable[..., RedisServer] = RedisServer, **options: Any) -> RedisServer:
        return self._stack.enter_context(kind(**options))


class RedisCluster(Group):
    """Three nodes, each with a third of the slots; `url` is that of the first."""

    nodes: list[RedisServer]

    def start(self) -> None:
        self.nodes = [
            self._add(cluster_enabled="yes", cluster_node_timeout=GONE_MS) for _ in range(3)
        ]
        for place, node in enumerate(self.nodes):
            bounds = [SLOTS * border // len(self.nodes) for border in (place, place + 1)]
            node.ask("CLUSTER", "ADDSLOTS", *range(*bounds))
            node.ask("CLUSTER", "SET-CONFIG-EPOCH", place + 1)
            self.nodes[0].ask("CLUSTER", "MEET", HOST, node.port)
        wait_until(lambda: all(map(self._knows_all, self.nodes)), "the cluster does not form")

    @property
    def url(self) -> str:
        return self.nodes[0].url

    def _knows_all(self, node: RedisServer) -> bool:
        told: dict[str, str] = node.ask("CLUSTER INFO")
        known = int(told["cluster_known_nodes"])
        return told["cluster_state"] == "ok" and known == len(self.nodes)


class RedisSentinel(Group):
    """A primary, a replica, and a Sentinel that puts the one in place of the other.

    `url` is the Sentinel's address and how it calls what it watches over.
    """

    primary: RedisServer
    replica: RedisServer
    sentinel: RedisServer

    def start(self) -> None:
        self.primary = self._add(repl_diskless_sync_delay=0)
        self.replica = self._add(replicaof=f"{HOST} {self.primary.port}")
        wait_until(self._in_step, "the replica does not follow")
        self.sentinel = self._add(Sentinel, watched=self.primary.port)
        wait_until(self._watched, "the Sentinel does not find the replica")

    @property
    def url(self) -> str:
        return f"redis+sentinel://{HOST}:{self.sentinel.port}/{SERVICE}/0"

    def _in_step(self) -> bool:
        told: dict[str, str] = self.replica.ask("INFO", "replication")
        return told["master_link_status"] == "up"

    def _watched(self) -> bool:
        told: dict[str, dict[str, Any]] = self.sentinel.ask("INFO", "sentinel")
        return (told["master0"]["status"], told["master0"]["slaves"]) == ("ok", 1)
