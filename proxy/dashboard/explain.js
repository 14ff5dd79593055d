// Asks for explanations: of a request that is pasted, or of those that missed lately.

import { ask } from "./api.js";
import { notice } from "./dialogs.js";
import { button, el, fill } from "./element.js";
import { explained, whyResult } from "./explanation.js";
import { moveByArrows } from "./keyboard.js";
import { preview } from "./turns.js";
import { ago } from "./words.js";

const LAST = 20;
const EXAMPLE = '{"model": "gpt-5-mini", "messages": [{"role": "user", "content": "Hello"}]}';

export function explainView() {
  const path = field("input", "Path", {
    name: "path",
    placeholder: "/v1/chat/completions",
    autocomplete: "off",
    spellcheck: "false",
  });
  const headers = field("textarea", "Headers, one a line", {
    name: "headers",
    rows: 3,
    placeholder: "Authorization: Bearer sk-…",
    spellcheck: "false",
  });
  const body = field("textarea", "Body", {
    name: "body",
    rows: 12,
    placeholder: EXAMPLE,
    required: true,
    spellcheck: "false",
  });
  const act = el("button", { type: "submit", class: "primary" }, "Explain");
  const result = el(
    "div",
    { class: "result", role: "region", "aria-label": "Explanation", tabindex: "-1" },
    hint(),
  );
  const misses = el("ul", { class: "misses" });
  const form = el(
    "form",
    { class: "asking", onsubmit: submit, onkeydown: submitByKeys },
    path.label,
    body.label,
    headers.label,
    el(
      "p",
      { class: "muted" },
      "Nothing is sent to a provider. A credential is hashed and dropped; ",
      "without one, all entries are looked at.",
    ),
    act,
  );
  const element = el(
    "section",
    { class: "explain", "aria-label": "Explain" },
    el(
      "div",
      {},
      form,
      el(
        "div",
        { class: "bar" },
        el("h3", {}, "Missed lately"),
        button("Look again", show, { class: "quiet" }),
      ),
      misses,
    ),
    result,
  );
  moveByArrows(misses, "button");

  return { element, show };

  async function show() {
    try {
      const { requests } = await ask("why", { query: { last: LAST } });
      const rows = requests.map((each) => missRow(each, () => tell(whyResult(each))));
      fill(
        misses,
        rows.length
          ? rows
          : el("li", { class: "muted" }, "Nothing has missed since this process began."),
      );
    } catch (error) {
      fill(misses, el("li", {}, notice(error)));
    }
  }

  async function submit(event) {
    event.preventDefault();
    act.disabled = true;
    try {
      const described = { body: body.input.value, headers: headersOf(headers.input.value) };
      if (path.input.value) described.path = path.input.value.trim();
      else described.body = bodyOf(body.input.value);
      tell(explained(await ask("explain", { method: "POST", body: described })));
    } catch (error) {
      tell(notice(error));
    } finally {
      act.disabled = false;
    }
  }

  function submitByKeys(event) {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
  }

  function tell(children) {
    fill(result, children);
    result.focus({ preventScroll: true });
    if (result.getBoundingClientRect().top > innerHeight * 0.7)
      result.scrollIntoView({ block: "start" });
  }
}

function hint() {
  return el(
    "div",
    { class: "empty" },
    el("h2", {}, "Why does it miss?"),
    el(
      "p",
      {},
      "Paste the body of a request, or choose one that missed: here it is told what the proxy ",
      "makes of it, which stored entries are nearest, and in what they differ.",
    ),
  );
}

function field(tag, name, attributes) {
  const input = el(tag, attributes);
  return { input, label: el("label", {}, el("span", {}, name), input) };
}

// As it would be sent; where no path is said, the server tells it by the fields.
function bodyOf(text) {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new Error(`The body is not JSON: ${error.message}`);
  }
}

function headersOf(text) {
  const lines = text
    .split("\n")
    .map((line) => line.trim())
    .filter(Boolean);
  return Object.fromEntries(lines.map(headerOf));
}

function headerOf(line) {
  const at = line.indexOf(":");
  if (at < 1) throw new Error("Headers: expected “name: value” in each line.");
  return [line.slice(0, at).trim(), line.slice(at + 1).trim()];
}

function missRow(miss, onclick) {
  const words = miss.prompt === null ? miss.path : preview(miss.prompt);
  return el(
    "li",
    {},
    button(
      [
        el("b", { class: "outcome", "data-outcome": miss.outcome }, miss.outcome),
        el("span", { class: "what" }, words),
        el(
          "small",
          {},
          [miss.model, miss.client && `@${miss.client}`, ago(miss.time)]
            .filter(Boolean)
            .join(" · "),
        ),
      ],
      onclick,
    ),
  );
}
