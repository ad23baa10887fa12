/** The dialog that asks where copies are to be moved. */

import { api } from "../api.js";
import { labelled } from "../choices.js";
import { h } from "../dom.js";
import { formatPlural } from "../format.js";
import { icon } from "../icons.js";

/**
 * Say what will move, and ask where to.
 *
 * @param {number} files
 * @param {number} groups
 * @returns {Promise<string | null | undefined>} a folder, null for the usual one, undefined where it was cancelled
 */
export async function askWhere(files, groups) {
  const { allow_roots, set_aside: usual } = await api.folders();
  const name = h("input", {
    class: "input",
    value: usual,
    required: true,
    spellcheck: false,
    readonly: allow_roots.length === 0,
  });
  const dialog = h(
    "dialog",
    { class: "dialog", "aria-labelledby": "aside-title" },
    h(
      "form",
      { class: "dialog-body", method: "dialog" },
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
      h(
        "div",
        { class: "dialog-foot" },
        h("button", { class: "button bare", type: "button", onclick: () => dialog.close() }, "Cancel"),
        h("button", { class: "button primary", value: "move" }, `Move ${formatPlural(files, "file")}`),
      ),
    ),
  );
  document.body.append(dialog);
  dialog.showModal();
  await new Promise((resolve) => dialog.addEventListener("close", resolve, { once: true }));
  dialog.remove();
  if (dialog.returnValue !== "move") return undefined;
  return name.value === usual ? null : name.value;
}
