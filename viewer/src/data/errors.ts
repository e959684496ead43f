/** Errors a user can do something about. Everything else that is thrown is a mistake of ours. */

/** One clear sentence: what was found, and what was expected. */
export class LoadError extends Error {
  override name = "LoadError";
}

/** A table, but not of results. `found` are its columns or keys: they decide whether the file is a manifest. */
export class NotResults extends LoadError {
  override name = "NotResults";
  readonly found: string[];
  constructor(missing: readonly string[], found: string[], what = "result table") {
    const columns = missing.length === 1 ? `column ${missing[0]}` : `columns ${missing.join(", ")}`;
    super(`not a ${what}: the ${columns} ${missing.length === 1 ? "is" : "are"} missing; found ${listed(found)}`);
    this.found = found;
  }
}

export function listed(names: readonly string[], most = 12): string {
  if (!names.length) return "nothing";
  const shown = names.slice(0, most).map(short).join(", ");
  return names.length > most ? `${shown} and ${names.length - most} more` : shown;
}

const short = (name: string) => (name === "" ? '""' : name.length > 40 ? `${name.slice(0, 40)}...` : name);

/** Thousands separated by commas, whatever the browser's language is: messages are English. */
export const count = (n: number) => n.toLocaleString("en-US");

export const plural = (n: number, one: string) => `${count(n)} ${one}${n === 1 ? "" : "s"}`;

/** Text from a file, short enough and safe to stand in a message. */
export function quoted(text: string): string {
  return JSON.stringify(text.length > 40 ? `${text.slice(0, 40)}...` : text);
}
