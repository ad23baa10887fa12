/** The library: folders, work, models, duplicates, and files that could not be read. */

import { api, chooseLibrary, chosenLibrary } from "../api.js";
import { fill, h } from "../dom.js";
import { noteJob } from "../events.js";
import { formatBytes, formatCount, formatPlural } from "../format.js";
import { icon } from "../icons.js";
import { makeFailure } from "../search/empty.js";
import { remember } from "../storage.js";
import { announce, toast, toastProblem } from "../toast.js";
import { makeDuplicates } from "./duplicates.js";
import { makeFolders } from "./folders.js";
import { nameJob } from "./job.js";
import { makeJobs } from "./jobs.js";
import { makeModels } from "./models.js";

/**
 * @typedef {import("../types.js").Stats} Stats
 * @typedef {{kind: string, folders?: string[], model?: string}} Work
 */

/**
 * @param {HTMLElement} root
 * @param {import("../main.js").App} app
 */
export function makePage(root, app) {
  root.classList.add("narrow");
  const head = h(
    "header",
    { class: "page-head" },
    h("div", {}, h("h1", {}, app.stats()?.library ?? "Library"), h("p", {}, "\u00a0")),
  );
  const tabs = h("nav", { class: "tabs", "aria-label": "Library" });
  const body = h("div", { class: "library-body" });
  const jobs = makeJobs({ onend: (job) => void onEnd(job), library: () => app.stats()?.library });
  const duplicates = makeDuplicates(() => void load());
  const numbers = h("p", { class: "numbers" });
  let view = "";
  let folderCount = 0;
  fill(root, head, tabs, body);

  /** @param {Work} work */
  async function start(work) {
    try {
      const job = await api.startJob(work);
      noteJob(job);
      announce(`${nameJob(job)} begins`);
    } catch (error) {
      toastProblem(error);
    }
  }

  /** @param {import("../types.js").Job} job */
  async function onEnd(job) {
    announce(`${nameJob(job)}: ${job.state}`);
    if (root.isConnected) await load();
  }

  /** @param {string} name */
  async function use(name) {
    try {
      await api.useModel(name);
      toast(`Searches use ${name} now`);
      await load();
    } catch (error) {
      toastProblem(error);
    }
  }

  async function load() {
    try {
      const [stats, folders, models, libraries] = await Promise.all([
        app.reload(),
        api.folders(),
        api.models(),
        api.libraries(),
      ]);
      drawHead(stats, libraries);
      drawNumbers(stats);
      drawTabs(stats);
      folderCount = stats.folders.length;
      if (view === "overview") {
        const captions = makeCaptions(stats, () => void start({ kind: "caption" }));
        fill(
          body,
          h(
            "div",
            { class: "columns" },
            h(
              "div",
              {},
              jobs.element,
              makeFolders(stats, folders, (paths) => void start({ kind: "index", folders: paths })),
            ),
            h(
              "div",
              {},
              makeModels(models, stats, {
                add: (model) => void start({ kind: "add_model", model }),
                use: (name) => void use(name),
              }),
              captions,
            ),
          ),
        );
        jobs.draw();
      } else if (view === "unread")
        fill(
          body,
          makeUnread(stats, () => void start({ kind: "index" })),
        );
    } catch (error) {
      fill(
        body,
        makeFailure(error, () => void load()),
      );
    }
  }

  /** @param {Stats} stats @param {{name: string, images: number, default: boolean}[]} libraries */
  function drawHead(stats, libraries) {
    const choice = h(
      "select",
      { class: "select", "aria-label": "Library", onchange: () => switchTo(libraries[choice.selectedIndex]) },
      libraries.map((one) =>
        h("option", { selected: one.name === stats.library }, `${one.name} (${formatCount(one.images)})`),
      ),
    );
    fill(
      head,
      h("div", {}, h("h1", {}, stats.library), numbers),
      libraries.length > 1 && h("div", { class: "library-choice" }, choice),
    );
  }

  /** @param {Stats} stats */
  function drawNumbers(stats) {
    numbers.textContent = [
      formatPlural(stats.images, "picture"),
      formatPlural(stats.captions, "caption"),
      formatBytes(stats.size_bytes),
    ].join(" · ");
  }

  /** @param {Stats} stats */
  function drawTabs(stats) {
    /** @type {[name: string, text: string, count: number][]} */
    const entries = [
      ["overview", "Overview", 0],
      ["duplicates", "Duplicates", 0],
      ["unread", "Not readable", stats.unreadable],
    ];
    fill(
      tabs,
      entries
        .filter(([name, , count]) => name !== "unread" || count > 0 || view === "unread")
        .map(([name, text, count]) =>
          h(
            "a",
            {
              href: name === "overview" ? "/library" : `/library?view=${name}`,
              "aria-current": name === view ? "page" : null,
            },
            text,
            count > 0 && h("span", { class: "tag" }, formatCount(count)),
          ),
        ),
    );
  }

  return {
    /** @param {URL} address */
    open(address) {
      const asked = address.searchParams.get("view") ?? "";
      const next = ["duplicates", "unread"].includes(asked) ? asked : "overview";
      const isNew = next !== view;
      view = next;
      if (isNew && view === "duplicates") {
        fill(body, duplicates.element);
        void duplicates.load();
      } else if (isNew) fill(body, makeSkeleton());
      void load();
      void jobs.load().catch(toastProblem);
    },
    leave() {
      view = "";
      duplicates.leave();
    },
    /** @param {Stats} stats */
    refresh(stats) {
      drawNumbers(stats);
      if (stats.folders.length !== folderCount) void load();
    },
  };
}

/** @param {{name: string, default: boolean}} library */
function switchTo(library) {
  chooseLibrary(library.default ? null : library.name);
  remember("library", chosenLibrary() ?? "");
  location.assign("/library");
}

/** @param {Stats} stats @param {() => void} start */
function makeCaptions(stats, start) {
  return h(
    "section",
    { class: "card", "aria-labelledby": "captions-title" },
    h("h2", { id: "captions-title" }, "Captions"),
    h(
      "p",
      { class: "soft small" },
      "Written by a model and ranked by CLIP, kept beside each picture, found by their words.",
    ),
    h(
      "button",
      { class: "button small", type: "button", disabled: stats.images === 0, onclick: start },
      icon("caption"),
      "Caption pictures that have none",
    ),
  );
}

/** @param {Stats} stats @param {() => void} retry */
function makeUnread(stats, retry) {
  return h(
    "section",
    { class: "card", "aria-labelledby": "unread-title" },
    h(
      "div",
      { class: "card-head" },
      h("h2", { id: "unread-title" }, `${formatPlural(stats.unreadable, "file")} could not be read`),
      h("button", { class: "button small", type: "button", onclick: retry }, icon("refresh"), "Try again"),
    ),
    h(
      "ul",
      { class: "skipped-list" },
      stats.unreadable_files.map((file) =>
        h("li", {}, h("code", {}, file.path), h("span", { class: "soft" }, file.reason)),
      ),
    ),
    stats.unreadable > stats.unreadable_files.length &&
      h("p", { class: "soft small" }, `The first ${formatCount(stats.unreadable_files.length)} are shown.`),
  );
}

function makeSkeleton() {
  return h(
    "div",
    { class: "columns", "aria-hidden": "true" },
    h("div", {}, h("div", { class: "skeleton block" }), h("div", { class: "skeleton block" })),
    h("div", {}, h("div", { class: "skeleton block tall" })),
  );
}
