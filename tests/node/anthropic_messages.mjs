// `messages` of @anthropic-ai/sdk; an ask is a way to ask, the body, and headers beside.
import Anthropic from '@anthropic-ai/sdk';
import { scenario } from './scenario.mjs';

// What the client adds of its own, so that an answer is the same however it was asked for.
const told = (name, value) => (name === 'parsed_output' ? undefined : value);

await scenario((baseURL) => {
  const { messages } = new Anthropic({ baseURL, maxRetries: 0 });

  const ways = {
    create: (body, options) => messages.create(body, options),
    events: (body, options) => messages.create({ ...body, stream: true }, options),
    helper: (body, options) => messages.stream(body, options),
    count: (body, options) => messages.countTokens(body, options),
  };
  const read = { events: Array.fromAsync, helper: (stream) => stream.finalMessage() };

  return async ({ way, body, headers }) => {
    const { data, response } = await ways[way](body, { headers }).withResponse();
    const answer = JSON.stringify(way in read ? await read[way](data) : data, told);
    return { cache: response.headers.get('x-cache'), answer: JSON.parse(answer) };
  };
});
