"""What an operator does at the dashboard, in a real browser before a real proxy."""

from __future__ import annotations

import json
import re
import time
from typing import Any

import pytest
from playwright.async_api import Page, expect

from cache_backends import ChatGeneration, Entry, Generation, Key, NullCache
from tests.fakes.admin import FULL, READ
from tests.fakes.browser import Stage
from tests.fakes.chat import words

pytestmark = pytest.mark.asyncio(loop_scope="session")

ALICE, BOB = "alices-token-0123456789", "bobs-token-0123456789"


def rows(page: Page) -> Any:
    return page.locator("table.list:visible tbody tr")


def sheet(page: Page) -> Any:
    return page.locator("dialog.sheet")


async def confirm(page: Page, action: str) -> None:
    """Press the button that does it, in the dialog that was opened last."""
    dialog = page.locator("dialog").last
    await dialog.get_by_role("button", name=action, exact=True).click()
    await expect(dialog.locator("button.primary, button.danger:not(.quiet)")).to_have_count(0)


async def open_first(page: Page) -> None:
    await rows(page).first.get_by_role("link").click()
    await expect(sheet(page).locator(".answered")).to_be_visible()


async def fill_cache(stage: Stage, count: int, **about: Any) -> None:
    """Entries as other versions or processes may have stored them."""
    now = time.time()
    entries = [
        Entry(
            Key.of(f'{{"messages":[{{"content":"question {n}","role":"user"}}]}}', "{}"),
            [Generation(f"answer {n}")],
            stored_at=now - n,
            about={"provider": "openai", "dialect": "chat/1", "model": "m"} | about,
        )
        for n in range(count)
    ]
    await stage.cache.put_many(entries)


async def test_figures_tell_what_was_saved(stage: Stage) -> None:
    """Asked twice, hit once; the charts have both, and models and kinds are told apart."""
    await stage.begin()
    await stage.chat(model="gpt-4o")
    await stage.chat(model="gpt-4o")
    page = await stage.look()
    numbers = page.locator(".numbers")
    await expect(numbers).to_contain_text("50.0 %")
    await expect(numbers).to_contain_text("1 hit, 1 miss")
    await expect(numbers.locator("div").nth(2)).to_contain_text("$0.00")
    legend = page.locator("figure", has_text="Requests").locator(".legend")
    await expect(legend).to_have_text("Misses 1Hits 1Hit ratio 50.0 %")
    await expect(page.locator(".uplot canvas")).to_have_count(3)
    model = page.locator(".named").first.locator("tbody tr")
    await expect(model).to_contain_text("gpt-4o")
    await expect(page.locator(".block", has_text="from memory")).to_contain_text("1")


async def test_the_first_requests_are_seen_in_all_charts(stage: Stage) -> None:
    """One point makes no line, and next to nothing is no axis of equal labels."""
    await stage.begin()
    await stage.chat(model="gpt-4o-mini")
    await stage.chat(model="gpt-4o-mini")
    page = await stage.look()
    latency = page.locator("figure", has_text="Latency")
    await expect(latency.locator(".legend")).to_contain_text("ms")
    accent = """canvas => {
      const told = getComputedStyle(document.documentElement).getPropertyValue("--accent").trim();
      const [red, green, blue] = [1, 3, 5].map((at) => parseInt(told.slice(at, at + 2), 16));
      const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
      for (let at = 0; at < data.length; at += 4)
        if (data[at] === red && data[at + 1] === green && data[at + 2] === blue) return true;
      return false;
    }"""
    assert await latency.locator("canvas").evaluate(accent)


async def test_who_has_asked_nothing_is_told_how(stage: Stage) -> None:
    """The base URLs of this very proxy."""
    live = await stage.begin()
    page = await stage.look()
    await expect(page.locator(".empty pre")).to_contain_text(f"OPENAI_BASE_URL={live.base_url}\n")
    await expect(page.locator(".charts")).to_be_hidden()


