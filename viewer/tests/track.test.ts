/** A view is drawn again exactly when something that it has read has changed: for every key of the state. */

import { describe, expect, test } from "vitest";
import { DEFAULTS, withState, type State } from "../src/core/state.ts";
import { Drawn, notWhileDrawing, remembered } from "../src/core/track.ts";

interface Scene {
  runs: object[];
  run: object;
  state: State;
  hover: { token: number | null; layer: number | null };
  dark: boolean;
}

const RUN = { name: "a" };
const KEYS = Object.keys(DEFAULTS) as (keyof State)[];
/** Anything but the default. */
const OTHER = Object.fromEntries(KEYS.map((key) => [key, `another ${key}`])) as unknown as State;

/** Everything anew, as the store makes it. */
const scene = (patch: Partial<State> = {}, more: Partial<Scene> = {}): Scene => ({
  runs: [RUN],
  run: RUN,
  state: { ...DEFAULTS, ...patch },
  hover: { token: null, layer: null },
  dark: false,
  ...more,
});

/** A view whose parts are given, and what has been drawn, by the number of the part. */
class Counting extends Drawn<Scene> {
  readonly element = null as unknown as HTMLElement;
  readonly drawn: number[] = [];
  readonly own = this.watched({ width: 0, pointer: null as number[] | null });

  constructor(...chains: ((scene: Scene, view: Counting) => void)[][]) {
    super();
    let count = 0;
    for (const chain of chains) {
      const parts = chain.map((part) => {
        const number = count++;
        return (scene: Scene) => {
          this.drawn.push(number);
          part(scene, this);
        };
      });
      this.draws(...parts);
    }
  }

  /** Which parts a scene draws. */
  after(next: Scene): number[] {
    this.drawn.length = 0;
    this.update(next);
    return [...this.drawn];
  }
}

describe("for each key of the state", () => {
  test.each(KEYS)("%s", (key) => {
    const view = new Counting([({ state }) => void state[key]]);
    expect(view.after(scene())).toEqual([0]);
    expect(view.after(scene())).toEqual([]);
    for (const other of KEYS) {
      expect(view.after(scene({ [other]: OTHER[other] })), other).toEqual(other === key ? [0] : []);
      view.update(scene());
    }
  });

  test.each(KEYS)("%s, read by a function whose result is remembered", (key) => {
    let made = 0;
    const find = remembered(
      ({ state }: Pick<Scene, "run" | "state">) => {
        made++;
        return [state[key]];
      },
      ({ run }) => run,
    );
    const views = [0, 1].map(() => new Counting([(now) => void find(now)]));
    for (const view of views) view.update(scene());
    expect(made).toBe(1);
    for (const other of KEYS) {
      const next = scene({ [other]: OTHER[other] }),
        wanted = other === key ? [0] : [];
      // The second view finds what the first one has made, and depends on the same.
      expect(
        views.map((view) => view.after(next)),
        other,
      ).toEqual([wanted, wanted]);
      for (const view of views) view.update(scene());
    }
  });

  test.each(KEYS)("%s, in a state with other values", (key) => {
    const view = new Counting([({ state }) => void withState(state, { token: 5 })[key]]);
    view.update(scene());
    expect(view.after(scene({ [key]: OTHER[key] }))).toEqual(key === "token" ? [] : [0]);
  });
});

test("what else is in a scene counts, too: lists by what is in them", () => {
  const view = new Counting([({ runs, dark }) => void [runs, dark]], [({ hover }) => void hover.token]);
  view.update(scene());
  expect(view.after(scene({}, { runs: [RUN] }))).toEqual([]);
  expect(view.after(scene({}, { runs: [RUN, RUN] }))).toEqual([0]);
  expect(view.after(scene({}, { runs: [RUN, {}] }))).toEqual([0]);
  expect(view.after(scene({}, { runs: [RUN, {}], dark: true }))).toEqual([0]);
  view.update(scene());
  expect(view.after(scene({}, { hover: { token: null, layer: 3 } }))).toEqual([]);
  expect(view.after(scene({}, { hover: { token: 3, layer: 3 } }))).toEqual([1]);
});

test("what is read in one case only counts in that case", () => {
  const view = new Counting([({ state }) => void (state.range === "row" && state.rows)]);
  view.update(scene());
  expect(view.after(scene({ rows: "tokens" }))).toEqual([]);
  expect(view.after(scene({ rows: "tokens", range: "row" }))).toEqual([0]);
  expect(view.after(scene({ range: "row" }))).toEqual([0]);
});

test("a part draws those after it, not those before it and not those of another chain", () => {
  const reads =
    (key: keyof State) =>
    ({ state }: Scene) =>
      void state[key];
  const view = new Counting([reads("step"), reads("metric"), reads("token")], [reads("find")]);
  expect(view.after(scene())).toEqual([0, 1, 2, 3]);
  expect(view.after(scene({ metric: "cosine" }))).toEqual([1, 2]);
  expect(view.after(scene({ metric: "cosine", token: 3 }))).toEqual([2]);
  expect(view.after(scene({ metric: "cosine", token: 3, find: "x" }))).toEqual([3]);
});

test("a value of the view itself draws what has read it, at once", () => {
  const view = new Counting([(_, { own }) => void own.width, (_, { own }) => void own.pointer], [() => undefined]);
  view.own.width = 5; // before there is a scene: nothing to draw
  expect(view.drawn).toEqual([]);
  view.update(scene());
  view.drawn.length = 0;
  view.own.pointer = [1, 2];
  view.own.pointer = [1, 2];
  expect(view.drawn).toEqual([1]);
  view.own.width = 6;
  expect(view.drawn).toEqual([1, 0, 1]);
});

test("a part that sets such a value is not drawn again for it; one that has read it before is", () => {
  const view = new Counting([(_, { own }) => void (own.width ||= 7)]);
  view.update(scene());
  expect(view.after(scene())).toEqual([]);
  const both = new Counting([(_, { own }) => void own.width], [({ state }, { own }) => void (own.width = state.step)]);
  both.update(scene({ step: 3 }));
  expect(both.after(scene({ step: 3 }))).toEqual([0]);
  expect(both.after(scene({ step: 3 }))).toEqual([]);
});

test("there is no way around it", () => {
  let kept: Scene | null = null;
  const view = new Counting([
    (now) => {
      kept = now;
      expect(() => notWhileDrawing("the store")).toThrow("the store is read while a part is drawn");
    },
  ]);
  view.update(scene());
  expect(() => notWhileDrawing("the store")).not.toThrow();
  expect(() => kept!.dark).toThrow("dark is read after the part was drawn");
  expect(() => kept!.state.token).toThrow("is read after the part was drawn");
});

test("a part that fails is drawn again the next time", () => {
  let fails = true;
  const view = new Counting([
    () => {
      if (fails) throw new Error("no");
    },
  ]);
  expect(() => view.update(scene())).toThrow("no");
  expect(() => notWhileDrawing("the store")).not.toThrow();
  fails = false;
  expect(view.after(scene())).toEqual([0]);
});
