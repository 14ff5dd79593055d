// How numbers, times and sizes are told.

export const DASH = "–";

const COUNT = new Intl.NumberFormat("en");
const SHORT = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
const CLOCK = new Intl.DateTimeFormat("en-GB", {
  hour: "2-digit",
  minute: "2-digit",
  second: "2-digit",
});
const MOMENT = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium", timeStyle: "short" });
const UNITS = ["B", "kB", "MB", "GB", "TB"];
const MINUTE = 60;
const HOUR = 60 * MINUTE;
const DAY = 24 * HOUR;

export function count(number) {
  return number === null || number === undefined ? DASH : COUNT.format(number);
}

// Short, where there is little room: 1.2M.
export function short(number) {
  if (number === null || number === undefined) return DASH;
  return number < 100_000 ? COUNT.format(number) : SHORT.format(number);
}

export function plural(number, one, many = `${one}s`) {
  return `${count(number)} ${number === 1 ? one : many}`;
}

export function percent(ratio) {
  if (ratio === null || ratio === undefined) return DASH;
  return `${(ratio * 100).toFixed(ratio === 0 || ratio === 1 ? 0 : 1)} %`;
}

export function money(usd) {
  if (usd === null || usd === undefined) return DASH;
  if (usd === 0) return "$0";
  if (usd < 0.0001) return "< $0.0001";
  if (usd < 0.01) return `$${usd.toFixed(4)}`;
  return `$${usd.toLocaleString("en", { minimumFractionDigits: 2, maximumFractionDigits: 2 })}`;
}

export function bytes(size) {
  if (size === null || size === undefined) return DASH;
  const power = size < 1000 ? 0 : Math.min(Math.floor(Math.log10(size) / 3), UNITS.length - 1);
  const amount = size / 1000 ** power;
  return `${power === 0 || amount >= 100 ? Math.round(amount) : amount.toFixed(1)} ${UNITS[power]}`;
}

// Long stretches: 3 h 12 min.
export function stretch(seconds) {
  if (seconds === null || seconds === undefined) return DASH;
  if (seconds < MINUTE) return took(seconds);
  if (seconds < HOUR) return pair(seconds, MINUTE, "min", 1, "s");
  if (seconds < DAY) return pair(seconds, HOUR, "h", MINUTE, "min");
  return pair(seconds, DAY, "d", HOUR, "h");
}

// Short ones: 0.42 ms, 1.3 s.
export function took(seconds) {
  if (seconds === null || seconds === undefined) return DASH;
  if (seconds === 0) return "0 s";
  if (seconds < 1) return `${Number((seconds * 1000).toPrecision(2))} ms`;
  return seconds < 60 ? `${seconds.toFixed(1)} s` : stretch(seconds);
}

export function ago(time, now = Date.now()) {
  const seconds = (now - Date.parse(time)) / 1000;
  return seconds < 5 ? "just now" : `${rough(seconds)} ago`;
}

export function ahead(time, now = Date.now()) {
  if (time === null) return "never";
  const seconds = (Date.parse(time) - now) / 1000;
  return seconds <= 0 ? "expired" : `in ${rough(seconds)}`;
}

export function moment(time) {
  if (time === null) return "never";
  const date = new Date(time);
  // An import may say anything.
  return Number.isNaN(date.getTime()) ? String(time) : MOMENT.format(date);
}

export function clock(time) {
  return CLOCK.format(new Date(time));
}

function rough(seconds) {
  if (seconds < MINUTE) return `${Math.round(seconds)} s`;
  if (seconds < HOUR) return `${Math.round(seconds / MINUTE)} min`;
  if (seconds < 2 * DAY) return `${Math.round(seconds / HOUR)} h`;
  if (seconds < 730 * DAY) return `${Math.round(seconds / DAY)} d`;
  return `${Math.round(seconds / DAY / 365)} years`;
}

function pair(seconds, large, largeName, small, smallName) {
  const [first, rest] = [Math.floor(seconds / large), Math.floor((seconds % large) / small)];
  return rest ? `${first} ${largeName} ${rest} ${smallName}` : `${first} ${largeName}`;
}
