// `generateText` and `streamText` of the ai package. An ask is what they are told, `stream`, the
// names of tools, which exist here, and how many turns they may take.
import { generateText, isStepCount, jsonSchema, streamText, tool } from 'ai';
import { scenario } from './scenario.mjs';

// Ids that are made up are made up alike.
Math.random = () => 0;
// What each run has of its own.
const OWN = new Set(['body', 'callId', 'headers', 'performance', 'request']);

export async function asked(start, ...own) {
  const told = (name, value) => (OWN.has(name) || own.includes(name) ? undefined : value);

  await scenario((baseURL) => {
    const model = start({ baseURL });

    return async ({ stream, tools = [], turns = 1, ...ask }) => {
      const options = { model, maxRetries: 0, stopWhen: isStepCount(turns), ...ask };
      options.tools = Object.fromEntries(tools.map((name) => [name, named(name)]));
      const { parts = [], steps } = await (stream ? streamed(options) : generateText(options));
      const cache = steps.map(({ response }) => response.headers['x-cache']).join(' ');
      return { cache, answer: JSON.parse(JSON.stringify({ parts, steps }, told)) };
    };
  });
}

async function streamed(options) {
  const answer = streamText({ ...options, onError: undefined });
  const parts = [];
  for await (const part of answer.fullStream) {
    if (part.type === 'error') throw part.error;
    parts.push(part);
  }
  return { parts, steps: await answer.steps };
}

function named(name) {
  const inputSchema = jsonSchema({ type: 'object' });
  return tool({ inputSchema, execute: (input) => `${name} of ${JSON.stringify(input)}` });
}
