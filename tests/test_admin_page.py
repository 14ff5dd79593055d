"""The dashboard's files, as served: to everybody, with a strict policy, and no others."""

from __future__ import annotations

import re

import httpx
import pytest

from proxy.routes.admin_page import INDEX, read_files
from tests.fakes.admin import TOKENS
from tests.fakes.live_proxy import StartProxy

# Files that look at the world from within this page.
SCRIPTS = [name for name in read_files() if name.endswith(".js") and not name.startswith("uPlot")]
# What makes HTML or code out of text.
SINKS = re.compile(
    r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|setHTML|srcdoc|eval\(|"
    r"new Function|createContextualFragment|javascript:|localStorage|document\.cookie|EventSource"
)


async def test_the_page_may_load_nothing_but_its_own(
    proxy: StartProxy, client: httpx.AsyncClient
) -> None:
    """No inline script or style, no frame around it, no form to elsewhere, no HTML out of text."""
    live = await proxy(admin=TOKENS)
    answer = await client.get(f"{live.origin}/admin/")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    policy = dict(
        each.split(" ", 1) for each in answer.headers["content-security-policy"].split("; ")
    )
    assert policy == {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "connect-src": "'self'",
        "img-src": "'self'",
        "frame-ancestors": "'none'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "require-trusted-types-for": "'script'",
        "trusted-types": "'none'",
    }
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert "set-cookie" not in answer.headers
    assert not re.search(r"\son\w+=|\sstyle=|<script>|<style", answer.text)


async def test_all_that_the_page_names_is_served(
    proxy: StartProxy, client: httpx.AsyncClient
) -> None:
    """With the type that it has; scripts name only files that there are."""
    live = await proxy(admin=TOKENS)
    known = read_files()
    named = set(re.findall(r'"static/([\w.]+)"', known[INDEX].content.decode()))
    for name in SCRIPTS:
        named |= set(re.findall(r'from "\./([\w.]+)"', known[name].content.decode()))
    assert named == known.keys() - {INDEX}
    for name in named:
        answer = await client.get(f"{live.origin}/admin/static/{name}")
        assert (answer.status_code, answer.content) == (200, known[name].content)
        assert answer.headers["content-type"] == known[name].type


async def test_a_file_is_sent_again_only_if_it_is_another(
    proxy: StartProxy, client: httpx.AsyncClient
) -> None:
    """The browser asks each time: a newer proxy is never looked at with an older page."""
    live = await proxy(admin=TOKENS)
    first = await client.get(f"{live.origin}/admin/static/main.js")
    assert first.headers["cache-control"] == "no-cache"
    mine = {"if-none-match": first.headers["etag"]}
    again = await client.get(f"{live.origin}/admin/static/main.js", headers=mine)
    assert (again.status_code, again.content) == (304, b"")
    other = await client.get(f"{live.origin}/admin/static/api.js", headers=mine)
    assert other.status_code == 200


@pytest.mark.parametrize(
    "name",
    [
        "nothing.js",
        "index.html",
        "uPlot.LICENSE.txt",
        "",
        ".",
        "../index.html",
        "..%2f..%2fapp.py",
        "%2e%2e/%2e%2e/app.py",
        "main.js/",
        "main.js%00",
        "MAIN.JS",
        "%2fetc%2fpasswd",
    ],
)
async def test_nothing_else_is_served(
    proxy: StartProxy, client: httpx.AsyncClient, name: str
) -> None:
    """Names are looked up among those that were read at the start, never on the disk."""
    live = await proxy(admin=TOKENS)
    answer = await client.get(f"{live.origin}/admin/static/{name}")
    assert answer.status_code in (401, 404)
    assert answer.json()["error"]["type"] == "llm_cache_proxy_error"


async def test_the_root_leads_to_the_page(proxy: StartProxy, client: httpx.AsyncClient) -> None:
    """Relative, for proxies that put something before our paths."""
    live = await proxy(admin=TOKENS)
    answer = await client.get(f"{live.origin}/admin")
    assert (answer.status_code, answer.headers["location"]) == (308, "admin/")
    assert (await client.head(f"{live.origin}/admin/")).status_code == 200
    assert (await client.post(f"{live.origin}/admin/")).status_code == 405


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "evil.test"},
        {"origin": "https://evil.test"},
        {"sec-fetch-site": "cross-site"},
    ],
)
async def test_other_sites_do_not_get_the_page(
    proxy: StartProxy, client: httpx.AsyncClient, headers: dict[str, str]
) -> None:
    """Neither by another name of this machine nor from another page."""
    live = await proxy(admin=TOKENS)
    answer = await client.get(f"{live.origin}/admin/", headers=headers)
    assert answer.status_code == 403


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_make_no_html_out_of_text(name: str) -> None:
    """What models say is only ever text; and nothing outlives the tab."""
    assert not SINKS.findall(read_files()[name].content.decode())


def test_the_chart_library_has_its_licence() -> None:
    """It is another's work, and says so."""
    script = read_files()["uPlot.iife.min.js"].content
    assert b"https://github.com/leeoniya/uPlot (v1.6.32)" in script[:300]
