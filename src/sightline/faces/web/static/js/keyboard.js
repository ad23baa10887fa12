/** Keys that work everywhere, and the list of all keys. */

import { h } from "./dom.js";
import { icon } from "./icons.js";
import { isPanelOpen } from "./popover.js";

/** @type {[heading: string, keys: [keys: string[], text: string][]][]} */
const KEYS = [
  [
    "Searching",
    [
      [["/"], "Go to the search box"],
      [["Enter"], "Go to the first result"],
      [["Esc"], "Clear the box, then leave it"],
      [["beach - people"], "Parts: more like, less like"],
      [['-"deep snow"'], "Away from a word, or words in quotes"],
      [["2:snow"], "A part that counts twice"],
    ],
  ],
  [
    "Results",
    [
      [["←", "→", "↑", "↓"], "From picture to picture"],
      [["Enter"], "Open the picture"],
      [["+", "−"], "Add it to the query, or subtract it"],
      [["Y", "N"], "Mark it right or wrong: the list is ranked anew"],
    ],
  ],
  [
    "A picture",
    [
      [["←", "→"], "Previous, next"],
      [["+", "−", "0"], "Zoom in, out, whole picture"],
      [["H"], "Where words match"],
      [["T"], "Text that was read"],
      [["I"], "About the picture"],
      [["L"], "More like this"],
      [["Y", "N"], "Right, wrong"],
      [["Esc"], "Close"],
    ],
  ],
];

/** @param {EventTarget | null} target */
const isTyping = (target) =>
  target instanceof HTMLTextAreaElement ||
  target instanceof HTMLSelectElement ||
  (target instanceof HTMLInputElement && !["checkbox", "radio", "range", "button"].includes(target.type));

/** Show all keys. */
export function showKeys() {
  const dialog = h(
    "dialog",
    { class: "dialog", "aria-labelledby": "keys-title", onclose: () => dialog.remove() },
    h(
      "div",
      { class: "dialog-body" },
      h(
        "div",
        { class: "dialog-head" },
        h("h2", { id: "keys-title" }, "Keyboard"),
        h(
          "button",
          { class: "icon-button", type: "button", "aria-label": "Close", onclick: () => dialog.close() },
          icon("close"),
        ),
      ),
      h(
        "div",
        { class: "keys" },
        KEYS.map(([heading, keys]) =>
          h(
            "section",
            {},
            h("h3", {}, heading),
            h(
              "dl",
              {},
              keys.map(([names, text]) =>
                h(
                  "div",
                  {},
                  h(
                    "dt",
                    {},
                    names.map((name) => h("kbd", { class: "key" }, name)),
                  ),
                  h("dd", {}, text),
                ),
              ),
            ),
          ),
        ),
      ),
    ),
  );
  document.body.append(dialog);
  dialog.showModal();
}

/**
 * @param {{focusSearch: () => void, escape: () => void}} app
 */
export function listenForKeys(app) {
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented || isPanelOpen()) return;
    if (event.key === "Escape") return app.escape();
    if (isTyping(event.target) || document.documentElement.classList.contains("viewing")) return;
    if (event.key === "/") {
      event.preventDefault();
      app.focusSearch();
    } else if (event.key === "?") showKeys();
  });
}
