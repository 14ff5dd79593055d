"""The errors this proxy answers with: what is wrong, whose fault it is, the way out.

    ProxyError 500
    |- BadRequest 400
    |  |- UnreadableRequest       the body cannot be understood
    |  `- BadControl              a cache directive cannot be understood
    |- Unauthorized 401           client token missing or unknown
    |- Forbidden 403              foreign Host or Origin
    |- NotThere 404               no such entry, or somebody else's
    |- UnknownPath 404            no provider there, or not its base URL
    |- BodyTooLarge 413           more than is read in one piece
    |- TooManyAttempts 429        wrong tokens, again and again
    |- HeadTooLarge 431           a request head above the limit
    |- NotSupported 501           WebSocket and the like
    |  `- PlainHttpOnly 426        WebSocket where the same is to be had by HTTP
    |- UpstreamFailure 502        the provider could not be reached, or broke off
    |  `- UpstreamTimeout 504     the provider did not answer in time
    |- Overloaded 503             too many misses in flight, or draining
    |- CacheOutOfReach 503        the cache cannot do now what it is asked
    |- NotCached 504              only-if-cached and nothing stored
    `- Offline 424               offline mode and nothing stored

`ConfigError` stands apart: it ends the program before anything is served.
"""

from __future__ import annotations

from typing import ClassVar


class ProxyError(Exception):
    """An answer that is not the provider's. `str(error)` is shown to the caller."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    # SDKs retry 5xx and 429 by themselves; `x-should-retry: false` tells them not to.
    retry_helps: ClassVar[bool] = False

    def __init__(self, message: str, *, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class BadRequest(ProxyError):
    status = 400
    code = "bad_request"


class UnreadableRequest(BadRequest):
    code = "unreadable_request"


class BadControl(BadRequest):
    code = "bad_cache_control"


class Unauthorized(ProxyError):
    status = 401
    code = "unauthorized"


class Forbidden(ProxyError):
    status = 403
    code = "forbidden"


class NotThere(ProxyError):
    status = 404
    code = "not_found"


class UnknownPath(ProxyError):
    status = 404
    code = "unknown_path"


class BodyTooLarge(ProxyError):
    status = 413
    code = "body_too_large"


class TooManyAttempts(ProxyError):
    status = 429
    code = "too_many_attempts"


class HeadTooLarge(ProxyError):
    status = 431
    code = "head_too_large"


class NotSupported(ProxyError):
    status = 501
    code = "not_supported"


class PlainHttpOnly(NotSupported):
    # Clients of OpenAI's that try a WebSocket first go over to HTTP at once on this status only.
    status = 426


class UpstreamFailure(ProxyError):
    status = 502
    code = "upstream_failure"
    retry_helps = True


class UpstreamTimeout(UpstreamFailure):
    status = 504
    code = "upstream_timeout"


class Overloaded(ProxyError):
    status = 503
    code = "overloaded"
    retry_helps = True


class CacheOutOfReach(ProxyError):
    status = 503
    code = "cache_unavailable"
    retry_helps = True


class NotCached(ProxyError):
    status = 504
    code = "not_cached"


class Offline(ProxyError):
    # What the answer depends on is not asked: RFC 4918, section 11.4. SDKs do not retry it.
    status = 424
    code = "offline"


class ConfigError(Exception):
    """The configuration cannot be used; the message names the place and the way out."""
