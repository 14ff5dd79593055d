// What is shown while there is no token: where one comes from, and a field for it.

import { notice } from "./dialogs.js";
import { el } from "./element.js";

export function entrance(refused, onToken) {
  const field = el("input", {
    type: "password",
    name: "token",
    required: true,
    autocomplete: "off",
    spellcheck: "false",
    "aria-label": "Token",
  });
  return el(
    "form",
    { class: "entrance", onsubmit: enter },
    el("h2", {}, "A token, please"),
    el(
      "p",
      {},
      "The proxy of this machine prints a link with its own token when it starts. Or paste what ",
      el("code", {}, "LLM_CACHE_PROXY_ADMIN__TOKEN"),
      " is, the read token, or a client's token.",
    ),
    el("div", { class: "row" }, field, el("button", { type: "submit", class: "primary" }, "Enter")),
    el("p", { class: "muted" }, "It is kept until this tab is closed, and nowhere else."),
    refused && el("div", { role: "alert" }, notice(refused)),
  );

  function enter(event) {
    event.preventDefault();
    onToken(field.value.trim());
  }
}