async def test_other_ranges_are_asked_for(stage: Stage) -> None:
    """Each choice asks for its hours, and the chosen one is marked."""
    await stage.begin()
    await stage.chat()
    page = await stage.look()
    await expect(page.locator(".uplot")).to_have_count(3)
    async with page.expect_response(lambda answer: "hours=168" in answer.url) as told:
        await page.get_by_role("button", name="7 d").click()
    assert (await told.value).status == 200
    await expect(page.get_by_role("button", name="7 d")).to_have_attribute("aria-pressed", "true")


async def test_requests_come_in_live(stage: Stage) -> None:
    """A line each, the newest first, held back while paused; it leads to the entry."""
    await stage.begin()
    page = await stage.look("Live")
    await expect(page.locator(".state")).to_have_text("live")
    await stage.chat("one")
    await expect(rows(page)).to_have_count(1)
    await expect(rows(page).first).to_contain_text("MISS")
    await page.get_by_role("button", name="Pause").click()
    await stage.chat("one")
    await expect(page.locator(".state")).to_have_text("paused, 1 request since")
    await expect(rows(page)).to_have_count(1)
    await page.get_by_role("button", name="Go on").click()
    await expect(rows(page).first).to_contain_text("HIT")
    await rows(page).first.get_by_role("link").click()
    await expect(sheet(page).locator(".asked")).to_contain_text("one")


async def test_the_tail_is_bounded(stage: Stage) -> None:
    """Whoever leaves the page open does not fill the browser's memory."""
    await stage.begin()
    page = await stage.look("Live")
    await expect(page.locator(".state")).to_have_text("live")
    for _ in range(320):
        await stage.chat("again")
    await expect(rows(page)).to_have_count(300)


async def test_entries_are_found(stage: Stage) -> None:
    """By words of the prompt or the answer, and by what they are of; or not at all."""
    await stage.begin()
    await stage.chat("Where do swallows sleep?", model="one")
    await stage.chat("What is a prime?", model="two")
    page = await stage.look("Entries")
    await expect(rows(page)).to_have_count(2)
    await expect(rows(page).first).to_contain_text("What is a prime?")
    await page.get_by_role("searchbox").fill("swallows")
    await expect(rows(page)).to_have_count(1)
    await expect(rows(page)).to_contain_text("Where do swallows sleep?")
    await page.get_by_text("Filters").click()
    await page.get_by_label("Model").fill("two")
    await expect(page.get_by_text("No entry is like this")).to_be_visible()
    await page.get_by_role("button", name="Clear").click()
    await expect(rows(page)).to_have_count(2)


async def test_filters_outlive_a_reload(stage: Stage) -> None:
    """They are in the address, where a colleague gets them too."""
    await stage.begin()
    await fill_cache(stage, 2, model="one")
    await fill_cache(stage, 1, model="two")
    page = await stage.look("Entries")
    await page.get_by_text("Filters").click()
    await page.get_by_label("Model").fill("two")
    await expect(rows(page)).to_have_count(1)
    await page.reload()
    await expect(page.get_by_label("Model")).to_have_value("two")
    await expect(rows(page)).to_have_count(1)


async def test_entries_come_page_by_page(stage: Stage) -> None:
    """None twice, none left out; the focus goes to the first of those that came."""
    await stage.begin()
    await fill_cache(stage, 120)
    page = await stage.look("Entries")
    await expect(rows(page)).to_have_count(50)
    await page.get_by_role("button", name="More").click()
    await expect(rows(page)).to_have_count(100)
    await expect(rows(page).nth(50).get_by_role("link")).to_be_focused()
    await page.get_by_role("button", name="More").click()
    await expect(rows(page)).to_have_count(120)
    ids = await rows(page).evaluate_all("rows => rows.map(row => row.dataset.id)")
    assert len(set(ids)) == 120
    await expect(page.get_by_role("button", name="More")).to_be_hidden()


