import { expect, test } from "vitest";
import { float32At, integerAt, special } from "../src/data/numbers.ts";
import { bytesOf, random } from "./helpers.ts";

const parse = (text: string) => float32At(bytesOf(`[${text},`), 1, 1 + bytesOf(text).length);

test("every spelling of a number gives the float32 that Number gives", () => {
  const next = random(1);
  const bits = new DataView(new ArrayBuffer(4));
  for (let i = 0; i < 30_000; i++) {
    bits.setUint32(0, Math.floor(next() * 2 ** 32));
    const value = bits.getFloat32(0);
    if (!Number.isFinite(value)) continue;
    for (const text of [
      String(value),
      value.toPrecision(9),
      value.toExponential(),
      value.toPrecision(17),
      value.toPrecision(21),
      value.toFixed(20),
    ]) {
      const expected = Math.fround(Number(text));
      if (!Object.is(parse(text), expected)) expect.fail(`${text} gave ${parse(text)}`); // expect() a million times is slow
    }
  }
});

test("numbers halfway between two float32 values, with many digits", () => {
  const next = random(2);
  for (let i = 0; i < 20_000; i++) {
    const value = Math.fround(next());
    const above = Math.fround(value + value * 2 ** -23);
    const middle = (value + above) / 2;
    for (const text of [middle.toPrecision(17), middle.toFixed(30), (middle * (1 + 2 ** -52)).toPrecision(17)]) {
      expect(parse(text)).toBe(Math.fround(Number(text)));
    }
  }
});

test.each([
  "1",
  "-1",
  "0",
  "-0",
  "0.1",
  "1e5",
  "1E+5",
  "1e-45",
  "1e-60",
  "123456789012345678901234567890",
  "0.000000000000000000000000012345678901234567890",
  "3.4028235e38",
])("%s", (text) => expect(parse(text)).toBe(Math.fround(Number(text))));

test.each([
  "",
  "01",
  "1.",
  ".5",
  "+5",
  "1e",
  "1e+",
  "--1",
  "1.2.3",
  "1,5",
  "0x10",
  "1 2",
  "true",
  "1_000",
  "٣",
  "-",
  "e5",
  "1e5.5",
  "1f",
])("%s is no number", (text) => {
  expect(parse(text)).toBeNaN();
  const bytes = bytesOf(text);
  expect(special(bytes, 0, bytes.length)).toBe(text === "" ? "missing" : "malformed");
});

test.each([
  ["null", "missing"],
  ["NaN", "missing"],
  ["nan", "missing"],
  ["inf", "infinite"],
  ["-Infinity", "infinite"],
  ["1e39", "infinite"],
  ["1e999", "infinite"],
])("%s is %s", (text, kind) => {
  expect(parse(text)).toBeNaN();
  expect(special(bytesOf(text), 0, text.length)).toBe(kind);
});

test("whole numbers", () => {
  const whole = (text: string) => integerAt(bytesOf(text), 0, text.length);
  for (const [text, value] of [
    ["0", 0],
    ["12", 12],
    ["2147483647", 2147483647],
    ["3.0", 3],
    ["1e2", 100],
  ] as const)
    expect(whole(text)).toBe(value);
  for (const text of ["", "-1", "3.5", "007", "2147483648", "NaN", "1e", "x", "00", "99999999999999999999"])
    expect(whole(text)).toBe(-1);
});
