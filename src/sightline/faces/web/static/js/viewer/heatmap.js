/**
 * Where words match a picture: what matches stays bright, the rest is veiled. From the model's own map in the joint
 * space, one cosine for each cell, stretched between the lowest and the highest of this picture.
 */

import { api } from "../api.js";
import { h } from "../dom.js";
import { formatSimilarity } from "../format.js";
import { debounce, Latest } from "../latest.js";

/** @typedef {import("../types.js").Heatmap} Map */

const DARKEST = 0.86;
const WAIT_MS = 220;

export class HeatmapView {
  #latest = new Latest();
  #id = 0;
  #map = /** @type {Map | null} */ (null);

  /** @param {HTMLElement} frame of the picture, which the map is laid over */
  constructor(frame) {
    this.canvas = h("canvas", { class: "heat", hidden: true, "aria-hidden": "true" });
    this.input = h("input", {
      class: "input",
      type: "text",
      maxlength: 500,
      "aria-label": "Words to look for in the picture",
      placeholder: "Words to look for",
      autocomplete: "off",
      spellcheck: "false",
    });
    this.legend = h("p", { class: "heat-legend", role: "status" });
    this.bar = h("div", { class: "heat-bar", hidden: true }, this.input, this.legend);
    frame.append(this.canvas);
    this.input.addEventListener(
      "input",
      debounce(() => void this.#load(), WAIT_MS),
    );
    frame.addEventListener("pointermove", (event) => this.#read(event));
    frame.addEventListener("pointerleave", () => this.#describe());
  }

  get isShown() {
    return !this.bar.hidden;
  }

  /** Show or hide it. @param {boolean} isShown @param {string} words where none are there yet */
  toggle(isShown, words) {
    this.bar.hidden = !isShown;
    this.canvas.hidden = !isShown;
    if (!isShown) return this.#latest.stop();
    if (!this.input.value) this.input.value = words;
    void this.#load();
    this.input.focus();
    this.input.select();
  }

  /** Another picture is shown. @param {number} id */
  follow(id) {
    this.#id = id;
    this.#clear();
    if (this.isShown) void this.#load();
  }

  #clear() {
    this.#map = null;
    this.canvas.getContext("2d")?.clearRect(0, 0, this.canvas.width, this.canvas.height);
  }

  async #load() {
    const words = this.input.value.trim();
    if (!words) {
      this.#clear();
      this.legend.textContent = "Type what to look for.";
      return;
    }
    try {
      const map = await this.#latest.run((signal) => api.heatmap(this.#id, words, signal));
      if (!map) return;
      this.#map = map;
      this.#draw(map);
      this.#describe();
    } catch (error) {
      this.#clear();
      this.legend.textContent = error instanceof Error ? error.message : String(error);
    }
  }

  /** @param {Map} map */
  #draw({ rows, columns, values, low, high, area }) {
    this.canvas.width = columns;
    this.canvas.height = rows;
    const context = /** @type {CanvasRenderingContext2D} */ (this.canvas.getContext("2d"));
    const pixels = context.createImageData(columns, rows);
    values.flat().forEach((value, at) => {
      const share = high > low ? (value - low) / (high - low) : 1;
      pixels.data.set([8, 10, 9, Math.round(255 * DARKEST * (1 - smooth(share)))], at * 4);
    });
    context.putImageData(pixels, 0, 0);
    Object.assign(this.canvas.style, {
      left: `${area.left * 100}%`,
      top: `${area.top * 100}%`,
      width: `${area.width * 100}%`,
      height: `${area.height * 100}%`,
    });
  }

  #describe() {
    if (this.#map)
      this.legend.textContent = `Similarity ${formatSimilarity(this.#map.low)} (dark) to ${formatSimilarity(this.#map.high)} (bright)`;
  }

  /** The value under the pointer. @param {PointerEvent} event */
  #read(event) {
    if (!this.isShown || !this.#map) return;
    const place = this.canvas.getBoundingClientRect();
    const column = Math.floor(((event.clientX - place.left) / place.width) * this.#map.columns);
    const row = Math.floor(((event.clientY - place.top) / place.height) * this.#map.rows);
    const value = this.#map.values[row]?.[column];
    if (value === undefined) this.#describe();
    else this.legend.textContent = `Similarity here: ${formatSimilarity(value)}`;
  }
}

/** @param {number} share 0 to 1, eased at both ends */
const smooth = (share) => share * share * (3 - 2 * share);
