"""What aiohttp's exceptions are to httpx: told apart by how far a request had come."""

from __future__ import annotations

import aiohttp
import httpx
from aiohttp.http_exceptions import HttpProcessingError

LOST_CONNECTION = (
    aiohttp.ServerDisconnectedError,
    aiohttp.ClientOSError,
    aiohttp.ClientConnectionResetError,
)
_QUOTING = (aiohttp.ClientResponseError, HttpProcessingError, ValueError)


def has_begun(exc: BaseException) -> bool:
    """Tell whether a part of the reply's head had come: aiohttp then gives it as the message."""
    return isinstance(exc, aiohttp.ServerDisconnectedError) and not isinstance(exc.message, str)


def before_reply(exc: Exception) -> httpx.HTTPError:
    match exc:
        case aiohttp.ClientProxyConnectionError() | aiohttp.ClientHttpProxyError():
            return httpx.ProxyError("the proxy could not be used")
        case aiohttp.ConnectionTimeoutError():
            return httpx.ConnectTimeout("no connection in time")
        case TimeoutError():
            return httpx.ReadTimeout("no reply in time")
        case aiohttp.ClientConnectorError() | aiohttp.ServerFingerprintMismatch():
            return httpx.ConnectError("no connection")
        case aiohttp.InvalidURL() | aiohttp.NonHttpUrlClientError():
            return httpx.UnsupportedProtocol("not an http:// or https:// URL")
        case aiohttp.ClientResponseError() | HttpProcessingError():
            return httpx.RemoteProtocolError("not an HTTP reply")
        case aiohttp.ServerDisconnectedError():
            return httpx.RemoteProtocolError("closed the connection before a reply")
        case aiohttp.ClientOSError():
            return httpx.ReadError("the connection broke before a reply")
        case aiohttp.ClientError() | OSError():
            return httpx.WriteError("the request could not be sent")
        case _:  # ValueError: a method, header or length that HTTP does not allow
            return httpx.LocalProtocolError("not a valid HTTP request")


def during_reply(exc: Exception) -> httpx.HTTPError:
    match exc:
        case aiohttp.ClientPayloadError():
            return httpx.RemoteProtocolError("broke off in mid-reply")
        case TimeoutError():
            return httpx.ReadTimeout("fell silent in mid-reply")
        case _:
            return httpx.ReadError("the connection broke in mid-reply")


def without_url(exc: Exception) -> Exception | None:
    """Return the cause to show in tracebacks: none if it quotes URL or reply, which are secret."""
    return None if isinstance(exc, _QUOTING) else exc
