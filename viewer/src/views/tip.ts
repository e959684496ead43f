/** The numbers of the place under the pointer, beside the pointer: what the view's own line says, where the eye is. */

import "./tip.css";

import { h } from "../core/dom.ts";

const AWAY = 16; // pixels from the pointer
const POINTED = "canvas, .prompt__token"; // what has numbers

/** `[data-said]` of a section is its line about the place under the pointer. */
export function pointerTip(): HTMLElement {
  const tip = h("div.tip", { "aria-hidden": "true", hidden: true });
  let [x, y] = [0, 0],
    said: Element | null = null;
  const show = () => {
    const text = said?.isConnected ? (said.textContent ?? "") : "";
    tip.hidden = !text;
    if (!text) return;
    tip.textContent = text;
    const { width, height } = tip.getBoundingClientRect();
    tip.style.left = `${Math.max(4, Math.min(x + AWAY, innerWidth - width - 4))}px`;
    tip.style.top = `${y + AWAY + height > innerHeight ? y - AWAY - height : y + AWAY}px`;
  };
  addEventListener("pointermove", ({ target, clientX, clientY, pointerType }) => {
    [x, y] = [clientX, clientY];
    const over = pointerType === "mouse" && target instanceof Element ? target.closest(POINTED) : null;
    const now = over?.closest("section")?.querySelector("[data-said]") ?? null;
    if (!now && !said) return;
    said = now;
    // After the views have heard of the pointer, and have said what is there.
    requestAnimationFrame(() => requestAnimationFrame(show));
  });
  addEventListener("scroll", () => (tip.hidden = true), { capture: true, passive: true });
  document.addEventListener("pointerleave", () => (tip.hidden = true));
  return tip;
}
