// `messages` of @anthropic-ai/sdk; an ask is a way to ask, the body, and headers beside.
import Anthropic from '@anthropic-ai/sdk';
import { scenario } from './scenario.mjs';

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
    const answer = way in read ? await read[way](data) : data;
    return { cache: response.headers.get('x-cache'), answer };
  };
});
