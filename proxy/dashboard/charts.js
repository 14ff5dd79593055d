// Charts over time, drawn by uPlot in the page's colours, with a legend that tells numbers.

import { el } from "./element.js";

const HEIGHT_PX = 200;
const DAY_S = 86_400;
const FONT = "11px system-ui, sans-serif";
const HOURS = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit" });
const DAYS = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short" });
const BOTH = new Intl.DateTimeFormat("en-GB", {
  weekday: "short",
  day: "numeric",
  month: "short",
  hour: "2-digit",
  minute: "2-digit",
});

// `series`: {name, colour, drawn, told, kind, scale}: what is drawn of a point, and what is told of
// some points. `scales`: {y: {format, log, range, least}}, the first on the left, the second on the
// right; `least` tells how far it goes at least.
export function timeChart({ title, series, scales, empty }) {
  const when = el("span", { class: "when" });
  const values = series.map(() => el("b", {}));
  const plot = el("div", { class: "plot" });
  const element = el(
    "figure",
    { class: "chart" },
    el("figcaption", {}, el("h3", {}, title), when, legend(series, values)),
    plot,
  );
  let points = [];
  let span = null;
  let drawn = null;

  new ResizeObserver(resize).observe(plot);
  return { element, show, redraw };

  function show(newPoints, newSpan) {
    const sameSpan = span !== null && drawn !== null && newSpan.length === span.length;
    [points, span] = [newPoints, newSpan];
    plot.dataset.empty = points.some((point) => point.requests) ? "" : empty;
    tell(null);
    if (sameSpan) drawn.setData(dataOf(points, series));
    else redraw();
  }

  function redraw() {
    drawn?.destroy();
    drawn = null;
    if (span === null || plot.clientWidth === 0) return;
    drawn = new uPlot(options(), dataOf(points, series), plot);
  }

  function resize() {
    if (plot.clientWidth === 0) return;
    if (drawn === null) redraw();
    else drawn.setSize({ width: plot.clientWidth, height: HEIGHT_PX });
  }

  function tell(index) {
    const told = index === null || index === undefined ? points : [points[index]];
    when.textContent = told === points ? "" : BOTH.format(new Date(points[index].at * 1000));
    series.forEach((each, place) => {
      values[place].textContent = told.length ? each.told(told) : "";
    });
  }

  function options() {
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(`--${name}`).trim();
    return {
      width: plot.clientWidth,
      height: HEIGHT_PX,
      legend: { show: false },
      cursor: { y: false, drag: { x: false, y: false }, points: { show: false } },
      scales: { x: { range: () => [span.begin, span.end] }, ...scalesOf(scales) },
      axes: axesOf(scales, span, colour),
      series: [{}, ...series.map((each) => seriesOf(each, colour, points.length))],
      hooks: { setCursor: [(plotted) => tell(plotted.cursor.idx)] },
    };
  }
}

function legend(series, values) {
  return el(
    "ul",
    { class: "legend" },
    series.map(({ name, colour, kind }, place) =>
      el("li", { "data-colour": colour, "data-kind": kind }, name, " ", values[place]),
    ),
  );
}

function dataOf(points, series) {
  return [points.map(({ at }) => at), ...series.map(({ drawn }) => points.map(drawn))];
}

function scalesOf(scales) {
  return Object.fromEntries(
    Object.entries(scales).map(([name, { log, range, least }]) => [
      name,
      log ? { distr: 3 } : { range: range ?? fromZero(least) },
    ]),
  );
}

// Numbers too small to be told apart in words are drawn small.
function fromZero(least = () => 0) {
  return (_, __, most) => [0, Math.max(most * 1.1, least()) || 1];
}

function axesOf(scales, span, colour) {
  const plain = { stroke: colour("muted"), font: FONT, ticks: { show: false } };
  const times = {
    ...plain,
    space: 72,
    size: 30,
    grid: { show: false },
    values: (_, splits) => splits.map((at) => timeLabel(at, span)),
  };
  const others = Object.entries(scales).map(([scale, { format, log }], place) => ({
    ...plain,
    scale,
    size: 56,
    space: 36,
    side: place === 0 ? 3 : 1,
    grid: {
      show: place === 0,
      stroke: colour("line"),
      width: 1,
      ...(log && { filter: onlyDecades }),
    },
    values: (_, splits) => splits.map((value) => (value === null ? "" : format(value))),
  }));
  return [times, ...others];
}

function onlyDecades(_, splits) {
  return splits.map((value) => (Number.isInteger(Math.log10(value)) ? value : null));
}

function timeLabel(at, { begin, end }) {
  const date = new Date(at * 1000);
  const isMidnight = date.getHours() === 0 && date.getMinutes() === 0;
  if (end - begin > 2 * DAY_S || isMidnight) return DAYS.format(date);
  return HOURS.format(date);
}

function seriesOf({ colour, kind, scale }, colourOf, length) {
  const stroke = colourOf(colour);
  if (kind === "bars") {
    const paths = uPlot.paths.bars({ size: [0.8, 48], align: 1 });
    return { scale, fill: stroke, paths, points: { show: false } };
  }
  const points = { show: length < 40, filter: onlyOne, size: 4, fill: stroke };
  return { scale, stroke, width: 1.5, spanGaps: true, points };
}

// A single value makes no line.
function onlyOne(plotted, place) {
  const known = [...plotted.data[place].keys()].filter((at) => plotted.data[place][at] !== null);
  return known.length === 1 ? known : null;
}

// Puts points where nothing happened: what is told leaves them out. Steps begin at midnight, UTC.
export function withoutGaps(points, span, step) {
  const known = new Map(points.map((point) => [Date.parse(point.at) / 1000, point]));
  const all = [];
  for (let at = Math.floor(span.begin / step) * step; at < span.end; at += step) {
    all.push({ ...(known.get(at) ?? NOTHING), at });
  }
  return all;
}

const NOTHING = {
  requests: 0,
  hits: 0,
  misses: 0,
  hit_ratio: null,
  saved: { tokens: 0, seconds: 0, usd: 0 },
  latency: { hits: null, misses: null, upstream: null },
};
