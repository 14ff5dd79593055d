"""Who may enter `/admin`: tokens and what each may do, foreign pages, wrong tokens."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import logging
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from typing import TypeVar
from urllib.parse import urlsplit

from fastapi import Request, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from proxy.access import Access
from proxy.errors import Forbidden, TooManyAttempts, Unauthorized
from proxy.models import Headers
from proxy.routes.admin_query import refuse_unknown_parameters

# Different wrong tokens from one address within so long, before it has to wait. The same one again
# is no guess, but a program that was not told of another.
MAX_GUESSES = 10
GUESSES_S = 60.0
_DIGEST_BYTES = 8  # that tell guesses apart
# Addresses that are remembered; past it the one that was heard of first is forgotten.
MAX_ADDRESSES = 10_000

# Where a request's visitor stands in its scope, once he is known.
VISITOR = "llm_cache_proxy.visitor"

OFF = (
    "The admin API is off: others than this machine could try tokens here, and none is set. "
    "Set LLM_CACHE_PROXY_ADMIN__TOKEN."
)
_FOREIGN = "Requests from other sites' pages are refused."
# What a browser says of a link that was followed, in a window of its own. Source: W3C, Fetch
# Metadata Request Headers.
_OPENED = {(b"sec-fetch-mode", b"navigate"), (b"sec-fetch-dest", b"document")}
_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})

log = logging.getLogger("proxy.admin")

_T = TypeVar("_T")

# What OpenAPI tells of the token; it is read by the gate.
_SHOWN = Security(HTTPBearer(auto_error=False, scheme_name="token"))


class Role(Enum):
    """What a visitor may do."""

    FULL = "all"
    FIGURES = "figures"  # nothing that was asked or answered
    CLIENT = "own entries"


@dataclass(frozen=True, slots=True)
class Visitor:
    """Who entered. `who` names the token, for logs."""

    role: Role
    who: str
    client: str | None = None


class Gate:
    """Tells visitors by their bearer tokens.

    `hosts` are the names that this listener goes by, `None` if it may have any. `access` knows the
    clients' tokens. Without a token of its own the gate is shut, for clients too.
    """

    def __init__(
        self,
        *,
        token: str | None = None,
        read_token: str | None = None,
        access: Access | None = None,
        hosts: Iterable[str] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        own = (
            (token, Visitor(Role.FULL, "admin.token")),
            (read_token, Visitor(Role.FIGURES, "admin.read_token")),
        )
        # Digests have one length: comparing them tells nothing of a token, not even its length.
        self._own = [(_digest(text.encode()), visitor) for text, visitor in own if text]
        self._access = access or Access()
        self._hosts = None if hosts is None else _LOOPBACK_NAMES | {each.lower() for each in hosts}
        self._guesses = Guesses(clock)

    @property
    def refused(self) -> int:
        """Wrong tokens since the start."""
        return self._guesses.total

    def admits(self, *roles: Role) -> Admits:
        """A dependency that gives the Visitor, if he has one of these roles."""
        return Admits(self, frozenset(roles))

    def visitor(self, headers: Headers, address: str) -> Visitor:
        """Who presents a token. Raises Unauthorized, Forbidden or TooManyAttempts."""
        if not self._own:
            raise Forbidden(OFF)
        presented = _bearer(headers)
        visitor = self._holder(presented)
        self._guesses.check(address, right=visitor is not None)
        if visitor is None:
            self._guesses.add(address, presented)
            raise Unauthorized("This is not a token of this proxy's admin API.")
        return visitor

    def refuse_foreign_pages(self, headers: Headers, *, may_link: bool = False) -> None:
        """Raises Forbidden for what a page of another site sends, or one that took our name.

        `may_link`: what is asked for may be opened by a link from there.
        """
        hosts = [value.decode("latin-1").lower() for name, value in headers if name == b"host"]
        if self._hosts is not None and not all(_host(each) in self._hosts for each in hosts):
            raise Forbidden(
                "This Host is not served here. If it should be, name it in [server] allowed_hosts."
            )
        for name, value in headers:
            if name == b"origin" and _netloc(value) not in hosts:
                raise Forbidden(_FOREIGN)
            if name == b"sec-fetch-site" and value.lower() not in (b"same-origin", b"none"):
                if may_link and set(headers) >= _OPENED:
                    continue
                raise Forbidden(_FOREIGN)

    def _holder(self, presented: bytes) -> Visitor | None:
        digest = _digest(presented)
        found = None
        for known, visitor in self._own:
            if hmac.compare_digest(known, digest):
                found = visitor
        if found is None and (client := self._access.name_of(presented)) is not None:
            found = Visitor(Role.CLIENT, f"client {client}", client)
        return found


class Admits:
    """What a route declares: whom it serves. FastAPI calls it before the route."""

    def __init__(self, gate: Gate, roles: frozenset[Role]) -> None:
        self._gate = gate
        self._roles = roles

    async def __call__(
        self,
        request: Request,
        shown: HTTPAuthorizationCredentials | None = _SHOWN,  # noqa: ARG002 - for OpenAPI
    ) -> Visitor:
        visitor: Visitor | None = request.scope.get(VISITOR)
        if visitor is None:  # nobody has looked yet
            address = request.client.host if request.client else ""
            visitor = self._gate.visitor(request.scope["headers"], address)
        if visitor.role not in self._roles:
            raise Forbidden(f"{visitor.who} may not do this: it needs {_needed(self._roles)}.")
        refuse_unknown_parameters(request)
        return visitor


class Guesses:
    """Counts wrong tokens by address, and has those wait who try many.

    A right token is refused only where all that ever came from an address were wrong ones: and not
    on this machine, whose users share one address.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._wrong: OrderedDict[str, tuple[set[bytes], float]] = OrderedDict()  # since when
        self._right: OrderedDict[str, None] = OrderedDict()
        self.total = 0

    def check(self, address: str, *, right: bool) -> None:
        """Raises TooManyAttempts."""
        place = _place(address)
        if right and (place in self._right or _is_here(place)):
            return
        tried, since = self._wrong.get(place, ((), 0.0))
        wait = since + GUESSES_S - self._clock()
        if len(tried) >= MAX_GUESSES and wait > 0:
            self.total += not right
            raise TooManyAttempts("Too many wrong tokens.", retry_after=math.ceil(wait))
        if right:
            _remember(self._right, place, None)

    def add(self, address: str, token: bytes) -> None:
        self.total += 1
        place, now = _place(address), self._clock()
        tried, since = self._wrong.get(place, (set(), now))
        if since + GUESSES_S <= now:
            tried, since = set(), now
        tried.add(_digest(token)[:_DIGEST_BYTES])
        _remember(self._wrong, place, (tried, since))
        if len(tried) == MAX_GUESSES:
            log.warning("%d wrong admin tokens from %s: it has to wait", MAX_GUESSES, place)


