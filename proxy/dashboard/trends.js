// What happened over time: requests, what was saved, how long it took.

import { timeChart, withoutGaps } from "./charts.js";
import { el } from "./element.js";
import { segments } from "./segments.js";
import { count, DASH, money, percent, short, stretch, took } from "./words.js";

const SAVED = {
  money: { name: "usd", format: money, least: 0.001 },
  tokens: { name: "tokens", format: short },
  time: { name: "seconds", format: stretch },
};

export function trends() {
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
    scales: { y: { format: (value) => saved.format(value), least: () => saved.least ?? 0 } },
    series: [
      series(
        "In all",
        "accent",
        "bars",
        (point) => point.saved[saved.name],
        "y",
        (points) => saved.format(sum(points, (point) => point.saved[saved.name])),
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
  const element = el(
    "div",
    { class: "charts" },
    all.map((chart) => chart.element),
  );
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
