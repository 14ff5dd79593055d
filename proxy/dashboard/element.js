// Makes elements. Whatever is put into one is text: there is no way here to pass it HTML.

export function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) give(made, name, value);
  made.append(...present(children));
  return made;
}

export function fill(element, ...children) {
  element.replaceChildren(...present(children));
  return element;
}

export function button(label, onclick, attributes = {}) {
  return el("button", { type: "button", onclick, ...attributes }, label);
}

// What is for screen readers only.
export function unseen(text) {
  return el("span", { class: "unseen" }, text);
}

function present(children) {
  return children
    .flat(Infinity)
    .filter((child) => child !== null && child !== undefined && child !== false);
}

function give(element, name, value) {
  if (value === null || value === undefined || value === false) return;
  if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
  else element.setAttribute(name, value === true ? "" : value);
}
