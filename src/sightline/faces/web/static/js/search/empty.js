/** What is said where no picture is: why, and what to do about it. */

import { h } from "../dom.js";
import { icon } from "../icons.js";

/**
 * @param {{icon: import("../icons.js").IconName, title: string, text?: string | null, actions?: (HTMLElement | false)[]}} message
 */
export function makeMessage({ icon: name, title, text, actions = [] }) {
  return h(
    "div",
    { class: "message" },
    icon(name),
    h("h2", {}, title),
    text && h("p", {}, text),
    actions.some(Boolean) && h("div", { class: "actions" }, actions),
  );
}

/** @param {string} label @param {() => void} run @param {boolean} [isMain] */
export const makeAction = (label, run, isMain = false) =>
  h("button", { class: isMain ? "button primary" : "button", type: "button", onclick: run }, label);

/**
 * A failure of the server or of the way to it.
 *
 * @param {unknown} error
 * @param {() => void} retry
 */
export function makeFailure(error, retry) {
  const isOffline = error instanceof Error && "status" in error && error.status === 0;
  return makeMessage({
    icon: isOffline ? "offline" : "warning",
    title: isOffline ? "No answer" : "That didn't work",
    text: error instanceof Error ? error.message : String(error),
    actions: [makeAction("Try again", retry, true)],
  });
}
