// The ai package with @ai-sdk/openai, whose models speak of responses unless told otherwise.
import { createOpenAI } from '@ai-sdk/openai';
import { asked } from './ai_sdk.mjs';

await asked((settings) => createOpenAI(settings)('m'));
