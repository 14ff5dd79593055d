"""Pages for Prometheus, read as it does."""

from __future__ import annotations

import httpx
from prometheus_client.parser import text_string_to_metric_families


def samples(page: httpx.Response) -> dict[str, float]:
    """Every sample of a page, by its name and its labels in order: "name{a=1,b=2}"."""
    assert page.status_code == 200, page.text
    found = {}
    for family in text_string_to_metric_families(page.text):
        for each in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(each.labels.items()))
            found[f"{each.name}{{{labels}}}" if labels else each.name] = each.value
    return found
