// What can be changed of an entry. Each change tells whether it was made.

import { ask } from "./api.js";
import { pretty } from "./conversation.js";
import { confirm, say } from "./dialogs.js";
import { button, el } from "./element.js";
import { ahead } from "./words.js";

const LIVES = [
  ["3600", "an hour"],
  ["86400", "a day"],
  ["604800", "a week"],
  ["2592000", "thirty days"],
  ["", "without end"],
];

export async function setPinned({ id, pinned }) {
  if (pinned) {
    return confirm({
      title: "Unpin this entry?",
      children: el("p", {}, "It gets the end again that it had before, which may have passed."),
      action: "Unpin",
      run: () => patch(id, { pinned: false }, "Unpinned."),
    });
  }
  return confirm({
    title: "Pin this entry?",
    children: el(
      "p",
      {},
      "It never expires, is not overwritten by a refresh, and goes last when the cache is full.",
    ),
    action: "Pin",
    run: () => patch(id, { pinned: true }, "Pinned."),
  });
}

export function setLife({ id, expires_at: end }) {
  const choice = el(
    "select",
    { name: "ttl" },
    LIVES.map(([value, label]) => el("option", { value }, label)),
  );
  return confirm({
    title: "Lifetime",
    children: [
      el("p", {}, `It expires ${end === null ? "never" : ahead(end)} as it is.`),
      el("label", {}, el("span", {}, "From now on, fresh for"), choice),
    ],
    action: "Set",
    run: () =>
      patch(id, { ttl: choice.value === "" ? null : Number(choice.value) }, "Its lifetime is set."),
  });
}

export function setTags({ id, tags }) {
  const input = el("input", {
    name: "tags",
    value: tags.join(", "),
    autocomplete: "off",
    spellcheck: "false",
  });
  return confirm({
    title: "Tags",
    children: el("label", {}, el("span", {}, "Tags, with commas between them"), input),
    action: "Set",
    run: () => patch(id, { tags: listed(input.value) }, "Its tags are set."),
  });
}

// As a text, where the answer is one; else, or by choice, as the generations that it is stored as.
export function correct({ id, generations }) {
  const label = el("span", {});
  const input = el("textarea", { name: "answer", rows: 14, spellcheck: "false" });
  const asJson = button("Edit as JSON", editJson, { class: "quiet" });
  let isText = generations.length === 1 && generations[0].text !== "";
  if (isText) {
    label.textContent = "Its text";
    input.value = generations[0].text;
  } else {
    editJson();
  }
  return confirm({
    title: "Correct the answer",
    wide: true,
    children: [
      el("p", {}, "From now on, whoever asks the same is told this. It is marked as corrected."),
      el("label", {}, label, input),
      asJson,
    ],
    action: "Correct",
    run: async () => {
      const body = isText ? { text: input.value } : { generations: readJson(input.value) };
      await ask(`entries/${id}`, { method: "PUT", body });
      say("Corrected.");
    },
  });

  function editJson() {
    isText = false;
    label.textContent = "The generations, as JSON";
    input.value = pretty(generations);
    asJson.hidden = true;
  }
}

export function remove({ id }) {
  return confirm({
    title: "Delete this entry?",
    children: el(
      "p",
      {},
      "It is gone everywhere when this is done. The provider answers whoever asks the same next.",
    ),
    action: "Delete",
    danger: true,
    run: async () => {
      await ask(`entries/${id}`, { method: "DELETE" });
      say("Deleted.");
    },
  });
}

async function patch(id, body, done) {
  await ask(`entries/${id}`, { method: "PATCH", body });
  say(done);
}

function listed(text) {
  return text
    .split(",")
    .map((tag) => tag.trim())
    .filter(Boolean);
}

function readJson(text) {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new Error(`This is not JSON: ${error.message}`);
  }
}
