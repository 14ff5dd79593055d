"""`/admin/entries`: the entries, listed, read, put right and removed."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, ConfigDict, Field, model_validator

from cache_backends.base import ChatGeneration, Entry, Generation
from cache_backends.shared import Summary
from proxy.catalogue import Catalogue, Change
from proxy.control import MAX_TAG_CHARS, MAX_TAGS
from proxy.journal import utc
from proxy.routes.admin_filters import Filters, Switch
from proxy.routes.admin_gate import Gate, Role, Visitor

MAX_PAGE = 1000
# A hundred years: later times cannot be told from "never".
MAX_TTL_S = 3_155_760_000

log = logging.getLogger("proxy.admin")


class Row(BaseModel):
    """An entry in a list."""

    id: str
    provider: str
    dialect: str
    model: str
    namespace: str
    client: str
    tags: list[str]
    stored_at: str
    expires_at: str | None
    hits: int
    bytes: int
    pinned: bool
    prompt_preview: str


class Listing(BaseModel):
    entries: list[Row]
    next_cursor: str | None


class MadeBy(BaseModel):
    """What the provider took when the answer was made; `None` is not known."""

    seconds: float | None
    input_tokens: int | None
    output_tokens: int | None
    usd: float | None


class _Told(BaseModel):
    model_config = ConfigDict(extra="forbid")

    text: str
    generation_info: dict[str, Any] | None = None


class Plain(_Told):
    """A generation that is a text."""

    type: Literal["plain"]


class Chat(_Told):
    """A generation that is a message."""

    type: Literal["chat"]
    message: dict[str, Any]


AnyGeneration = Annotated[Plain | Chat, Field(discriminator="type")]


class Whole(Row):
    """An entry with what was asked and answered."""

    prompt: str
    llm_string: str
    generations: list[AnyGeneration]
    made_by: MadeBy
    corrected: str | None


class Listed(Filters):
    limit: int = Field(100, ge=1, le=MAX_PAGE)
    cursor: str | None = Field(None, min_length=1, max_length=2000)


class Doomed(Filters):
    dry_run: Switch = False
    """Only count."""
    stale: Switch = False
    """Expire them now instead: they are refreshed on next use, and serve if the provider fails."""


class Deleted(BaseModel):
    deleted: int


class WouldDelete(BaseModel):
    would_delete: int


class Expired(BaseModel):
    expired: int


class WouldExpire(BaseModel):
    would_expire: int


_Tag = Annotated[str, Field(min_length=1, max_length=MAX_TAG_CHARS, pattern=r"^[^\x00-\x1f\x7f]+$")]


class Amendment(BaseModel):
    """What is to be changed; what is left out stays."""

    model_config = ConfigDict(
        extra="forbid", use_attribute_docstrings=True, json_schema_extra={"minProperties": 1}
    )

    ttl: float | None = Field(None, ge=0, le=MAX_TTL_S, strict=True)
    """Fresh for so many seconds from now; null: without end."""
    tags: list[_Tag] = Field(default=[], max_length=MAX_TAGS)
    pinned: bool = Field(default=False, strict=True)
    """Kept without end, and removed last when the cache is full."""

    @model_validator(mode="after")
    def _says_something(self) -> Amendment:
        if not self.model_fields_set:
            raise ValueError("say at least one of ttl, tags and pinned")
        return self

    def change(self) -> Change:
        said = self.model_fields_set
        return Change(
            ttl=self.ttl,
            endless="ttl" in said and self.ttl is None,
            tags=tuple(dict.fromkeys(self.tags)) if "tags" in said else None,
            pinned=self.pinned if "pinned" in said else None,
        )


class NewText(BaseModel):
    """Another text, for an answer that is just one."""

    model_config = ConfigDict(extra="forbid")

    text: str


class NewAnswer(BaseModel):
    """Another answer, in the shape in which it is shown."""

    model_config = ConfigDict(extra="forbid")

    generations: list[AnyGeneration] = Field(min_length=1)


def entries_router(gate: Gate, catalogue: Catalogue, dialects: Mapping[str, str]) -> APIRouter:
    """`dialects` are those that are known, with their versions."""
    router = APIRouter(prefix="/admin/entries", tags=["entries"])
    own, full = Depends(gate.admits(Role.FULL, Role.CLIENT)), Depends(gate.admits(Role.FULL))

    @router.get("")
    async def list_entries(which: Annotated[Listed, Query()], visitor: Visitor = own) -> Listing:
        """List entries, those stored last first. A cursor stays right while entries come and go."""
        selection = which.selection(visitor, dialects)
        page = await catalogue.page(selection, cursor=which.cursor, limit=which.limit)
        return Listing(entries=[Row(**row(each)) for each in page.entries], next_cursor=page.cursor)

    @router.delete("")
    async def delete_entries(
        which: Annotated[Doomed, Query()], visitor: Visitor = own
    ) -> Deleted | WouldDelete | Expired | WouldExpire:
        """Remove all entries that fit, on all workers and replicas once this is answered. Without a
        filter: all that are this cache's."""
        selection = which.selection(visitor, dialects)
        if which.dry_run and which.stale:
            return WouldExpire(would_expire=await catalogue.count_fresh(selection))
        if which.dry_run:
            return WouldDelete(would_delete=await catalogue.count(selection))
        if which.stale:
            expired = await catalogue.soften(selection)
            log.info("%s expired %d entries: %s", visitor.who, expired, which.for_logs())
            return Expired(expired=expired)
        deleted = await catalogue.purge(selection)
        log.info("%s deleted %d entries: %s", visitor.who, deleted, which.for_logs())
        return Deleted(deleted=deleted)

    @router.get("/{id}")
    async def read_entry(id: str, visitor: Visitor = own) -> Whole:
        """One entry, with what was asked and answered."""
        return Whole(**whole(*await catalogue.entry(id, visitor.client)))

    @router.delete("/{id}")
    async def delete_entry(id: str, visitor: Visitor = own) -> Deleted:
        """Remove one entry."""
        await catalogue.delete(id, visitor.client)
        log.info("%s deleted the entry %s", visitor.who, id)
        return Deleted(deleted=1)

    @router.patch("/{id}")
    async def amend_entry(id: str, said: Amendment, visitor: Visitor = full) -> Row:
        """Give an entry another end, other tags, or pin it."""
        summary = await catalogue.change(id, said.change())
        names = ", ".join(sorted(said.model_fields_set))
        log.info("%s changed the entry %s: %s", visitor.who, id, names)
        return Row(**row(summary))

    @router.put("/{id}")
    async def correct_entry(id: str, said: NewAnswer | NewText, visitor: Visitor = full) -> Whole:
        """Put another answer in the place of an entry's, for all who ask the same from now on."""
        if isinstance(said, NewText):
            await catalogue.correct(id, text=said.text)
        else:
            await catalogue.correct(id, generations=list(map(_generation, said.generations)))
        log.info("%s corrected the entry %s", visitor.who, id)
        return Whole(**whole(*await catalogue.entry(id)))

    return router


