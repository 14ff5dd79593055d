"""`/admin/explain` and `/admin/why`: what would become of a request, what became of others, why."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

import orjson
from fastapi import APIRouter, Depends, Path, Query
from fastapi import Request as HttpRequest
from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from cache_backends.base import CacheError, Key
from proxy.errors import NotThere, UnreadableRequest
from proxy.explain import Request, likely_path
from proxy.forecast import Forecaster
from proxy.journal import utc
from proxy.models import Outcome
from proxy.nearest import Asked, Near, Nearest, Whose
from proxy.recent import Miss, Recent
from proxy.routes.admin_gate import Gate, Role, Visitor
from proxy.siblings import Siblings

MAX_LAST = 100
# Of the requests that are listed, so many are told with what is nearest to them.
MAX_COMPARED = 20


# What `providers` routes, but for encoded characters that it refuses: what follows a dot is no
# segment of its own, a fragment is never sent.
_PATH = r'^/([!"$-\-/->@-\[\]-~]|[!"$-\-0-:<->@-\[\]-~]\.)*(\?[!-~]*)?$'


class Described(BaseModel):
    """A request as it would be sent; it is not."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    path: str | None = Field(None, max_length=8192, pattern=_PATH)
    """On this proxy, with directives and query. Left out: where such a body is sent at OpenAI."""
    headers: dict[str, str] = Field(default={}, max_length=200)
    """A credential is hashed and dropped. Without one, the entries of all are looked at."""
    body: Annotated[dict[str, Any] | str, WithJsonSchema({"type": "object"})]
    """As an object, or as the text that is sent."""


class Difference(BaseModel):
    """What stands in a field on either side. `absent` is there where one side lacks it: which."""

    path: str
    stored: Any
    asked: Any
    absent: Literal["stored", "asked"] | None = Field(None, exclude_if=lambda side: side is None)


class Neighbour(BaseModel):
    """A stored entry. `more`: it differs in other fields too."""

    id: str
    differences: list[Difference]
    more: bool


class Left(BaseModel):
    """A field that is not part of the key."""

    path: str
    why: str


class Explained(BaseModel):
    model_config = ConfigDict(use_attribute_docstrings=True)

    id: str
    """Of a batch, that of its first input; without a credential, that of the entry found."""
    prompt: str
    llm_string: str
    ignored: list[Left]
    outcome: str
    """As X-Cache tells it; or OFFLINE, NOT_CACHED: an error."""
    reasons: list[str]
    nearest: list[Neighbour]


class Why(BaseModel):
    """A request that was not answered from the cache."""

    time: str
    id: str
    path: str
    provider: str
    model: str
    client: str
    outcome: str
    status: int
    reasons: list[str]
    prompt: str | None
    llm_string: str | None
    nearest: list[Neighbour]


class Whys(BaseModel):
    requests: list[Why]


def explain_router(
    gate: Gate, forecaster: Forecaster, recent: Recent, nearest: Nearest, siblings: Siblings
) -> APIRouter:
    router = APIRouter(prefix="/admin", tags=["explain"])
    own = Depends(gate.admits(Role.FULL, Role.CLIENT))

    @router.post("/explain")
    async def explain(described: Described, visitor: Visitor = own) -> Explained:
        """Say what would become of a request now, and on a miss which entries are nearest."""
        forecast = await forecaster.forecast(_request(described), visitor.client)
        key, ignored = forecast.key, forecast.question.ignored
        return Explained(
            id=key.id,
            prompt=key.prompt,
            llm_string=_shown(key.llm_string, visitor),
            ignored=[Left(path=each.path, why=each.why) for each in ignored],
            outcome=forecast.outcome,
            reasons=forecast.reasons,
            nearest=neighbours(forecast.near),
        )

    @router.get("/why")
    async def why_lately(
        request: HttpRequest,
        last: Annotated[int, Query(ge=1, le=MAX_LAST)] = 10,
        visitor: Visitor = own,
    ) -> Whys:
        """The latest misses and bypasses of all workers of this host, the newest first."""
        told = await siblings.ask(f"/admin/why?last={last}", request.scope["headers"])
        whys = [why for each in told for why in Whys(**each).requests]
        for at, miss in enumerate(recent.last(last, visitor.client)):
            compared = nearest if at < MAX_COMPARED else None
            whys.append(await why_of(miss, visitor, compared))
        return Whys(requests=_newest_first(whys)[:last])

    @router.get("/why/{id}")
    async def why(
        request: HttpRequest,
        id: Annotated[str, Path(pattern="^[0-9a-f]{64}$")],
        visitor: Visitor = own,
    ) -> Why:
        """The latest request that the entry with this id would have answered, and did not."""
        told = await siblings.ask(f"/admin/why/{id}", request.scope["headers"])
        whys = [Why(**each) for each in told]
        if (miss := recent.of_id(id, visitor.client)) is not None:
            whys.append(await why_of(miss, visitor, nearest))
        if not whys:
            raise NotThere(
                "No request for this id has missed lately; those long ago are forgotten."
            )
        return _newest_first(whys)[0]

    return router


def _newest_first(whys: list[Why]) -> list[Why]:
    return sorted(whys, key=lambda why: why.time, reverse=True)


async def why_of(miss: Miss, visitor: Visitor, nearest: Nearest | None) -> Why:
    """A miss as it is told, with its nearest entries by now."""
    reasons, near = list(miss.reasons), []
    if miss.key is not None and nearest is not None and miss.outcome != Outcome.BYPASS:
        key = Key.of(*miss.key)
        asked = Asked(key, miss.provider, miss.model, Whose.ALL, visitor.client)
        try:
            near = await nearest.find(asked)
        except CacheError as exc:
            reasons.append(f"the nearest entries are not known: {exc}")
    prompt, llm_string = miss.key or (None, None)
    return Why(
        time=utc(miss.at),
        id=miss.id,
        path=miss.path,
        provider=miss.provider,
        model=miss.model,
        client=miss.client,
        outcome=miss.outcome,
        status=miss.status,
        reasons=reasons,
        prompt=prompt,
        llm_string=None if llm_string is None else _shown(llm_string, visitor),
        nearest=neighbours(near),
    )


def neighbours(near: list[Near]) -> list[Neighbour]:
    return [
        Neighbour(
            id=each.id,
            differences=[Difference(**found.as_json()) for found in each.comparison.differences],
            more=each.comparison.more,
        )
        for each in near
    ]


def _request(described: Described) -> Request:
    body = described.body
    try:
        raw = body.encode() if isinstance(body, str) else _written(body)
        headers = [
            (name.lower().encode(), value.encode()) for name, value in described.headers.items()
        ]
        (described.path or "").encode()
    except (RecursionError, UnicodeEncodeError) as exc:
        raise UnreadableRequest(
            "a lone surrogate, or very many levels: give the body as it is sent, as a text"
        ) from exc
    return Request(described.path or likely_path(body), headers, raw)


def _written(body: dict[str, Any]) -> bytes:
    """As a client would send it: some write what orjson does not, such as huge integers."""
    try:
        return orjson.dumps(body)
    except TypeError:
        return json.dumps(body).encode()


def _shown(llm_string: str, visitor: Visitor) -> str:
    """Without the digest of a credential, for who is not the operator."""
    if visitor.role is Role.FULL:
        return llm_string
    said = orjson.loads(llm_string)
    return orjson.dumps({**said, "scope": "this credential"}).decode()
