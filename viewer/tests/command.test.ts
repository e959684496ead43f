/** The command that measures what is shown, as a shell would read it. */

import { execFileSync } from "node:child_process";
import { describe, expect, test } from "vitest";
import { commandFor, quoted } from "../src/core/command.ts";
import { DEFAULTS, type State } from "../src/core/state.ts";
import type { Manifest, Run } from "../src/data/types.ts";

const run = (manifest: Manifest) => ({ name: "cat", layers: [0, 1, 2, 3], manifest }) as Run;
const words = (command: string) =>
  execFileSync("sh", ["-c", `for each in ${command}; do printf '%s\\0' "$each"; done`])
    .toString()
    .split("\0")
    .slice(0, -1);
const command = (manifest: Manifest, state: Partial<State> = {}) =>
  commandFor(run(manifest), { ...DEFAULTS, ...state });

describe("the command of a view", () => {
  const argv = [
    "--model",
    "demo",
    "--prompt",
    'What\'s "this"? $HOME `x`\n',
    "--output",
    "cat",
    "--quiet",
    "--layers=1,2",
  ];

  test("is that of the run with the view's layer and variant, and reads back as it was", () => {
    expect(words(command({ argv }, { layer: 2, variant: "Head_3" })!)).toEqual([
      ...["python", "mask_impact_analysis.py", ...argv.slice(0, 4), "--layers", "2", "--variants", "head"],
      ...["--output", "cat_view"],
    ]);
    expect(words(command({ argv }, { from: 1 })!)).toContain("1-3");
  });

  test("has the box as a region, of the picture on which it was drawn", () => {
    const image = { path: "a b.png" };
    const found = words(command({ argv, images: [image] }, { region: [0, 2, 3, 0, 1] })!);
    expect(found[1]).toBe("mask_impact_vl.py");
    expect(found[found.indexOf("--region") + 1]).toBe("0,1,2,3");
    const second = words(command({ argv, images: [image, image] }, { region: [1, 0, 0, 2, 3] })!);
    expect(second[second.indexOf("--region") + 1]).toBe("1:0,0,2,3");
  });

  test("of a run of a batch or of Python, is made of what the manifest knows", () => {
    const known: Manifest = { model: { name: "demo" }, prompt: "Hi there", chat: true, generated: [{}, {}] };
    const wanted = ["--model", "demo", "--prompt", "Hi there", "--num-tokens", "2", "--chat", "--variants", "full"];
    for (const manifest of [known, { ...known, argv: ["--config", "batch.yaml"], config: "batch.yaml" }])
      expect(words(command(manifest)!).slice(2, -2)).toEqual(wanted);
    expect(command({})).toBeNull();
  });

  test("quotes only what a shell would read otherwise", () => {
    expect([quoted("a-b/c.png"), quoted("it's"), quoted("")]).toEqual(["a-b/c.png", `'it'\\''s'`, "''"]);
  });
});
