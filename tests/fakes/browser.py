"""A real browser that looks at the dashboard, and notes whatever it should not have done."""

from __future__ import annotations

import shutil
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httpx
from playwright.async_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Page,
    Playwright,
    Request,
    Route,
)

from cache_backends import EntryCache, MemoryCache
from proxy.app import create_app
from proxy.config import load_settings
from proxy.protocol import Protocol
from tests.fakes.admin import FULL, TOKENS, AdminClient
from tests.fakes.live_proxy import LiveProxy
from tests.fakes.provider import FakeProvider
from tests.fakes.server import AppServer
from tests.fakes.servers import ServerMissing

WIDE = {"width": 1280, "height": 860}
# A busy machine draws slowly; what is not there by then does not come.
PATIENCE_MS = 15_000

# What a payload calls if it runs, and what the policy tells of attempts that it stopped.
WATCH = """
(() => {
  const told = (what) => window.ran(String(what));
  for (const name of ["alert", "confirm", "prompt", "print", "open"]) window[name] = told;
  document.addEventListener("securitypolicyviolation", (event) => told(event.violatedDirective));
})();
"""


async def launch(playwright: Playwright) -> Browser:
    """Debian's Chromium, without its sandbox, which root cannot have, and without the shared memory
    of which containers have little."""
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        raise ServerMissing("chromium")
    args = ["--no-sandbox", "--disable-dev-shm-usage"]
    return await playwright.chromium.launch(executable_path=found, args=args)


@dataclass  # without slots: Playwright notes its own on whom it calls
class Watch:
    """What a browser did beyond showing the page."""

    origin: str
    ran: list[str] = field(default_factory=list)  # of what it was shown, and what was stopped
    outside: list[str] = field(default_factory=list)  # asked of others
    errors: list[str] = field(default_factory=list)  # of the page's own scripts

    async def follow(self, context: BrowserContext) -> None:
        await context.expose_function("ran", self._note_run)
        await context.add_init_script(WATCH)
        await context.route(lambda url: self._is_outside(url), self._refuse)
        context.on("request", self._note_request)
        context.on("console", self._note_message)
        context.on("weberror", lambda error: self.errors.append(str(error.error)))

    def _is_outside(self, url: str) -> bool:
        parts = urlsplit(url)
        return parts.scheme not in ("data", "blob", "about") and (
            f"{parts.scheme}://{parts.netloc}" != self.origin
        )

    def _note_run(self, what: str) -> None:
        self.ran.append(what)

    def _note_request(self, request: Request) -> None:
        if self._is_outside(request.url):
            self.outside.append(request.url)

    def _note_message(self, message: ConsoleMessage) -> None:
        # The browser says so of each status above 399, which tests ask for.
        if message.type == "error" and not message.text.startswith("Failed to load resource"):
            self.errors.append(message.text)

    @staticmethod
    async def _refuse(route: Route) -> None:
        await route.abort()

    def assert_clean(self) -> None:
        assert (self.ran, self.outside, self.errors) == ([], [], [])


class Stage:
    """A proxy before a provider, and browsers that look at its dashboard."""

    def __init__(self, browser: Browser, stack: AsyncExitStack) -> None:
        self._browser = browser
        self._stack = stack
        self.watches: list[Watch] = []  # one for each browser, in order
        self.provider = FakeProvider()
        self.cache: EntryCache = MemoryCache(max_bytes=2**26)  # another one, before it begins
        self.live: LiveProxy
        self.admin: AdminClient
        self.client: httpx.AsyncClient

    async def begin(self, **sections: Any) -> LiveProxy:
        """Serve a proxy with these settings."""
        await self.provider.start()
        self._stack.push_async_callback(self.provider.stop)
        sections = {"admin": TOKENS, "cache": {"url": "memory://"}} | sections
        sections["upstream"] = {"base_url": self.provider.base_url}
        app = create_app(load_settings(overrides=sections), cache=self.cache)
        server = AppServer(app, http=Protocol, ws="none", server_header=False)
        await server.start()
        self._stack.push_async_callback(server.stop)
        self.live = LiveProxy(app, server.origin, self.provider)
        self.admin = await self._stack.enter_async_context(AdminClient(server.origin))
        self.client = await self._stack.enter_async_context(
            httpx.AsyncClient(trust_env=False, timeout=30.0)
        )
        return self.live

    async def look(
        self, view: str = "", *, token: str | None = FULL, clean: bool = True, **options: Any
    ) -> Page:
        """Open the dashboard in a browser of its own. What that does is looked at in the end."""
        context = await self._browser.new_context(
            **{"viewport": WIDE, "reduced_motion": "reduce"} | options
        )
        context.set_default_timeout(PATIENCE_MS)
        watch = Watch(self.live.origin)
        self.watches.append(watch)
        if clean:
            self._stack.callback(watch.assert_clean)
        self._stack.push_async_callback(context.close)
        await watch.follow(context)
        page = await context.new_page()
        await page.goto(f"{self.live.origin}/admin/" + (f"#token={token}" if token else ""))
        if view:
            await page.get_by_role("link", name=view, exact=True).click()
        return page

    async def chat(self, prompt: str = "Tell me a joke", **fields: Any) -> httpx.Response:
        """Ask through the proxy; `headers` are the caller's."""
        headers = {"authorization": "Bearer mine"} | fields.pop("headers", {})
        body = {"model": "m", "messages": [{"role": "user", "content": prompt}], **fields}
        url = f"{self.live.base_url}/chat/completions"
        return await self.client.post(url, json=body, headers=headers)
