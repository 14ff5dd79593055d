// Reads what was asked and answered, on whatever wire, as turns of parts.
//
// A turn is {who, parts}; a part {kind, ...}: text, call, result, thinking, refusal, picture,
// vector, or json, which is whatever is not known here.

import { count } from "./words.js";

const KNOWN = ["instructions", "system", "messages", "input", "prompt", "suffix"];
const TEXTS = ["text", "input_text", "output_text", "summary_text", "reasoning_text"];
const PICTURES = ["image", "image_url", "input_image"];
const OF_MESSAGES = [
  "role",
  "content",
  "name",
  "refusal",
  "tool_calls",
  "tool_call_id",
  "function_call",
  "reasoning_content",
  "reasoning",
  "type",
  "id",
  "status",
];

export function asked(prompt) {
  const whole = parsed(prompt);
  if (!isObject(whole)) return [{ who: "prompt", parts: [text(prompt)] }];
  const rest = Object.fromEntries(Object.entries(whole).filter(([name]) => !KNOWN.includes(name)));
  return [
    ...plainTurn("instructions", whole.instructions),
    ...plainTurn("system", whole.system),
    ...list(whole.messages).map(turnOf),
    ...inputTurns(whole.input),
    ...plainTurn("prompt", whole.prompt),
    ...plainTurn("suffix", whole.suffix),
    ...(Object.keys(rest).length ? [{ who: "also", parts: [json(rest)] }] : []),
  ];
}

export function answered(generations) {
  return generations.map((generation, place) => {
    const who = generations.length > 1 ? `answer ${place + 1}` : "answer";
    return { ...answerOf(generation), who, ended: endOf(generation) };
  });
}

// The words in the beginning of a prompt, which may be cut anywhere.
export function preview(beginning) {
  const found = [...beginning.matchAll(/"(?:content|text|input|prompt)":\s*"((?:[^"\\]|\\.)*)/g)];
  const words = found.map(([, quoted]) => unquoted(quoted)).filter((each) => each.trim());
  return words.length ? words.at(-1).replace(/\s+/g, " ").trim() : beginning;
}

function answerOf({ text: plain, message, generation_info: info }) {
  if (isObject(message)) return turnOf(message);
  if (typeof info?.embedding === "string") return { parts: [vectorOf(parsed(info.embedding))] };
  return { parts: [text(plain)] };
}

function endOf({ generation_info: info }) {
  const said = info?.choice?.finish_reason ?? info?.envelope?.stop_reason ?? info?.envelope?.status;
  return typeof said === "string" ? said : "";
}

function plainTurn(who, content) {
  return content === undefined || content === null ? [] : [{ who, parts: partsOf(content) }];
}

function inputTurns(input) {
  if (input === undefined) return [];
  if (Array.isArray(input) && input.some(isObject)) return input.map(turnOf);
  if (Array.isArray(input)) return [{ who: "input", parts: [json(input)] }];
  return plainTurn("input", input);
}

function turnOf(message) {
  if (!isObject(message)) return { who: "", parts: [json(message)] };
  if (message.role === undefined) return { who: "", parts: [partOf(message)] };
  const rest = Object.entries(message).filter(([name, value]) => isMore(name, value));
  const content = message.role === "tool" ? [resultOf(message)] : partsOf(message.content);
  return {
    who: String(message.role),
    parts: [
      ...thinkingOf(message.reasoning_content ?? message.reasoning),
      ...content,
      ...(typeof message.refusal === "string" ? [{ kind: "refusal", text: message.refusal }] : []),
      ...list(message.tool_calls).map(callOf),
      ...(isObject(message.function_call) ? [callOf({ function: message.function_call })] : []),
      ...(rest.length ? [json(Object.fromEntries(rest))] : []),
    ],
  };
}

function isMore(name, value) {
  if (OF_MESSAGES.includes(name) || value === null) return false;
  return !(Array.isArray(value) && value.length === 0);
}

function partsOf(content) {
  if (content === undefined || content === null) return [];
  return Array.isArray(content) ? content.flatMap(partsWithin) : [partOf(content)];
}

// An answer of `/responses` has messages within its content.
function partsWithin(part) {
  return part?.type === "message" ? partsOf(part.content) : [partOf(part)];
}

function partOf(part) {
  if (typeof part === "string") return text(part);
  if (!isObject(part)) return json(part);
  const { type = "" } = part;
  if (TEXTS.includes(type) && typeof part.text === "string") return text(part.text);
  if (type === "refusal") return { kind: "refusal", text: String(part.refusal) };
  if (type === "thinking" || type === "reasoning") return thinkingOf(part)[0];
  if (PICTURES.includes(type)) return { kind: "picture", text: pictureOf(part) };
  if (/(^|_)tool_use$|(^|_)call$/.test(type)) return callOf(part);
  if (/(^|_)tool_result$|(^|_)call_output$/.test(type)) return resultOf(part);
  return json(part);
}

function text(value) {
  return { kind: "text", text: String(value) };
}

function json(value) {
  return { kind: "json", value };
}

function thinkingOf(said) {
  if (said === undefined || said === null) return [];
  if (typeof said === "string") return [{ kind: "thinking", text: said }];
  const pieces = [...list(said.summary), ...list(said.content)].map((each) => each?.text);
  const words = [said.thinking, ...pieces].filter((each) => typeof each === "string" && each);
  return [words.length ? { kind: "thinking", text: words.join("\n\n") } : json(said)];
}

function callOf(call) {
  const called = call.function ?? call.custom ?? call;
  const given = called.arguments ?? called.input ?? called.action ?? null;
  return { kind: "call", name: called.name ?? call.type, id: call.call_id ?? call.id, given };
}

function resultOf(result) {
  const id = result.tool_call_id ?? result.tool_use_id ?? result.call_id;
  return {
    kind: "result",
    id,
    failed: result.is_error === true,
    parts: partsOf(result.content ?? result.output),
  };
}

function pictureOf(part) {
  const url = part.image_url?.url ?? part.image_url ?? part.source?.url ?? part.source?.data ?? "";
  const source = String(url);
  if (source.startsWith("data:") || part.source?.type === "base64") {
    return `a picture of ${count(source.length)} characters, not shown`;
  }
  return `a picture, not loaded: ${source}`;
}

function vectorOf(vector) {
  return Array.isArray(vector) ? { kind: "vector", vector } : json(vector);
}

export function parsed(said) {
  try {
    return JSON.parse(said);
  } catch {
    return null;
  }
}

function unquoted(quoted) {
  const whole = quoted.replace(/\\(?:u[0-9a-f]{0,3})?$/i, "");
  return parsed(`"${whole}"`) ?? whole;
}

function list(value) {
  return Array.isArray(value) ? value : [];
}

function isObject(value) {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
