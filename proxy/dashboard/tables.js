// The figures by whom and why, in tables.

import { button, el, fill } from "./element.js";
import { count, DASH, money, percent, short, took } from "./words.js";

const ROWS = 8;
const KINDS = {
  memory: "from memory",
  backend: "from the store",
  semantic: "similar question",
  stale: "stale, the provider failed",
  collapsed: "joined one in flight",
  partial: "in part",
};

export function fillTables(element, stats, { onModel, onClient }) {
  fill(
    element,
    byName("By model", stats.by_model, onModel, "No model was asked for yet."),
    byName(
      "By client",
      stats.by_client,
      onClient,
      "Clients are told apart by their tokens: see [clients] in the config.",
    ),
    latencyTable(stats.latency),
    reasons("Hits", "wide", stats.hits_by_kind, "None yet.", (kind) => KINDS[kind] ?? kind),
    reasons("Past the cache", "", stats.bypasses_by_reason, "Nothing went past the cache."),
    reasons("Not stored", "", stats.refused_by_reason, "Every answer was stored."),
    reasons("Errors", "", stats.errors_by_reason, "None."),
  );
}

function byName(title, rows, onChoose, empty) {
  const named = Object.entries(rows);
  const most = Math.max(...named.map(([, row]) => row.requests));
  const shown = named.slice(0, ROWS).map(([name, row]) => nameRow(name, row, most, onChoose));
  const left = named.length - shown.length;
  return table(
    title,
    "wide named",
    [title === "By model" ? "Model" : "Client", "", "Requests", "Hit ratio", "Saved"],
    shown,
    named.length ? left > 0 && `and ${left} more` : empty,
  );
}

function nameRow(name, row, most, onChoose) {
  const bar = el("span", { class: "share" }, el("i"));
  bar.firstChild.style.width = `${(row.requests / most) * 100}%`;
  const hits = el("i", { class: "hits" });
  hits.style.width = `${(row.hits / most) * 100}%`;
  bar.append(hits);
  return el(
    "tr",
    {},
    el(
      "th",
      { scope: "row" },
      onChoose ? button(name, () => onChoose(name), { class: "plain" }) : name,
    ),
    el("td", { class: "bars" }, bar),
    el("td", {}, short(row.requests)),
    el("td", {}, row.hits + row.misses ? percent(row.hit_ratio) : DASH),
    el("td", {}, row.saved.usd ? money(row.saved.usd) : `${short(row.saved.tokens)} tokens`),
  );
}

function latencyTable({ hits, misses, upstream }) {
  const rows = [
    ["Hits", hits],
    ["Misses", misses],
    ["The provider's part", upstream],
  ];
  return table(
    "How long it took",
    "wide",
    ["", "p50", "p90", "p99"],
    rows.map(([name, { p50, p90, p99 }]) =>
      el(
        "tr",
        {},
        el("th", { scope: "row" }, name),
        [p50, p90, p99].map((at) => el("td", {}, took(at))),
      ),
    ),
  );
}

function reasons(title, kind, counts, empty, word = String) {
  const rows = Object.entries(counts).filter(([, number]) => number > 0);
  return table(
    title,
    kind,
    [],
    rows.map(([name, number]) =>
      el("tr", {}, el("th", { scope: "row" }, word(name)), el("td", {}, count(number))),
    ),
    rows.length ? null : empty,
  );
}

function table(title, kind, heads, rows, foot) {
  return el(
    "section",
    { class: `block ${kind}` },
    el("h3", {}, title),
    rows.length > 0 &&
      el(
        "table",
        {},
        heads.length > 0 &&
          el(
            "thead",
            {},
            el(
              "tr",
              {},
              heads.map((head) => el("th", { scope: "col" }, head)),
            ),
          ),
        el("tbody", {}, rows),
      ),
    foot && el("p", { class: "foot" }, foot),
  );
}
