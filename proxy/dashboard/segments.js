// A choice of few, of which one is taken.

import { button, el } from "./element.js";

export function segments(label, names, chosen, onChoose) {
  const choices = names.map((name) =>
    button(name, () => choose(name), { "aria-pressed": String(name === chosen) }),
  );
  return el("div", { class: "segments", role: "group", "aria-label": label }, choices);

  function choose(name) {
    for (const each of choices)
      each.setAttribute("aria-pressed", String(each.textContent === name));
    onChoose(name);
  }
}
