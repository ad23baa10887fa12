/**
 * The results of one search: any of 100,000 can be asked for; what is looked at is loaded, section by section.
 */

import { api } from "../api.js";
import { cursorAt } from "./cursor.js";

/** Pictures that are loaded at once: about two screens. */
export const SECTION = 60;
const KEPT_SECTIONS = 300;
const AT_ONCE = 3;

/** @typedef {import("../types.js").Hit} Hit */

export class Results {
  /** @type {Map<number, Hit[]>} by section, the one used last at the end */
  #sections = new Map();
  /** @type {Map<number, AbortController>} */
  #loading = new Map();
  /** @type {(section: number) => void} */
  #onload = () => {};
  /** @type {(problem: import("../api.js").Problem) => void} */
  #onproblem = () => {};
  /** Sections that couldn't be had, with the time of the next try. @type {Map<number, number>} */
  #failed = new Map();

  /**
   * @param {import("../api.js").SearchParams} params
   * @param {import("../types.js").SearchAnswer} answer of the first section
   */
  constructor(params, answer) {
    this.params = params;
    /** How many there are in all. */
    this.all = answer.total;
    /** How many of the first are likely, before only unlikely ones follow; null where that isn't known. */
    this.likely = answer.verdict?.matches === false ? 0 : (answer.verdict?.likely ?? null);
    /** Whether what is less likely is left out. */
    this.isFolded = this.hasTail;
    this.notices = answer.verdict?.notices ?? [];
    this.read_as = answer.read_as;
    this.offered = answer.offered;
    this.took_ms = answer.took_ms;
    this.model = answer.model;
    this.note = answer.note;
    this.parts = answer.parts;
    this.next = answer.next;
    this.#sections.set(0, answer.hits);
    const shapes = answer.hits.map((hit) => hit.width / hit.height);
    /** What is taken for the shape of pictures that aren't known yet. */
    this.meanAspect = shapes.length
      ? Math.exp(shapes.reduce((sum, shape) => sum + Math.log(shape), 0) / shapes.length)
      : 1.5;
  }

  /**
   * Search; the first section comes with the answer.
   *
   * @param {import("../api.js").SearchParams} params
   * @param {AbortSignal} signal
   */
  static async search(params, signal) {
    return new Results(params, await api.search(params, { limit: SECTION, signal }));
  }

  /**
   * @param {(section: number) => void} onload
   * @param {(problem: import("../api.js").Problem) => void} onproblem
   */
  follow(onload, onproblem) {
    this.#onload = onload;
    this.#onproblem = onproblem;
  }

  /** Whether there are less likely ones after the likely. */
  get hasTail() {
    return this.likely !== null && this.likely < this.all;
  }

  /** How many are shown: the likely ones, or all. */
  get total() {
    return this.isFolded ? (this.likely ?? this.all) : this.all;
  }

  get sections() {
    return Math.ceil(this.total / SECTION);
  }

  /** @param {number} section */
  sizeOf(section) {
    return Math.min(SECTION, this.total - section * SECTION);
  }

  /**
   * A section's hits; undefined while they aren't here.
   *
   * @param {number} section
   */
  hits(section) {
    return this.#sections.get(section);
  }

  /**
   * @param {number} index
   * @returns {Hit | undefined}
   */
  hit(index) {
    return this.#sections.get(Math.floor(index / SECTION))?.[index % SECTION];
  }

  /**
   * The place of a picture among the results that are loaded; -1 where it isn't there.
   *
   * @param {number} id
   */
  indexOf(id) {
    for (const [section, hits] of this.#sections) {
      const at = hits.findIndex((hit) => hit.id === id);
      if (at >= 0) return section * SECTION + at;
    }
    return -1;
  }

  /**
   * Load what is looked at, nearest first; what no one looks at any more is no longer waited for.
   *
   * @param {number[]} wanted sections
   */
  want(wanted) {
    for (const [section, controller] of this.#loading) {
      if (!wanted.includes(section)) {
        controller.abort();
        this.#loading.delete(section);
      }
    }
    for (const section of wanted) {
      this.#touch(section);
      const isDue = (this.#failed.get(section) ?? 0) <= Date.now();
      if (!this.#sections.has(section) && !this.#loading.has(section) && this.#loading.size < AT_ONCE && isDue) {
        void this.#load(section);
      }
    }
  }

  /**
   * The picture at a place, loaded where it isn't here.
   *
   * @param {number} index
   */
  async reach(index) {
    const section = Math.floor(index / SECTION);
    if (!this.#sections.has(section)) {
      const answer = await this.#fetch(section);
      this.#keep(section, answer.hits);
    }
    return this.hit(index);
  }

  /** Stop loading. */
  close() {
    for (const controller of this.#loading.values()) controller.abort();
    this.#loading.clear();
  }

  /** @param {number} section */
  async #load(section) {
    const controller = new AbortController();
    this.#loading.set(section, controller);
    try {
      const answer = await this.#fetch(section, controller.signal);
      if (!controller.signal.aborted) this.#keep(section, answer.hits);
    } catch (error) {
      if (controller.signal.aborted) return;
      this.#failed.set(section, Date.now() + 3000);
      this.#onproblem(/** @type {import("../api.js").Problem} */ (error));
    } finally {
      if (this.#loading.get(section) === controller) this.#loading.delete(section);
    }
  }

  /** @param {number} section @param {AbortSignal} [signal] */
  #fetch(section, signal) {
    const cursor = section && this.next ? cursorAt(this.next, section * SECTION) : null;
    return api.search(this.params, { limit: SECTION, cursor, signal });
  }

  /** @param {number} section @param {Hit[]} hits */
  #keep(section, hits) {
    this.#failed.delete(section);
    this.#sections.set(section, hits.slice(0, this.all - section * SECTION));
    for (const old of this.#sections.keys()) {
      if (this.#sections.size <= KEPT_SECTIONS) break;
      if (old !== 0) this.#sections.delete(old);
    }
    this.#onload(section);
  }

  /** @param {number} section */
  #touch(section) {
    const hits = this.#sections.get(section);
    if (!hits || section === 0) return;
    this.#sections.delete(section);
    this.#sections.set(section, hits);
  }
}
