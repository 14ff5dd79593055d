"""Builds the parts and joins them: the only place that knows them all."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial

import httpx
from fastapi import APIRouter, FastAPI

from cache_backends import EntryCache, MemoryCache, SharedCache, TieredCache, open_cache
from cache_backends.cassette import CassetteCache
from cache_backends.cassette_file import CassetteError
from cache_backends.redaction import Redaction
from cache_backends.urls import CASSETTE, LANGCHAIN
from proxy import __version__, keys
from proxy.access import Access
from proxy.aiohttp_transport import AiohttpTransport
from proxy.application import Application
from proxy.broadcast import Broadcast
from proxy.catalogue import Catalogue
from proxy.config import Rule as RuleSettings
from proxy.config import Settings, is_loopback, load_settings
from proxy.config.redacted import redacted
from proxy.credentials import rebinding
from proxy.dialects.base import Dialect
from proxy.dialects.chat import Chat
from proxy.dialects.completions import Completions
from proxy.dialects.embeddings import Embeddings
from proxy.dialects.messages import Messages
from proxy.dialects.responses import Responses
from proxy.dialects.token_count import TokenCount
from proxy.engine import Engine
from proxy.errors import CacheOutOfReach, ConfigError
from proxy.explain import Calls
from proxy.fetch import Fetcher
from proxy.flights import Flights
from proxy.forecast import Forecaster
from proxy.journal import Journal, as_json, for_people
from proxy.lane import Lane
from proxy.ledger import Ledger
from proxy.local_token import TokenError, local_token
from proxy.metrics import Metrics
from proxy.models import Event, KeepRules, Levelling
from proxy.modes import Switch
from proxy.nearest import Nearest
from proxy.policy import Policy, Rule
from proxy.prices import Price, Prices
from proxy.providers import build_providers
from proxy.recent import Recent
from proxy.replies import Replies
from proxy.routes.admin import join_admin
from proxy.routes.admin_config import config_router
from proxy.routes.admin_entries import entries_router
from proxy.routes.admin_events import events_router
from proxy.routes.admin_explain import explain_router
from proxy.routes.admin_figures import figures_router, metrics_router
from proxy.routes.admin_gate import Gate
from proxy.routes.admin_modes import modes_router
from proxy.routes.admin_page import page_router
from proxy.routes.admin_transfer import STREAMED, transfer_router
from proxy.routes.llm import LLMRoute
from proxy.routes.ops import Health, ops_router
from proxy.runs import Runs
from proxy.savings import settle
from proxy.siblings import Siblings
from proxy.standing import Standing
from proxy.store import Store
from proxy.tally import Tally
from proxy.transfer import Rebind, mark_of
from proxy.turns import Alone, Turns
from proxy.upstream import Limits, Upstream
from proxy.warming import Warmer

log = logging.getLogger("proxy.app")

DIALECTS: Mapping[str, Dialect] = {
    dialect.name: dialect
    for dialect in (
        Chat(),
        Completions(),
        Embeddings(),
        Responses(),
        TokenCount("input_tokens", Responses()),
        Messages(),
        TokenCount("count_tokens", Messages()),
    )
}
# As entries name them.
VERSIONS = {name: f"{name}/{dialect.version}" for name, dialect in DIALECTS.items()}


def create_app(
    settings: Settings | None = None,
    *,
    transport: httpx.AsyncBaseTransport | None = None,
    cache: EntryCache | None = None,
    clock: Callable[[], float] = time.time,
) -> Application:
    """The proxy as an ASGI app, with a lifespan.

    `settings` default to the environment and the file it names; `transport` takes the place of
    the network, e.g. `httpx.MockTransport`, `cache` that of the one in the settings, and `clock`
    (Unix seconds) tells how old entries are. Raises ConfigError.
    """
    settings = settings or load_settings()
    tally, journal = Tally(), build_journal(settings)

    broadcast, siblings = Broadcast(), Siblings()

    def listener(event: Event) -> None:
        settle(event)
        tally.record(event)
        journal.record(event)
        broadcast.tell(event)

    if cache is None:
        cache = _with_memory(settings, build_cache(settings))
    store = build_store(settings, cache)
    upstream = build_upstream(settings, transport)
    flights = Flights(
        finish_abandoned_s=settings.upstream.finish_abandoned_s,
        max_backlog=settings.cache.max_entry,
        max_all_backlogs=settings.server.max_backlog,
    )
    policy, access = build_policy(settings), build_access(settings)
    switch = Switch(store, settings.cache.mode)
    nearest, recent = Nearest(cache), Recent(clock=clock)
    fetcher = Fetcher(
        store=store,
        upstream=upstream,
        policy=policy,
        access=access,
        switch=switch,
        turns=build_turns(settings, store, cache),
        prices=build_prices(settings),
        paid=tally.paid,
        max_misses=settings.server.max_misses,
        clock=clock,
    )
    engine = Engine(
        policy=policy,
        store=store,
        fetcher=fetcher,
        flights=flights,
        upstream=upstream,
        access=access,
        replies=Replies(
            listener,
            found=tally.found,
            recent=recent,
            tier=_tier(settings.cache.url),
            clock=clock,
        ),
        runs=Runs(store),
        nearest=nearest,
        recent=recent,
        switch=switch,
        scope=settings.cache.scope,
        keyed_headers=build_keyed_headers(settings),
        patience_s=settings.upstream.flight_patience_s,
    )
    standing = Standing(Metrics(), store, flights)
    ledger = Ledger(store, tally, listener=standing.add, clock=clock)
    health = Health(store, tier=_tier(settings.cache.url))
    gate = build_gate(settings, access)
    catalogue = Catalogue(
        cache, dialects=DIALECTS, stale_s=settings.cache.stale_if_error_s, clock=clock
    )
    lane = Lane(store, switch, listener=listener, found=tally.found, clock=clock)
    providers = build_providers(settings)
    forecaster = Forecaster(
        calls=Calls(providers=providers, dialects=DIALECTS, access=access),
        engine=engine,
        fetcher=fetcher,
        policy=policy,
        store=store,
        nearest=nearest,
        clock=clock,
    )
    llm = LLMRoute(
        engine=engine,
        providers=providers,
        access=access,
        dialects=DIALECTS,
        listener=listener,
        lane=lane,
        honour_control=settings.cache.honour_cache_control,
        max_cacheable_body=settings.server.max_cacheable_body,
        send_timeout_s=settings.server.send_timeout_s,
    )
    return Application(
        llm=llm,
        lane=lane,
        ops=build_ops(
            [ops_router(health), build_metrics(settings, gate, ledger, standing)],
            gate,
            [
                entries_router(gate, catalogue, VERSIONS),
                build_transfer(settings, gate, catalogue, store, llm, clock),
                figures_router(gate, ledger),
                explain_router(gate, forecaster, recent, nearest, siblings),
                modes_router(gate, switch),
                events_router(gate, broadcast, siblings, lambda: health.draining),
                config_router(gate, redacted(settings)),
                page_router(),
            ],
        ),
        engine=engine,
        store=store,
        flights=flights,
        switch=switch,
        health=health,
        siblings=siblings,
        ledger=ledger,
        journal=journal,
        ops_apart=settings.ops.port is not None,
        cassette=cache if isinstance(cache, CassetteCache) else None,
    )


def build_transfer(
    settings: Settings,
    gate: Gate,
    catalogue: Catalogue,
    store: Store,
    llm: LLMRoute,
    clock: Callable[[], float],
) -> APIRouter:
    """Export, import and warming."""
    providers = build_providers(settings)

    def rebind(scope: str, credential: str | None) -> Rebind:
        if store.scope_secret is None:
            raise CacheOutOfReach("Scopes are not known yet: the cache cannot be reached.")
        return rebinding(
            scope,
            clients=frozenset(settings.clients),
            providers=providers,
            credential=credential,
            secret=store.scope_secret,
        )

    def scopes() -> str:
        return mark_of(store.scope_secret) if store.scope_secret else ""

    warming = partial(Warmer, llm, providers)
    return transfer_router(
        gate,
        catalogue,
        VERSIONS,
        scopes=scopes,
        scope=settings.cache.scope,
        rebinding=rebind,
        warming=warming,
        clock=clock,
    )


def build_policy(settings: Settings) -> Policy:
    """The judge of requests and answers, as configured."""
    cache = settings.cache
    return Policy(
        [_rule(rule) for rule in settings.rules],
        ttl=cache.ttl,
        scope=cache.scope,
        namespace=cache.namespace,
        stale_if_error=cache.stale_if_error_s,
        retain_stale=cache.stale_if_error_s,
        keep=KeepRules(
            refuse_finish_reasons=frozenset(cache.refuse_finish_reasons),
            tool_calls=cache.tool_calls,
            unparsable_json=cache.unparsable_json,
            max_temperature=cache.max_temperature,
            max_bytes=cache.max_entry,
        ),
        honour_client_control=cache.honour_cache_control,
        max_ttl=cache.max_ttl,
        # Ids that a recording leads to are nobody's any more.
        one_account=cache.records,
        redaction=Redaction(settings.cassette.redaction) if cache.records else None,
    )


def _rule(rule: RuleSettings) -> Rule:
    return Rule(
        provider=rule.provider,
        path=rule.path,
        model=rule.model,
        client=rule.client,
        header=rule.header,
        cache=rule.cache,
        ttl=rule.ttl,
        namespace=rule.namespace,
        ignore=rule.ignore,
        level=None
        if rule.level is None
        else [Levelling(level.pattern, level.replacement) for level in rule.level],
        refuse_finish_reasons=rule.refuse_finish_reasons,
        tool_calls=rule.tool_calls,
        unparsable_json=rule.unparsable_json,
        max_temperature=rule.max_temperature,
        max_bytes=rule.max_entry,
        stale_if_error=rule.stale_if_error_s,
    )


def build_prices(settings: Settings) -> Prices:
    """What answers cost, as configured."""
    own = {
        pattern: Price(
            each.input, each.output, cached_input=each.cached_input, kept_input=each.cache_write
        )
        for pattern, each in settings.prices.items()
    }
    return Prices(own)


def build_keyed_headers(settings: Settings) -> frozenset[bytes]:
    """The request headers that are part of the key."""
    more = frozenset(name.lower().encode() for name in settings.cache.key_headers)
    secret = keys.CREDENTIAL_HEADERS & more
    if secret and settings.cache.records:
        raise ConfigError(
            f"cache.key_headers: {min(secret).decode()} holds a credential; a cassette has none"
        )
    return keys.KEYED_HEADERS.union(more)


def build_cache(settings: Settings) -> EntryCache:
    """The backend that the settings name. Raises ConfigError."""
    told = settings.cache.told
    if settings.cache.records:
        cassette = settings.cassette
        told |= {"redact": cassette.redaction, "prune": cassette.prune}
    try:
        return open_cache(settings.cache.url, **told)
    except (ValueError, CassetteError) as exc:
        raise ConfigError(f"cache.url: {exc}") from exc


def _with_memory(settings: Settings, cache: EntryCache) -> EntryCache:
    """The backend with memory in front of it, if it is one that processes share."""
    if not isinstance(cache, SharedCache):
        return cache
    said = settings.cache
    memory = MemoryCache(max_bytes=said.memory_bytes or 1)  # in a single byte there is no entry
    return TieredCache(memory, cache, lease=said.memory_lease_s)


def build_store(settings: Settings, cache: EntryCache) -> Store:
    secret = settings.cache.scope_secret
    return Store(
        cache,
        lookup_timeout_s=settings.cache.lookup_timeout_s,
        save_timeout_s=settings.cache.save_timeout_s,
        scope_secret=secret.get_secret_value().encode() if secret else None,
    )


def build_turns(settings: Settings, store: Store, cache: EntryCache) -> Alone:
    if settings.cache.coalesce == "worker":
        return Alone()
    if not isinstance(cache, SharedCache | TieredCache):
        raise ConfigError(
            'cache.coalesce: "cluster" needs a cache that lends leases: sqlite, redis or postgresql'
        )
    return Turns(store, patience_s=settings.upstream.flight_patience_s)


def _tier(url: str) -> str:
    """How `Cache-Status` names the backend: "sqlite", "langchain", "module:Class"."""
    place = url.partition("?")[0]
    named = "://" in place or place.startswith((CASSETTE, LANGCHAIN))
    return place.partition(":")[0] if named else place


def build_upstream(settings: Settings, transport: httpx.AsyncBaseTransport | None) -> Upstream:
    upstream = settings.upstream
    limits = Limits(
        connect_s=upstream.connect_timeout_s,
        first_byte_s=upstream.first_byte_timeout_s,
        idle_s=upstream.idle_timeout_s,
    )
    return Upstream(
        transport
        or AiohttpTransport(
            max_connections=upstream.max_connections or None, keepalive_s=upstream.keep_alive_s
        ),
        limits,
    )


def build_access(settings: Settings) -> Access:
    tokens = {name: os.environ[client.token_env] for name, client in settings.clients.items()}
    holds_keys = any(provider.api_key_env for provider in settings.providers.values())
    return Access(
        tokens,
        guard_browser=holds_keys and settings.on_loopback and not tokens,
        allowed_hosts=frozenset(settings.server.allowed_hosts),
    )


def build_journal(settings: Settings) -> Journal:
    """Lines for people on a terminal, else JSON lines; none where only warnings are wanted."""
    render = for_people if sys.stdout.isatty() else as_json
    return Journal(sys.stdout if settings.server.log_level in ("debug", "info") else None, render)


def build_gate(settings: Settings, access: Access) -> Gate:
    """Who may enter the admin API."""
    admin, here = settings.admin, is_loopback(settings.admin_host)
    token = admin.token.get_secret_value() if admin.token else None
    if token is None and here:
        try:
            token = local_token()
        except TokenError as error:
            log.warning("no admin API without admin.token: one cannot be kept: %s", error)
    return Gate(
        token=token,
        read_token=admin.read_token.get_secret_value() if admin.read_token else None,
        access=access,
        hosts=(*settings.server.allowed_hosts, settings.admin_host) if here else None,
    )


def build_metrics(settings: Settings, gate: Gate, ledger: Ledger, standing: Standing) -> APIRouter:
    """What Prometheus reads: open where only this machine asks, or at a listener of its own."""

    async def page(accept: str) -> tuple[bytes, str]:
        ledger.collect()
        return await standing.page(accept)

    is_open = settings.ops.port is not None or is_loopback(settings.admin_host)
    return metrics_router(gate, page, is_open=is_open)


def build_ops(
    probes: Iterable[APIRouter], gate: Gate, routers: Iterable[APIRouter] = ()
) -> FastAPI:
    """The routes beside the data path."""
    app = FastAPI(
        title="llm-cache-proxy", version=__version__, openapi_url=None, redirect_slashes=False
    )
    for router in probes:
        app.include_router(router)
    join_admin(app, gate, routers, STREAMED)
    return app
