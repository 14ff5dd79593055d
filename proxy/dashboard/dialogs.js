// Dialogs: what is destroyed is confirmed first, and what fails is told where it was asked for.

import { button, el, fill } from "./element.js";

const SAID_MS = 5000;

// Shows a dialog; it is removed once it is closed, by Esc too.
export function open(title, children, attributes = {}) {
  const heading = el("h2", { id: `dialog-${document.querySelectorAll("dialog").length}` }, title);
  const close = button("Close", () => dialog.close(), { class: "quiet", "data-close": true });
  const dialog = el(
    "dialog",
    { "aria-labelledby": heading.id, ...attributes },
    el("header", {}, heading, close),
    children,
  );
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
  return dialog;
}

// Asks before `run` is called; it stays open until that has succeeded. Tells whether it has.
export function confirm({ title, children, action, danger = false, run, wide = false }) {
  return new Promise((resolve) => {
    const failed = el("div", { role: "alert" });
    const act = el("button", { type: "submit", class: danger ? "danger" : "primary" }, action);
    const cancel = button("Cancel", () => dialog.close());
    let done = false;
    const form = el("form", { onsubmit: submit }, children, failed, el("footer", {}, cancel, act));
    const dialog = open(title, form, { class: wide ? "wide" : null });
    dialog.addEventListener("close", () => resolve(done));
    if (danger) cancel.focus();

    async function submit(event) {
      event.preventDefault();
      act.disabled = true;
      fill(failed);
      try {
        await run();
        done = true;
        dialog.close();
      } catch (error) {
        fill(failed, notice(error));
      } finally {
        act.disabled = false;
      }
    }
  });
}

export function notice(error) {
  return el("p", { class: "notice" }, error.message);
}

// What has been done, for a moment.
export function say(text) {
  const place = document.getElementById("said");
  fill(place, el("p", {}, text));
  clearTimeout(say.timer);
  say.timer = setTimeout(() => fill(place), SAID_MS);
}
