// The overview: what the cache does and saves, in numbers, over time, and by whom.

import { ask } from "./api.js";
import { notice } from "./dialogs.js";
import { el, fill } from "./element.js";
import { segments } from "./segments.js";
import { fillTables } from "./tables.js";
import { trends } from "./trends.js";
import { bytes, count, DASH, moment, money, percent, plural, short, stretch } from "./words.js";

const REFRESH_MS = 10_000;
const RANGES = {
  "1 h": { hours: 1, minutes: 5 },
  "24 h": { hours: 24, minutes: 30 },
  "7 d": { hours: 168, minutes: 180 },
  "30 d": { hours: 720, minutes: 720 },
};
export function figuresView({ onModel, onClient }) {
  const numbers = el("dl", { class: "numbers" }, NUMBERS.map(numberPlace));
  const since = el("p", { class: "since" });
  const failed = el("div", { role: "alert" });
  const begin = el("div", { hidden: true });
  const charts = trends();
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
      const [stats, history] = await Promise.all([
        ask("stats"),
        ask("stats/history", query(range)),
      ]);
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
  return el(
    "div",
    {},
    el("dt", {}, name),
    el("dd", { class: "value" }, DASH),
    el("dd", {}, "\u00a0"),
  );
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
