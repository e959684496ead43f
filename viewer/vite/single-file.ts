/**
 * Vite plugin: page, script and style in one index.html.
 *
 * The script is a classic one with an id at the end of the body: from file:// its text is what the worker is made of
 * (src/data/client.ts), and a module worker would not start there.
 */

import { minifySync, type Plugin, type Rollup } from "vite";
import { SCRIPT_ID } from "../src/data/client.ts";
import { licences } from "./licences.ts";

const LIMIT = 200_000;

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
        rolldownOptions: { output: { format: "iife" as const } },
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
      page.source = inlined(String(page.source), scripts[0].code, styles.map(({ source }) => String(source)).join("\n"));
      if (page.source.length > LIMIT) this.warn(`the page has ${page.source.length} bytes, more than the ${LIMIT} agreed on`);
      for (const file of files) if (file !== page) delete bundle[file.fileName];
    },
  };
}

/**
 * Names of our own properties that are in no file, address, message or element and are never looked up by a text: these,
 * and no others, become shorter, too. A name that is used in any such way must not be added; what breaks then is found by
 * tests/test_viewer.py, which reads the built page.
 */
const OURS = [
  "blocks", "buf", "byLayers", "bySum", "cellHeight", "cellWidth", "checkLength", "checkLengths", "chunkBytes", "circle",
  "colour", "columnNamed", "converted", "dark", "definition", "dictionary", "draw", "drawing", "duplicates", "element",
  "escaped", "figures", "fileName", "geometry", "hatch", "hover", "inString", "info", "largest", "library", "lines",
  "manifests", "measure", "measured", "measures", "names", "noText", "numberAt", "numberOf", "offset", "onProgress",
  "optional", "otherShape", "outside", "packed", "patches", "peak", "pictures", "place", "places", "pos", "present",
  "printing", "records", "repetition", "runId", "runPlace", "scales", "scene", "signed", "skipMark", "slanted", "state",
  "strongest", "unpacked", "update", "view", "wanted", "wide", "windows",
];

/** As few bytes as can be: who wants to read the code finds it in viewer/src. */
function small(script: string): string {
  const { code, errors } = minifySync("page.js", script, {
    compress: { treeshake: { propertyReadSideEffects: false } }, mangle: { toplevel: true }, codegen: { removeWhitespace: true },
    mangleProps: { include: new RegExp(`^(${OURS.join("|")})$`) },
  });
  if (errors.length) throw new Error(errors.map(({ message }) => message).join("; "));
  return code;
}

function inlined(html: string, script: string, style: string): string {
  // Inside of a script element, "</script" would end it and "<!--" would hide its end.
  const code = small(script).trim().replace(/<(?=\/script|!--)/gi, "\\x3C");
  const without = html
    .replace(/\s*<script\b[^>]*\ssrc="[^"]*"[^>]*><\/script>/g, "")
    .replace(/\s*<link\b[^>]*rel="stylesheet"[^>]*>/g, "");
  return without
    .replace("</head>", () => (style ? `<style>\n${style.trim()}\n</style>\n</head>` : "</head>"))
    .replace("</body>", () => `<!--\n${licences()}\n-->\n<script id="${SCRIPT_ID}">\n${code}\n</script>\n</body>`);
}
