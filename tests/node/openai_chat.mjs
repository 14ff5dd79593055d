// `chat.completions` of the openai package; an ask is the body.
import OpenAI from 'openai';
import { scenario } from './scenario.mjs';

await scenario((baseURL) => {
  const { chat } = new OpenAI({ baseURL, maxRetries: 0 });

  return async (ask) => {
    const { data, response } = await chat.completions.create(ask).withResponse();
    const answer = ask.stream ? await joined(data) : data;
    return { cache: response.headers.get('x-cache'), answer };
  };
});

async function joined(chunks) {
  const whole = { text: '' };
  for await (const { id, created, model, usage, choices } of chunks) {
    Object.assign(whole, { id, created, model, usage: usage ?? whole.usage });
    for (const { delta, finish_reason } of choices) {
      whole.text += delta.content ?? '';
      whole.finish_reason = finish_reason ?? whole.finish_reason;
    }
  }
  return whole;
}
