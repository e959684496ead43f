import { afterEach, expect, test, vi } from "vitest";
import { Loader } from "../src/data/client.ts";
import { serve, type Answer, type Request, type WorkerScope } from "../src/data/worker.ts";
import { fixture, fixtureRows, rowsOf, textFile } from "./helpers.ts";

/** A worker in the same thread: messages are cloned and arrive later, as real ones. */
class FakeWorker {
  static started = 0;
  static live = 0;
  onmessage: ((event: MessageEvent<Answer>) => void) | null = null;
  onerror: ((event: ErrorEvent) => void) | null = null;
  #scope: WorkerScope;
  #dead = false;
  constructor(begin: (scope: WorkerScope) => void = serve) {
    FakeWorker.started++;
    FakeWorker.live++;
    this.#scope = {
      onmessage: null,
      postMessage: (answer, transfer) => {
        const data = structuredClone(answer, { transfer });
        setTimeout(() => this.#dead || this.onmessage?.({ data } as MessageEvent<Answer>));
      },
    };
    begin(this.#scope);
  }
  postMessage(data: Request) {
    setTimeout(() => this.#dead || this.#scope.onmessage?.({ data } as MessageEvent<Request>));
  }
  terminate() {
    this.#dead = true;
    FakeWorker.live--;
  }
}

const make = (begin?: (scope: WorkerScope) => void) => () => new FakeWorker(begin) as unknown as Worker;
afterEach(() => void ((FakeWorker.started = FakeWorker.live = 0), vi.useRealTimers()));

test("one worker parses one file after the other, with progress", async () => {
  const loader = new Loader(make());
  const progress: number[] = [];
  const file = fixture("grid_results.csv");
  const results = await Promise.all([
    loader.load(file, { onProgress: (done, total) => progress.push(done / total) }),
    loader.load(textFile("nonsense", "x.csv")).catch((error: Error) => error),
    loader.load(fixture("hostile_results.json")),
  ]);
  expect(results[0].kind === "run" && rowsOf(results[0].run)).toEqual(fixtureRows("grid"));
  expect(results[1]).toMatchObject({
    name: "LoadError",
    message: expect.stringContaining("x.csv: not a result table"),
  });
  expect(results[2].kind === "run" && rowsOf(results[2].run)).toEqual(fixtureRows("hostile"));
  expect([progress.at(-1), loader.mode, FakeWorker.started]).toEqual([1, "worker", 1]);
});

test.each([
  [
    "throws",
    () => {
      throw new Error("SecurityError");
    },
  ],
  [
    "fails",
    () => {
      const worker = new FakeWorker(() => undefined);
      setTimeout(() => worker.onerror?.({} as ErrorEvent));
      return worker as unknown as Worker;
    },
  ],
])("a worker that %s when it starts: the page parses itself", async (_, start) => {
  const loader = new Loader(start as () => Worker);
  const loaded = await loader.load(fixture("grid_results.json"));
  expect(loaded.kind === "run" && rowsOf(loaded.run)).toEqual(fixtureRows("grid"));
  expect([loader.mode, FakeWorker.live]).toEqual(["page", 0]);
});

test("a worker that says nothing is given up", async () => {
  vi.useFakeTimers();
  const loader = new Loader(make(() => undefined));
  const ready = loader.prepare();
  await vi.advanceTimersByTimeAsync(10_001);
  await ready;
  expect(loader.mode).toBe("page");
});

test("aborting ends the worker; the next file gets a new one", async () => {
  const loader = new Loader(make());
  const [early, late] = [new AbortController(), new AbortController()];
  const never = loader.load(fixture("grid_results.csv"), { signal: early.signal });
  early.abort();
  await expect(never).rejects.toMatchObject({ name: "AbortError" });
  expect(FakeWorker.started).toBe(1);
  const first = loader.load(fixture("grid_results.csv"), { signal: late.signal, onProgress: () => late.abort() });
  const second = loader.load(fixture("grid_results.csv"));
  await expect(first).rejects.toMatchObject({ name: "AbortError" });
  expect((await second).kind).toBe("run");
  expect([FakeWorker.started, FakeWorker.live]).toEqual([2, 1]);
});

test("a worker that dies while loading is an error, and the next file gets a new one", async () => {
  let worker: FakeWorker | undefined;
  const loader = new Loader(() => (worker = new FakeWorker()) as unknown as Worker);
  await loader.prepare();
  const loading = loader.load(fixture("grid_results.csv"));
  await Promise.resolve().then(() => undefined);
  await new Promise<void>((resolve) =>
    setTimeout(() => resolve(worker!.onerror?.({ preventDefault: () => undefined } as ErrorEvent)), 0),
  );
  await expect(loading).rejects.toThrow("grid_results.csv: loading stopped, probably for lack of memory");
  expect((await loader.load(fixture("grid_results.csv"))).kind).toBe("run");
});
