// The form that says which entries are meant.

import { button, el, fill } from "./element.js";

const WAIT_MS = 250;
const DIALECTS = ["", "chat", "messages", "responses", "completions", "embeddings"];

const FIELDS = [
  { name: "model", label: "Model" },
  { name: "provider", label: "Provider" },
  { name: "dialect", label: "Dialect", choices: DIALECTS.map((each) => [each, each || "any"]) },
  { name: "namespace", label: "Namespace" },
  { name: "client", label: "Client" },
  { name: "tag", label: "Tag" },
  { name: "run", label: "Run" },
  {
    name: "expired",
    label: "Expired",
    choices: [
      ["", "any"],
      ["false", "fresh"],
      ["true", "expired"],
    ],
  },
  { name: "min_hits", label: "Hits, at least", type: "number" },
  { name: "stored_after", label: "Stored after", type: "datetime-local" },
  { name: "stored_before", label: "Stored before", type: "datetime-local" },
];

export function filterForm(onChange) {
  const text = el("input", {
    type: "search",
    name: "text",
    placeholder: "Search prompts and answers",
    "aria-label": "Search prompts and answers",
    minlength: 3,
    autocomplete: "off",
    spellcheck: "false",
  });
  const inputs = [text, ...FIELDS.map(inputOf)];
  const summary = el("summary", {}, "Filters");
  const details = el(
    "details",
    { class: "filters" },
    summary,
    el(
      "div",
      { class: "fields" },
      FIELDS.map(({ label }, place) => el("label", {}, el("span", {}, label), inputs[place + 1])),
    ),
  );
  const clear = button("Clear", clearAll, { class: "quiet", hidden: true });
  const element = el(
    "form",
    { class: "find", role: "search", oninput: changedSoon, onsubmit: changedNow },
    el("div", { class: "search" }, text, el("kbd", { "aria-hidden": "true" }, "/")),
    clear,
    details,
  );
  let waiting = null;

  return { element, values, read, focus: () => text.focus() };

  function values() {
    return Object.fromEntries(
      inputs.filter((each) => each.value).map((each) => [each.name, each.value]),
    );
  }

  function read(query) {
    for (const each of inputs) each.value = query[each.name] ?? "";
    if (chosenFields() > 0) details.open = true;
    tell();
  }

  function changedSoon() {
    clearTimeout(waiting);
    waiting = setTimeout(changed, WAIT_MS);
  }

  function changedNow(event) {
    event.preventDefault();
    clearTimeout(waiting);
    changed();
  }

  function changed() {
    tell();
    if (element.checkValidity()) onChange();
  }

  function clearAll() {
    read({});
    text.focus();
    onChange();
  }

  function chosenFields() {
    return inputs.slice(1).filter((each) => each.value).length;
  }

  function tell() {
    const number = chosenFields();
    fill(summary, number ? `Filters (${number})` : "Filters");
    clear.hidden = Object.keys(values()).length === 0;
  }
}

// As the server takes them: times in UTC, which the form has in this place's.
export function chosen(values) {
  const said = { ...values };
  for (const name of ["stored_after", "stored_before"]) {
    if (said[name]) said[name] = new Date(said[name]).toISOString();
  }
  return said;
}

// A filter in words: "model gpt-5, hits at least 3".
export function inWords(query) {
  const labels = Object.fromEntries(FIELDS.map(({ name, label }) => [name, label.toLowerCase()]));
  const said = Object.entries(query).map(
    ([name, value]) => `${labels[name] ?? "the words"} “${value}”`,
  );
  return said.join(", ");
}

function inputOf({ name, type = "text", choices }) {
  if (choices) {
    return el(
      "select",
      { name },
      choices.map(([value, label]) => el("option", { value }, label)),
    );
  }
  const more =
    type === "number" ? { min: 0, step: 1 } : { autocomplete: "off", spellcheck: "false" };
  return el("input", { name, type, ...more });
}