CALL = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"at": 1}'}}
PICTURE = {"type": "image_url", "image_url": {"url": "https://x.test/a.png"}}
# What was asked, the message that answered, and what must be seen of both.
CONVERSATIONS: dict[str, tuple[dict[str, Any], dict[str, Any], list[str]]] = {
    "chat": (
        {
            "messages": [
                {"role": "system", "content": "Be short."},
                {"role": "user", "content": [{"type": "text", "text": "Hi"}, PICTURE]},
                {"role": "tool", "content": "21", "tool_call_id": "c0"},
            ]
        },
        {"role": "assistant", "content": "Well.", "tool_calls": [CALL], "odd": {"left": True}},
        ["Be short.", "not loaded: https://x.test/a.png", "result", "calls look", '"at": 1', "odd"],
    ),
    "messages": (
        {
            "system": "Be kind.",
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {
                            "type": "tool_result",
                            "tool_use_id": "t",
                            "content": [{"type": "text", "text": "3 pages"}],
                        }
                    ],
                }
            ],
        },
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "Hm.", "signature": "s"},
                {"type": "tool_use", "id": "t", "name": "find", "input": {"q": "cats"}},
                {"type": "text", "text": "Here."},
                {"type": "hologram", "beam": 7},
            ],
        },
        ["Be kind.", "3 pages", "Hm.", "calls find", '"q": "cats"', "Here.", '"beam": 7'],
    ),
    "responses": (
        {
            "instructions": "Be brief.",
            "input": [
                {"role": "user", "content": [{"type": "input_text", "text": "Go"}]},
                {"type": "function_call_output", "call_id": "f", "output": "done"},
            ],
        },
        {
            "role": "assistant",
            "content": [
                {"type": "reasoning", "summary": [{"type": "summary_text", "text": "First."}]},
                {"type": "function_call", "call_id": "f", "name": "act", "arguments": "{}"},
                {"type": "message", "content": [{"type": "output_text", "text": "Gone."}]},
            ],
        },
        ["Be brief.", "Go", "done", "First.", "calls act", "Gone."],
    ),
}


@pytest.mark.parametrize("dialect", CONVERSATIONS)
async def test_an_entry_is_a_conversation(stage: Stage, dialect: str) -> None:
    """On all wires: texts, thoughts, calls and results; what is unknown is told as JSON."""
    asked, message, shown = CONVERSATIONS[dialect]
    await stage.begin()
    about = {"dialect": f"{dialect}/1", "model": "m"}
    answer = ChatGeneration("Well.", {}, message=message)
    key = Key.of(json.dumps(asked), '{"parameters":{"seed":42}}')
    await stage.cache.put_many([Entry(key, [answer], time.time(), about=about)])
    page = await stage.look("Entries")
    await open_first(page)
    for each in [*shown, '"seed": 42']:
        await expect(sheet(page)).to_contain_text(each)
    await sheet(page).get_by_text("Raw JSON").click()
    await expect(sheet(page).locator(".raw pre")).to_contain_text(f'"{key.id}"')


async def test_prompts_and_vectors_are_shown(stage: Stage) -> None:
    """Completions as text, embeddings as their beginning."""
    await stage.begin()
    url = stage.live.base_url
    mine = {"authorization": "Bearer mine"}
    await stage.client.post(
        f"{url}/completions", json={"model": "m", "prompt": "Once upon"}, headers=mine
    )
    page = await stage.look("Entries")
    await open_first(page)
    await expect(sheet(page).locator(".asked")).to_have_text("promptOnce upon")
    await page.keyboard.press("Escape")
    await page.wait_for_url("**/admin/#entries")
    await stage.client.post(
        f"{url}/embeddings", json={"model": "e", "input": "a cat"}, headers=mine
    )
    await page.reload()
    await open_first(page)
    await expect(sheet(page).locator(".answered")).to_contain_text(re.compile(r"\d dimensions"))


