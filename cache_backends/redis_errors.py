"""What is told of errors of Redis: what is wrong, and where there is one, the way out.

Texts of the server are not passed on: some quote what they were sent.
"""

from __future__ import annotations

import re
import ssl

from redis import exceptions
from redis.asyncio.sentinel import MasterNotFoundError

# The first that fits.
_KINDS: tuple[tuple[type[BaseException], str], ...] = (
    (exceptions.AuthenticationError, "does not accept the user or password"),
    (exceptions.AuthenticationWrongNumberOfArgsError, "does not accept the user or password"),
    (exceptions.NoPermissionError, "does not let this user run all commands that are needed"),
    (exceptions.OutOfMemoryError, "is out of memory"),
    (exceptions.ReadOnlyError, "is a replica, which takes no writes"),
    (exceptions.BusyLoadingError, "is loading its data"),
    (exceptions.ClusterError, "is a cluster that is down"),
    (exceptions.SlotNotCoveredError, "is a cluster that is down"),
    (exceptions.AskError, "is a node of a cluster: use redis+cluster://"),
    (exceptions.ConnectionError, "cannot be reached"),
    (exceptions.TimeoutError, "did not answer in time"),
    (exceptions.RedisClusterException, "cannot be reached as a cluster"),
    (exceptions.ResponseError, "refused a command"),
    (OSError, "cannot be reached"),
)

# How the texts begin of errors that have no kind of their own.
_TEXTS = (
    ("DB index is out of range", "has no database of this number"),
    ("SELECT is not allowed in cluster mode", "is a node of a cluster: use redis+cluster://"),
    ("This instance has cluster support disabled", "is no cluster: use redis://"),
    ("unknown command 'SENTINEL'", "is no sentinel: use redis://"),
    ("unknown command `SENTINEL`", "is no sentinel: use redis://"),
    (
        "max number of clients reached",
        "takes no more clients: raise its maxclients or lower max_connections",
    ),
    ("NOREPLICAS", "takes no writes: it has fewer replicas than its min-replicas-to-write"),
    ("MISCONF", "takes no writes: it cannot save its data, its log says why"),
)

_CERTIFICATES = {  # by OpenSSL's numbers
    10: "has a certificate that has expired",
    62: "has a certificate of another host",
    64: "has a certificate of another host",
}
_UNKNOWN_CERTIFICATE = "has a certificate that cannot be verified: give ssl_ca_certs= in the URL"
_NO_TLS = "and we do not agree on TLS: check redis:// or rediss://, and the ssl_ options"

# Redis 6 wraps what goes wrong in a script; later ones say it as elsewhere.
_IN_SCRIPT = re.compile(r"Error running script .*@user_script: ?\d+: -?([A-Z]+) ", re.DOTALL)
_KINDS_IN_SCRIPTS: dict[str, type[exceptions.ResponseError]] = {
    "OOM": exceptions.OutOfMemoryError,
    "READONLY": exceptions.ReadOnlyError,
    "NOPERM": exceptions.NoPermissionError,
}


def reason(exc: BaseException) -> str:
    """What is wrong with the server, to be read after its address."""
    cause = _cause(exc)
    if isinstance(cause, ssl.SSLCertVerificationError):
        return _CERTIFICATES.get(cause.verify_code, _UNKNOWN_CERTIFICATE)
    if isinstance(cause, ssl.SSLError):
        return _NO_TLS
    if isinstance(cause, FileNotFoundError):
        return "cannot be reached: a file that its URL names is not there"
    # What follows the name tells of sentinels that could not be asked.
    if isinstance(exc, MasterNotFoundError) and " : " not in str(exc):
        return "has no primary of this name that is up: check the service in the URL"
    if isinstance(exc, exceptions.RedisError):
        for beginning, told in _TEXTS:
            if str(exc).startswith(beginning):
                return told
    for kind, told in _KINDS:
        if isinstance(exc, kind):
            return told
    return "does not speak Redis's protocol"


def is_wrong_type(reply: Exception) -> bool:
    """Does the key hold something else than what was asked for?"""
    return str(reply).startswith("WRONGTYPE") or _code_in_script(reply) == "WRONGTYPE"


def unwrapped(reply: Exception) -> Exception:
    """The error itself, where it is told as one of a script."""
    kind = _KINDS_IN_SCRIPTS.get(_code_in_script(reply))
    return reply if kind is None else kind("in a script")


def _code_in_script(reply: Exception) -> str:
    found = _IN_SCRIPT.match(str(reply))
    return found[1] if found else ""


def _cause(exc: BaseException) -> BaseException | None:
    """What kept redis-py from connecting; else what is handled may be an error of our caller."""
    return exc.__cause__ or exc.__context__ if " connecting to " in str(exc) else None
