/** Pictures that are there more than once, side by side with what tells them apart. Nothing is deleted from disk. */

import { api, chosenLibrary, pictureLink, thumbnailAddress } from "../api.js";
import { radioGroup } from "../choices.js";
import { fill, h } from "../dom.js";
import { formatBytes, formatCount, formatPlural, formatSimilarity } from "../format.js";
import { icon } from "../icons.js";
import { Latest } from "../latest.js";
import { makeFailure, makeMessage } from "../search/empty.js";
import { recall, remember } from "../storage.js";
import { toast, toastProblem } from "../toast.js";
import { copyText } from "../viewer/details.js";
import { askWhere } from "./set-aside.js";

/** @typedef {import("../types.js").DuplicateGroup} Group */
/** @typedef {Group["kind"]} Kind */

const PAGE = 30;
const SHOWN_IMAGES = 12;
/** Differences that stand under each picture anyway. */
const SHOWN_BELOW = /^(name|folder) /;
/** @type {Record<Kind, {label: string, none: string, hint: string}>} */
const KINDS = {
  exact: {
    label: "Exact copies",
    none: "No exact copies",
    hint: "No two files hold the same picture byte for byte. There may be other copies: smaller ones, say.",
  },
  copy: {
    label: "Other copies",
    none: "No other copies",
    hint: "No picture is there again in other bytes: cut, smaller, brighter, mirrored, turned or without colour.",
  },
  alike: {
    label: "Alike",
    none: "Nothing alike",
    hint: "No two shots of one scene are as similar as that. Lower the similarity to look further.",
  },
};

/** @param {() => void} onmove called when files have moved */
export function makeDuplicates(onmove) {
  const latest = new Latest();
  /** @type {Kind} */
  let kind = "exact";
  let least = 0.9;
  /** @type {Group[]} */
  let groups = [];
  const moved = h("div", {});
  const moveAll = h("span", {});
  const list = h("ul", { class: "groups" });
  const foot = h("div", { class: "groups-foot" });
  const shown = h("output", { class: "numbers" }, least.toFixed(2));
  const range = h("input", {
    class: "range",
    type: "range",
    min: 0.8,
    max: 0.99,
    step: 0.01,
    value: least,
    "aria-label": "Least similarity of what is alike",
    oninput: () => (shown.textContent = Number(range.value).toFixed(2)),
    onchange: () => {
      least = Number(range.value);
      void load();
    },
  });
  const slider = h(
    "div",
    { class: "near-slider", hidden: true },
    h("span", { class: "small soft" }, "Similarity at least ", shown),
    range,
  );
  const choice = radioGroup({
    label: "Which duplicates",
    look: "segments",
    value: kind,
    options: Object.entries(KINDS).map(([name, { label }]) => [name, label]),
    onchange: (value) => {
      kind = value;
      slider.hidden = kind !== "alike";
      void load();
    },
  });
  const element = h(
    "div",
    {},
    h(
      "div",
      { class: "duplicates-head" },
      choice,
      slider,
      h("div", { class: "move-all" }, moveAll, h("p", { class: "soft small" }, "Nothing is ever deleted from disk.")),
    ),
    moved,
    list,
    foot,
  );

  async function load(offset = 0) {
    const before = moved.hasChildNodes() ? null : keptMoves();
    if (before) fill(moved, makeMoved(before, undo));
    if (offset === 0) fill(list, h("li", { class: "busy-line" }, h("span", { class: "spinner" }), "Comparing …"));
    fill(foot);
    fill(moveAll);
    try {
      const answer = await latest.run((signal) =>
        api.duplicates(kind, kind === "alike" ? least : null, { offset, limit: PAGE, signal }),
      );
      if (answer) show(answer, offset);
    } catch (error) {
      fill(
        list,
        h(
          "li",
          {},
          makeFailure(error, () => void load()),
        ),
      );
    }
  }

  /** Ask where the rest of some groups is to go, and move it there. @param {Group[]} chosen */
  async function move(chosen) {
    const files = countMovable(chosen);
    const keep = chosen.map((group) => group.images[0].id);
    try {
      const moves = await askWhere(files, chosen.length, (folder) => api.setAside({ kind, keep, files, folder }));
      if (!moves) return;
      keepMoves(moves);
      fill(moved, makeMoved(moves, undo));
      onmove();
    } catch (error) {
      toastProblem(error);
    }
    void load();
  }

  /** @param {import("../types.js").Moves} moves */
  async function undo(moves) {
    try {
      const back = await api.undoSetAside(moves);
      keepMoves(null);
      fill(moved, back.left.length > 0 && makeMoved(back));
      toast(`${formatPlural(back.moved, "file")} moved back. “Look for changes” makes them searchable again.`);
      onmove();
    } catch (error) {
      toastProblem(error);
    }
    void load();
  }

  /** @param {import("../types.js").Duplicates} answer @param {number} offset */
  function show({ groups: more, total, not_compared }, offset) {
    if (offset === 0) {
      fill(list);
      groups = [];
    }
    groups.push(...more);
    list.append(...more.map((group) => makeGroup(group, () => void move([group]))));
    const files = countMovable(groups);
    fill(
      moveAll,
      files > 0 &&
        h(
          "button",
          { class: "button", type: "button", onclick: () => void move(groups.filter((group) => group.movable > 0)) },
          `Move ${formatPlural(files, "file")} of ${groups.length < total ? "those shown" : "all groups"} …`,
        ),
    );
    if (total === 0) {
      fill(
        list,
        h(
          "li",
          {},
          makeMessage({
            icon: "check",
            title: KINDS[kind].none,
            text: KINDS[kind].hint,
          }),
        ),
      );
    }
    const end = groups.length;
    fill(
      foot,
      total > 0 &&
        h(
          "p",
          { class: "soft small" },
          `${end < total ? `${formatCount(end)} of ` : ""}${formatPlural(total, "group")}`,
        ),
      not_compared > 0 &&
        h(
          "p",
          { class: "soft small" },
          `${formatPlural(not_compared, "picture")} could not be read now: compared byte for byte alone.`,
        ),
      end < total && h("button", { class: "button", type: "button", onclick: () => void load(end) }, "Show more"),
    );
  }

  return { element, load, leave: () => latest.stop() };
}