async def test_an_entry_is_pinned_and_unpinned(stage: Stage) -> None:
    """Each is confirmed, done at once, and seen in the list."""
    await stage.begin(cache={"url": "memory://", "ttl": 60})
    await stage.chat()
    page = await stage.look("Entries")
    await open_first(page)
    await sheet(page).get_by_role("button", name="Pin").click()
    await confirm(page, "Pin")
    await expect(sheet(page)).to_contain_text("never: it is pinned")
    await expect(sheet(page).get_by_role("button", name="Unpin")).to_be_focused()
    (row,) = (await stage.admin.get("/entries")).json()["entries"]
    assert row["pinned"]
    await sheet(page).get_by_role("button", name="Unpin").click()
    await confirm(page, "Unpin")
    await expect(sheet(page).get_by_role("button", name="Pin", exact=True)).to_be_visible()
    (row,) = (await stage.admin.get("/entries")).json()["entries"]
    assert (row["pinned"], row["expires_at"] is None) == (False, False)


async def test_tags_and_lifetime_are_set(stage: Stage) -> None:
    """As they are given; a tag that cannot be is refused where it was typed."""
    await stage.begin()
    await stage.chat()
    page = await stage.look("Entries")
    await open_first(page)
    await sheet(page).get_by_role("button", name="Tags…").click()
    await page.get_by_label("Tags, with commas").fill("x" * 200)
    await page.get_by_role("button", name="Set").click()
    await expect(page.get_by_role("alert").last).to_contain_text("tags")
    await page.get_by_label("Tags, with commas").fill("good, checked")
    await confirm(page, "Set")
    await expect(sheet(page)).to_contain_text("good, checked")
    await sheet(page).get_by_role("button", name="Lifetime…").click()
    await page.get_by_label("From now on").select_option("a day")
    await confirm(page, "Set")
    await expect(sheet(page)).to_contain_text("in 24 h")


async def test_an_answer_is_corrected(stage: Stage) -> None:
    """Who asks the same is told the new text, and the entry says that it was corrected."""
    await stage.begin()
    await stage.chat()
    page = await stage.look("Entries")
    await open_first(page)
    await sheet(page).get_by_role("button", name="Correct…").click()
    await page.get_by_label("Its text").fill("Forty-two.")
    await confirm(page, "Correct")
    await expect(sheet(page).locator(".answered")).to_contain_text("Forty-two.")
    await expect(sheet(page).locator("h3 .tag")).to_have_text("corrected")
    assert words((await stage.chat()).content) == "Forty-two."


async def test_an_entry_is_deleted(stage: Stage) -> None:
    """Only once that is confirmed; then it is gone from the list too."""
    await stage.begin()
    await stage.chat()
    page = await stage.look("Entries")
    await open_first(page)
    await sheet(page).get_by_role("button", name="Delete…").click()
    await page.get_by_role("button", name="Cancel").click()
    assert await stage.live.stored() == 1
    await sheet(page).get_by_role("button", name="Delete…").click()
    await confirm(page, "Delete")
    await expect(page.get_by_text("There are no entries yet")).to_be_visible()
    await expect(sheet(page)).to_have_count(0)
    assert await stage.live.stored() == 0


async def test_a_purge_is_previewed(stage: Stage) -> None:
    """How many it is about is told first; it is about what was found, and nothing else."""
    await stage.begin()
    await fill_cache(stage, 3, model="bad")
    await stage.chat("good")
    page = await stage.look("Entries")
    await page.get_by_text("Filters").click()
    await page.get_by_label("Model").fill("bad")
    await page.get_by_role("searchbox").fill("answer")
    await expect(rows(page)).to_have_count(3)
    await page.get_by_role("button", name="Purge…").click()
    said = "All entries with the words “answer”, model “bad”."
    await expect(page.get_by_text(said)).to_be_visible()
    await expect(page.locator("dialog .count")).to_have_text("3 entries will be deleted.")
    assert await stage.live.stored() == 4
    await confirm(page, "Purge")
    await expect(page.get_by_text("3 entries deleted.")).to_be_visible()
    await expect(page.get_by_text("No entry is like this")).to_be_visible()
    assert await stage.live.stored() == 1


