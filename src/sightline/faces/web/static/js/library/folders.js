/** The folders of a library, and the dialog that adds one. */

import { api } from "../api.js";
import { fill, h } from "../dom.js";
import { baseName } from "../format.js";
import { icon } from "../icons.js";

/** @typedef {import("../types.js").Folders} Folders */

/**
 * @param {import("../types.js").Stats} stats
 * @param {Folders} folders
 * @param {(folders: string[]) => void} index
 */
export function makeFolders(stats, folders, index) {
  const isAllowed = folders.allow_roots.length > 0;
  return h(
    "section",
    { class: "card", "aria-labelledby": "folders-title" },
    h(
      "div",
      { class: "card-head" },
      h("h2", { id: "folders-title" }, "Folders"),
      stats.folders.length > 0 &&
        h(
          "button",
          { class: "button small bare", type: "button", onclick: () => index([]) },
          icon("refresh"),
          "Look for changes",
        ),
      isAllowed &&
        h(
          "button",
          {
            class: "button small primary",
            type: "button",
            onclick: () => void pickFolder(folders.allow_roots, (path) => index([path])),
          },
          icon("plus"),
          "Add a folder",
        ),
    ),
    stats.folders.length === 0 &&
      h(
        "p",
        { class: "soft" },
        isAllowed ? "No folder yet. Add one, and its pictures can be found by describing them." : "No folder yet.",
      ),
    h(
      "ul",
      { class: "folder-list" },
      stats.folders.map((folder) =>
        h(
          "li",
          {},
          icon("folder"),
          h("div", {}, h("strong", {}, baseName(folder)), h("code", { class: "soft" }, folder)),
          stats.offline_folders.includes(folder) &&
            h("span", { class: "tag alarm", title: "Its disk may not be mounted" }, "Not there now"),
          h(
            "button",
            {
              class: "icon-button small",
              type: "button",
              "aria-label": `Look for changes in ${baseName(folder)}`,
              title: "Look for changes",
              onclick: () => index([folder]),
            },
            icon("refresh"),
          ),
        ),
      ),
    ),
    !isAllowed &&
      h(
        "p",
        { class: "soft small hint" },
        "To add folders from this page, start Sightline with ",
        h("code", {}, "--allow-root DIR"),
        ". At the command line it is ",
        h("code", {}, "sightline index DIR"),
        ".",
      ),
  );
}

/**
 * Walk through folders below the allowed ones, and choose one.
 *
 * @param {string[]} roots
 * @param {(path: string) => void} onpick
 */
async function pickFolder(roots, onpick) {
  const crumbs = h("nav", { class: "crumbs", "aria-label": "Where you are" });
  const list = h("ul", { class: "picker-list", tabindex: "-1" });
  const add = h("button", { class: "button primary", type: "button", disabled: true }, "Add this folder");
  const dialog = h(
    "dialog",
    { class: "dialog", "aria-labelledby": "picker-title", onclose: () => dialog.remove() },
    h(
      "div",
      { class: "dialog-body" },
      h(
        "div",
        { class: "dialog-head" },
        h("h2", { id: "picker-title" }, "Add a folder"),
        h(
          "button",
          { class: "icon-button", type: "button", "aria-label": "Close", onclick: () => dialog.close() },
          icon("close"),
        ),
      ),
      crumbs,
      list,
      h(
        "div",
        { class: "dialog-foot" },
        h("button", { class: "button bare", type: "button", onclick: () => dialog.close() }, "Cancel"),
        add,
      ),
    ),
  );
  document.body.append(dialog);
  dialog.showModal();
  add.addEventListener("click", () => {
    dialog.close();
    onpick(add.dataset.path ?? "");
  });
  await go(roots.length === 1 ? roots[0] : null);

  /** @param {string | null} path */
  async function go(path) {
    add.disabled = true;
    add.dataset.path = path ?? "";
    try {
      const below =
        path === null ? roots.map((root) => ({ name: root, path: root })) : (await api.folders(path)).folders;
      drawCrumbs(path);
      add.disabled = path === null;
      fill(
        list,
        below.map((folder) =>
          h(
            "li",
            {},
            h(
              "button",
              { type: "button", onclick: () => void go(folder.path) },
              icon("folder"),
              h("span", {}, folder.name),
              icon("right"),
            ),
          ),
        ),
        below.length === 0 && h("li", { class: "soft" }, "No folders inside. Add this one, or go back."),
      );
      list.focus();
    } catch (error) {
      fill(list, h("li", { class: "soft" }, error instanceof Error ? error.message : String(error)));
    }
  }

  /** @param {string | null} path */
  function drawCrumbs(path) {
    const root = roots.find((one) => path === one || path?.startsWith(`${one.replace(/\/$/, "")}/`));
    /** @type {[name: string, path: string | null][]} */
    const steps = roots.length > 1 ? [["Folders", null]] : [];
    if (path !== null && root) {
      steps.push([root, root]);
      let at = root.replace(/\/$/, "");
      for (const name of path.slice(at.length).split("/").filter(Boolean)) steps.push([name, (at = `${at}/${name}`)]);
    }
    fill(
      crumbs,
      steps
        .map(([name, target], at) => [
          at > 0 && h("span", { "aria-hidden": "true" }, "/"),
          h(
            "button",
            {
              type: "button",
              "aria-current": at === steps.length - 1 ? "location" : null,
              onclick: () => void go(target),
            },
            name,
          ),
        ])
        .flat(),
    );
  }
}
