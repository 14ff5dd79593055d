"""`explain`: joins the parts that explain, and says what they cannot know."""

from __future__ import annotations

import asyncio

from proxy import app as parts
from proxy.config import Settings
from proxy.explain import Calls, Explainer, Explanation, Request
from proxy.models import Scope
from proxy.providers import build_providers


def explain(settings: Settings, request: Request) -> tuple[Explanation, list[str]]:
    """Explain a request; also gives notes for who reads it. Raises ConfigError and ProxyError."""
    secret, note = asyncio.run(_scope_secret(settings))
    notes = [note] if note else []
    if request.path_is_guessed:
        notes.append(f"Taken for POST {request.path}; if it is not, say so with --path.")
    calls = Calls(
        providers=build_providers(settings),
        dialects=parts.DIALECTS,
        access=parts.build_access(settings),
    )
    explainer = Explainer(
        calls=calls,
        policy=parts.build_policy(settings),
        scope=settings.cache.scope,
        scope_secret=secret,
        keyed_headers=parts.build_keyed_headers(settings),
    )
    return explainer.explain(request), notes


async def _scope_secret(settings: Settings) -> tuple[bytes, str]:
    """What keys the hash of credentials, and what is to be said if it is not the proxy's own."""
    cache = settings.cache
    if cache.scope is Scope.SHARED:
        return b"", ""
    if cache.scope_secret is not None:
        return cache.scope_secret.get_secret_value().encode(), ""
    if cache.url.startswith(("memory:", "null:")):
        return b"", "the proxy's scope secret is in its memory: scope and id are others there"
    store = parts.build_store(settings, parts.build_cache(settings))
    try:
        await store.start()
        why = "" if store.scope_secret else f"the cache does not open: {store.degraded}"
        return store.scope_secret or b"", why
    finally:
        await store.aclose()