/** The last moves of the library, so that they can be undone after a reload. @param {import("../types.js").Moves | null} moves */
const keepMoves = (moves) => remember(`moves-${chosenLibrary() ?? ""}`, JSON.stringify(moves));

/** @returns {import("../types.js").Moves | null} */
const keptMoves = () => JSON.parse(recall(`moves-${chosenLibrary() ?? ""}`) ?? "null");

/** @param {Group[]} groups */
const countMovable = (groups) => groups.reduce((sum, group) => sum + group.movable, 0);

/**
 * What was moved and what stayed, with a way back.
 *
 * @param {import("../types.js").Moves} moves
 * @param {(moves: import("../types.js").Moves) => Promise<void>} [undo]
 */
function makeMoved(moves, undo) {
  return h(
    "div",
    { class: "card moved", role: "status" },
    h("p", {}, `${formatPlural(moves.moved, "file")} moved ${undo ? "to " : "back from "}`, h("code", {}, moves.folder)),
    undo &&
      moves.log !== null &&
      h("button", { class: "button small", type: "button", onclick: () => void undo(moves) }, "Undo"),
    moves.left.length > 0 &&
      h(
        "ul",
        { class: "soft small", "aria-label": "Files that stayed" },
        moves.left.map(({ path, reason }) => h("li", {}, `${path} stayed: ${reason}`)),
      ),
  );
}

/** @param {Group} group @param {() => void} move */
function makeGroup(group, move) {
  const named = { exact: "exact copies", copy: "copies", alike: "alike" }[group.kind];
  const least = group.kind === "exact" ? "" : `, similarity from ${formatSimilarity(group.similarity)}`;
  const links = group.images.filter((image) => image.link).length;
  const differences = group.differences.filter((text) => !SHOWN_BELOW.test(text));
  const title = `${group.count - links} ${named}${least}`;
  return h(
    "li",
    { class: "card group" },
    h(
      "div",
      { class: "group-head" },
      h("h3", {}, title),
      group.movable > 0 &&
        h(
          "button",
          {
            class: "button small",
            type: "button",
            "aria-label": `Move all but ${group.images[0].name} …`,
            onclick: move,
          },
          "Move the rest …",
        ),
      differences.length > 0 &&
        h(
          "ul",
          { class: "differences", "aria-label": "Differences" },
          differences.map((text) => h("li", { class: "tag" }, text)),
        ),
    ),
    h(
      "ul",
      { class: "group-images" },
      group.images.slice(0, SHOWN_IMAGES).map((image) =>
        h(
          "li",
          {},
          h(
            "a",
            { class: "thumb", href: pictureLink(image.id), "aria-label": `Open ${image.path}` },
            h("img", {
              src: thumbnailAddress(image, 320),
              alt: image.captions[0]?.text ?? image.name,
              loading: "lazy",
            }),
          ),
          h(
            "p",
            { class: "group-name" },
            h("strong", { title: image.path }, image.name),
            image.link && h("span", { class: "tag", title: "A link, or another name of a file in this group" }, "link"),
            h(
              "button",
              {
                class: "icon-button small",
                type: "button",
                "aria-label": `Copy the path of ${image.path}`,
                title: "Copy the path",
                onclick: () => void copyText(image.path, "Path"),
              },
              icon("copy"),
            ),
          ),
          image.keep && h("p", { class: "small" }, `Keep: ${group.reason}`),
          h("p", { class: "soft small" }, image.folder),
          h(
            "p",
            { class: "soft small numbers" },
            `${formatCount(image.width)} × ${formatCount(image.height)} · ${formatBytes(image.size_bytes)} · ${image.format}`,
          ),
        ),
      ),
    ),
  );
}
