/** Panels that open from a button, under it on a wide screen, from below on a phone. Escape and a click beside close them. */

import { h } from "./dom.js";

const WIDEST_PX = 400;
const GAP_PX = 8;

/**
 * A panel for a button. `build` makes its content anew whenever it opens.
 *
 * @param {HTMLButtonElement} button
 * @param {{label: string, build: (close: () => void) => Node[]}} content
 */
export function addPopover(button, { label, build }) {
  const panel = h("div", { class: "popover", popover: "auto", role: "dialog", "aria-label": label });
  const close = () => panel.hidePopover();
  panel.addEventListener("beforetoggle", (event) => {
    if (/** @type {ToggleEvent} */ (event).newState !== "open") return;
    panel.replaceChildren(...build(close));
    place(panel, button.getBoundingClientRect());
  });
  button.setAttribute("aria-haspopup", "dialog");
  button.popoverTargetElement = panel;
  button.after(panel);
  return { panel, close };
}

/** @param {HTMLElement} panel @param {DOMRect} anchor */
function place(panel, anchor) {
  const width = document.documentElement.clientWidth;
  const toRight = anchor.left + WIDEST_PX > width;
  panel.style.left = toRight ? "auto" : `${anchor.left}px`;
  panel.style.right = toRight ? `${Math.max(GAP_PX, width - anchor.right)}px` : "auto";
  panel.style.top = `${anchor.bottom + GAP_PX}px`;
}

/** Whether anything is open that Escape closes by itself. */
export const isPanelOpen = () => document.querySelector(".popover:popover-open, dialog[open]") !== null;
