// The head of the page: where one is, in which mode the proxy is, how its cache is, who one is.

import { ask, health } from "./api.js";
import { confirm, say } from "./dialogs.js";
import { button, el, fill, unseen } from "./element.js";
import { CLIENT, FIGURES, FULL } from "./session.js";

const LOOK_MS = 10_000;
const WHO = {
  [FULL]: ["full access", "This token may do all."],
  [FIGURES]: [
    "figures only",
    "This token reads figures; what was asked and answered is not shown.",
  ],
  [CLIENT]: [
    "own entries",
    "This is a client's token: it shows that client's entries, and no others.",
  ],
};
const MODES = {
  normal: "Answers come from the cache where they can; what is fetched is stored.",
  offline: "Nothing goes to a provider: what is not stored is an error.",
  refresh: "Everything is fetched anew and stored.",
  bypass: "The cache is neither read nor written.",
  "read-only": "The cache is read, not written.",
};
const THEMES = { light: "dark", dark: "light" };

// `tabs`: the views by name and label. `onTheme` is called once colours have changed.
export function pageHead(place, { tabs, onTheme, onLeave }) {
  const links = Object.entries(tabs).map(([name, label]) => [
    name,
    el("a", { href: `#${name}` }, label),
  ]);
  const nav = el(
    "nav",
    { "aria-label": "Views" },
    links.map(([, link]) => link),
  );
  const mode = button("", () => changeMode(told, setMode), { class: "mode quiet", hidden: true });
  const cache = el("span", { class: "health", hidden: true });
  const who = el("span", { class: "who", hidden: true });
  const leave = button("Sign out", onLeave, { class: "quiet", hidden: true });
  const theme = button("", turn, { class: "quiet theme" });
  let told = null;
  let role = null;
  let timer = null;
  fill(
    place,
    el("h1", {}, "llm-cache-proxy"),
    nav,
    el("div", { class: "standing" }, cache, mode, who, leave, theme),
  );
  nameTheme(theme);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    nameTheme(theme);
    onTheme();
  });
  return { admit, at };

  function admit(newRole, names) {
    role = newRole;
    for (const [name, link] of links) link.hidden = !names.includes(name);
    nav.hidden = role === null;
    who.hidden = leave.hidden = role === null;
    if (role !== null) fill(who, WHO[role][0]).title = WHO[role][1];
    clearInterval(timer);
    look();
    timer = setInterval(() => document.hidden || look(), LOOK_MS);
  }

  function at(name) {
    for (const [each, link] of links) {
      if (each === name) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
  }

  async function look() {
    const [cacheNow, modeNow] = await Promise.allSettled([health(), modeOf(role)]);
    tellHealth(cache, cacheNow.value);
    setMode(modeNow.value ?? null);
  }

  function setMode(now) {
    told = now;
    mode.hidden = now === null;
    if (now === null) return;
    fill(mode, unseen("Mode: "), now.mode);
    mode.dataset.mode = now.mode;
    mode.disabled = role !== FULL;
    mode.title = MODES[now.mode] ?? "";
  }

  function turn() {
    const next = THEMES[currentTheme()];
    document.documentElement.dataset.theme = next;
    sessionStorage.setItem("theme", next);
    nameTheme(theme);
    onTheme();
  }
}

async function modeOf(role) {
  return role === FULL || role === FIGURES ? ask("mode") : null;
}

function tellHealth(place, told) {
  place.hidden = false;
  const state = told === undefined ? "out of reach" : told.status;
  place.dataset.state = state;
  fill(place, unseen("Cache: "), [told?.cache?.name, state].filter(Boolean).join(" "));
  place.title = told?.reason ?? "";
}

async function changeMode({ mode, everywhere }, onChanged) {
  const choices = Object.entries(MODES).map(([name, more]) =>
    el(
      "label",
      { class: "choice" },
      el("input", { type: "radio", name: "mode", value: name, checked: name === mode }),
      el("span", {}, el("b", {}, name), el("small", {}, more)),
    ),
  );
  const form = el("fieldset", {}, el("legend", { class: "unseen" }, "Mode"), choices);
  const reach = everywhere
    ? "It holds for all who use this cache."
    : "It holds for this process only.";
  await confirm({
    title: "Mode of the proxy",
    children: [form, el("p", { class: "muted" }, reach)],
    action: "Change the mode",
    run: async () => {
      const wanted = form.querySelector(":checked").value;
      onChanged(await ask("mode", { method: "PUT", body: { mode: wanted } }));
      say(`The mode is ${wanted} now.`);
    },
  });
}

function currentTheme() {
  return document.documentElement.dataset.theme;
}

function nameTheme(theme) {
  const other = THEMES[currentTheme()];
  fill(theme, other === "dark" ? "Dark" : "Light");
  theme.setAttribute("aria-label", `Turn ${other}`);
}
