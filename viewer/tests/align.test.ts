/** Which tokens of two runs are compared, against all ways there are for short ones. */

import { describe, expect, test } from "vitest";
import { carried, counterparts, isSame, type Align } from "../src/core/align.ts";
import { plainToken } from "../src/data/cube.ts";
import type { Run } from "../src/data/types.ts";

type Tokens = Pick<Run, "tokens" | "manifest">;
const run = (texts: string[], positions = texts.map((_, i) => i)): Tokens => ({
  tokens: texts.map((text, i) => plainToken(positions[i], text)),
  manifest: null,
});
const words = (text: string) => run(text.split(" "));
const pairs = (a: Tokens, b: Tokens, by: Align = "token") =>
  [...counterparts(a, b, by)].flatMap((place, i) => (place < 0 ? [] : [[a.tokens[i].text, b.tokens[place].text]]));

/** Length of the longest common subsequence, by trying all. */
function longest(a: string, b: string): number {
  if (!a || !b) return 0;
  const skip = longest(a.slice(1), b),
    at = b.indexOf(a[0]);
  return at < 0 ? skip : Math.max(skip, 1 + longest(a.slice(1), b.slice(at + 1)));
}

function assertMatched(a: Tokens, b: Tokens): number {
  const places = [...counterparts(a, b, "token")];
  const kept = places.filter((place) => place >= 0);
  expect(kept).toEqual([...new Set(kept)].sort((one, two) => one - two));
  places.forEach((place, i) => expect(place < 0 || a.tokens[i].text === b.tokens[place].text).toBe(true));
  return kept.length;
}

describe("by token", () => {
  test("as many as the longest common subsequence has, in order", () => {
    let seed = 1;
    const random = (below: number) => (seed = (seed * 48271) % 2147483647) % below;
    const letters = () => Array.from({ length: random(11) }, () => "abc"[random(3)]).join("");
    for (let i = 0; i < 300; i++) {
      const [a, b] = [letters(), letters()];
      expect(assertMatched(run([...a]), run([...b]))).toBe(longest(a, b));
    }
  });

  test("a word that was put in moves the others", () => {
    const [a, b] = [words("the capital of France is"), words("so the old capital of Spain is")];
    expect(pairs(a, b).map(([text]) => text)).toEqual(["the", "capital", "of", "is"]);
    expect([0, 1, 2, 3, 4].map((position) => carried(a, b, "token", position))).toEqual([1, 3, 4, 5, 6]); // France -> Spain
    expect(carried(b, a, "token", 2)).toBeNull();
    expect(carried(a, b, "token", 99)).toBeNull();
  });

  test("very long ones, of which parts were moved", () => {
    const texts = Array.from({ length: 6000 }, (_, i) => `t${i}`);
    const other = ["new", ...texts.slice(3000, 3500), ...texts.slice(500, 3000), "x", ...texts.slice(3500), "end"];
    const found = assertMatched(run([...texts.slice(0, 1), ...texts]), run(other));
    expect(found).toBe(5000); // 500 to 3000, and from 3500 on
  });

  test("patches are the same by picture and place, whatever their text", () => {
    const patch = (position: number, row: number) => ({
      ...plainToken(position, `<${position}>`),
      kind: "image" as const,
      image: 0,
      row,
      col: 0,
    });
    const of = (sha256: string | undefined, ...rows: number[]): Tokens => ({
      tokens: rows.map((row, i) => patch(i, row)),
      manifest: { images: [{ sha256 }] },
    });
    expect([...counterparts(of("a", 0, 1), of("a", 1, 2), "token")]).toEqual([-1, 0]);
    expect([...counterparts(of("a", 0, 1), of("b", 0, 1), "token")]).toEqual([-1, -1]);
    expect([...counterparts(of("a", 0, 1), of(undefined, 0, 1), "token")]).toEqual([0, 1]);
  });
});

test("by position: whatever stands there", () => {
  const [a, b] = [words("is the circle red"), run(["is", "the", "square"], [0, 1, 2])];
  expect(pairs(a, b, "position")).toEqual([
    ["is", "is"],
    ["the", "the"],
    ["circle", "square"],
  ]);
  expect(isSame(a, a.tokens[2], b, b.tokens[2])).toBe(false);
  expect(carried(a, b, "position", 3)).toBeNull();
});
