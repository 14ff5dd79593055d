// The overview: what the cache does and saves, in numbers, over time, and by whom.

import { ask } from "./api.js";
import { timeChart, withoutGaps } from "./charts.js";
import { notice } from "./dialogs.js";
import { button, el, fill } from "./element.js";
import { bytes, count, DASH, moment, money, percent, plural, short, stretch, took } from "./words.js";

const REFRESH_MS = 10_000;
const ROWS = 8;
const RANGES = {
  "1 h": { hours: 1, minutes: 5 },
  "24 h": { hours: 24, minutes: 30 },
  "7 d": { hours: 168, minutes: 180 },
  "30 d": { hours: 720, minutes: 720 },
};
const KINDS = {
  memory: "from memory",
  backend: "from the store",
  semantic: "similar question",
  stale: "stale, the provider failed",
  collapsed: "joined one in flight",
  partial: "in part",
};
const SAVED = {
  money: { name: "usd", format: money },
  tokens: { name: "tokens", format: short },
  time: { name: "seconds", format: stretch },
};

export function figuresView({ onModel, onClient }) {
  const numbers = el("dl", { class: "numbers" }, NUMBERS.map(numberPlace));
  const since = el("p", { class: "since" });
  const failed = el("div", { role: "alert" });
  const begin = el("div", { hidden: true });
  const charts = chartsOf();
  const tables = el("div", { class: "tables" });
  const ranges = segments("Range", Object.keys(RANGES), "24 h", choose);
  const element = el(
    "section",
    { class: "overview", "aria-label": "Overview" },
    failed,
    numbers,
    begin,
    el("div", { class: "bar" }, ranges, since),
    charts.element,
    tables,
  );
  let range = RANGES["24 h"];
  let timer = null;

  return { element, show, hide, redraw: charts.redraw };

  function show() {
    refresh();
    timer ??= setInterval(() => document.hidden || refresh(), REFRESH_MS);
  }

  function hide() {
    clearInterval(timer);
    timer = null;
  }

  function choose(name) {
    range = RANGES[name];
    refresh();
  }

  async function refresh() {
    const asked = range;
    try {
      const [stats, history] = await Promise.all([ask("stats"), ask("stats/history", query(range))]);
      if (asked === range) tell(stats, history);
      fill(failed);
    } catch (error) {
      fill(failed, notice(error));
    }
  }

  function tell(stats, history) {
    NUMBERS.forEach((number, place) => fillNumber(numbers.children[place], number, stats));
    since.textContent = sinceOf(stats);
    begin.hidden = stats.requests > 0;
    if (!begin.hidden && !begin.hasChildNodes()) fill(begin, howToBegin());
    tables.hidden = charts.element.hidden = stats.requests === 0;
    charts.show(history, range);
    if (tables.contains(document.activeElement)) return; // nobody's focus is taken away
    fillTables(tables, stats, { onModel, onClient });
  }
}

function query({ hours, minutes }) {
  return { query: { hours, step_minutes: minutes } };
}

const NUMBERS = [
  {
    name: "Hit ratio",
    value: (stats) => (stats.hits + stats.misses ? percent(stats.hit_ratio) : DASH),
    more: (stats) => `${plural(stats.hits, "hit")}, ${plural(stats.misses, "miss", "misses")}`,
  },
  {
    name: "Requests",
    value: (stats) => short(stats.requests),
    more: (stats) => `${count(stats.bypasses)} past the cache`,
  },
  {
    name: "Saved",
    value: (stats) => money(stats.saved.usd),
    more: (stats) => `${money(stats.spent.usd)} spent`,
  },
  {
    name: "Tokens saved",
    value: (stats) => short(stats.saved.tokens),
    more: (stats) => `${short(stats.spent.tokens)} spent`,
  },
  {
    name: "Time saved",
    value: (stats) => stretch(stats.saved.seconds),
    more: () => "of waiting",
  },
  {
    name: "Entries",
    value: (stats) => short(stats.entries),
    more: (stats) => bytes(stats.bytes),
  },
];

function numberPlace({ name }) {
  return el("div", {}, el("dt", {}, name), el("dd", { class: "value" }, DASH), el("dd", {}, "\u00a0"));
}

function fillNumber(place, { value, more }, stats) {
  place.children[1].textContent = value(stats);
  place.children[2].textContent = more(stats);
}

function sinceOf({ since, covers }) {
  const whose = covers === "all processes" ? "" : ", of this process only";
  return `Numbers and tables: since ${moment(since)}${whose}`;
}

function howToBegin() {
  const origin = new URL("..", document.baseURI).href.replace(/\/$/, "");
  return el(
    "div",
    { class: "empty" },
    el("h2", {}, "Nothing has been asked yet"),
    el("p", {}, "Point a client at this proxy, and ask the same twice:"),
    el(
      "pre",
      {},
      `export OPENAI_BASE_URL=${origin}/v1\nexport ANTHROPIC_BASE_URL=${origin}/anthropic`,
    ),
    el("p", {}, "The second answer comes from the cache, and what it saved is told here."),
  );
}

