/**
 * Draws again exactly what has changed.
 *
 * A view consists of parts: functions of a scene. A part gets a scene that notes what is read from it, and is drawn again
 * when one of those values has changed. There is no list of keys from which one could be missing, and no way around it:
 * while a part is being drawn the store cannot be read, and afterwards the part's scene cannot be read any more.
 */

/** Objects that are new in every scene: what is read from them is noted, not the objects themselves. */
const PARTS = new Set<PropertyKey>(["state", "hover"]);

type Values = Map<PropertyKey, unknown>;

/** What was read from an object: its values, and those of its parts. */
class Reads {
  readonly own: Values = new Map();
  readonly parts = new Map<PropertyKey, Values>();
  /** Values of views, by the view. */
  readonly #local = new Map<object, Values>();
  #over = false;

  /** The object, which notes what is read from it until `close`. */
  of<T extends object>(source: T): T {
    const parts = new Map<PropertyKey, object>();
    return this.#noting(source, this.own, (key, value) => {
      if (!PARTS.has(key) || typeof value !== "object" || value === null) return undefined;
      if (!parts.has(key)) {
        const values: Values = new Map();
        this.parts.set(key, values);
        parts.set(key, this.#noting(value, values));
      }
      return parts.get(key);
    });
  }

  #noting<T extends object>(source: T, values: Values, part?: (key: PropertyKey, value: unknown) => unknown): T {
    return new Proxy(source, {
      get: (target, key) => {
        if (this.#over) throw new Error(`${String(key)} is read after the part was drawn: ask the store`);
        const value = (target as Record<PropertyKey, unknown>)[key];
        const inner = part?.(key, value);
        if (inner !== undefined) return inner;
        if (!values.has(key)) values.set(key, value);
        return value;
      },
    });
  }

  close(): void {
    this.#over = true;
  }

  /** A value of a view as it was first read, or as the part has left it. */
  note(local: object, key: PropertyKey, value: unknown, set = false): void {
    const values = this.#local.get(local) ?? new Map();
    if (!set && !values.has(key)) this.#local.set(local, values.set(key, value));
    else if (set && values.has(key)) values.set(key, value);
  }

  /** Whether everything that was read is the same in another object. */
  areIn(source: object): boolean {
    for (const [part, values] of this.parts) if (!allSame(values, get(source, part) as object)) return false;
    for (const [local, values] of this.#local) if (!allSame(values, local)) return false;
    return allSame(this.own, source);
  }
}

const get = (source: object, key: PropertyKey) => (source as Record<PropertyKey, unknown>)[key];

function allSame(values: Values, source: object): boolean {
  for (const [key, value] of values) if (!same(value, get(source, key))) return false;
  return true;
}

/** Lists are made anew for each scene, so what is in them counts. */
function same(a: unknown, b: unknown): boolean {
  if (Object.is(a, b) || !Array.isArray(a) || !Array.isArray(b)) return Object.is(a, b);
  return a.length === b.length && a.every((each, place) => same(each, b[place]));
}

/** Of the part that is being drawn. */
let drawing: Reads | null = null;

/** Called by whatever would give a view something that is not noted. */
export function notWhileDrawing(what: string): void {
  if (drawing) throw new Error(`${what} is read while a part is drawn: use the scene that it is given`);
}

/**
 * A function that keeps its last result, one for each object that `per` gives, until something that it has read from its
 * argument has changed. A part that calls it depends on the same values.
 */
export function remembered<In extends object, Out>(
  make: (input: In) => Out,
  per: (input: In) => object,
): (input: In) => Out {
  const known = new WeakMap<object, { reads: Reads; out: Out }>();
  return (input) => {
    const owner = per(input),
      last = known.get(owner);
    if (last?.reads.areIn(input)) return last.out;
    const reads = new Reads();
    const out = make(reads.of(input));
    reads.close();
    known.set(owner, { reads, out });
    return out;
  };
}

type Draw<Scene> = (scene: Scene) => void;

/** A part of the page that is drawn from scenes. */
export abstract class Drawn<Scene extends object> {
  abstract readonly element: HTMLElement;
  #chains: { draw: Draw<Scene>; reads: Reads | null }[][] = [];
  #scene: Scene | null = null;
  readonly #local: object = {};

  /**
   * What draws it, in this order. When a part is drawn, so are those after it in the same call: they may use what it has
   * made. Several calls are independent of each other.
   */
  protected draws(...parts: Draw<Scene>[]): void {
    this.#chains.push(parts.map((draw) => ({ draw, reads: null })));
  }

  /** Values of the view itself that its parts depend on, such as where the pointer is. Setting one draws again what has
   * read it. No two of a view may have the same name. */
  protected watched<T extends object>(values: T): T {
    Object.assign(this.#local, values);
    return new Proxy(this.#local as T, {
      get: (target, key) => {
        const value = get(target, key);
        drawing?.note(target, key, value);
        return value;
      },
      set: (target, key, value) => {
        if (same(get(target, key), value)) return true;
        (target as Record<PropertyKey, unknown>)[key] = value;
        if (drawing) drawing.note(target, key, value, true);
        else if (this.#scene) this.update(this.#scene);
        return true;
      },
    });
  }

  update(scene: Scene): void {
    this.#scene = scene;
    for (const chain of this.#chains) {
      let again = false;
      for (const part of chain) {
        again ||= !part.reads?.areIn(scene);
        if (again) part.reads = this.#draw(part.draw, scene);
      }
    }
  }

  /** What was read; if drawing fails, it is drawn again the next time. */
  #draw(draw: Draw<Scene>, scene: Scene): Reads {
    const reads = new Reads(),
      before = drawing;
    drawing = reads;
    try {
      draw(reads.of(scene));
    } finally {
      drawing = before;
      reads.close();
    }
    return reads;
  }
}
