/** A file as a stream of chunks: unpacked if need be, with progress, and with a place to abort. */

import { LoadError } from "./errors.ts";

export interface ReadOptions {
  /** Bytes of the file as it is on disk. */
  onProgress?: (done: number) => void;
  signal?: AbortSignal;
  /** Waited for between chunks, so that a page without a worker can repaint. */
  pause?: () => Promise<void>;
  chunkBytes?: number;
}

export const CHUNK_BYTES = 4 * 1024 * 1024;

/** The file as it is. The next chunk is read from disk while the present one is parsed. */
export async function* chunks(file: Blob, options: ReadOptions = {}): AsyncGenerator<Uint8Array> {
  const size = options.chunkBytes ?? CHUNK_BYTES;
  const read = (start: number) => file.slice(start, start + size).arrayBuffer();
  let next: Promise<ArrayBuffer> | null = file.size ? read(0) : null;
  for (let start = 0; next; start += size) {
    const chunk = new Uint8Array(await next);
    next = start + size < file.size ? read(start + size) : null;
    next?.catch(() => undefined); // reported when it is awaited, if anyone gets that far
    options.signal?.throwIfAborted();
    yield chunk;
    options.onProgress?.(Math.min(start + size, file.size));
    await options.pause?.();
  }
}

/** A gzip file, unpacked. */
export async function* unpacked(file: Blob, options: ReadOptions = {}): AsyncGenerator<Uint8Array> {
  const packed = chunks(file, { ...options, chunkBytes: 256 * 1024 });
  const source = new ReadableStream<Uint8Array<ArrayBuffer>>({
    async pull(controller) {
      const { done, value } = await packed.next();
      if (done) controller.close();
      else controller.enqueue(value as Uint8Array<ArrayBuffer>);
    },
  });
  const reader = source.pipeThrough(new DecompressionStream("gzip")).getReader();
  try {
    for (;;) {
      const { done, value } = await next(reader, options.signal);
      if (done) return;
      if (value.length) yield value;
    }
  } finally {
    reader.cancel().catch(() => undefined); // it may have failed already
  }
}

async function next(reader: ReadableStreamDefaultReader<Uint8Array>, signal?: AbortSignal) {
  try {
    return await reader.read();
  } catch {
    signal?.throwIfAborted();
    throw new LoadError("the gzip file is cut off or damaged");
  }
}

/** At most `limit` bytes: for what has to be in memory as a whole. */
export async function all(stream: AsyncIterable<Uint8Array>, limit: number, what: string): Promise<Blob> {
  const parts: BlobPart[] = [];
  let size = 0;
  for await (const part of stream) {
    size += part.length;
    if (size > limit)
      throw new LoadError(`${what} of more than ${Math.round(limit / 2 ** 20)} MB is too large for a browser`);
    parts.push(part as Uint8Array<ArrayBuffer>);
  }
  return new Blob(parts);
}
