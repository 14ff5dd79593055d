"""What models say, in a real browser: a hundred texts that would run as HTML, and none does."""

from __future__ import annotations

import time
from typing import Any

import orjson
import pytest
from playwright.async_api import Page, Route, expect

from cache_backends import ChatGeneration, Entry, Key
from tests.fakes.browser import Stage, Watch
from tests.fakes.payloads import OUTSIDE, PAYLOADS
from tests.fakes.provider import Answer

pytestmark = pytest.mark.asyncio(loop_scope="session")

# Whatever the page is made of; nothing else may come up in it.
FOREIGN = "img, iframe, object, embed, video, audio, svg, math, base, style, marquee, x, [onclick]"


async def test_there_are_a_hundred() -> None:
    """Each another one."""
    assert len(set(PAYLOADS)) == 100


def entry_of(*texts: str) -> Entry:
    """An entry in which these stand wherever a text can."""
    first = texts[0]
    asked = {"messages": [{"role": text, "content": [spoken(text)]} for text in texts]}
    about = dict.fromkeys(("provider", "model", "namespace", "client", "corrected"), first)
    return Entry(
        Key.of(orjson.dumps(asked).decode(), orjson.dumps({"parameters": {first: first}}).decode()),
        [answer_of(text) for text in texts],
        time.time(),
        tags=tuple(text[:128] for text in texts),
        about=about | {"dialect": f"{first}/1"},
    )


def answer_of(text: str) -> ChatGeneration:
    call = {"id": text, "type": "function", "function": {"name": text, "arguments": text}}
    message = {"role": text, "content": text, "refusal": text, "tool_calls": [call], text: text}
    return ChatGeneration(text, {"choice": {"finish_reason": text}}, message=message)


def spoken(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


async def assert_only_text(page: Page) -> None:
    """No element that the page does not make itself."""
    assert await page.locator(FOREIGN).count() == 0
    assert await page.locator('a:not([href^="#"])').count() == 0
    assert await page.locator("script").count() == 3


async def test_entries_run_nothing(stage: Stage) -> None:
    """In the list and one by one: as prompt, answer, role, call, model, tag, namespace, client."""
    await stage.begin()
    full = [entry_of(*PAYLOADS[first : first + 10]) for first in range(0, 100, 10)]
    await stage.cache.put_many([*map(entry_of, PAYLOADS), *full])
    page = await stage.look("Entries")
    for shown in (50, 100, 110):
        await expect(page.locator(".list tbody tr")).to_have_count(shown)
        if shown < 110:
            await page.get_by_role("button", name="More").click()
    await assert_only_text(page)
    for number, entry in enumerate(full):
        await page.evaluate("id => { location.hash = `#entries/${id}`; }", entry.key.id)
        sheet = page.locator(f'dialog[data-id="{entry.key.id}"]')
        words = sheet.locator(".answered .parts > p.words")
        await expect(words).to_have_text(list(PAYLOADS[number * 10 : number * 10 + 10]))
        await sheet.locator("details").evaluate("raw => { raw.open = true; }")
        await assert_only_text(page)


async def test_traffic_runs_nothing(stage: Stage) -> None:
    """In figures, live lines and explanations: as model, path, reason, prompt."""
    await stage.begin()
    page = await stage.look("Live")
    await expect(page.locator(".state")).to_have_text("live")
    for text in PAYLOADS:
        await stage.chat(text, model=text)
        await stage.chat(text)
    await expect(page.locator(".list tbody tr")).to_have_count(200)
    await assert_only_text(page)
    await page.get_by_role("link", name="Overview").click()
    await expect(page.locator(".named").first).to_contain_text("<")
    await page.get_by_role("link", name="Explain").click()
    misses = page.locator(".misses button")
    await expect(misses).to_have_count(20)
    for number in range(0, 20, 2):
        await misses.nth(number).click()
        await expect(page.locator(".difference").first).to_be_visible()
    await assert_only_text(page)


async def test_errors_run_nothing(stage: Stage) -> None:
    """Whatever an error says, of the proxy or of a provider, wherever it is told."""
    await stage.begin()
    stage.provider.always = Answer(status=400, error={"message": "".join(PAYLOADS)})
    await stage.chat()
    page = await stage.look("Explain")
    said = orjson.dumps({"error": {"message": "".join(PAYLOADS)}})

    async def fail(route: Route) -> None:
        await route.fulfill(status=501, body=said, content_type="application/json")

    for path in ("stats", "entries", "why", "events", "explain"):
        await page.route(f"**/admin/{path}*", fail)
    for view in ("Overview", "Entries", "Live", "Explain"):
        await page.get_by_role("link", name=view).click()
        await expect(page.locator(".notice:visible")).to_contain_text(PAYLOADS[0])
    await page.get_by_label("Body").fill("{}")
    await page.get_by_role("button", name="Explain").click()
    await expect(page.get_by_role("region", name="Explanation").locator(".notice")).to_contain_text(
        PAYLOADS[-1]
    )
    await assert_only_text(page)


async def test_addresses_run_nothing(stage: Stage) -> None:
    """A link to this page may hold anything."""
    await stage.begin()
    page = await stage.look("Entries")
    await page.evaluate(
        """texts => {
            for (const text of texts) {
                for (const hash of [text, `#entries/${text}?model=${text}`]) location.hash = hash;
            }
        }""",
        PAYLOADS,
    )
    await page.reload()
    await expect(page.get_by_role("searchbox")).to_be_visible()
    await assert_only_text(page)


async def test_a_careless_page_would_run_them(stage: Stage) -> None:
    """What watches sees it: without our care most of them run, and ask others."""
    await stage.begin()
    page = await stage.look(clean=False)
    watch = stage.watches[-1]
    body = "<!doctype html>" + "".join(f"<div>{text}</div>" for text in PAYLOADS)

    async def answer(route: Route) -> None:
        await route.fulfill(body=body, content_type="text/html")

    await page.route("**/careless", answer)
    await page.goto(f"{stage.live.origin}/careless")
    await page.wait_for_function("document.readyState === 'complete'")
    await wait_for_runs(page, watch)
    assert any(url.startswith(OUTSIDE) for url in watch.outside)
    with pytest.raises(AssertionError):
        watch.assert_clean()


async def test_what_the_policy_stops_is_seen(stage: Stage) -> None:
    """Were a script or a picture put into this page, it would not run, and a test would fail."""
    await stage.begin()
    page = await stage.look(clean=False)
    watch = stage.watches[-1]
    await page.evaluate(
        "outside => { const i = new Image(); i.src = outside; document.body.append(i); }", OUTSIDE
    )
    await page.evaluate("""() => {
        const button = document.createElement("button");
        button.setAttribute("style", "color: red");
        document.body.append(button);
    }""")
    await expect_told(page, watch, {"img-src", "style-src-attr"})
    refused: Any = await page.evaluate("""() => {
        try { document.body.innerHTML = "<p>x</p>"; } catch (error) { return error.name; }
    }""")
    assert refused == "TypeError"


async def wait_for_runs(page: Page, watch: Watch) -> None:
    for _ in range(100):
        if len(set(watch.ran)) >= 20 and watch.outside:
            return
        await page.wait_for_timeout(50)
    raise AssertionError(watch)


async def expect_told(page: Page, watch: Watch, wanted: set[str]) -> None:
    for _ in range(100):
        if wanted <= set(watch.ran):
            return
        await page.wait_for_timeout(50)
    raise AssertionError(watch)
