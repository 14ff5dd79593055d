"""The admin API of a proxy, from outside: where it is, which token opens it, what it says."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import httpx
import orjson

from proxy.cli.endings import OutOfReach, Refused
from proxy.cli.options import TOKEN_VARIABLE, URL_VARIABLE
from proxy.config import Settings, is_loopback, load_settings
from proxy.environment import Environment
from proxy.errors import ConfigError
from proxy.local_token import TokenError, known_token, token_path

NDJSON = "application/x-ndjson"
EVENTS = "text/event-stream"

CONNECT_S = 5.0
# A purge of millions may take minutes.
PATIENCE_S = 600.0
# What people paste: the base URL of a client, or where the dashboard is.
_ENDINGS = ("/", "/v1", "/admin")
_TOKEN_CHARS = range(0x21, 0x7F)


@dataclass(frozen=True, slots=True)
class Place:
    """A proxy, and the token for it; `None`: none is known."""

    url: str
    token: str | None = field(repr=False)

    @classmethod
    def find(
        cls, config: Path | None = None, url: str | None = None, token: str | None = None
    ) -> Place:
        """What is said counts before the environment, and that before the settings. Raises
        ConfigError."""
        url = url or os.environ.get(URL_VARIABLE)
        token = token or os.environ.get(TOKEN_VARIABLE)
        if url is not None and token is not None:
            return cls(_origin(url), _usable(token))
        settings = load_settings(config)
        origin = admin_url(settings) if url is None else _origin(url)
        if token is None:
            token = _token(settings, here=is_loopback(urlsplit(origin).hostname or ""))
        return cls(origin, _usable(token))

    @property
    def is_here(self) -> bool:
        """On this machine?"""
        return is_loopback(urlsplit(self.url).hostname or "")

    @property
    def headers(self) -> dict[str, str]:
        return {} if self.token is None else {"authorization": f"Bearer {self.token}"}


class Remote:
    """Asks the admin API. Raises Refused and OutOfReach."""

    def __init__(self, place: Place, patience_s: float = PATIENCE_S) -> None:
        self.place = place
        self._http = httpx.Client(
            base_url=f"{place.url}/admin",
            headers=place.headers,
            timeout=httpx.Timeout(patience_s, connect=CONNECT_S),
            trust_env=not place.is_here,
            verify=Environment.read().ssl_context(),
        )

    @classmethod
    def at(cls, place: dict[str, Any]) -> Remote:
        """The proxy that the options of a command mean."""
        return cls(Place.find(**place))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def ask(
        self, method: str, path: str, query: dict[str, Any] | None = None, body: Any = None
    ) -> Any:
        """What the API says, as JSON."""
        with reached(self.place):
            response = self._http.request(method, path, params=as_query(query), json=body)
        return said(self.place, response)

    def get(self, path: str, query: dict[str, Any] | None = None) -> Any:
        return self.ask("GET", path, query)

    @contextmanager
    def stream(
        self, path: str, kind: str, query: dict[str, Any] | None = None
    ) -> Iterator[Iterator[bytes]]:
        """What the API says in this content type, by the piece, for as long as it takes."""
        patient = httpx.Timeout(None, connect=CONNECT_S)
        with reached(self.place):
            params = as_query(query)
            with self._http.stream("GET", path, params=params, timeout=patient) as response:
                if not tells(response, kind):
                    response.read()
                    said(self.place, response)
                yield response.iter_bytes()


def tells(response: httpx.Response, kind: str) -> bool:
    """Is it an answer of this content type?"""
    return response.is_success and response.headers.get("content-type", "").startswith(kind)


def as_query(query: dict[str, Any] | None) -> dict[str, Any]:
    """Only what is said."""
    return {name: value for name, value in (query or {}).items() if value is not None}


def said(place: Place, response: httpx.Response) -> Any:
    """The JSON of a response. Raises Refused with the proxy's words, where these are no answer."""
    try:
        told = orjson.loads(response.content)
        if response.is_success:
            return told
        message = str(told["error"]["message"])
    except (ValueError, KeyError, TypeError):
        raise OutOfReach(
            f"what answers at {place.url} is not llm-cache-proxy (status {response.status_code}): "
            f"say where it is with --url or {URL_VARIABLE}"
        ) from None
    if response.status_code == httpx.codes.UNAUTHORIZED:
        message = f"{place.url}: {message} {_way_in(place)}"
    raise Refused(message, response.status_code)


@contextmanager
def reached(place: Place) -> Iterator[None]:
    """Tell of a proxy that does not answer what can be done."""
    try:
        yield
    except (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError) as exc:
        raise OutOfReach(
            f"no proxy answers at {place.url}{why(exc)}. Start one with `llm-cache-proxy serve`, "
            f"or say where it is with --url or {URL_VARIABLE}"
        ) from exc
    except httpx.TransportError as exc:
        raise OutOfReach(f"{place.url} broke off: {exc or type(exc).__name__}") from exc


def why(exc: BaseException | None) -> str:
    """The operating system's own words, in parentheses."""
    while exc is not None:
        if isinstance(exc, OSError):
            words = getattr(exc, "verify_message", "") or exc.strerror
            words = os.strerror(exc.errno) if exc.errno and exc.errno > 0 else words
            return f" ({words})" if words else ""
        exc = exc.__cause__ or exc.__context__
    return ""


def admin_url(settings: Settings) -> str:
    """Where the admin API of a proxy with these settings is, for this machine."""
    port = settings.server.port if settings.ops.port is None else settings.ops.port
    at = {"host": settings.admin_host, "port": port}
    return settings.server.model_copy(update=at).url


def _origin(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
        raise ConfigError(f"--url: expected http://HOST:PORT, the token in {TOKEN_VARIABLE}")
    path = parts.path
    for ending in _ENDINGS:
        path = path.removesuffix(ending)
    return f"{parts.scheme}://{parts.netloc}{path}"


def _token(settings: Settings, *, here: bool) -> str | None:
    """That of the settings; and what was made for this machine is sent to no other."""
    if settings.admin.token is not None:
        return settings.admin.token.get_secret_value()
    try:
        made = known_token() if here else None
    except TokenError as exc:
        raise ConfigError(f"{exc}; or set {TOKEN_VARIABLE}") from exc
    if made is None and settings.admin.read_token is not None:
        return settings.admin.read_token.get_secret_value()
    return made


def _usable(token: str | None) -> str | None:
    if token is not None and not all(ord(char) in _TOKEN_CHARS for char in token.replace(" ", "")):
        raise ConfigError("--token: has ASCII characters only")
    return token


def _way_in(place: Place) -> str:
    if place.is_here:
        return (
            f"Set {TOKEN_VARIABLE} to the proxy's admin.token; if it has none, its own is in "
            f"{token_path()} of the user who started it."
        )
    return f"Set {TOKEN_VARIABLE} to the proxy's admin.token."
