/** Text that was read in a picture: its lines where they stand, to select and copy, with the words that were asked for. */

import { h } from "../dom.js";

/**
 * @typedef {import("../types.js").Picture} Picture
 * @typedef {import("../types.js").TextLine} Line
 */

const SVG = "http://www.w3.org/2000/svg";
const LETTERS = 0.78;
/** The part of a line's box that its letters fill. */

export class TextView {
  #picture = /** @type {Picture | null} */ (null);
  #words = /** @type {string[]} */ ([]);
  /** Kept while a picture is loaded again, and for the next one. */
  #isWanted = false;

  /** @param {HTMLElement} frame of the picture, which the lines are laid over */
  constructor(frame) {
    this.layer = h("div", { class: "text-layer", hidden: true });
    // What is pressed here selects, instead of moving the picture.
    for (const name of ["pointerdown", "dblclick"]) this.layer.addEventListener(name, (event) => event.stopPropagation());
    frame.append(this.layer);
  }

  get isShown() {
    return !this.layer.hidden;
  }

  get hasText() {
    return Boolean(this.#picture?.text?.length);
  }

  /** All lines, as they are copied. */
  get text() {
    return (this.#picture?.text ?? []).map((line) => line.text).join("\n");
  }

  /** Another picture is shown; none until it is known. @param {Picture | null} picture @param {string} words */
  follow(picture, words) {
    this.#picture = picture;
    this.#words = split(words);
    this.toggle(this.#isWanted);
  }

  /** @param {boolean} isShown */
  toggle(isShown) {
    this.#isWanted = isShown;
    this.layer.hidden = !(isShown && this.hasText);
    this.layer.replaceChildren(...(this.isShown ? [this.#draw(/** @type {Picture} */ (this.#picture))] : []));
  }

  /** @param {Picture} picture */
  #draw({ width, height, text }) {
    const lines = text ?? [];
    return draw(
      "svg",
      { viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": "Text in the picture" },
      lines.map((line) => this.#drawLine(line, width, height)),
    );
  }

  /** @param {Line} line @param {number} width @param {number} height */
  #drawLine({ text, corners }, width, height) {
    const at = (/** @type {number} */ corner) => [corners[2 * corner] * width, corners[2 * corner + 1] * height];
    const [[x, y], [right, rightY], , [below, belowY]] = [at(0), at(1), at(2), at(3)];
    const [long, high] = [Math.hypot(right - x, rightY - y), Math.hypot(below - x, belowY - y)];
    const turn = (Math.atan2(rightY - y, right - x) * 180) / Math.PI;
    const share = long / Math.max(1, text.length);
    return draw("g", { transform: `translate(${x} ${y}) rotate(${turn})` }, [
      draw("rect", { class: "text-box", width: long, height: high, rx: high / 8 }),
      ...[...text.matchAll(/[\p{L}\p{N}]+/gu)]
        .filter(([word]) => split(word).some((one) => this.#words.includes(one)))
        .map(({ 0: word, index }) =>
          draw("rect", { class: "text-found", x: index * share, width: word.length * share, height: high, rx: high / 8 }),
        ),
      draw("text", { y: high * LETTERS, "font-size": high * LETTERS, textLength: long, lengthAdjust: "spacingAndGlyphs" }, [
        document.createTextNode(`${text}\n`),
      ]),
    ]);
  }
}

/** Words as they are compared, without accents, case and a plural's ending. @param {string} text */
const split = (text) =>
  (text.normalize("NFKD").replace(/\p{M}/gu, "").toLowerCase().match(/[\p{L}\p{N}]+/gu) ?? []).map((word) =>
    word.length > 3 ? word.replace(/e?s$/, "") : word,
  );

/** @param {string} tag @param {Record<string, any>} attributes @param {Node[]} [children] */
function draw(tag, attributes, children = []) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, String(value));
  element.append(...children);
  return element;
}
