/** Filters as pills: each shows what it is set to and opens a panel. */

import { labelled, radioGroup } from "../choices.js";
import { h } from "../dom.js";
import { baseName } from "../format.js";
import { icon } from "../icons.js";
import { addPopover } from "../popover.js";
import { isFiltered, noFilters } from "./query.js";

/**
 * @typedef {import("./query.js").Query} Query
 * @typedef {(change: {filters?: Partial<import("./query.js").Filters>, match?: string, min?: string, newest?: boolean,
 *   again?: boolean, model?: string}) => void} Change
 *
 * @typedef {object} Facts what there is to choose from
 * @property {string[]} folders
 * @property {string[]} models
 *
 * @typedef {object} Filter
 * @property {string} name
 * @property {(query: Query) => string} value what it is set to, in words; "" where it isn't
 * @property {(query: Query, change: Change, facts: Facts) => Node[]} build
 */

/** @type {Record<string, string>} */
const SIZE_NAMES = { "": "Any size", large: "Large", medium: "Medium", small: "Small" };
/** @type {Record<string, string>} */
const SHAPE_NAMES = {
  "": "Any shape",
  landscape: "Landscape",
  portrait: "Portrait",
  square: "Square",
  panorama: "Panorama",
};
/** @type {Record<string, string>} */
const CAPTION_NAMES = { "": "Any", yes: "With captions", no: "Without captions" };
/** @type {Record<string, string>} */
const MATCH_NAMES = { both: "All", pictures: "Pictures", captions: "Words" };

/** @param {Record<string, string>} names @returns {[string, string][]} */
const asOptions = (names) => Object.entries(names);

/** @type {Filter[]} */
const FILTERS = [
  { name: "Date", value: ({ filters }) => nameDates(filters.after, filters.before), build: buildDates },
  { name: "Folder", value: ({ filters }) => filters.folder && baseName(filters.folder), build: buildFolder },
  {
    name: "Size",
    value: ({ filters }) => filters.size && SIZE_NAMES[filters.size],
    build: ({ filters }, change) => [
      radioGroup({
        label: "Size",
        options: asOptions(SIZE_NAMES),
        value: filters.size,
        onchange: (size) => change({ filters: { size } }),
      }),
      h("p", { class: "soft small" }, "Large is 2,400 pixels or more on the longer side, small below 1,000."),
    ],
  },
  {
    name: "Shape",
    value: ({ filters }) => filters.shape && SHAPE_NAMES[filters.shape],
    build: ({ filters }, change) => [
      radioGroup({
        label: "Shape",
        options: asOptions(SHAPE_NAMES),
        value: filters.shape,
        onchange: (shape) => change({ filters: { shape } }),
      }),
    ],
  },
  {
    name: "Camera",
    value: ({ filters }) => filters.camera,
    build: ({ filters }, change) => [
      labelled(
        "Camera",
        textInput(filters.camera, "Canon, iPhone 15, …", (camera) => change({ filters: { camera } })),
        "Any part of its name.",
      ),
    ],
  },
  {
    name: "Captions",
    value: ({ filters }) => filters.captions && CAPTION_NAMES[filters.captions],
    build: ({ filters }, change) => [
      radioGroup({
        label: "Captions",
        options: asOptions(CAPTION_NAMES),
        value: filters.captions,
        onchange: (captions) => change({ filters: { captions } }),
      }),
    ],
  },
  { name: "More", value: nameMore, build: buildMore },
];

/**
 * @param {HTMLElement} row
 * @param {{query: () => Query, facts: () => Facts, onchange: Change}} page
 */
export class Filters {
  /** @param {HTMLElement} row @param {{query: () => Query, facts: () => Facts, onchange: Change}} page */
  constructor(row, page) {
    this.page = page;
    this.pills = FILTERS.map((filter) => {
      const button = h("button", { class: "pill", type: "button" });
      row.append(button);
      addPopover(button, { label: filter.name, build: () => filter.build(page.query(), page.onchange, page.facts()) });
      return { filter, button };
    });
    this.clear = h(
      "button",
      {
        class: "pill clear",
        type: "button",
        hidden: true,
        onclick: () => page.onchange({ filters: noFilters(), min: "" }),
      },
      "Clear filters",
    );
    row.append(this.clear);
    this.show();
  }

  /** Show what the query is set to. */
  show() {
    const query = this.page.query();
    for (const { filter, button } of this.pills) {
      const value = filter.value(query);
      button.className = value ? "pill set" : "pill";
      button.replaceChildren(value || filter.name, icon("down"));
      if (value) button.setAttribute("aria-label", `${filter.name}: ${value}`);
      else button.removeAttribute("aria-label");
    }
    this.clear.hidden = !isFiltered(query) && !query.min;
  }
}

/** @param {string} value @param {string} placeholder @param {(value: string) => void} onchange */
function textInput(value, placeholder, onchange) {
  const input = h("input", {
    class: "input",
    type: "text",
    value,
    placeholder,
    autocomplete: "off",
    spellcheck: "false",
    onchange: () => onchange(input.value.trim()),
  });
  return input;
}

/** @param {Date} date */
const asDay = (date) => new Date(date.getTime() - date.getTimezoneOffset() * 60000).toISOString().slice(0, 10);

