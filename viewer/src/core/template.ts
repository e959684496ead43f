/** Which tokens of a prompt are the chat template's own: special tokens, names of roles, line breaks around messages. */

import type { Run } from "../data/types.ts";

const known = new WeakMap<Run["tokens"], Set<number>>();

/** Positions in the prompt; without a manifest none. Patches are no text of a template. */
export function templatePositions({ tokens, manifest }: Pick<Run, "tokens" | "manifest">): Set<number> {
  let found = known.get(tokens);
  if (!found) known.set(tokens, (found = find(manifest)));
  return found;
}

function find(manifest: Run["manifest"]): Set<number> {
  const { tokens = [], prompt_length: length = Infinity, chat, prompt, messages } = manifest ?? {};
  const own = tokens.map(({ position = 0, kind, text = "" }, place) => ({ position: position || place, kind, text }));
  const inPrompt = own.filter(({ position, kind }) => position < length && kind !== "image");
  const special = inPrompt.filter(({ kind }) => kind === "special").map(({ position }) => position);
  const said = messages?.length ? messages : prompt ? [prompt] : [];
  if (!chat || !said.length) return new Set(special);
  // Where the messages stand in the text of all tokens, one after the other.
  const whole = inPrompt.map(({ text }) => text).join("");
  const spans: [number, number][] = [];
  let from = 0;
  for (const text of said.map((each) => each.trim()).filter(Boolean)) {
    const start = whole.indexOf(text, from);
    if (start < 0) return new Set(special);
    spans.push([start, (from = start + text.length)]);
  }
  let at = 0;
  const template = inPrompt.filter(({ text, kind }) => {
    const [start, end] = [at, (at += text.length)];
    return kind === "special" || !spans.some(([first, last]) => start < last && end > first);
  });
  return new Set(template.map(({ position }) => position));
}
