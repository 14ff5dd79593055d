// The ai package with @ai-sdk/anthropic, which knows of no time but its own.
import { createAnthropic } from '@ai-sdk/anthropic';
import { asked } from './ai_sdk.mjs';

await asked((settings) => createAnthropic(settings)('m'), 'timestamp');
