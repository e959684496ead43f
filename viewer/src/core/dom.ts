/** Making elements. Text is always set as text: a token is never read as HTML. */

type Child = Node | string | null | undefined | false;
type Properties = Record<string, string | number | boolean | null | undefined | ((event: never) => void)>;

/** An element, `"p"` or `"p.muted"` with its classes, with attributes, listeners ("onclick") and children. `null`, `undefined` and `false` leave one out. */
export function h<Name extends keyof HTMLElementTagNameMap>(
  name: Name | `${Name}.${string}`,
  properties: Properties = {},
  ...children: Child[]
): HTMLElementTagNameMap[Name] {
  const [tag, classes] = name.split(".");
  const element = document.createElement(tag as Name);
  if (classes) element.className = classes;
  if (tag === "button") element.setAttribute("type", tag); // it would send a form
  for (const key in properties) {
    const value = properties[key];
    if (typeof value === "function") element.addEventListener(key.slice(2), value as EventListener);
    else if (value === true) element.setAttribute(key, "");
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(key, String(value));
  }
  element.append(
    ...children.filter((child): child is Node | string => child !== null && child !== undefined && child !== false),
  );
  return element;
}

/** `act` says whether a key was its own, which then goes no further; those with Ctrl, Alt or ⌘ never are. */
export function onKeys(element: HTMLElement, act: (event: KeyboardEvent) => boolean): void {
  element.onkeydown = (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || !act(event)) return;
    event.preventDefault();
    event.stopPropagation(); // the page has keys of its own
  };
}

/** Where a key leads from a cell of a matrix; null: it leads nowhere. */
export function moved({ key }: KeyboardEvent, [row, column]: Place, rows: number, columns: number): Place | null {
  const step = (
    {
      ArrowUp: [-1, 0],
      ArrowDown: [1, 0],
      ArrowLeft: [0, -1],
      ArrowRight: [0, 1],
      Home: [0, -columns],
      End: [0, columns],
      PageUp: [-rows, 0],
      PageDown: [rows, 0],
    } as Record<string, Place>
  )[key];
  const within = (value: number, count: number) => Math.max(0, Math.min(count - 1, value));
  return step ? [within(row + step[0], rows), within(column + step[1], columns)] : null;
}

type Place = [row: number, column: number];

/** Sets a text only if it is a new one: a live region would read the same one again. */
export function setText(element: Element, text: string): void {
  if (element.textContent !== text) element.textContent = text;
}
