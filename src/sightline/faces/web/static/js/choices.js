/** Groups of choices, as radio buttons: keyboard and screen readers know them. */

import { h } from "./dom.js";

let groups = 0;

/**
 * One of several.
 *
 * @param {{label: string, options: [value: string, text: string][], value: string, look?: "segments" | "choices",
 *   onchange: (value: string) => void}} group
 */
export function radioGroup({ label, options, value, look = "choices", onchange }) {
  const name = `group-${(groups += 1)}`;
  return h(
    "div",
    { class: look, role: "radiogroup", "aria-label": label },
    options.map(([option, text]) =>
      h(
        "label",
        {},
        h("input", { type: "radio", name, value: option, checked: option === value, onchange: () => onchange(option) }),
        h("span", {}, text),
      ),
    ),
  );
}

/**
 * A labelled field.
 *
 * @param {string} label
 * @param {HTMLElement} input
 * @param {string} [help]
 */
export function labelled(label, input, help) {
  return h("label", { class: "field" }, h("span", {}, label), input, help && h("small", { class: "soft" }, help));
}
