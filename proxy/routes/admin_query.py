"""What may stand in the query of an admin route: only what it knows, and once.

A parameter that is taken for another or not heeded at all could widen a purge.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_origin

from fastapi import Request
from fastapi.dependencies.models import Dependant
from pydantic import BaseModel

from proxy.errors import BadRequest

_LISTS = (list, tuple, set)


def refuse_unknown_parameters(request: Request) -> None:
    """Raises BadRequest."""
    route = request.scope.get("route")
    if not request.scope["query_string"] or route is None:
        return
    known = dict(_parameters(route.dependant))
    given = [name for name, _ in request.query_params.multi_items()]
    for name in given:
        if name not in known:
            there_are = f"there are {', '.join(sorted(known))}" if known else "there are none here"
            raise BadRequest(f"There is no such parameter as {name[:40]!r}; {there_are}.")
        if given.count(name) > 1 and not known[name]:
            raise BadRequest(f"{name}: given more than once.")


def _parameters(dependant: Dependant) -> Iterator[tuple[str, bool]]:
    """Names, and whether they may be repeated."""
    for each in dependant.query_params:
        annotation = each.field_info.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            for name, field in annotation.model_fields.items():
                yield field.alias or name, _is_list(field.annotation)
        else:
            yield each.alias, _is_list(annotation)
    for inner in dependant.dependencies:
        yield from _parameters(inner)


def _is_list(annotation: Any) -> bool:
    return (get_origin(annotation) or annotation) in _LISTS
