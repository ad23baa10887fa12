/**
 * Where every picture of a wall is: exact for sections that are known, estimated for the rest. Holds numbers only, so
 * that 100,000 pictures cost a megabyte.
 */

import { justify } from "./layout.js";
import { SECTION } from "./results.js";

/** @typedef {import("./layout.js").Box} Box */
/** @typedef {{width: number, rowHeight: number, gap: number}} Frame */

/** Height of the line between what is likely and what is less so. */
export const LINE_PX = 56;

/** Shapes that stand for unknown pictures, around the mean: equal boxes would look like a table. */
const VARIETY = [1, 1.16, 0.8, 1.1, 0.94, 0.72, 1.2, 1];

export class Rows {
  /** @type {Map<number, import("./layout.js").Layout>} */
  #layouts = new Map();
  /** Aspects of sections that were seen once: their place stays exact. @type {Map<number, Float32Array>} */
  #aspects = new Map();
  /** @type {import("./layout.js").Layout | null} */
  #guessed = null;
  /** @type {Float64Array} where each section begins, and the end */
  #tops = new Float64Array(1);

  /**
   * @param {import("./results.js").Results} results
   * @param {Frame} frame
   */
  constructor(results, frame) {
    this.results = results;
    this.frame = frame;
    this.reset(frame);
    this.learn(0);
  }

  /** Lay all out anew, for another width. @param {Frame} frame */
  reset(frame) {
    this.frame = frame;
    this.#layouts.clear();
    this.#guessed = null;
    this.#sum();
  }

  /** A section has come in. @param {number} section */
  learn(section) {
    const hits = this.results.hits(section);
    if (!hits?.length) return;
    this.#aspects.set(
      section,
      Float32Array.from(hits, (hit) => hit.width / hit.height),
    );
    this.#layouts.delete(section);
    this.#sum();
  }

  get height() {
    return Math.max(0, this.#tops[this.#tops.length - 1] - this.frame.gap);
  }

  /** @param {number} section */
  topOf(section) {
    return this.#tops[section];
  }

  /** The section at a height. @param {number} y */
  sectionAt(y) {
    let low = 0;
    let high = this.results.sections - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (this.#tops[middle] <= y) low = middle;
      else high = middle - 1;
    }
    return Math.max(0, low);
  }

  /** Where a picture is. @param {number} index @returns {Box} */
  boxOf(index) {
    const section = Math.floor(index / SECTION);
    const box = this.layoutOf(section).boxes[index % SECTION];
    return { ...box, y: box.y + this.#tops[section] };
  }

  /** Pictures that touch a band of the wall, in order. @param {number} from @param {number} to @returns {number[]} */
  between(from, to) {
    /** @type {number[]} */
    const found = [];
    for (
      let section = this.sectionAt(from);
      section < this.results.sections && this.#tops[section] < to;
      section += 1
    ) {
      const top = this.#tops[section];
      this.layoutOf(section).boxes.forEach((box, at) => {
        if (top + box.y < to && top + box.y + box.height > from) found.push(section * SECTION + at);
      });
    }
    return found;
  }

  /**
   * The picture above or below another: of the neighbouring row, the one whose middle is nearest.
   *
   * @param {number} index
   * @param {1 | -1} step
   */
  neighbour(index, step) {
    const here = this.boxOf(index);
    const middle = here.x + here.width / 2;
    let best = index;
    let rowY = null;
    for (let at = index + step; at >= 0 && at < this.results.total; at += step) {
      const box = this.boxOf(at);
      if (box.y === here.y) continue;
      rowY ??= box.y;
      if (box.y !== rowY) break;
      const distance = (/** @type {Box} */ b) => Math.abs(b.x + b.width / 2 - middle);
      if (best === index || distance(box) < distance(this.boxOf(best))) best = at;
    }
    return best;
  }

  /** @param {number} section */
  layoutOf(section) {
    let layout = this.#layouts.get(section);
    if (!layout) {
      const aspects = this.#aspects.get(section);
      if (!aspects && this.#isTypical(section)) return this.#typical();
      const shapes = aspects?.slice(0, this.results.sizeOf(section)) ?? this.#guess(section);
      layout = this.#justify(shapes, section);
      this.#layouts.set(section, layout);
    }
    return layout;
  }

  /** A section's rows; those after the line begin anew below it. @param {ArrayLike<number>} shapes @param {number} section */
  #justify(shapes, section) {
    const isLast = section === this.results.sections - 1;
    const line = this.#lineIn(section);
    if (line < 0) return justify(shapes, { ...this.frame, isLast });
    const above = justify(Array.prototype.slice.call(shapes, 0, line), { ...this.frame, isLast: true });
    const below = justify(Array.prototype.slice.call(shapes, line), { ...this.frame, isLast });
    const moved = above.height + LINE_PX;
    const rows = (above.rowOf.at(-1) ?? -1) + 1;
    return {
      boxes: [...above.boxes, ...below.boxes.map((box) => ({ ...box, y: box.y + moved }))],
      rowOf: [...above.rowOf, ...below.rowOf.map((row) => row + rows)],
      height: moved + below.height,
    };
  }

  /** Where in a section the line is: before which picture; -1 where it isn't in it. @param {number} section */
  #lineIn(section) {
    const { likely, isFolded, hasTail } = this.results;
    if (isFolded || !hasTail || likely === null) return -1;
    const at = likely - section * SECTION;
    return at >= 0 && at < this.results.sizeOf(section) ? at : -1;
  }

  /** Top of the line, and null where there is none. */
  get lineTop() {
    const section = Math.floor((this.results.likely ?? 0) / SECTION);
    return this.#lineIn(section) < 0 ? null : this.boxOf(this.results.likely ?? 0).y - LINE_PX;
  }

  /** Whether a section that isn't known looks like all others that aren't. @param {number} section */
  #isTypical(section) {
    return section < this.results.sections - 1 && this.#lineIn(section) < 0;
  }

  /** The layout of every section that isn't known: one for all, so none is made for a thousand. */
  #typical() {
    this.#guessed ??= justify(this.#guess(0), { ...this.frame, isLast: false });
    return this.#guessed;
  }

  /** @param {number} section */
  #guess(section) {
    const { meanAspect } = this.results;
    return Array.from(
      { length: this.results.sizeOf(section) },
      (_, at) => meanAspect * VARIETY[(at * 3) % VARIETY.length],
    );
  }

  #sum() {
    const { sections } = this.results;
    this.#tops = new Float64Array(sections + 1);
    for (let section = 0; section < sections; section += 1) {
      this.#tops[section + 1] = this.#tops[section] + this.layoutOf(section).height;
    }
  }
}
