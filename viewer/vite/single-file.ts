/**
 * Vite plugin: page, script and style in one index.html.
 *
 * Script and style stand in the page compressed, and a few lines behind them unpack them. So nothing has to be minified:
 * the developer tools show the names and lines of src/. fflate compresses, because zlib gives other bytes in other versions
 * of Node.
 *
 * Unpacked, it is a classic script with an id: from file:// its text is what the worker is made of (src/data/client.ts),
 * and a module worker would not start there.
 */

import { zlibSync } from "fflate";
import type { Plugin, Rollup } from "vite";
import { SCRIPT_ID } from "../src/data/client.ts";
import { licences } from "./licences.ts";

const LIMIT = 260_000;

export function singleFile(): Plugin {
  return {
    name: "single-file",
    apply: "build",
    enforce: "post",
    config: () => ({
      base: "./",
      build: {
        cssCodeSplit: false,
        assetsInlineLimit: Number.MAX_SAFE_INTEGER,
        modulePreload: false,
        rolldownOptions: { output: { format: "iife" as const, comments: false } },
      },
    }),
    generateBundle(_, bundle) {
      const files = Object.values(bundle);
      const page = files.find((file): file is Rollup.OutputAsset => file.fileName.endsWith(".html"));
      const scripts = files.filter((file): file is Rollup.OutputChunk => file.type === "chunk");
      const styles = files.filter((file): file is Rollup.OutputAsset => file.fileName.endsWith(".css"));
      if (!page || scripts.length !== 1 || files.length !== 2 + styles.length) {
        this.error(`expected one page and one script, got ${files.map(({ fileName }) => fileName).join(", ")}`);
      }
      page.source = inlined(
        String(page.source),
        scripts[0].code,
        styles.map(({ source }) => String(source)).join("\n"),
      );
      if (page.source.length > LIMIT)
        this.warn(`the page has ${page.source.length} bytes, more than the ${LIMIT} agreed on`);
      for (const file of files) if (file !== page) delete bundle[file.fileName];
    },
  };
}

/** An element as the page holds it until it is unpacked: compressed, in base64, and of a type that browsers leave alone. */
function packed(tag: "style" | "script", text: string): string {
  const bytes = Buffer.from(zlibSync(Buffer.from(text), { level: 9, mem: 12 }));
  return `<script type="text/plain" data-packed="${tag}">${bytes.toString("base64")}</script>`;
}

/**
 * Runs in the browser, as it stands here: makes the elements that are packed, the script last, which so begins to run.
 * The name after its end is the one it has in the developer tools.
 */
const START = `
const say = (text) => document.getElementById("page").append(text);
async function start() {
  for (const { dataset, textContent } of document.querySelectorAll("[data-packed]")) {
    const bytes = Uint8Array.from(atob(textContent), (character) => character.charCodeAt(0));
    const text = new Response(bytes).body.pipeThrough(new DecompressionStream("deflate"));
    const element = document.createElement(dataset.packed);
    element.textContent = await new Response(text).text();
    if (dataset.packed === "script") element.id = "${SCRIPT_ID}";
    document.head.append(element);
  }
}
if (typeof DecompressionStream === "undefined") say("This browser is too old for this page, which needs DecompressionStream: Chrome 123, Firefox 120, Safari 17.5 or newer has it.");
else start().catch((error) => say("This page is damaged: " + error.message));
`.trim();

function inlined(html: string, script: string, style: string): string {
  const without = html
    .replace(/\s*<script\b[^>]*\ssrc="[^"]*"[^>]*><\/script>/g, "")
    .replace(/\s*<link\b[^>]*rel="stylesheet"[^>]*>/g, "");
  const elements = [packed("style", style), packed("script", `${script}\n//# sourceURL=mask-impact-viewer.js\n`)];
  return without.replace(
    "</body>",
    () => `<!--\n${licences()}\n-->\n${elements.join("\n")}\n<script>\n${START}\n</script>\n</body>`,
  );
}
