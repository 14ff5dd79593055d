// Shows why: what becomes of a request, the nearest stored entries, and in what they differ.

import * as address from "./address.js";
import { pretty } from "./conversation.js";
import { el } from "./element.js";
import { moment } from "./words.js";

export function whyResult(why) {
  const when = el("p", { class: "muted" }, `${moment(why.time)}, ${why.path}`);
  return [verdict(why), when, differencesOf(why.nearest), keyOf(why)];
}

export function explained(told) {
  return [verdict(told), differencesOf(told.nearest), ignoredOf(told.ignored), keyOf(told)];
}

function verdict({ outcome, reasons, id }) {
  return el(
    "div",
    { class: "verdict" },
    el("h3", {}, el("b", { class: "outcome", "data-outcome": outcome }, outcome)),
    el(
      "ul",
      {},
      reasons.map((reason) => el("li", {}, reason)),
    ),
    outcome === "HIT" && address.isEntry(id) && el("p", {}, entryLink(id, "Show the entry")),
  );
}

function entryLink(id, label) {
  return el("a", { href: address.toEntry(id) }, label);
}

function differencesOf(nearest) {
  if (nearest.length === 0) return null;
  return el(
    "section",
    {},
    el("h3", {}, "Nearest entries, and how they differ"),
    nearest.map(nearestOne),
  );
}

function nearestOne({ id, differences, more }) {
  return el(
    "article",
    { class: "near" },
    el("h4", {}, entryLink(id, `${id.slice(0, 12)}…`)),
    el("ol", {}, differences.map(difference)),
    more && el("p", { class: "muted" }, "They differ in other fields too."),
  );
}

function difference(told) {
  return el(
    "li",
    { class: "difference" },
    el("code", {}, told.path),
    el("dl", {}, side("stored", told), side("asked", told)),
  );
}

function side(name, told) {
  const value = told[name];
  const shown =
    told.absent === name
      ? "absent"
      : el("pre", {}, typeof value === "string" ? value : pretty(value));
  return [el("dt", {}, name), el("dd", { class: name }, shown)];
}

function ignoredOf(ignored) {
  if (ignored.length === 0) return null;
  return el(
    "section",
    {},
    el("h3", {}, "Not in the key"),
    el(
      "dl",
      { class: "facts" },
      ignored.map(({ path, why }) =>
        el("div", {}, el("dt", { class: "mono" }, path), el("dd", {}, why)),
      ),
    ),
  );
}

function keyOf({ id, prompt, llm_string: how }) {
  if (prompt === null) return null;
  return el(
    "details",
    { class: "raw" },
    el("summary", {}, "The key"),
    el(
      "dl",
      { class: "key" },
      keyPart("Id", id),
      keyPart("Prompt", prompt),
      keyPart("All else", how),
    ),
  );
}

function keyPart(name, value) {
  return [el("dt", {}, name), el("dd", {}, el("pre", {}, value))];
}
