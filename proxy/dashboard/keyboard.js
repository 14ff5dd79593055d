// Keys: `/` goes to the search, arrows move through lists. Esc closes dialogs by itself.

const MOVES = { ArrowDown: 1, j: 1, ArrowUp: -1, k: -1 };

export function onSlash(action) {
  document.addEventListener("keydown", (event) => {
    if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey) return;
    if (isTyping(event.target) || document.querySelector("dialog[open]")) return;
    event.preventDefault();
    action();
  });
}

// Moves the focus among the elements that `selector` finds in `list`.
export function moveByArrows(list, selector) {
  list.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || isTyping(event.target)) return;
    const items = [...list.querySelectorAll(selector)];
    const at = items.indexOf(event.target.closest(selector));
    const next = placeAfter(event.key, at, items.length);
    if (at < 0 || next === null) return;
    event.preventDefault();
    items[next].focus();
  });
}

function placeAfter(key, at, length) {
  if (key === "Home") return 0;
  if (key === "End") return length - 1;
  if (!(key in MOVES)) return null;
  return Math.min(Math.max(at + MOVES[key], 0), length - 1);
}

function isTyping(element) {
  return element.matches("input, textarea, select, [contenteditable]");
}
