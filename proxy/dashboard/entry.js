// One entry, over whatever view it was chosen in: what was asked and answered, and its facts.

import { ask } from "./api.js";
import { correct, remove, setLife, setPinned, setTags } from "./changes.js";
import { pretty, showTurns } from "./conversation.js";
import { notice, open } from "./dialogs.js";
import { button, el, fill } from "./element.js";
import { FULL } from "./session.js";
import { answered, asked, parsed } from "./turns.js";
import { ahead, ago, bytes, count, DASH, moment, money, took } from "./words.js";

// `onChanged` is called once something was changed; closing it leads to `onClosed`.
export function openEntry(id, { role, onChanged, onClosed }) {
  const body = el("div", { class: "entry", "aria-busy": "true" });
  const dialog = open("Entry", body, { class: "sheet" });
  dialog.addEventListener("close", onClosed);
  load();
  return dialog;

  async function load() {
    try {
      show(await ask(`entries/${id}`));
    } catch (error) {
      fill(body, notice(error));
    }
    body.removeAttribute("aria-busy");
  }

  function show(entry) {
    dialog.querySelector("h2").textContent = entry.model || "no model";
    fill(
      body,
      actions(entry),
      facts(entry),
      el("h3", {}, "Asked"),
      showTurns(asked(entry.prompt), "asked"),
      el("h3", {}, "Answered", entry.corrected && el("b", { class: "tag pinned" }, "corrected")),
      showTurns(answered(entry.generations), "answered"),
      el("h3", {}, "Parameters"),
      el("pre", {}, pretty(parametersOf(entry))),
      raw(entry),
    );
  }

  function actions(entry) {
    const changes = [
      button(entry.pinned ? "Unpin" : "Pin", act(setPinned)),
      button("Lifetime…", act(setLife)),
      button("Tags…", act(setTags)),
      button("Correct…", act(correct)),
    ];
    return el(
      "div",
      { class: "actions" },
      role === FULL && changes,
      button("Delete…", act(remove), { class: "danger quiet" }),
    );

    function act(change) {
      return async () => {
        const done = await change(entry);
        if (!done) return;
        onChanged();
        if (change === remove) dialog.close();
        else await load();
        focusAgain(change);
      };
    }
  }

  // What was pressed has been made anew.
  function focusAgain(change) {
    const places = [setPinned, setLife, setTags, correct];
    body.querySelectorAll(".actions button")[places.indexOf(change)]?.focus();
  }
}

function facts(entry) {
  const { made_by: made } = entry;
  const tokens = made.input_tokens === null && made.output_tokens === null;
  const told = {
    Provider: entry.provider || DASH,
    Dialect: entry.dialect,
    Namespace: entry.namespace || DASH,
    Client: entry.client || DASH,
    Tags: entry.tags.join(", ") || DASH,
    Hits: count(entry.hits),
    Size: bytes(entry.bytes),
    Stored: [moment(entry.stored_at), el("small", {}, ago(entry.stored_at))],
    Expires: entry.pinned ? "never: it is pinned" : endOf(entry),
    Tokens: tokens ? DASH : `${count(made.input_tokens)} in, ${count(made.output_tokens)} out`,
    Took: took(made.seconds),
    Cost: money(made.usd),
  };
  if (entry.corrected) told.Corrected = moment(entry.corrected);
  return el(
    "dl",
    { class: "facts" },
    Object.entries(told).map(([name, value]) =>
      el("div", {}, el("dt", {}, name), el("dd", {}, value)),
    ),
    el("div", { class: "id" }, el("dt", {}, "Id"), el("dd", { class: "mono" }, entry.id)),
  );
}

function endOf({ expires_at: end }) {
  return end === null ? "never" : [moment(end), el("small", {}, ahead(end))];
}

function parametersOf({ llm_string: how }) {
  return parsed(how)?.parameters ?? how;
}

function raw(entry) {
  const { prompt, llm_string: how, ...rest } = entry;
  const whole = { ...rest, prompt: parsed(prompt) ?? prompt, llm_string: parsed(how) ?? how };
  const shown = el("pre", {});
  const details = el("details", { class: "raw" }, el("summary", {}, "Raw JSON"), shown);
  details.addEventListener("toggle", () => fill(shown, pretty(whole)), { once: true });
  return details;
}
