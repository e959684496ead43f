/** Effects of routes, where a mask takes away all that one set of positions reads of another: a route is the unit then. */

import type { Effects, Manifest, Route, Side } from "./types.ts";

/** What stands in the place of who stops reading: each route has its own readers. */
export const ROUTE = "route";

/** The same rows, found by route; effects of other masks as they are, and those of which the manifest does not tell all. */
export function withRoutes(effects: Effects, manifest: Manifest | null): Effects {
  const rows: Effects["rows"] = new Map(),
    units: Effects["units"] = [];
  for (const route of routesOf(manifest)) {
    const own = effects.units.filter(({ label }) => label === route.source.name); // `last` is another position at every step
    const label = `${shownSide(route.source, manifest)} → ${shownSide(route.readers, manifest)}`;
    for (const step of effects.steps)
      for (const window of effects.windows)
        for (const { key } of own) {
          const row = effects.rows.get([step, route.block, window, key].join());
          if (row !== undefined) rows.set([step, ROUTE, window, label].join(), row);
        }
    if (own.length) units.push({ key: label, label, position: own[0].position, level: 0, split: false, route });
  }
  return rows.size && rows.size === effects.rows.size ? { ...effects, rows, units, blocks: [ROUTE] } : effects;
}

function routesOf(manifest: Manifest | null): Route[] {
  return (manifest?.effects?.routes ?? []).flatMap(({ block, source, readers }) =>
    block === undefined || source?.name === undefined
      ? []
      : [{ block, source: sideOf(source), readers: sideOf(readers ?? { name: "later" }) }],
  );
}

const sideOf = ({ name = "", positions = [] }: Partial<Side>): Side => ({ name, positions });

/** "image", or of a single position its token: "blue (9)". */
export function shownSide({ name, positions }: Side, manifest: Manifest | null): string {
  const token =
    positions.length === 1 && /^\d+$/.test(name) && manifest?.tokens?.find((each) => each.position === positions[0]);
  return token && token.text?.trim() ? `${token.text.trim()} (${name})` : name;
}
