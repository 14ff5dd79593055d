// The requests of this moment, as they come.

import * as address from "./address.js";
import { events } from "./api.js";
import { notice } from "./dialogs.js";
import { button, el, fill } from "./element.js";
import { moveByArrows } from "./keyboard.js";
import { ago, bytes, clock, count, DASH, moment, money, plural, took } from "./words.js";

const MAX_ROWS = 300;
const RETRY_MS = 2000;
const HEADS = ["Time", "Outcome", "Model", "Took", "Tokens", "Size", "Saved", "Client"];

// `linked`: whether lines lead to entries.
export function tailView({ linked }) {
  const rows = el("tbody", {});
  const state = el("span", { class: "state", "data-state": "connecting" }, "connecting");
  const pausing = button("Pause", pause, { "aria-pressed": "false" });
  const clearing = button("Clear", clear, { class: "quiet" });
  const failed = el("div", { role: "alert" });
  const waiting = el(
    "div",
    { class: "empty" },
    el("h2", {}, "Waiting for requests"),
    el(
      "p",
      {},
      "Each request to this host's proxy is a line here, from now on. Prompts are not told.",
    ),
  );
  const table = el(
    "table",
    { class: "list tail", "aria-label": "Requests", hidden: true },
    el(
      "thead",
      {},
      el(
        "tr",
        {},
        HEADS.map((head) => el("th", { scope: "col" }, head)),
      ),
    ),
    rows,
  );
  const element = el(
    "section",
    { "aria-label": "Live" },
    el("div", { class: "bar" }, state, el("div", { class: "actions" }, pausing, clearing)),
    failed,
    table,
    waiting,
  );
  let held = null; // while it is paused, what came meanwhile
  let listening = null;
  moveByArrows(rows, "a");

  return { element, show, hide };

  function show() {
    if (listening !== null) return;
    listening = new AbortController();
    listen(listening.signal);
  }

  function hide() {
    listening?.abort();
    listening = null;
  }

  async function listen(signal) {
    while (!signal.aborted) {
      try {
        tellState("connecting");
        const told = events("events", signal, () => tellState(held === null ? "live" : "paused"));
        for await (const event of told) take(event);
        fill(failed);
      } catch (error) {
        if (signal.aborted) return;
        tellState("interrupted");
        fill(failed, notice(error));
        if ([401, 403, 404].includes(error.status)) return;
      }
      await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
    }
  }

  function take(event) {
    if (event.event !== "request") return; // what was dropped, as this page was too slow
    if (held === null) {
      add([event]);
      return;
    }
    held.push(event);
    if (held.length > MAX_ROWS) held.shift();
    tellState("paused");
  }

  function add(told) {
    if (told.length === 0) return;
    rows.prepend(...told.map((event) => rowOf(event, linked)).reverse());
    while (rows.children.length > MAX_ROWS) rows.lastChild.remove();
    table.hidden = false;
    waiting.hidden = true;
  }

  function pause() {
    const before = held;
    held = before === null ? [] : null;
    pausing.textContent = before === null ? "Go on" : "Pause";
    pausing.setAttribute("aria-pressed", String(before === null));
    tellState(before === null ? "paused" : "live");
    add(before ?? []);
  }

  function clear() {
    fill(rows);
    table.hidden = true;
    waiting.hidden = false;
  }

  function tellState(name) {
    state.dataset.state = name;
    state.textContent = held?.length ? `paused, ${plural(held.length, "request")} since` : name;
  }
}

function rowOf(event, linked) {
  const outcome = event.outcome ?? "ERROR";
  const what = event.model || event.path;
  const name =
    linked && address.isEntry(event.entry_id)
      ? el("a", { href: address.toEntry(event.entry_id), class: "cover" }, what)
      : what;
  return el(
    "tr",
    { "data-outcome": outcome },
    el("td", { class: "time", title: moment(event.time) }, clock(event.time)),
    el("td", { class: "outcome" }, el("b", {}, outcome), el("small", {}, reasonOf(event))),
    el("td", { class: "model" }, name, el("small", {}, event.provider)),
    el("td", { class: "took" }, took(event.seconds)),
    el("td", { class: "tokens" }, tokensOf(event)),
    el("td", { class: "size" }, bytes(event.answer_bytes)),
    el(
      "td",
      event.saved_usd ? { class: "saved", "data-label": "saved" } : { class: "saved" },
      savedBy(event),
    ),
    el("td", { class: "who" }, event.client),
  );
}

function reasonOf({ status, reason, age, time, cut }) {
  const failed = status >= 400 ? `status ${status}` : "";
  const old =
    age === null || age === undefined
      ? ""
      : ago(new Date(Date.parse(time) - age * 1000), Date.parse(time));
  return [failed, reason, old, cut && "cut"].filter(Boolean).join(", ");
}

function savedBy({ saved_usd: usd }) {
  return usd ? money(usd) : "";
}

function tokensOf({ input_tokens: input, output_tokens: output }) {
  if ((input ?? null) === null && (output ?? null) === null) return DASH;
  return [`${count(input ?? 0)} in`, el("small", {}, `${count(output ?? 0)} out`)];
}
