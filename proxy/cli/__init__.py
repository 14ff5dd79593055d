"""The command line of llm-cache-proxy."""

from proxy.cli.commands import app, main

__all__ = ["app", "main"]
