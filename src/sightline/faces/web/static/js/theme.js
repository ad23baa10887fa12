/** Light, dark, or as the system has it. */

import { icon } from "./icons.js";
import { recall, remember } from "./storage.js";
import { announce } from "./toast.js";

const THEMES = /** @type {const} */ (["system", "light", "dark"]);
const ICONS = /** @type {const} */ ({ system: "device", light: "sun", dark: "moon" });
const NAMES = { system: "as the system", light: "light", dark: "dark" };

/**
 * A button that goes through the themes.
 *
 * @param {HTMLElement} button
 */
export function addThemeButton(button) {
  let theme = THEMES.find((name) => name === recall("theme")) ?? "system";
  const show = () => {
    button.replaceChildren(icon(ICONS[theme]));
    button.setAttribute("aria-label", `Theme: ${NAMES[theme]}`);
    button.title = `Theme: ${NAMES[theme]}`;
    if (theme === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
  };
  button.addEventListener("click", () => {
    theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
    remember("theme", theme);
    show();
    announce(`Theme: ${NAMES[theme]}`);
  });
  show();
}
