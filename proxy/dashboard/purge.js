// Purging: how many entries it is about is told before anything happens.

import { ask } from "./api.js";
import { confirm, notice, say } from "./dialogs.js";
import { el, fill } from "./element.js";
import { inWords } from "./filters.js";
import { plural } from "./words.js";

const WAYS = {
  delete: {
    label: "Delete them",
    more: "They are gone, everywhere, when this is done.",
    query: {},
    counted: "would_delete",
    done: "deleted",
  },
  expire: {
    label: "Expire them",
    more: "They are fetched anew when asked for next, and still serve if the provider fails.",
    query: { stale: "true" },
    counted: "would_expire",
    done: "expired",
  },
};

export async function purge(filter, onDone) {
  const preview = el("p", { class: "count", role: "status" });
  const choices = Object.entries(WAYS).map(choice);
  let way = WAYS.delete;
  let known = null; // the way of which the number is shown
  const whole = Object.keys(filter).length === 0;
  const children = [
    el("p", {}, whole ? "All entries of this cache." : `All entries with ${inWords(filter)}.`),
    el(
      "fieldset",
      { onchange: choose },
      el("legend", { class: "unseen" }, "What is done"),
      choices,
    ),
    preview,
  ];
  const asked = confirm({ title: "Purge entries", children, action: "Purge", danger: true, run });
  count();
  if (await asked) onDone();

  function choose(event) {
    way = WAYS[event.target.value];
    count();
  }

  async function count() {
    const counting = way;
    fill(preview, "Counting…");
    try {
      const told = await ask("entries", {
        method: "DELETE",
        query: { ...filter, ...counting.query, dry_run: "true" },
      });
      if (counting !== way) return;
      known = way;
      fill(preview, counted(told[counting.counted], counting));
    } catch (error) {
      fill(preview, notice(error));
    }
  }

  async function run() {
    if (known !== way) throw new Error("It is not known yet how many these are.");
    const told = await ask("entries", { method: "DELETE", query: { ...filter, ...way.query } });
    say(`${plural(told[way.done], "entry", "entries")} ${way.done}.`);
  }
}

function counted(number, { done }) {
  return [el("b", {}, plural(number, "entry", "entries")), ` will be ${done}.`];
}

function choice([name, { label, more }], place) {
  return el(
    "label",
    { class: "choice" },
    el("input", { type: "radio", name: "way", value: name, checked: place === 0 }),
    el("span", {}, el("b", {}, label), el("small", {}, more)),
  );
}
