"""How a command ends: with an exit code, and one clear line where it did not do what was asked."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from proxy.errors import ConfigError, ProxyError

REFUSED = 1  # the proxy said no, or something is wrong
UNUSABLE = 2  # what was given cannot be used
OUT_OF_REACH = 3  # no proxy answers
INTERRUPTED = 130  # as a shell tells of SIGINT
LEFT_ALONE = 141  # as a shell tells of SIGPIPE: nobody reads what is printed any more


class Refused(Exception):
    """The proxy said no, by this status; or something that was looked at is not as it should be."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class OutOfReach(Exception):
    """No proxy answers there, or it broke off."""


@contextmanager
def told() -> Iterator[None]:
    """Tell what went wrong; anything unforeseen is a fault of ours and is shown whole."""
    try:
        yield
        sys.stdout.flush()
    except (ConfigError, ProxyError) as error:
        raise _end(error, UNUSABLE) from None
    except Refused as error:
        raise _end(error, REFUSED) from None
    except OutOfReach as error:
        raise _end(error, OUT_OF_REACH) from None
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
    except BrokenPipeError:
        # What is still to be flushed at exit would be complained of.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(LEFT_ALONE) from None


def complain(message: object) -> None:
    typer.echo(f"llm-cache-proxy: {message}", err=True)


def _end(error: Exception, status: int) -> typer.Exit:
    complain(error)
    return typer.Exit(status)
