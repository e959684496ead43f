/**
 * The page's side of loading: `new Loader().load(file)`, parsed off the main thread.
 *
 * From file:// only a classic worker made from a Blob starts (no module worker, no worker file). Its source is the
 * text of the page's own script: the file holds the parsers once. That script asks at its beginning
 * whether it runs in a page or in a worker (main.ts). Where no worker starts (a sandboxed frame, a strict policy, the
 * development server), the same code parses on the main thread in slices.
 */

import { LoadError } from "./errors.ts";
import { load } from "./load.ts";
import type { Loaded } from "./types.ts";
import type { Answer, Request } from "./worker.ts";

export const SCRIPT_ID = "mask-impact-script";
const START_TIMEOUT_MS = 10_000;
const SLICE_BYTES = 512 * 1024;

export interface LoadFileOptions {
  /** Bytes done and bytes in all. */
  onProgress?: (done: number, total: number) => void;
  /** Aborting ends the worker at once and rejects with the signal's reason. */
  signal?: AbortSignal;
}

export class Loader {
  /** Where files are parsed; null until it is known. */
  mode: "worker" | "page" | null;
  #start: () => Worker;
  #worker: Promise<Worker | null> | null = null;
  #queue: Promise<unknown> = Promise.resolve();

  /** `start` makes the worker; tests give their own. */
  constructor(start: () => Worker = startWorker) {
    this.#start = start;
    this.mode = null;
  }

  /** Start the worker now, so that the first file does not wait for it. */
  async prepare(): Promise<void> {
    await this.#ready();
  }

  /** One file after the other, in the order of the calls. Throws LoadError with a sentence for the user. */
  load(file: File, options: LoadFileOptions = {}): Promise<Loaded> {
    const result = this.#queue.then(() => this.#load(file, options));
    this.#queue = result.catch(() => undefined);
    return result;
  }

  async #load(file: File, options: LoadFileOptions): Promise<Loaded> {
    const worker = await this.#ready();
    options.signal?.throwIfAborted();
    if (!worker) return loadOnPage(file, options);
    try {
      return await ask(worker, file, options);
    } catch (error) {
      // What the worker holds of an aborted or failed file is gone with it; the next file gets a new one.
      if (!(error instanceof LoadError)) {
        worker.terminate();
        this.#worker = null;
      }
      throw error;
    }
  }

  #ready(): Promise<Worker | null> {
    this.#worker ??= started(this.#start).then((worker) => {
      this.mode = worker ? "worker" : "page";
      return worker;
    });
    return this.#worker;
  }
}

function startWorker(): Worker {
  const source = document.getElementById(SCRIPT_ID)?.textContent;
  if (!source) throw new Error("no script to start a worker from");
  const url = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
  try {
    return new Worker(url);
  } finally {
    setTimeout(() => URL.revokeObjectURL(url), START_TIMEOUT_MS);
  }
}

/** The worker once it has said that it runs; null if it does not start. */
function started(start: () => Worker): Promise<Worker | null> {
  return new Promise((resolve) => {
    let worker: Worker;
    const give = (result: Worker | null) => {
      clearTimeout(timeout);
      if (!result) worker?.terminate();
      resolve(result);
    };
    const timeout = setTimeout(() => give(null), START_TIMEOUT_MS);
    try {
      worker = start();
    } catch {
      give(null);
      return;
    }
    worker.onerror = () => give(null);
    worker.onmessage = () => give(worker);
  });
}

function ask(worker: Worker, file: File, options: LoadFileOptions): Promise<Loaded> {
  return new Promise((resolve, reject) => {
    const { signal, onProgress } = options;
    const abort = () => reject(signal!.reason as Error);
    const settle = (done: () => void) => {
      signal?.removeEventListener("abort", abort);
      done();
    };
    signal?.addEventListener("abort", abort);
    worker.onmessage = ({ data }: MessageEvent<Answer>) => {
      if (data.type === "progress") onProgress?.(data.done, file.size);
      if (data.type === "loaded") settle(() => resolve(data.loaded));
      if (data.type === "failed")
        settle(() => reject(data.ours ? new Error(data.message) : new LoadError(data.message)));
    };
    // An error outside of the parsers, out of memory for one: the browser gives no reason.
    worker.onerror = (event) => {
      event.preventDefault();
      const reason = event.message ? ` (${event.message})` : ", probably for lack of memory";
      settle(() => reject(new Error(`${file.name}: loading stopped${reason}`)));
    };
    worker.onmessageerror = () => settle(() => reject(new Error(`${file.name}: the result did not arrive`)));
    worker.postMessage({ file, fileName: file.name } satisfies Request);
  });
}

function loadOnPage(file: File, { onProgress, signal }: LoadFileOptions): Promise<Loaded> {
  return load(file, {
    signal,
    onProgress: (done) => onProgress?.(done, file.size),
    pause: () => new Promise((resolve) => setTimeout(resolve)),
    chunkBytes: SLICE_BYTES,
  });
}
