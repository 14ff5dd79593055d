// The token of this tab, and what it lets one do.

export const FULL = "full";
export const FIGURES = "figures";
export const CLIENT = "client";

const TOKEN = "token";

export function token() {
  return sessionStorage.getItem(TOKEN);
}

export function keepToken(value) {
  sessionStorage.setItem(TOKEN, value);
}

export function forgetToken() {
  sessionStorage.removeItem(TOKEN);
}
