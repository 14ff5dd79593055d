"""`/admin/config`: the settings that are in force, without secrets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Depends

from proxy.routes.admin_gate import Gate, Role


def config_router(gate: Gate, told: Mapping[str, Any]) -> APIRouter:
    """`told`: the settings as they may be shown."""
    router = APIRouter(tags=["config"])

    @router.get("/admin/config", dependencies=[Depends(gate.admits(Role.FULL, Role.FIGURES))])
    async def config() -> dict[str, Any]:
        """All settings by section; what is hidden is told as ***."""
        return dict(told)

    return router
