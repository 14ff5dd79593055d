"""The dashboard and the alerts ask for what there is: metrics, labels, outcomes, reasons."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from proxy import errors
from proxy.metrics import Metrics, State
from proxy.models import Event, Outcome
from proxy.tally import Tally

DEPLOY = Path(__file__).parents[1] / "deploy"
DASHBOARD = json.loads((DEPLOY / "grafana-dashboard.json").read_text())
ALERTS = yaml.safe_load((DEPLOY / "alerts.yml").read_text())
# What Prometheus adds to each sample.
SCRAPED = {"instance", "job"}


def everything() -> dict[str, dict[str, set[str]]]:
    """The values of each label of each metric, once all has happened that can."""
    tally = Tally()
    said = {"provider": "openai", "model": "gpt-5", "client": "ann", "reason": "why"}
    for outcome in (*Outcome, None):
        for status in (200, 404, 503):
            event = Event("/", outcome=outcome, status=status, **said)
            event.upstream_seconds = event.saved_seconds = event.saved_usd = 1.0
            event.usd, event.input_tokens, event.saved_tokens = 2.0, 10, 5
            tally.record(event)
    tally.paid("openai", "gpt-5", 10, 2.0)
    metrics = Metrics()
    metrics.add(tally.take())
    page, _ = metrics.tell(State(entries=1, bytes=1))
    found: dict[str, dict[str, set[str]]] = {}
    for family in text_string_to_metric_families(page.decode()):
        for sample in family.samples:
            labels = found.setdefault(sample.name, {})
            for name, value in sample.labels.items():
                labels.setdefault(name, set()).add(value)
    return found


EXISTING = everything()


def expressions() -> Iterator[tuple[str, str]]:
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["name"], variable["definition"]
    for group in ALERTS["groups"]:
        for rule in group["rules"]:
            yield rule["alert"], rule["expr"]


@pytest.mark.parametrize(("title", "expression"), list(expressions()))
def test_what_is_asked_for_exists(title: str, expression: str) -> None:
    """Each metric, and each label that is chosen by or told apart."""
    asked = re.findall(r"(llm_cache_proxy_\w+)(?:\{([^}]*)\})?", expression)
    assert asked
    for name, chosen in asked:
        assert name in EXISTING, title
        for label, _, value in re.findall(r'(\w+)(=~?|!=|!~)"([^"]*)"', chosen):
            known = EXISTING[name].keys() | SCRAPED
            assert label in known, title
            if label in ("outcome", "status"):
                wanted = set(value.split("|"))
                assert wanted <= EXISTING[name][label], title
    labels = {
        label.strip() for by in re.findall(r"by \(([^)]*)\)", expression) for label in by.split(",")
    }
    assert labels <= SCRAPED.union(*(EXISTING[name] for name, _ in asked)), title


@pytest.mark.parametrize(("title", "expression"), list(expressions()))
def test_expressions_are_balanced(title: str, expression: str) -> None:
    """No bracket is left open."""
    for opening, closing in ("()", "{}", "[]"):
        assert expression.count(opening) == expression.count(closing), title


def test_reasons_that_alerts_name_are_told() -> None:
    """They are codes of errors."""
    codes = {
        each.code
        for each in vars(errors).values()
        if isinstance(each, type) and issubclass(each, errors.ProxyError)
    }
    for _, expression in expressions():
        for reason in re.findall(r'reason="([^"]*)"', expression):
            assert reason in codes


def test_alerts_say_what_is_wrong_and_how_bad_it_is() -> None:
    """In one line, and where to look."""
    rules: list[dict[str, Any]] = [rule for group in ALERTS["groups"] for rule in group["rules"]]
    assert len({rule["alert"] for rule in rules}) == len(rules)
    for rule in rules:
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert rule["annotations"].keys() == {"summary", "description"}


def test_panels_have_places_of_their_own() -> None:
    """None lies over another, and each says what it shows."""
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        assert panel["type"] == "row" or panel["description"]
        taken |= cells
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("name", sorted(EXISTING))
def test_names_follow_conventions(name: str) -> None:
    """Counters end in `_total`; what has a unit names it."""
    assert re.fullmatch(r"llm_cache_proxy(_[a-z]+)+", name)
    kinds = ("_total", "_bucket", "_sum", "_count", "_info", "_bytes", "_entries")
    assert name.endswith((*kinds, "_flights", "_skipped"))