/** @returns {[name: string, after: string, before: string][]} */
function datePresets() {
  const now = new Date();
  const daysAgo = (/** @type {number} */ days) =>
    asDay(new Date(now.getFullYear(), now.getMonth(), now.getDate() - days));
  const year = now.getFullYear();
  return [
    ["Any time", "", ""],
    ["Last 7 days", daysAgo(7), ""],
    ["Last 30 days", daysAgo(30), ""],
    ["This year", `${year}-01-01`, ""],
    ["Last year", `${year - 1}-01-01`, `${year - 1}-12-31`],
  ];
}

/** @param {string} after @param {string} before */
function nameDates(after, before) {
  if (!after && !before) return "";
  const preset = datePresets().find((one) => one[1] === after && one[2] === before);
  if (preset) return preset[0];
  return after && before ? `${after} to ${before}` : after ? `Since ${after}` : `Until ${before}`;
}

/** @param {Query} query @param {Change} change */
function buildDates({ filters }, change) {
  const presets = datePresets();
  const chosen = presets.findIndex(([, after, before]) => after === filters.after && before === filters.before);
  const from = h("input", {
    class: "input",
    type: "date",
    value: filters.after,
    onchange: () => change({ filters: { after: from.value } }),
  });
  const to = h("input", {
    class: "input",
    type: "date",
    value: filters.before,
    onchange: () => change({ filters: { before: to.value } }),
  });
  const group = radioGroup({
    label: "Date",
    value: String(chosen),
    options: presets.map(([name], at) => [String(at), name]),
    onchange: (at) => {
      const [, after, before] = presets[Number(at)];
      [from.value, to.value] = [after, before];
      change({ filters: { after, before } });
    },
  });
  return [
    group,
    h("div", { class: "row" }, labelled("From", from), labelled("To", to)),
    h("p", { class: "soft small" }, "When the photo was taken; for files that don't say, when they were changed."),
  ];
}

/** @param {Query} query @param {Change} change @param {Facts} facts */
function buildFolder({ filters }, change, facts) {
  /** @type {[string, string][]} */
  const options = [
    ["", "All folders"],
    ...facts.folders.map((folder) => /** @type {[string, string]} */ ([folder, baseName(folder)])),
  ];
  return [
    options.length > 2 &&
      options.length < 9 &&
      radioGroup({
        label: "Folder",
        options,
        value: filters.folder,
        onchange: (folder) => change({ filters: { folder } }),
      }),
    labelled(
      "Folder and all below it",
      textInput(filters.folder, facts.folders[0] ?? "/photos/2024", (folder) => change({ filters: { folder } })),
    ),
  ].filter((node) => node !== false);
}

/** @param {Query} query */
function nameMore({ filters, match, min, newest, again, model }) {
  const set = [
    match !== "both" && MATCH_NAMES[match],
    min && `≥ ${min}`,
    newest && "Newest first",
    again && "Second look",
    model,
    filters.where && "Own filter",
  ].filter(Boolean);
  return set.join(", ");
}

/** @param {Query} query @param {Change} change @param {Facts} facts */
function buildMore({ filters, match, min, newest, again, model }, change, facts) {
  const shown = h("output", { class: "numbers" }, min || "none");
  const range = h("input", {
    class: "range",
    type: "range",
    min: 0,
    max: 0.6,
    step: 0.01,
    value: min || 0,
    "aria-label": "Minimum similarity",
    oninput: () => (shown.textContent = range.value === "0" ? "none" : range.value),
    onchange: () => change({ min: range.value === "0" ? "" : range.value }),
  });
  const models = h(
    "select",
    { class: "select", onchange: () => change({ model: models.value }) },
    h("option", { value: "" }, "The library's default"),
    facts.models.map((name) => h("option", { value: name, selected: name === model }, name)),
  );
  return [
    h(
      "div",
      { class: "field" },
      h("span", {}, "Search in"),
      radioGroup({
        label: "Search in",
        look: "segments",
        options: asOptions(MATCH_NAMES),
        value: match,
        onchange: (value) => change({ match: value }),
      }),
    ),
    h(
      "div",
      { class: "field" },
      h("span", {}, "Minimum similarity: ", shown),
      range,
      h(
        "small",
        { class: "soft" },
        "Similarities differ from query to query and from model to model; none is right for all.",
      ),
    ),
    checkbox("Newest first", "Of the pictures that are likely right, in place of the best first.", newest, (newest) =>
      change({ newest }),
    ),
    checkbox(
      "Second look",
      "Reads the first pictures again, together with the words: slower, better order. Not with newest first.",
      again,
      (again) => change({ again }),
    ),
    facts.models.length > 1 && labelled("Model", models),
    labelled(
      "Filter",
      textInput(filters.where, "width > 3000 and caption like '%dog%'", (where) => change({ filters: { where } })),
      "Fields: path, name, folder, format, width, height, size_bytes, taken_at, modified_at, camera, latitude, longitude, caption.",
    ),
  ].filter((node) => node !== false);
}

/** @param {string} label @param {string} help @param {boolean} checked @param {(checked: boolean) => void} onchange */
function checkbox(label, help, checked, onchange) {
  const input = h("input", { type: "checkbox", checked, onchange: () => onchange(input.checked) });
  return h("label", { class: "check" }, input, h("span", {}, label, h("small", { class: "soft" }, help)));
}
