/** The dialog that asks where copies are to be moved. */

import { api } from "../api.js";
import { labelled } from "../choices.js";
import { h } from "../dom.js";
import { formatPlural } from "../format.js";
import { icon } from "../icons.js";

/**
 * Say what will move, ask where to, and move it. A folder that is refused can be corrected.
 *
 * @template T
 * @param {number} files
 * @param {number} groups
 * @param {(folder: string | null) => Promise<T>} move to a folder, or to the usual one
 * @returns {Promise<T | undefined>} what `move` gave; undefined where it was cancelled
 */
export async function askWhere(files, groups, move) {
  const { allow_roots, set_aside: usual } = await api.folders();
  const name = h("input", {
    class: "input",
    value: usual,
    required: true,
    spellcheck: false,
    readonly: allow_roots.length === 0,
  });
  const refused = h("p", { role: "alert" });
  const confirm = h("button", { class: "button primary" }, `Move ${formatPlural(files, "file")}`);
  /** @type {T | undefined} */
  let moved;

  /** @param {Event} event */
  async function submit(event) {
    event.preventDefault();
    confirm.disabled = true;
    refused.textContent = "";
    try {
      moved = await move(name.value === usual ? null : name.value);
      dialog.close();
    } catch (error) {
      refused.textContent = error instanceof Error ? error.message : String(error);
      name.focus();
    } finally {
      confirm.disabled = false;
    }
  }

  const dialog = h(
    "dialog",
    { class: "dialog", "aria-labelledby": "aside-title" },
    h(
      "form",
      { class: "dialog-body", onsubmit: submit },
      h(
        "div",
        { class: "dialog-head" },
        h("h2", { id: "aside-title" }, `Move ${formatPlural(files, "file")}?`),
        h(
          "button",
          { class: "icon-button", type: "button", "aria-label": "Close", onclick: () => dialog.close() },
          icon("close"),
        ),
      ),
      h(
        "p",
        {},
        groups === 1
          ? "The picture to keep stays where it is, and so do links. "
          : `Of each of ${formatPlural(groups, "group")} the picture to keep stays where it is, and so do links. `,
        "Nothing is deleted: a log in the folder leads all of them back.",
      ),
      labelled(
        "To the folder",
        name,
        allow_roots.length > 0
          ? `Or one below ${allow_roots.join(", ")} that is no part of the library. It is made if it isn't there.`
          : "To choose another one, start Sightline with --allow-root DIR.",
      ),
      refused,
      h(
        "div",
        { class: "dialog-foot" },
        h("button", { class: "button bare", type: "button", onclick: () => dialog.close() }, "Cancel"),
        confirm,
      ),
    ),
  );
  document.body.append(dialog);
  dialog.showModal();
  await new Promise((resolve) => dialog.addEventListener("close", resolve, { once: true }));
  dialog.remove();
  return moved;
}