def _remember(table: OrderedDict[str, _T], place: str, value: _T) -> None:
    table[place] = value
    if len(table) > MAX_ADDRESSES:
        table.popitem(last=False)


def _place(address: str) -> str:
    """What one attacker has of addresses: in IPv6 a whole network."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address[:64]
    if found.version == 6 and found.ipv4_mapped is None and not found.is_loopback:
        return str(ipaddress.ip_network((found, 64), strict=False))
    return str(found)


def _is_here(place: str) -> bool:
    try:
        return ipaddress.ip_address(place).is_loopback
    except ValueError:
        return not place  # a Unix socket has no address


def _bearer(headers: Headers) -> bytes:
    values = [value for name, value in headers if name == b"authorization"]
    if not values:
        raise Unauthorized("This needs a token: Authorization: Bearer <admin.token>.")
    scheme, _, token = values[0].partition(b" ")
    if len(values) > 1 or scheme.lower() != b"bearer" or not token.strip():
        raise Unauthorized("This needs one token: Authorization: Bearer <admin.token>.")
    return token.strip(b" ")


def _needed(roles: frozenset[Role]) -> str:
    return "admin.token or admin.read_token" if Role.FIGURES in roles else "admin.token"


def _host(value: str) -> str:
    """The name in a Host header, without the port; "" if it is none."""
    if any(char in value for char in "/@?#\\"):
        return ""
    try:
        return urlsplit(f"//{value}").hostname or ""
    except ValueError:
        return ""


def _netloc(origin: bytes) -> str:
    """Host and port of an Origin, as a Host header has them."""
    return origin.decode("latin-1").lower().partition("://")[2]


def _digest(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()
