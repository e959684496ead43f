import { expect, test } from "vitest";
import { chain, fewEnough, type Line } from "../src/core/graph.ts";

const line = (from: number, bottom: number, to: number, top: number, value: number): Line<null> => ({
  ...{ key: `${from} ${bottom} ${to}`, from, bottom, to, top, value, of: null },
});

test("a chain follows the strongest line that ends where the last one begins, further down", () => {
  const top = line(1, 3, 2, 4, 5);
  const [weak, strong, other, late] = [
    line(0, 0, 1, 1, 1),
    line(0, 1, 1, 2, -3),
    line(0, 1, 2, 2, 9),
    line(0, 3, 1, 4, 9),
  ];
  expect(chain([top, weak, strong, other, late], top)).toEqual([top, strong]);
  const itself = line(2, 1, 2, 2, 1);
  expect(chain([itself], itself)).toEqual([itself]);
});

test("the part rises until there are few enough", () => {
  const values = Array.from({ length: 1000 }, (_, i) => i / 1000);
  const { found, part } = fewEnough(
    0.1,
    (least) => values.filter((value) => value >= least),
    ({ length }) => length,
  );
  expect(found.length).toBeLessThanOrEqual(150);
  expect(found).toEqual(values.filter((value) => value >= part));
  expect(
    fewEnough(
      0.5,
      () => 1000,
      (count) => count,
    ).part,
  ).toBe(1);
});