function chartsOf() {
  let told = null;
  let saved = SAVED.money;
  const requests = timeChart({
    title: "Requests",
    empty: "Nothing was asked in this time",
    scales: {
      y: { format: short },
      ratio: { format: (ratio) => `${Math.round(ratio * 100)} %`, range: () => [0, 1] },
    },
    series: [
      series("Misses", "miss", "bars", (point) => point.hits + point.misses, "y", ofAll("misses")),
      series("Hits", "accent", "bars", (point) => point.hits, "y", ofAll("hits")),
      series("Hit ratio", "muted", "line", (point) => point.hit_ratio, "ratio", ratioOf),
    ],
  });
  const savings = timeChart({
    title: "Saved",
    empty: "Nothing was asked in this time",
    scales: { y: { format: (value) => saved.format(value) } },
    series: [
      series("Together", "accent", "bars", (point) => point.saved[saved.name], "y", (points) =>
        saved.format(sum(points, (point) => point.saved[saved.name])),
      ),
    ],
  });
  const latency = timeChart({
    title: "Latency",
    empty: "Nothing was asked in this time",
    scales: { y: { format: took, log: true } },
    series: [
      series("Misses", "muted", "line", (point) => point.latency.misses, "y", mean("misses")),
      series("Hits", "accent", "line", (point) => point.latency.hits, "y", mean("hits")),
    ],
  });
  const choice = segments("Saved", Object.keys(SAVED), "money", (name) => {
    saved = SAVED[name];
    if (told !== null) savings.show(...told);
    savings.redraw();
  });
  savings.element.querySelector("h3").after(choice);
  const all = [requests, savings, latency];
  const element = el("div", { class: "charts" }, all.map((chart) => chart.element));
  return { element, show, redraw };

  function show({ points, step_minutes: minutes }, { hours }) {
    const step = minutes * 60;
    const end = Math.floor(Date.now() / 1000 / step) * step + step;
    const span = { begin: end - hours * 3600, end, length: hours };
    told = [withoutGaps(points, span, step), span];
    for (const chart of all) chart.show(...told);
  }

  function redraw() {
    for (const chart of all) chart.redraw();
  }
}

function series(name, colour, kind, drawn, scale, told) {
  return { name, colour, kind, drawn, scale, told };
}

function sum(points, amount) {
  return points.reduce((total, point) => total + amount(point), 0);
}

function ofAll(name) {
  return (points) => count(sum(points, (point) => point[name]));
}

function ratioOf(points) {
  const hits = sum(points, (point) => point.hits);
  const all = hits + sum(points, (point) => point.misses);
  return all ? percent(hits / all) : DASH;
}

// Of how long each took: of those, whose counts are known.
function mean(name) {
  return (points) => {
    const known = points.filter((point) => point.latency[name] !== null);
    const all = sum(known, (point) => point[name]);
    return took(all ? sum(known, (point) => point.latency[name] * point[name]) / all : null);
  };
}

function fillTables(element, stats, { onModel, onClient }) {
  fill(
    element,
    byName("By model", stats.by_model, onModel, "No model was asked for yet."),
    byName("By client", stats.by_client, onClient, "Clients are told apart by their tokens: see [clients] in the config."),
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
    el("th", { scope: "row" }, onChoose ? button(name, () => onChoose(name), { class: "plain" }) : name),
    el("td", { class: "bars" }, bar),
    el("td", {}, short(row.requests)),
    el("td", {}, row.hits + row.misses ? percent(row.hit_ratio) : DASH),
    el("td", {}, row.saved.usd ? money(row.saved.usd) : `${short(row.saved.tokens)} tokens`),
  );
}

function latencyTable({ hits, misses, upstream }) {
  const rows = [["Hits", hits], ["Misses", misses], ["of it the provider", upstream]];
  return table(
    "How long it took",
    "wide",
    ["", "p50", "p90", "p99"],
    rows.map(([name, { p50, p90, p99 }]) =>
      el("tr", {}, el("th", { scope: "row" }, name), [p50, p90, p99].map((at) => el("td", {}, took(at)))),
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
        heads.length > 0 && el("thead", {}, el("tr", {}, heads.map((head) => el("th", { scope: "col" }, head)))),
        el("tbody", {}, rows),
      ),
    foot && el("p", { class: "foot" }, foot),
  );
}

// A choice of few, of which one is taken.
function segments(label, names, chosen, onChoose) {
  const choices = names.map((name) =>
    button(name, () => choose(name), { "aria-pressed": String(name === chosen) }),
  );
  return el("div", { class: "segments", role: "group", "aria-label": label }, choices);

  function choose(name) {
    for (const each of choices) each.setAttribute("aria-pressed", String(each.textContent === name));
    onChoose(name);
  }
}
