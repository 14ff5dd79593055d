"""The demo: the proxy before a provider that is built in, asked for jokes over real HTTP."""

from proxy.demo.running import run

__all__ = ["run"]
