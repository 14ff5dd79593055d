// `responses` of the openai package; an ask is a way to ask, the body, and headers beside.
import OpenAI from 'openai';
import { scenario } from './scenario.mjs';

// What the client adds of its own, so that an answer is the same however it was asked for.
const ADDED = new Set(['output_parsed', 'output_text', 'parsed', 'parsed_arguments']);
const told = (name, value) => (ADDED.has(name) ? undefined : value);

await scenario((baseURL) => {
  // The stream helper keeps the response's headers to itself.
  let cache;
  const listening = async (...request) => {
    const response = await fetch(...request);
    cache = response.headers.get('x-cache');
    return response;
  };
  const { responses } = new OpenAI({ baseURL, maxRetries: 0, fetch: listening });

  const ways = {
    create: (body, options) => responses.create(body, options),
    events: async (body, options) =>
      Array.fromAsync(await responses.create({ ...body, stream: true }, options)),
    helper: (body, options) => responses.stream(body, options).finalResponse(),
    count: (body, options) => responses.inputTokens.count(body, options),
  };

  return async ({ way, body, headers }) => {
    const answer = JSON.stringify(await ways[way](body, { headers }), told);
    return { cache, answer: JSON.parse(answer) };
  };
});
