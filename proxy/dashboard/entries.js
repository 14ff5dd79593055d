// The entries: found, listed page by page, and purged as they were found.

import * as address from "./address.js";
import { ask } from "./api.js";
import { notice } from "./dialogs.js";
import { button, el, fill, unseen } from "./element.js";
import { chosen, filterForm } from "./filters.js";
import { moveByArrows } from "./keyboard.js";
import { purge } from "./purge.js";
import { preview } from "./turns.js";
import { ago, ahead, bytes, count, moment, plural } from "./words.js";

const PAGE = 50;
const HEADS = ["Prompt", "Model", "Hits", "Size", "Stored", "Expires"];

export function entriesView() {
  const form = filterForm(search);
  const rows = el("tbody", {});
  const table = el(
    "table",
    { class: "list", "aria-label": "Entries" },
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
  const told = el("p", { class: "told", role: "status" });
  const more = button("More", () => load(cursor), { hidden: true, class: "more" });
  const purging = button("Purge…", purgeFound, { class: "quiet danger" });
  const below = el("div", {});
  const element = el(
    "section",
    { "aria-label": "Entries" },
    form.element,
    el("div", { class: "bar" }, told, purging),
    table,
    below,
    more,
  );
  let cursor = null;
  let asking = null;
  moveByArrows(rows, "a");

  return { element, show, focus: form.focus, changed };

  function show({ query }) {
    form.read(query);
    search();
  }

  function search() {
    address.note("entries", form.values());
    load(null);
  }

  // Something was changed elsewhere.
  function changed() {
    if (!element.hidden) load(null);
  }

  async function load(from) {
    asking?.abort();
    asking = new AbortController();
    table.setAttribute("aria-busy", "true");
    try {
      const query = { ...chosen(form.values()), limit: PAGE };
      if (from !== null) query.cursor = from;
      const page = await ask("entries", { query, signal: asking.signal });
      tell(page, from === null);
    } catch (error) {
      if (error.name === "AbortError") return;
      refuse(error);
    }
    table.removeAttribute("aria-busy");
  }

  function tell({ entries, next_cursor: next }, isFirst) {
    const made = entries.map(rowOf);
    const first = rows.children.length;
    if (isFirst) fill(rows, made);
    else rows.append(...made);
    cursor = next;
    more.hidden = next === null;
    const shown = rows.children.length;
    told.textContent = shown
      ? `${plural(shown, "entry", "entries")}${next ? ", and more" : ""}`
      : "";
    table.hidden = shown === 0;
    purging.hidden = shown === 0;
    fill(below, shown === 0 && nothingFound(Object.keys(chosen(form.values())).length));
    if (!isFirst) rows.children[first]?.querySelector("a").focus();
  }

  function refuse(error) {
    fill(rows);
    told.textContent = "";
    table.hidden = more.hidden = purging.hidden = true;
    fill(below, notice(error));
  }

  function purgeFound() {
    purge(chosen(form.values()), search);
  }
}

function nothingFound(filters) {
  return el(
    "div",
    { class: "empty" },
    el("h2", {}, filters ? "No entry is like this" : "There are no entries yet"),
    el(
      "p",
      {},
      filters
        ? "All that is said must fit. Leave something out, or look under other names."
        : "Each complete answer of a provider becomes one. Ask something through this proxy.",
    ),
  );
}

function rowOf(entry) {
  return el(
    "tr",
    { "data-id": entry.id },
    el(
      "td",
      { class: "prompt" },
      el("a", { href: address.toEntry(entry.id), class: "cover" }, preview(entry.prompt_preview)),
      el("span", { class: "tags" }, marksOf(entry)),
    ),
    el("td", { class: "model" }, entry.model, el("small", {}, entry.dialect)),
    el("td", { class: "hits", "data-label": "hits" }, count(entry.hits)),
    el("td", { class: "size" }, bytes(entry.bytes)),
    el("td", { class: "stored", title: moment(entry.stored_at) }, ago(entry.stored_at)),
    el(
      "td",
      { class: "expires", title: moment(entry.expires_at), "data-label": labelOf(entry) },
      endOf(entry),
    ),
  );
}

function endOf({ pinned, expires_at: end }) {
  return pinned ? "never" : ahead(end);
}

// What stands before it where there is no heading.
function labelOf(entry) {
  return endOf(entry) === "expired" ? "" : "expires";
}

function marksOf({ pinned, namespace, client, tags }) {
  return [
    pinned && el("b", { class: "tag pinned" }, "pinned"),
    namespace && el("b", { class: "tag" }, unseen("namespace "), `~${namespace}`),
    tags.map((tag) => el("b", { class: "tag" }, unseen("tag "), tag)),
    client && el("b", { class: "tag client" }, unseen("client "), `@${client}`),
  ];
}
