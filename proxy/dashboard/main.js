// Begins, and shows the view that the address names.

import * as address from "./address.js";
import { role as roleOf, whenUnauthorized } from "./api.js";
import { fill } from "./element.js";
import { entriesView } from "./entries.js";
import { entrance } from "./entrance.js";
import { openEntry } from "./entry.js";
import { explainView } from "./explain.js";
import { figuresView } from "./figures.js";
import { pageHead } from "./head.js";
import { onSlash } from "./keyboard.js";
import { CLIENT, FIGURES, forgetToken, FULL, keepToken, token } from "./session.js";
import { tailView } from "./tail.js";

const TABS = { overview: "Overview", entries: "Entries", live: "Live", explain: "Explain" };
const OPEN_TO = {
  [FULL]: ["overview", "entries", "live", "explain"],
  [FIGURES]: ["overview", "live"],
  [CLIENT]: ["entries", "explain"],
};
const MAKE = {
  overview: (role) =>
    figuresView(role === FULL ? { onModel: byField("model"), onClient: byField("client") } : {}),
  entries: entriesView,
  live: (role) => tailView({ linked: role === FULL }),
  explain: explainView,
};

const place = document.getElementById("main");
const head = pageHead(document.getElementById("head"), {
  tabs: TABS,
  onTheme: () => views.overview?.redraw(),
  onLeave: () => {
    forgetToken();
    stayOutside(null);
  },
});
let role = null;
let views = {};
let current = null;
let dialog = null;

whenUnauthorized(stayOutside);
addEventListener("hashchange", follow);
onSlash(() => {
  if (!isOpen("entries")) return;
  if (current !== "entries") {
    location.hash = address.to("entries");
    follow();
  }
  views.entries.focus();
});
enter();

async function enter() {
  if (token() === null) {
    stayOutside(null);
    return;
  }
  try {
    role = await roleOf();
  } catch (error) {
    stayOutside(error);
    return;
  }
  fill(place);
  head.admit(role, OPEN_TO[role]);
  follow();
}

function stayOutside(refused) {
  hideCurrent();
  dialog?.close();
  [role, views] = [null, {}];
  head.admit(null, []);
  fill(
    place,
    entrance(refused, (given) => {
      keepToken(given);
      enter();
    }),
  );
}

function follow() {
  if (takeToken() || role === null) return;
  const { view, entry, query } = address.read();
  const name = isOpen(view) ? view : OPEN_TO[role][0];
  if (name !== current) showView(name, query);
  showEntry(entry);
}

// A link with a token, followed in a tab that has this page already.
function takeToken() {
  const found = /^#token=([^&]+)/.exec(location.hash);
  if (found === null) return false;
  location.reload();
  return true;
}

function isOpen(name) {
  return role !== null && OPEN_TO[role].includes(name);
}

function showView(name, query) {
  hideCurrent();
  current = name;
  views[name] ??= mounted(MAKE[name](role));
  views[name].element.hidden = false;
  document.title = `${TABS[name]} · llm-cache-proxy`;
  head.at(name);
  views[name].show({ query });
}

function mounted(view) {
  place.append(view.element);
  return view;
}

function hideCurrent() {
  if (current === null) return;
  const view = views[current];
  view.hide?.();
  view.element.hidden = true;
  current = null;
}

function showEntry(id) {
  if (dialog?.dataset.id === id) return;
  dialog?.close();
  dialog = null;
  if (id === null || role === FIGURES) return;
  dialog = openEntry(id, {
    role,
    onChanged: () => views.entries?.changed(),
    onClosed: () => {
      dialog = null;
      if (address.read().entry === id) location.hash = address.toNoEntry();
      place.querySelector(`[data-id="${id}"] a`)?.focus();
    },
  });
  dialog.dataset.id = id;
}

function byField(name) {
  return (value) => {
    location.hash = address.to("entries", null, { [name]: value });
  };
}
