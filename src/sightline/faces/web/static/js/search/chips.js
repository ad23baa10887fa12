/** Parts of a query as chips: what it is, whether it counts for or against, how much, and a way to take it out. */

import { address } from "../api.js";
import { radioGroup } from "../choices.js";
import { fill, h } from "../dom.js";
import { formatCount } from "../format.js";
import { icon } from "../icons.js";
import { addPopover } from "../popover.js";
import { recallPreview } from "../storage.js";

/**
 * @typedef {import("./query.js").Part} Part
 * @typedef {{onchange: (at: number, part: Part | null) => void, onedit: (at: number) => void}} Events null takes one out
 */

const LEAST = 0.1;
const MOST = 3;

/** The chips of one query. A part that only counts differently keeps its chip, and the panel that is open on it. */
export class Chips {
  /** @type {Chip[]} */
  #chips = [];

  /** @param {HTMLElement} list @param {Events} events */
  constructor(list, events) {
    this.list = list;
    this.events = events;
  }

  /** @param {Part[]} parts */
  show(parts) {
    const focused = this.#chips.findIndex((chip) => chip.element.contains(document.activeElement));
    const old = this.#chips;
    this.#chips = parts.map((part, at) => {
      const chip = old[at]?.isOf(part) ? old[at] : new Chip(part, this.events);
      chip.show(part, at);
      return chip;
    });
    if (this.#chips.length === old.length && this.#chips.every((chip, at) => chip === old[at])) return;
    this.list.replaceChildren(...this.#chips.map((chip) => chip.element));
    if (focused >= 0) this.#chips[Math.min(focused, parts.length - 1)]?.main.focus();
  }

  focusLast() {
    this.#chips.at(-1)?.main.focus();
  }
}

/**
 * Filters that words of a query were read as, each with a way to take it off, and those that words may stand for.
 *
 * @param {{read_as: import("../types.js").ReadAs[], offered: import("../types.js").ReadAs[]}} results
 * @param {import("./query.js").Query} query
 * @param {(change: Partial<import("./query.js").Query>) => void} onchange
 */
export function makeReadings({ read_as, offered }, query, onchange) {
  const lacking = read_as
    .filter(({ left_out }) => left_out)
    .map(({ kind, left_out }) => `${formatCount(left_out)} without a ${kind === "dates" ? "date" : "place"}`);
  const read = read_as.map(({ kind, label, words }) =>
    h(
      "span",
      { class: "chip" },
      h("span", { class: "chip-main" }, h("span", {}, label)),
      h(
        "button",
        {
          class: "chip-remove",
          type: "button",
          "aria-label": `Take ${words} as words`,
          title: `Take ${words} as words`,
          onclick: () => onchange({ plain: query.plain ? "dates,places" : kind }),
        },
        icon("close"),
      ),
    ),
  );
  const whole = (/** @type {string} */ where) => (query.filters.where ? `(${query.filters.where}) and (${where})` : where);
  const asked = offered.map(({ label, where }) =>
    h(
      "button",
      {
        class: "button small",
        type: "button",
        onclick: () => onchange({ filters: { ...query.filters, where: whole(where) } }),
      },
      `Only ${label}`,
    ),
  );
  const told = lacking.length ? [h("span", {}, `Left out: ${lacking.join(", ")}.`)] : [];
  return [...read, ...asked, ...told];
}

