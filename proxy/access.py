"""Who may ask: client tokens, foreign hosts and origins, and whose credential goes upstream."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from urllib.parse import urlsplit

from proxy.errors import Forbidden, Unauthorized
from proxy.keys import COOKIE, CREDENTIAL_HEADERS
from proxy.models import Headers, Provider

_KEY_HEADERS = (b"authorization", b"api-key", b"x-api-key", b"x-goog-api-key")
_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})


class Access:
    """Admits callers and dresses their requests for the provider.

    `tokens` are the clients' by name; with none, everyone who reaches the port is admitted.
    `guard_browser` is for keys that the operator holds while anyone on this machine may ask:
    pages of other sites must not spend them (DNS rebinding, cross-site requests).
    """

    def __init__(
        self,
        tokens: Mapping[str, str] | None = None,
        *,
        guard_browser: bool = False,
        allowed_hosts: frozenset[str] = frozenset(),
    ) -> None:
        # Digests have one length: comparing them tells nothing of a token, not even its length.
        self._digests = {_digest(token.encode()): name for name, token in (tokens or {}).items()}
        self._guard_browser = guard_browser
        self._hosts = _LOOPBACK_NAMES | {host.lower() for host in allowed_hosts}

    def admit(self, headers: Headers) -> str | None:
        """The name of the client, `None` where no tokens are configured.

        Raises Unauthorized or Forbidden.
        """
        if self._guard_browser:
            self._refuse_foreign_pages(headers)
        if not self._digests:
            return None
        for presented in _presented(headers):
            if (name := self.name_of(presented)) is not None:
                return name
        raise Unauthorized(
            "This proxy asks for a client token. Present the one you were given as the API key."
        )

    def name_of(self, token: bytes) -> str | None:
        """The name of the client whose token this is."""
        digest = _digest(token)
        for known, name in self._digests.items():
            if hmac.compare_digest(known, digest):
                return name
        return None

    def dress(self, headers: Headers, provider: Provider) -> Headers:
        """The caller's headers with the credential that the provider is to see.

        A client token is meant for this proxy and goes no further.
        """
        if provider.api_key is None and not self._digests:
            return headers
        dropped = CREDENTIAL_HEADERS | {COOKIE, provider.auth_header.encode()}
        bare = [pair for pair in headers if pair[0] not in dropped]
        if provider.api_key is None:
            return bare
        if provider.auth_header == "authorization":
            return [*bare, (b"authorization", b"Bearer " + provider.api_key.encode())]
        return [*bare, (provider.auth_header.encode(), provider.api_key.encode())]

    def _refuse_foreign_pages(self, headers: Headers) -> None:
        for name, value in headers:
            if name == b"host" and _host(value.decode("latin-1")) not in self._hosts:
                raise Forbidden(
                    "This Host is not served here. If it should be, name it in "
                    "[server] allowed_hosts."
                )
            if name == b"origin" and not self._is_own(value):
                raise Forbidden("Requests from other sites' pages are refused: keys are held here.")
            if name == b"sec-fetch-site" and value == b"cross-site":
                raise Forbidden("Requests from other sites' pages are refused: keys are held here.")

    def _is_own(self, origin: bytes) -> bool:
        try:
            return (urlsplit(origin.decode("latin-1")).hostname or "") in self._hosts
        except ValueError:
            return False


def _presented(headers: Headers) -> list[bytes]:
    values = [value for name, value in headers if name in _KEY_HEADERS]
    return [value[7:].strip() if value[:7].lower() == b"bearer " else value for value in values]


def _host(value: str) -> str:
    """The name in a Host header, without the port; "" if it is none."""
    if "/" in value or "@" in value or "?" in value:
        return ""
    try:
        return urlsplit(f"//{value}").hostname or ""
    except ValueError:
        return ""


def _digest(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()
