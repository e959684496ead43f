/**
 * The rows of the effects view: units, those that were split with their parts below them; and where masks were in one head at
 * a time, a row for each layer of a unit, whose columns are heads.
 */

import { changes, effectOn, layersOf, unitOrder, unitToken, type Shown } from "../core/effects.ts";
import { label } from "../core/tokens.ts";
import { partsOf } from "../data/effects.ts";
import type { Run } from "../data/types.ts";

export interface Row {
  /** Its place in shown.units. */
  unit: number;
  /** How many units it is a part of, one in the other. */
  depth: number;
  /** Whether its own parts are below it; null: it has none. */
  open: boolean | null;
  /** Of masks in one head at a time. */
  layer: number | null;
}

export interface Found {
  shown: Shown;
  rows: Row[];
  /** What a column is: the layers of a mask, or a head. */
  columns: Column[];
  /** Units left out below, since they change nothing. */
  folded: number;
}

/** Over a column: its name, and those of its two lines. */
export interface Column {
  name: string;
  lines: string[];
}

const headsOf = ({ effects: { windows } }: Shown) =>
  windows.length && windows.every((window) => partsOf(window).length > 2)
    ? [...new Set(windows.map((window) => partsOf(window)[2]))].sort((a, b) => a - b)
    : null;

/** Which units are shown: `all` or those that change something; and of one that was split its parts, if one of them `changes`. */
export interface Wanted {
  order: string;
  all: boolean;
  isOpen: (key: string, changes: boolean) => boolean;
}

/** The rows in their order; units that change nothing are left out, unless all would be. */
export function arranged(shown: Shown, { order, all, isOpen }: Wanted): Found {
  const { units, nested, measure } = shown;
  const strongest = unitOrder(shown, order);
  const rank = new Map(strongest.map((place, at) => [place, at]));
  const change = units.map((unit) => changes(shown, unit));
  const inside = (place: number): boolean => nested[place].parts.some((part) => change[part] || inside(part));
  const rowsOf = (place: number, depth: number, folds: boolean): Row[] => {
    const { parts } = nested[place];
    if (folds && !change[place] && !inside(place)) return [];
    const open = parts.length ? isOpen(units[place].key, inside(place)) : null;
    const below = open ? parts.toSorted((a, b) => rank.get(a)! - rank.get(b)!) : [];
    return [{ unit: place, depth, open, layer: null }, ...below.flatMap((part) => rowsOf(part, depth + 1, folds))];
  };
  const made = (folds: boolean) =>
    strongest.filter((place) => !nested[place].isPart).flatMap((place) => rowsOf(place, 0, folds));
  const whole = made(false),
    kept = !all && (measure === "logprob_change" || measure === "kl") ? made(true) : [];
  const rows = kept.length ? kept : whole;
  return { shown, ...byLayer(shown, rows), folded: whole.length - rows.length };
}

function byLayer(shown: Shown, rows: Row[]): Pick<Found, "rows" | "columns"> {
  const { windows } = shown.effects,
    heads = headsOf(shown);
  if (!heads) {
    const columns = windows.map((window) => ({ name: layersOf(window), lines: partsOf(window).map(String) }));
    return { rows, columns };
  }
  const layers = [...new Set(windows.map((window) => partsOf(window)[0]))].reverse(); // the last one on top
  return {
    rows: rows.flatMap((row) => layers.map((layer) => ({ ...row, layer }))),
    columns: heads.map((head) => ({ name: `head ${head}`, lines: ["", String(head)] })),
  };
}

export const isByHead = ({ rows }: Found) => rows.length > 0 && rows[0].layer !== null;

/** The place in effects.windows of what a cell is of; -1: not measured. */
export function windowAt({ shown, rows, columns }: Found, row: number, column: number): number {
  const { layer } = rows[row];
  if (layer === null) return column;
  return placesOf(shown).get(`${layer}-${layer}.${columns[column].lines[1]}`) ?? -1;
}

const known = new WeakMap<string[], Map<string, number>>();

function placesOf({ effects: { windows } }: Shown): Map<string, number> {
  let places = known.get(windows);
  if (!places) known.set(windows, (places = new Map(windows.map((window, place) => [window, place]))));
  return places;
}

export function valueAt(found: Found, row: number, column: number): number {
  const { windows } = found.shown.effects,
    window = windowAt(found, row, column);
  return window < 0 ? NaN : found.shown.values[found.rows[row].unit * windows.length + window];
}

/** The layers that stand for a row: those of its unit, or of the row's own heads the strongest one. */
export function windowOf(found: Found, row: number): string {
  const { shown, rows, columns } = found,
    { unit, layer } = rows[row];
  if (layer === null) return shown.units[unit].strongest;
  const sizes = columns.map((_, column) => Math.abs(valueAt(found, row, column)) || 0);
  return `${layer}-${layer}.${columns[sizes.indexOf(Math.max(...sizes))].lines[1]}`;
}

/** What becomes of the answer; null: not measured. */
export const outcomeOf = (found: Found, row: number) =>
  effectOn(found.shown, found.shown.units[found.rows[row].unit].key, windowOf(found, row));

/** A region as `--region` takes it. */
export const nameOf = (unit: Shown["units"][number], run: Run, length = 40) =>
  label(unitToken(unit, run), length).replace(/^region (?=.)/, "");