class Chip {
  /** @param {Part} part @param {Events} events */
  constructor(part, events) {
    this.part = part;
    this.at = 0;
    this.events = events;
    this.main = h("button", {
      class: "chip-main",
      type: "button",
      onkeydown: (/** @type {KeyboardEvent} */ event) => this.#onKey(event),
    });
    const remove = h(
      "button",
      {
        class: "chip-remove",
        type: "button",
        "aria-label": `Remove ${labelOf(part)}`,
        onclick: () => events.onchange(this.at, null),
      },
      icon("close"),
    );
    this.element = h("li", { class: "chip" }, this.main, remove);
    addPopover(this.main, { label: `Part: ${labelOf(part)}`, build: (close) => this.#buildPanel(close) });
  }

  /** @param {Part} part */
  isOf(part) {
    return keyOf(part) === keyOf(this.part);
  }

  /** @param {Part} part @param {number} at */
  show(part, at) {
    this.part = part;
    this.at = at;
    const weight = Math.abs(part.weight);
    const isNegative = part.weight < 0;
    this.element.classList.toggle("negative", isNegative);
    this.main.setAttribute(
      "aria-label",
      isMark(part)
        ? `${labelOf(part)} is ${isNegative ? "wrong" : "right"}. Change`
        : `${isNegative ? "less" : "more"} like ${labelOf(part)}${weight === 1 ? "" : `, weight ${weight}`}. Change`,
    );
    fill(
      this.main,
      isMark(part)
        ? icon(isNegative ? "close" : "check")
        : isNegative && h("span", { class: "chip-sign", "aria-hidden": "true" }, "−"),
      ...showPart(part),
      weight !== 1 && h("span", { class: "chip-weight" }, `×${weight}`),
    );
  }

  /** @param {number} weight */
  #weigh(weight) {
    this.events.onchange(this.at, { ...this.part, weight });
  }

  /** @param {KeyboardEvent} event */
  #onKey(event) {
    const run = {
      Delete: () => this.events.onchange(this.at, null),
      Backspace: () => this.events.onchange(this.at, null),
      "-": () => this.#weigh(-Math.abs(this.part.weight)),
      "+": () => this.#weigh(Math.abs(this.part.weight)),
    }[event.key];
    if (!run) return;
    event.preventDefault();
    run();
  }

  /** @param {() => void} close */
  #buildPanel(close) {
    const { part } = this;
    const shown = h("output", { class: "numbers" }, String(Math.abs(part.weight)));
    const range = h("input", {
      class: "range",
      type: "range",
      min: LEAST,
      max: MOST,
      step: 0.1,
      value: Math.abs(part.weight),
      "aria-label": "Weight",
      oninput: () => (shown.textContent = range.value),
      onchange: () => this.#weigh(Math.sign(this.part.weight) * Number(range.value)),
    });
    return [
      radioGroup({
        label: "How it counts",
        look: "segments",
        value: part.weight < 0 ? "-" : "+",
        options: [
          ["+", isMark(part) ? "Right" : "More like this"],
          ["-", isMark(part) ? "Wrong" : "Less like this"],
        ],
        onchange: (value) => this.#weigh(Math.abs(this.part.weight) * (value === "-" ? -1 : 1)),
      }),
      !isMark(part) && h("div", { class: "field" }, h("span", {}, "Weight ", shown), range),
      h(
        "div",
        { class: "popover-foot" },
        h(
          "button",
          { class: "button small", type: "button", onclick: () => (close(), this.events.onchange(this.at, null)) },
          icon("trash"),
          "Remove",
        ),
        part.kind === "text" &&
          h(
            "button",
            { class: "button small", type: "button", onclick: () => (close(), this.events.onedit(this.at)) },
            icon("pencil"),
            "Edit words",
          ),
      ),
    ];
  }
}

/** @param {Part} part */
const isMark = (part) => part.kind === "image" && part.mark === true;

/** @param {Part} part what it is, however it counts */
const keyOf = (part) => `${isMark(part) ? "mark" : part.kind} ${part.kind === "text" ? part.text : part.kind === "image" ? part.id : part.key}`;

/** @param {Part} part */
const labelOf = (part) =>
  part.kind === "text" ? part.text : part.kind === "image" ? `picture ${part.id}` : "your picture";

/** @param {Part} part */
function showPart(part) {
  if (part.kind === "text") return [h("span", { class: "chip-text" }, part.text)];
  const src =
    part.kind === "image" ? address(`/api/images/${part.id}/thumbnail`, { size: 320 }) : recallPreview(part.key);
  const picture = src ? h("img", { src, alt: "" }) : h("span", { class: "blank" }, icon("image"));
  return [picture, !isMark(part) && h("span", {}, part.kind === "image" ? "Picture" : "Your picture")];
}