async def test_a_purge_can_be_soft(stage: Stage) -> None:
    """What is expired stays, and is fetched anew when it is asked for."""
    await stage.begin()
    await stage.chat()
    page = await stage.look("Entries")
    await page.get_by_role("button", name="Purge…").click()
    await expect(page.get_by_text("All entries of this cache.")).to_be_visible()
    await page.get_by_label("Expire them").check()
    await expect(page.locator("dialog .count")).to_have_text("1 entry will be expired.")
    await confirm(page, "Purge")
    await expect(rows(page)).to_contain_text("expired")
    assert (await stage.chat()).headers["x-cache"] == "MISS"


async def test_a_request_is_explained(stage: Stage) -> None:
    """What becomes of it, the nearest entry, and in what it differs; that entry is a click away."""
    await stage.begin()
    await stage.chat("Tell me a joke", temperature=0.5)
    page = await stage.look("Explain")
    body = '{"model": "m", "temperature": 0.7, "messages": '
    body += '[{"role": "user", "content": "Tell me a joke"}]}'
    await page.get_by_label("Body").fill(body)
    await page.get_by_label("Body").press("Control+Enter")
    result = page.get_by_role("region", name="Explanation")
    await expect(result).to_contain_text("MISS")
    difference = result.locator(".difference")
    await expect(difference.locator("code")).to_have_text("parameters.temperature")
    await expect(difference.locator(".stored")).to_have_text("0.5")
    await expect(difference.locator(".asked")).to_have_text("0.7")
    await result.get_by_role("link").first.click()
    await expect(sheet(page).locator(".asked")).to_contain_text("Tell me a joke")


async def test_what_missed_is_explained(stage: Stage) -> None:
    """The latest requests that missed are listed, each with why."""
    await stage.begin()
    await stage.chat("Tell me a joke")
    await stage.chat("Tell me a jest")
    page = await stage.look("Explain")
    misses = page.locator(".misses button")
    await expect(misses).to_have_count(2)
    await misses.first.click()
    difference = page.locator(".difference").first
    await expect(difference.locator("code")).to_have_text("messages[0].content")
    await expect(difference.locator(".asked")).to_have_text("Tell me a jest")


@pytest.mark.parametrize(
    ("field", "text", "told"),
    [
        ("Body", "{", "The body is not JSON"),
        ("Headers", "no colon", "expected “name: value”"),
        ("Path", "/v1/nothing", "passed through untouched"),
    ],
)
async def test_what_cannot_be_explained_is_told(
    stage: Stage, field: str, text: str, told: str
) -> None:
    """In words, where the explanation would be."""
    await stage.begin()
    page = await stage.look("Explain")
    await page.get_by_label("Body").fill('{"messages": []}')
    await page.get_by_label(field).fill(text)
    await page.get_by_role("button", name="Explain").click()
    await expect(page.get_by_role("region", name="Explanation")).to_contain_text(told)


async def test_the_mode_is_changed(stage: Stage) -> None:
    """Once it is confirmed, for everybody; and the head of the page says so."""
    await stage.begin()
    page = await stage.look()
    mode = page.locator("button.mode")
    await expect(mode).to_have_text("Mode: normal")
    await mode.click()
    await page.get_by_label("offline").check()
    await confirm(page, "Change the mode")
    await expect(mode).to_have_text("Mode: offline")
    assert (await stage.chat()).status_code == 424


