"""Makes entries of LangChain's rows by the same parts that answer: dialect, policy, keys."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from urllib.parse import urlsplit

import orjson

from cache_backends.base import Entry, EntryCache
from cache_backends.shared import SharedCache
from proxy import keys
from proxy.dialects.base import Dialect
from proxy.errors import ProxyError
from proxy.importing.answer import read_answer
from proxy.importing.request import Request, Skipped, read_request
from proxy.importing.rows import Row
from proxy.inquiry import Inquiry
from proxy.models import AnswerFacts, Answers, Ask, Call, Head, Headers, Verdict
from proxy.policy import Policy
from proxy.providers import Providers

TAG = "langchain-import"
BATCH = 100
# Where a model asks that was given no base URL.
OPENAI = "https://api.openai.com/v1"
_COMPLETE = Head(200, [(b"content-type", b"application/json")])


@dataclass(slots=True)
class Summary:
    """What became of the rows. `stale`: rows that LangChain left behind of older answers."""

    imported: int = 0
    known: int = 0  # the cache had an answer already, which is kept
    stale: int = 0
    skipped: Counter[str] = field(default_factory=Counter)  # by reason


class Importer:
    """Puts answers into `cache` as if `headers`, a caller's, had asked for them here.

    Only what that caller may see is made: entries are in the partition of the credential that is
    in `headers`, of the client named `client`, or of all, as `policy.scope` says.
    """

    def __init__(
        self,
        cache: EntryCache,
        *,
        providers: Providers,
        dialect: Dialect,
        policy: Policy,
        scope_secret: bytes,
        keyed_headers: frozenset[bytes],
        namespace: str,
        headers: Headers,
        client: str | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._cache = cache
        self._providers = providers
        self._dialect = dialect
        self._policy = policy
        self._scope_secret = scope_secret
        self._keyed_headers = keyed_headers
        self._namespace = namespace
        self._headers = headers
        self._client = client
        self._clock = clock

    async def run(self, rows: Iterable[Row], on_row: Callable[[Row], None]) -> Summary:
        """Import all rows; `CacheError` if the cache fails. `on_row` hears of each."""
        summary = Summary()
        batch: list[Entry] = []
        seen = 0
        if isinstance(self._cache, SharedCache):
            seen = (await self._cache.purges(0)).head  # a purge of old does not cover these
        for row in rows:
            try:
                entry = self._entry(row, summary)
            except Skipped as reason:
                summary.skipped[str(reason)] += 1
            else:
                batch.append(replace(entry, seen=seen))
            if len(batch) == BATCH:
                await self._store(batch, summary)
                batch = []
            on_row(row)
        await self._store(batch, summary)
        return summary

    async def _store(self, batch: list[Entry], summary: Summary) -> None:
        found = await self._cache.get_many([entry.key for entry in batch])
        now = self._clock()
        new = [
            entry
            for entry, old in zip(batch, found, strict=True)
            if old is None or (old.expires_at is not None and old.expires_at <= now)
        ]
        await self._cache.put_many(new)
        summary.imported += len(new)
        summary.known += len(batch) - len(new)

    def _entry(self, row: Row, summary: Summary) -> Entry:
        request = read_request(row.prompt, row.llm_string)
        inquiry = self._inquire(request)
        (key,) = inquiry.question.keys
        now = self._clock()
        body = {
            "id": f"chatcmpl-{key.id[:24]}",
            "created": int(now),
            "model": inquiry.ask.model,
            **read_answer(row.responses, request.choices),
        }
        answers, facts = self._kept(inquiry, orjson.dumps(body))
        summary.stale += len(row.responses) - request.choices
        expires_at, retained_until = self._policy.expiry(inquiry.verdict, now)
        about = inquiry.about(key, facts) | {"source": TAG}
        return Entry(key, answers[0], now, expires_at, retained_until, (TAG,), about)

    def _inquire(self, request: Request) -> Inquiry:
        call = self._call(request)
        try:
            ask = self._dialect.read(call)
        except ProxyError as exc:
            raise Skipped("a request that no provider takes") from exc
        verdict = self._verdict(call, ask)
        question = keys.question(call, ask, verdict, self._keyed_headers)
        return Inquiry(call, self._dialect, ask, verdict, question)

    def _verdict(self, call: Call, ask: Ask) -> Verdict:
        partition = keys.partition(self._policy.scope, call, self._scope_secret)
        verdict = self._policy.judge(call, ask, partition)
        if not verdict.may_write:
            raise Skipped(f"past the cache: {verdict.reason}")
        return replace(verdict, namespace=self._namespace)

    def _kept(self, inquiry: Inquiry, body: bytes) -> tuple[Answers, AnswerFacts]:
        ask = inquiry.ask
        recorder = self._dialect.recorder(ask, _COMPLETE, 1)
        recorder.feed(body)
        answers = recorder.finish()
        if answers is None or not self._dialect.can_replay(ask, answers):
            raise Skipped("an answer that is not complete")
        facts = self._dialect.facts(ask, answers)
        if refusal := self._policy.keep(inquiry.verdict, facts, len(body)):
            raise Skipped(refusal)
        return answers, facts

    def _call(self, request: Request) -> Call:
        base = self._base(request.base_url)
        route = self._providers.route(f"{base}/chat/completions")
        own = {name for name, _ in request.headers}
        return Call(
            route.provider,
            route.path,
            "",
            route.url,
            [*request.headers, *(pair for pair in self._headers if pair[0] not in own)],
            orjson.dumps(request.body),
            client=self._client,
        )

    def _base(self, base_url: str) -> str:
        """Where on this proxy the model will ask that asked there."""
        if base_url in ("", OPENAI):
            return "/v1" if self._providers.default.name == "openai" else "/openai/v1"
        found = self._providers.path_to(base_url)
        if found is None:
            host = urlsplit(base_url).netloc.rpartition("@")[2]
            raise Skipped(f"asked of {host}, which is no provider here")
        return found