def row(summary: Summary) -> dict[str, Any]:
    about = summary.about
    return {
        "id": summary.id,
        "provider": _text(about, "provider"),
        "dialect": _text(about, "dialect").partition("/")[0],
        "model": _text(about, "model"),
        "namespace": _text(about, "namespace"),
        "client": _text(about, "client"),
        "tags": list(summary.tags),
        "stored_at": utc(summary.stored_at),
        "expires_at": None if summary.expires_at is None else utc(summary.expires_at),
        "hits": summary.hits,
        "bytes": summary.bytes,
        "pinned": about.get("pinned") is True,
        "prompt_preview": summary.prompt,
    }


def whole(summary: Summary, entry: Entry) -> dict[str, Any]:
    about = entry.about
    return {
        **row(summary),
        "prompt": entry.key.prompt,
        "llm_string": entry.key.llm_string,
        "generations": [_told(each) for each in entry.generations],
        "made_by": {
            "seconds": _number(about, "seconds"),
            "input_tokens": _whole_number(about, "input_tokens"),
            "output_tokens": _whole_number(about, "output_tokens"),
            "usd": _number(about, "usd"),
        },
        "corrected": _text(about, "corrected") or None,
    }


def _told(generation: Generation) -> dict[str, Any]:
    told = {"text": generation.text, "generation_info": generation.generation_info}
    if isinstance(generation, ChatGeneration):
        return {"type": "chat", **told, "message": generation.message}
    return {"type": "plain", **told}


def _generation(said: Plain | Chat) -> Generation:
    if isinstance(said, Chat):
        return ChatGeneration(said.text, said.generation_info, message=said.message)
    return Generation(said.text, said.generation_info)


# Facts may come from anywhere: a store that others write to, an import.


def _text(about: Mapping[str, Any], name: str) -> str:
    found = about.get(name)
    return found if isinstance(found, str) else ""


def _number(about: Mapping[str, Any], name: str) -> float | None:
    found = about.get(name)
    return found if type(found) in (int, float) else None


def _whole_number(about: Mapping[str, Any], name: str) -> int | None:
    found = about.get(name)
    return found if type(found) is int else None
