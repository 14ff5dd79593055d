"""`/admin/mode`: what the whole proxy does with its cache."""

from __future__ import annotations

import logging

from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict

from proxy.models import Mode
from proxy.modes import Switch
from proxy.routes.admin_gate import Gate, Role, Visitor

log = logging.getLogger("proxy.admin")


class Wanted(BaseModel):
    model_config = ConfigDict(extra="forbid")

    mode: Mode


class Current(BaseModel):
    """`everywhere`: for all workers and replicas; false: the cache has no way to tell them."""

    mode: Mode
    everywhere: bool


def modes_router(gate: Gate, switch: Switch) -> APIRouter:
    router = APIRouter(prefix="/admin/mode", tags=["mode"])
    seen = Depends(gate.admits(Role.FULL, Role.FIGURES))
    full = Depends(gate.admits(Role.FULL))

    @router.get("")
    async def mode(_: Visitor = seen) -> Current:
        """The mode of this process, which is that of all."""
        return Current(mode=switch.mode, everywhere=switch.shared)

    @router.put("")
    async def set_mode(wanted: Wanted, visitor: Visitor = full) -> Current:
        """Change it; it holds on all workers and replicas once this is answered."""
        everywhere = await switch.set(wanted.mode)
        log.info("%s set the mode: %s", visitor.who, wanted.mode)
        return Current(mode=wanted.mode, everywhere=everywhere)

    return router
