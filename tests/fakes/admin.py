"""A client of the admin API, as the tests of its routes use it."""

from __future__ import annotations

from typing import Any

import httpx

FULL = "full-token-0123456789abcdef"
READ = "read-token-0123456789abcdef"
TOKENS = {"token": FULL, "read_token": READ}


def bearing(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


class AdminClient(httpx.AsyncClient):
    """`await admin.get("/entries")`: below `/admin` of a proxy, with a token."""

    def __init__(self, origin: str, token: str = FULL, **options: Any) -> None:
        super().__init__(
            base_url=f"{origin}/admin",
            headers=bearing(token),
            trust_env=False,
            timeout=30.0,
            **options,
        )
