// What every script here does: asks of a client what stdin says, one ask after the other, and
// prints what it saw of each. With `caught` an error is something seen, else it ends the script.
import { text } from 'node:stream/consumers';

// stdout is for the test.
globalThis.console = new console.Console(process.stderr);

export async function scenario(start) {
  const { base_url: baseURL, asks, caught = false } = JSON.parse(await text(process.stdin));
  const see = start(baseURL);
  const seen = [];
  for (const ask of asks) seen.push(await see(ask).catch(caught ? told : undefined));
  process.stdout.write(JSON.stringify(seen));
}

function told(error) {
  const { constructor, message, status = error.statusCode } = error;
  return { error: { kind: constructor.name, message, status } };
}