async def test_without_a_token_one_is_asked_for(stage: Stage) -> None:
    """A wrong one is told as such; a right one stays in this tab, and in no address."""
    await stage.begin()
    page = await stage.look(token=None)
    field = page.get_by_label("Token")
    await field.fill("not-a-token-0123456789")
    await page.get_by_role("button", name="Enter").click()
    await expect(page.get_by_role("alert")).to_contain_text("This is not a token of this proxy")
    await field.fill(FULL)
    await page.get_by_role("button", name="Enter").click()
    await expect(page.locator(".who:visible")).to_have_text("full access")
    await page.get_by_role("button", name="Sign out").click()
    await expect(field).to_be_visible()
    assert await page.evaluate("sessionStorage.getItem('token')") is None


async def test_the_token_leaves_the_address(stage: Stage) -> None:
    """It is in no history, no cookie and nothing that outlives the tab."""
    await stage.begin()
    page = await stage.look("Overview")
    await expect(page.locator(".numbers")).to_be_visible()
    assert FULL not in page.url
    await page.go_back()
    assert FULL not in page.url
    kept = await page.evaluate("[document.cookie, localStorage.length, sessionStorage.token]")
    assert kept == ["", 0, FULL]
    await page.goto(f"{page.url.partition('#')[0]}#token={READ}")
    await expect(page.locator(".who:visible")).to_have_text("figures only")


async def test_a_read_token_shows_figures_only(stage: Stage) -> None:
    """The page says so, offers nothing else, and asks the server for nothing else."""
    await stage.begin()
    await stage.chat(model="gpt-4o")
    page = await stage.look(token=READ)
    await expect(page.locator(".numbers")).to_contain_text("1 miss")
    await expect(page.locator(".who:visible")).to_have_text("figures only")
    await expect(page.locator("nav a:visible")).to_have_text(["Overview", "Live"])
    await expect(page.locator("button.mode")).to_be_disabled()
    await expect(page.locator(".named button")).to_have_count(0)
    await page.keyboard.press("/")
    await page.goto(f"{stage.live.origin}/admin/#entries")
    await expect(page.locator(".numbers")).to_be_visible()


