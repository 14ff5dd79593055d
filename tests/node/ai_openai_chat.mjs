// The ai package with @ai-sdk/openai's chat model; an ask is a prompt and `stream`.
import { createOpenAI } from '@ai-sdk/openai';
import { generateText, streamText } from 'ai';
import { scenario } from './scenario.mjs';

await scenario((baseURL) => {
  const model = createOpenAI({ baseURL }).chat('m');

  return async ({ stream, ...ask }) => {
    const asked = { model, maxRetries: 0, ...ask };
    const answer = stream ? streamText(asked) : await generateText(asked);
    // Nothing comes of a stream that is not read.
    const { headers, id } = await answer.response;
    const [text, reason, usage] = await Promise.all([
      answer.text,
      answer.finishReason,
      answer.usage,
    ]);
    return { cache: headers['x-cache'], answer: { id, text, reason, usage } };
  };
});
