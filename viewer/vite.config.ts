import { defineConfig } from "vitest/config";
import { colours } from "./vite/colours.ts";
import { singleFile } from "./vite/single-file.ts";

export default defineConfig({
  plugins: [colours(), singleFile()],
  build: {
    target: "es2022",
    cssTarget: ["chrome123", "firefox120", "safari17.5"],
    minify: false, // vite/single-file.ts makes it small, and readable in the developer tools
    cssMinify: false,
  },
  test: { include: ["tests/**/*.test.ts"], testTimeout: 60_000 },
});
