/** Units from coarse to fine, as `--refine` masks them: which one is a part of which, and which ones tell something. */

import { wellFormed } from "../data/manifest.ts";
import type { Effects, Manifest } from "../data/types.ts";

type Unit = Effects["units"][number];

const idOf = (position: number | undefined, label: string) => `${position} ${wellFormed(label)}`;

/** The unit that another one is a part of, by their keys; null where the manifest tells of none. */
export function parentsOf(units: readonly Unit[], manifest: Manifest | null): Map<string, string> | null {
  const told = manifest?.effects?.refine?.units ?? [];
  if (!told.some(({ parent }) => parent !== undefined)) return null;
  const keys = new Map(units.map(({ key, position, label }) => [idOf(position, label), key]));
  const known = told.map(({ label = "", positions = [] }) => keys.get(idOf(positions[0], label)));
  return new Map(
    told.flatMap(({ parent }, place) => {
      const [part, whole] = [known[place], known[parent ?? -1]];
      return part !== undefined && whole !== undefined && part !== whole ? [[part, whole] as const] : [];
    }),
  );
}

/** A unit as it is shown: its place among the parts of others. */
export interface Nested {
  /** Places in the list of units. */
  parts: number[];
  isPart: boolean;
}

/** Where each unit stands, `parents` by keys. */
export function nested(units: readonly { key: string }[], parents: Map<string, string> | null): Nested[] {
  const found = units.map((): Nested => ({ parts: [], isPart: false }));
  const places = new Map(units.map(({ key }, place) => [key, place]));
  units.forEach(({ key }, place) => {
    const whole = places.get(parents?.get(key) ?? "");
    if (whole === undefined) return;
    found[whole].parts.push(place);
    found[place].isPart = true;
  });
  return found;
}

/** A unit changes the answer that much more than any of its parts alone: they can replace each other. As in the summary. */
const TOGETHER = 3;

/** Whether a unit tells something that its parts do not: it has none, or changes more than each of them. `sizes` by place. */
export const tells = ({ parts }: Nested, sizes: readonly number[], place: number): boolean =>
  !parts.length || sizes[place] > TOGETHER * Math.max(...parts.map((part) => sizes[part] || 0));
