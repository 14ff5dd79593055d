// Where in the page one is: `#view/entry?filter`, so that going back and reloading work.

const ENTRY = /^[0-9a-f]{64}$/;

export function read() {
  const [path, query = ""] = location.hash.slice(1).split("?");
  const [view = "", entry = ""] = path.split("/");
  return { view, entry: ENTRY.test(entry) ? entry : null, query: queryOf(query) };
}

export function to(view, entry = null, query = {}) {
  const told = new URLSearchParams(query).toString();
  return `#${view}${entry === null ? "" : `/${entry}`}${told ? `?${told}` : ""}`;
}

// The address of an entry over the view that is shown.
export function toEntry(id) {
  const { view, query } = read();
  return to(view, id, query);
}

export function toNoEntry() {
  const { view, query } = read();
  return to(view, null, query);
}

// Changes the address without a step in the history.
export function note(view, query) {
  history.replaceState(null, "", to(view, read().entry, query));
}

export function isEntry(id) {
  return typeof id === "string" && ENTRY.test(id);
}

function queryOf(text) {
  return Object.fromEntries(new URLSearchParams(text));
}
