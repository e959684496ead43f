/** The worker's side: one file in, one answer out. The page's script runs here as a whole; see client.ts. */

import { LoadError } from "./errors.ts";
import { load } from "./load.ts";
import type { Loaded } from "./types.ts";

export interface Request {
  file: Blob;
  fileName: string;
}

export type Answer =
  | { type: "ready" }
  | { type: "progress"; done: number }
  | { type: "loaded"; loaded: Loaded }
  /** `ours`: a mistake of the program, not of the file. */
  | { type: "failed"; message: string; ours: boolean };

/** The parts of a worker's global scope that are used here: TypeScript's DOM types have no worker scope. */
export interface WorkerScope {
  onmessage: ((event: MessageEvent<Request>) => void) | null;
  postMessage(answer: Answer, transfer?: Transferable[]): void;
}

export function serve(scope: WorkerScope): void {
  scope.onmessage = async ({ data }) => {
    try {
      const loaded = await load(data.file, {
        fileName: data.fileName,
        onProgress: (done) => scope.postMessage({ type: "progress", done }),
      });
      const cubes = loaded.kind === "run" ? [loaded.run, loaded.run.queries ?? loaded.run] : [];
      const arrays = new Set(cubes.flatMap(({ values }) => Object.values(values).map(({ buffer }) => buffer))); // of which one may be a part of the other
      scope.postMessage({ type: "loaded", loaded }, [...arrays] as ArrayBuffer[]);
    } catch (error) {
      const message = error instanceof Error ? error.message : String(error);
      scope.postMessage({ type: "failed", message, ours: !(error instanceof LoadError) });
    }
  };
  scope.postMessage({ type: "ready" });
}
