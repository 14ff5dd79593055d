"""Which entries a request to the admin API means: the filters of listing, purging and exporting."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any

import orjson
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from cache_backends.shared import Filter, Narrowing
from proxy.catalogue import Selection
from proxy.errors import Forbidden
from proxy.routes.admin_gate import Role, Visitor

_MAX_COUNT = 2**53
# From the year 1 to the year 10000: other times cannot be written.
_MIN_TIME, _MAX_TIME = -62_135_596_800, 253_402_300_800
# "+00:00" where the plus was not quoted in a query.
_LOST_PLUS = re.compile(r" (?=\d\d:\d\d$)")


def _time(said: Any) -> float:
    """Unix seconds, or RFC 3339."""
    expected = ValueError("expected a time such as 2026-01-31T12:00:00Z, or Unix seconds")
    try:
        at = float(said)
    except ValueError:
        try:
            moment = datetime.fromisoformat(_LOST_PLUS.sub("+", said).upper())
            if moment.tzinfo is None:
                raise expected
            at = moment.timestamp()
        except (ValueError, OverflowError):
            raise expected from None
    if not math.isfinite(at) or not _MIN_TIME <= at <= _MAX_TIME:
        raise expected
    return at


def _switch(said: Any) -> Any:
    if said not in ("true", "false", True, False):
        raise ValueError("expected true or false")
    return said in ("true", True)


_TIME_SCHEMA = {
    "anyOf": [
        {"type": "string", "format": "date-time"},
        {"type": "number", "minimum": _MIN_TIME, "maximum": _MAX_TIME},
    ]
}
Text = Annotated[str, Field(max_length=1000, pattern=r"^[^\x00]*$")]
Time = Annotated[float, BeforeValidator(_time), WithJsonSchema(_TIME_SCHEMA)]
Switch = Annotated[bool, BeforeValidator(_switch)]
Count = Annotated[int, Field(ge=0, le=_MAX_COUNT)]


class Filters(BaseModel):
    """All that is said must fit."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    provider: Text | None = None
    model: Text | None = None
    dialect: Text | None = None
    """Such as chat, messages, responses, completions, embeddings."""
    namespace: Text | None = None
    client: Text | None = None
    run: Text | None = None
    tag: Text | None = None
    text: Annotated[Text, Field(min_length=3)] | None = None
    """In the prompt or in the answer, whatever its case."""
    stored_before: Time | None = None
    stored_after: Time | None = None
    expired: Switch | None = None
    min_hits: Count | None = None
    min_bytes: Count | None = None
    max_bytes: Count | None = None

    def selection(self, visitor: Visitor, dialects: Mapping[str, str]) -> Selection:
        """What this visitor means; a client his own entries, whatever he says. `dialects` are those
        that are known, with their versions."""
        client = self.client
        if visitor.role is Role.CLIENT:
            if client not in (None, visitor.client):
                raise Forbidden(f"{visitor.who} may see his own entries only.")
            client = visitor.client
        dialect = self.dialect
        chosen = Filter(
            provider=self.provider,
            dialect=dialect and dialects.get(dialect, dialect),
            model=self.model,
            namespace=self.namespace,
            client=client,
            run=self.run,
            tag=self.tag,
            stored_before=self.stored_before,
            stored_after=self.stored_after,
        )
        narrowed = Narrowing(
            text=self.text or None,
            min_hits=self.min_hits,
            min_bytes=self.min_bytes,
            max_bytes=self.max_bytes,
            expired=self.expired,
        )
        return Selection(chosen, narrowed)

    def for_logs(self) -> str:
        """What is said, but for words of prompts."""
        said = self.model_dump(exclude_none=True, include=set(Filters.model_fields))
        if "text" in said:
            said["text"] = "..."
        return orjson.dumps(said).decode() if said else "all"
