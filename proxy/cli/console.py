"""What the commands print for people: short, and plain where it is not a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from proxy import __version__
from proxy.config import Settings, is_loopback
from proxy.config.redacted import cache_place
from proxy.environment import Environment
from proxy.explain import Explanation
from proxy.local_token import TokenError, local_token
from proxy.providers import build_providers


def banner(settings: Settings, console: Console) -> None:
    """Say how to point a client at the proxy, and what is behind it."""
    base_url = f"{settings.server.url}/v1"
    provider = build_providers(settings).default
    facts = _facts()
    facts.add_row("provider", f"{provider.name}, {provider.base_url}")
    facts.add_row("cache", cache_place(settings.cache.url))
    for line in Environment.read().describe():
        facts.add_row("network", line)
    console.print()
    console.print(Text.assemble(("llm-cache-proxy ", "bold"), (__version__, "dim")))
    console.print(facts)
    console.print()
    console.print(Text.assemble("  export OPENAI_BASE_URL=", (base_url, "bold cyan")))
    anthropic = f"{settings.server.url}/anthropic"
    console.print(Text.assemble("  export ANTHROPIC_BASE_URL=", (anthropic, "bold cyan")))
    console.print(Text.assemble(f'  client = OpenAI(base_url="{base_url}")'), highlight=False)
    if link := _admin_link(settings):
        console.print(Text.assemble("  dashboard: ", (link, "cyan")), soft_wrap=True)
    console.print(Text("\n  Ctrl-C stops\n", "dim"))


def _admin_link(settings: Settings) -> str:
    """Where the dashboard is; with the token, if that is this machine's own. "": there is none."""
    port = settings.server.port if settings.ops.port is None else settings.ops.port
    at = {"host": settings.admin_host, "port": port}
    page = f"{settings.server.model_copy(update=at).url}/admin/"
    if settings.admin.token is not None:
        return page
    if not is_loopback(settings.admin_host):
        return page if settings.admin.read_token is not None else ""
    try:
        return f"{page}#token={local_token()}"
    except TokenError:
        return ""


def show_explanation(explanation: Explanation, notes: Sequence[str], console: Console) -> None:
    facts = _facts()
    facts.add_row("provider", explanation.provider)
    facts.add_row("goes to", explanation.url)
    facts.add_row("dialect", explanation.dialect)
    facts.add_row("cache", explanation.cache)
    for path, why in explanation.ignored:
        facts.add_row("ignored", Text.assemble(path, (f"  {why}", "dim")))
    if not explanation.ignored:
        facts.add_row("ignored", "nothing")
    for note in notes:
        facts.add_row("note", note)
    console.print(facts)
    _show("llm_string", explanation.llm_string, console)
    for entry_id, prompt in zip(explanation.ids, explanation.prompts, strict=True):
        _show("prompt", prompt, console)
        _show("id", entry_id, console)


def _show(title: str, text: str, console: Console) -> None:
    """Print a text exactly as it is, to be copied: never wrapped, nothing taken for markup."""
    console.print(Text(f"\n{title}", "bold"))
    console.print(Text(text), soft_wrap=True)


def _facts() -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    return table
