// The admin API: every request of this page goes through here.

import { CLIENT, FIGURES, FULL, forgetToken, token } from "./session.js";

const OUT_OF_REACH = "The proxy cannot be reached.";

// What the server refused, in its own words. Status 0: it did not answer.
export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

let onUnauthorized = () => {};

export function whenUnauthorized(listener) {
  onUnauthorized = listener;
}

// Paths are relative to the page, so that it may lie below another.
export async function ask(path, { method = "GET", query = {}, body, signal } = {}) {
  const answer = await send(path, { method, query, body, signal });
  try {
    return await answer.json();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(answer.status, "The proxy's answer cannot be read.");
  }
}

// The data of server-sent events, one after another, until the connection ends. `onOpen` is called
// once it stands.
export async function* events(path, signal, onOpen) {
  const answer = await send(path, { method: "GET", query: {}, signal });
  onOpen();
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const told = (rest + value).split(/\r?\n\r?\n/);
    rest = told.pop();
    for (const each of told) {
      const data = dataOf(each);
      if (data !== "") yield JSON.parse(data);
    }
  }
}

// What the token lets one do; it is the server who decides, this is for what to show.
export async function role() {
  const [figures] = await Promise.allSettled([ask("stats")]);
  if (figures.reason?.status === 401) throw figures.reason; // one try is one, where they are counted
  const [entries] = await Promise.allSettled([ask("entries", { query: { limit: 1 } })]);
  if (isAdmitted(figures)) return isAdmitted(entries) ? FULL : FIGURES;
  if (isAdmitted(entries)) return CLIENT;
  throw figures.reason;
}

export async function health() {
  const answer = await fetch("../readyz", { cache: "no-store" });
  return answer.json();
}

function isAdmitted({ status, reason }) {
  return status === "fulfilled" || ![0, 401, 403, 429].includes(reason.status);
}

async function send(path, { method, query, body, signal }) {
  const url = new URL(path, document.baseURI);
  for (const [name, value] of Object.entries(query)) url.searchParams.set(name, value);
  const headers = { authorization: `Bearer ${token() ?? ""}` };
  if (body !== undefined) headers["content-type"] = "application/json";
  const sent = { method, headers, signal, cache: "no-store", redirect: "error" };
  if (body !== undefined) sent.body = JSON.stringify(body);
  const answer = await reach(url, sent);
  if (answer.ok) return answer;
  const refused = new Refused(answer.status, await reasonOf(answer));
  if (answer.status === 401) {
    forgetToken();
    onUnauthorized(refused);
  }
  throw refused;
}

async function reach(url, sent) {
  try {
    return await fetch(url, sent);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(0, OUT_OF_REACH);
  }
}

async function reasonOf(answer) {
  try {
    const { error } = await answer.json();
    return String(error.message);
  } catch {
    return `The proxy answered with status ${answer.status}.`;
  }
}

function dataOf(event) {
  const lines = event.split(/\r?\n/).filter((line) => line.startsWith("data:"));
  return lines.map((line) => line.slice(line[5] === " " ? 6 : 5)).join("\n");
}