async def test_a_client_sees_own_entries(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """And may delete them; not pin or correct, nor see the others' or the figures."""
    monkeypatch.setenv("ALICE", ALICE)
    monkeypatch.setenv("BOB", BOB)
    await stage.begin(clients={"alice": {"token_env": "ALICE"}, "bob": {"token_env": "BOB"}})
    for prompt, token in (("mine", ALICE), ("not mine", BOB)):
        headers = {"authorization": f"Bearer {token}", "x-llm-cache-token": token}
        await stage.chat(prompt, headers=headers)
    page = await stage.look(token=ALICE)
    await expect(rows(page)).to_have_count(1)
    await expect(rows(page)).to_contain_text("mine")
    await expect(page.locator("nav a:visible")).to_have_text(["Entries", "Explain"])
    await open_first(page)
    await expect(sheet(page).locator(".actions button")).to_have_text(["Delete…"])


async def test_what_a_cache_cannot_do_is_told_in_place(stage: Stage) -> None:
    """In the server's own words; the rest of the page works."""
    stage.cache = NullCache()
    await stage.begin()
    page = await stage.look()
    await expect(page.locator(".numbers")).to_be_visible()
    await page.get_by_role("link", name="Entries").click()
    await expect(page.locator(".notice")).to_contain_text("has no list of its entries")
    await expect(page.get_by_role("button", name="Purge…")).to_be_hidden()


async def test_a_proxy_that_is_gone_is_told_as_such(stage: Stage) -> None:
    """Neither an empty page nor old figures without a word."""
    await stage.begin()
    page = await stage.look("Entries", clean=False)
    await expect(page.get_by_text("There are no entries yet")).to_be_visible()
    await page.context.set_offline(True)
    await page.get_by_role("searchbox").fill("anything")
    await expect(page.locator(".notice")).to_have_text("The proxy cannot be reached.")


async def test_keys_are_enough(stage: Stage) -> None:
    """`/` searches, arrows walk, Enter opens, Esc closes and leads back to where one was."""
    await stage.begin()
    await fill_cache(stage, 3)
    page = await stage.look()
    await expect(page.locator(".numbers")).to_be_visible()
    await page.keyboard.press("/")
    await expect(page.get_by_role("searchbox")).to_be_focused()
    await expect(rows(page)).to_have_count(3)
    await rows(page).first.get_by_role("link").focus()
    await page.keyboard.press("ArrowDown")
    await page.keyboard.press("j")
    await page.keyboard.press("ArrowUp")
    second = rows(page).nth(1).get_by_role("link")
    await expect(second).to_be_focused()
    outline = await second.evaluate("link => getComputedStyle(link, '::after').outlineWidth")
    assert outline == "2px"
    await page.keyboard.press("Enter")
    await expect(sheet(page).locator(".answered")).to_contain_text("answer 1")
    await page.keyboard.press("Escape")
    await expect(sheet(page)).to_have_count(0)
    await expect(second).to_be_focused()


@pytest.mark.parametrize("width", [360, 768])
async def test_narrow_screens_do_not_scroll_sideways(stage: Stage, width: int) -> None:
    """Not with long names and prompts either, in any view."""
    await stage.begin()
    await stage.chat("long" * 300, model="a-model-with-a-very-long-name-" * 3)
    page = await stage.look(viewport={"width": width, "height": 740})
    await expect(page.locator(".uplot")).to_have_count(3)
    for view in ("Overview", "Live", "Explain", "Entries"):
        await page.get_by_role("link", name=view).click()
        await stage.chat("long" * 300, model="a-model-with-a-very-long-name-" * 3)
        if view == "Explain":
            await page.locator(".misses button").first.click()
        if view == "Entries":
            await page.get_by_text("Filters").click()
        wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert await page.evaluate(wide) == 0, view
    await open_first(page)
    assert await sheet(page).evaluate("sheet => sheet.scrollWidth - sheet.clientWidth") == 0


CONTRAST = """
() => {
  const style = getComputedStyle(document.documentElement);
  const light = (name) => {
    const hex = style.getPropertyValue(`--${name}`).trim().slice(1);
    const parts = [0, 2, 4].map((at) => parseInt(hex.slice(at, at + 2), 16) / 255);
    const linear = parts.map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
  };
  const ratio = (one, other) => {
    const [low, high] = [light(one), light(other)].sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05);
  };
  const grounds = ["ground", "surface", "sunken"];
  const texts = ["ink", "muted", "accent", "warn", "bad"];
  const pairs = texts.flatMap((text) => grounds.map((ground) => [text, ground]));
  pairs.push(["on-accent", "accent"], ["accent", "accent-soft"], ["bad", "bad-soft"]);
  return pairs.map(([text, ground]) => [text, ground, ratio(text, ground)]);
}
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_texts_can_be_read(stage: Stage, scheme: str) -> None:
    """WCAG 2.2, 1.4.3: a contrast of 4.5 to 1, in both themes."""
    await stage.begin()
    page = await stage.look(color_scheme=scheme)
    for text, ground, ratio in await page.evaluate(CONTRAST):
        assert ratio >= 4.5, (scheme, text, ground, ratio)


async def test_the_theme_is_chosen(stage: Stage) -> None:
    """It follows the system until it is switched, and stays so in this tab."""
    await stage.begin()
    page = await stage.look(color_scheme="dark")
    ground = "getComputedStyle(document.body).backgroundColor"
    dark = await page.evaluate(ground)
    await page.get_by_role("button", name="Turn light").click()
    light = await page.evaluate(ground)
    assert light != dark
    await page.reload()
    assert await page.evaluate(ground) == light
    await expect(page.get_by_role("button", name="Turn dark")).to_be_visible()
