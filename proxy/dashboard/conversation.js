// Shows turns (see turns.js). All that is in them is hostile: it is only ever text.

import { el } from "./element.js";
import { parsed } from "./turns.js";
import { count } from "./words.js";

const SHOWN_NUMBERS = 8;

export function showTurns(turns, kind) {
  return el("ol", { class: `turns ${kind}` }, turns.map(showTurn));
}

function showTurn({ who, parts, ended }) {
  return el(
    "li",
    { class: "turn" },
    el("h4", {}, who || "item"),
    el(
      "div",
      { class: "parts" },
      parts.map(showPart),
      endNote(ended),
      parts.length === 0 && nothing(),
    ),
  );
}

function nothing() {
  return el("p", { class: "muted" }, "nothing");
}

function endNote(ended) {
  const plain = ["", undefined, "stop", "end_turn", "completed"];
  return plain.includes(ended) ? null : el("p", { class: "tag" }, `ended with: ${ended}`);
}

function showPart(part) {
  return SHOW[part.kind](part);
}

const SHOW = {
  text: ({ text: said }) => el("p", { class: "words" }, said),
  refusal: ({ text: said }) => labelled("refused", el("p", { class: "words" }, said), "bad"),
  thinking: ({ text: said }) => labelled("thinking", el("p", { class: "words muted" }, said)),
  picture: ({ text: said }) => labelled("picture", el("p", { class: "words muted" }, said)),
  json: ({ value }) => el("pre", {}, pretty(value)),
  call: ({ name, id, given }) =>
    labelled(`calls ${name}`, [code(given), id && el("small", { class: "muted" }, id)]),
  result: ({ id, parts, failed }) =>
    labelled(failed ? "failed with" : "result", [
      parts.map(showPart),
      id && el("small", { class: "muted" }, id),
    ]),
  vector: ({ vector }) =>
    labelled(
      `${count(vector.length)} dimensions`,
      el("p", { class: "words mono" }, beginningOf(vector)),
    ),
};

function beginningOf(vector) {
  const shown = vector.slice(0, SHOWN_NUMBERS).join(", ");
  return vector.length > SHOWN_NUMBERS ? `[${shown}, …]` : `[${shown}]`;
}

function labelled(label, children, kind = "") {
  return el("div", { class: `labelled ${kind}` }, el("h5", {}, label), children);
}

function code(given) {
  const value = typeof given === "string" ? (parsed(given) ?? given) : given;
  return el("pre", {}, typeof value === "string" ? value : pretty(value));
}

export function pretty(value) {
  return JSON.stringify(value, null, 2) ?? String(value);
}
