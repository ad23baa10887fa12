/** Short notes at the foot of the page, and what screen readers are told of changes. */

import { find, h } from "./dom.js";
import { icon } from "./icons.js";

const SHOWN_MS = 6000;
const WITH_ACTION_MS = 10000;

/**
 * Say something that passes; with an action (`Undo`) it stays a little longer. Keyboard and pointer hold it.
 *
 * @param {string} text
 * @param {{label: string, run: () => void}} [action]
 */
export function toast(text, action) {
  const place = find("#toasts");
  const close = () => {
    clearTimeout(timer);
    note.remove();
  };
  const note = h(
    "div",
    { class: "toast" },
    h("p", {}, text),
    action &&
      h("button", { class: "button small", type: "button", onclick: () => (close(), action.run()) }, action.label),
    h(
      "button",
      { class: "icon-button", type: "button", "aria-label": "Dismiss", onclick: () => close() },
      icon("close"),
    ),
  );
  const wait_ms = action ? WITH_ACTION_MS : SHOWN_MS;
  let timer = window.setTimeout(close, wait_ms);
  const hold = () => clearTimeout(timer);
  const release = () => (timer = window.setTimeout(close, wait_ms));
  for (const name of ["pointerenter", "focusin"]) note.addEventListener(name, hold);
  for (const name of ["pointerleave", "focusout"]) note.addEventListener(name, release);
  for (const old of [...place.children].slice(0, -1)) old.remove();
  place.append(note);
  if (place.matches(":popover-open")) place.hidePopover(); // shown again, it lies above dialogs that opened since
  place.showPopover();
}

/** @param {unknown} error what was thrown; anything that is no answer of the server is a fault of ours */
export function toastProblem(error) {
  toast(error instanceof Error ? error.message : String(error));
}

let pending = 0;

/**
 * Tell screen readers once things have come to rest.
 *
 * @param {string} text
 */
export function announce(text) {
  clearTimeout(pending);
  pending = window.setTimeout(() => (find("#announcer").textContent = text), 600);
}
