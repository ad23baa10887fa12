/** One picture of the wall. */

import { thumbnailAddress } from "../api.js";
import { h, showPlaceholder } from "../dom.js";
import { formatMatch, formatWhy } from "../format.js";
import { icon } from "../icons.js";

/** @typedef {import("../types.js").Hit} Hit */
/** @typedef {import("./layout.js").Box} Box */

/** A picture that comes later than this fades in; one from the cache is simply there. */
const INSTANT_MS = 60;

export class Tile {
  /**
   * @param {Hit} hit
   * @param {string} href
   */
  constructor(hit, href) {
    this.hit = hit;
    this.image = h("img", { alt: hit.caption ?? hit.name, decoding: "async", draggable: "false" });
    this.link = h("a", { href, tabindex: "-1", "data-id": hit.id }, this.image);
    showPlaceholder(this.link, hit.placeholder);
    this.like = h(
      "button",
      {
        class: "tile-like",
        type: "button",
        tabindex: "-1",
        "aria-label": `More like ${hit.name}`,
        title: "More like this",
      },
      icon("like"),
    );
    this.element = h("li", { class: "tile" }, this.link, this.like);
    this.similarity = /** @type {HTMLElement | null} */ (null);
    this.copies = h("span", { class: "tile-copies", title: "Exact copies that this one stands for", hidden: true });
    this.link.append(this.copies);
  }

  /**
   * @param {Box} box
   * @param {{index: number, total: number, showSimilarity: boolean, hit: Hit, href: string}} place
   */
  place(box, { index, total, showSimilarity, hit, href }) {
    this.hit = hit;
    put(this.element, box);
    this.element.setAttribute("aria-posinset", String(index + 1));
    this.element.setAttribute("aria-setsize", String(total));
    this.link.dataset.index = String(index);
    if (this.link.getAttribute("href") !== href) this.link.setAttribute("href", href);
    this.copies.hidden = !hit.copies;
    this.copies.textContent = `+${hit.copies}`;
    const text = showSimilarity ? formatMatch(hit) : null;
    if (text === null) this.similarity?.remove();
    else {
      this.similarity ??= h("span", { class: "similarity" });
      this.similarity.textContent = text;
      const meaning =
        hit.probability === null ? "Similarity to the query (cosine)" : "How probably it shows what was asked";
      this.similarity.title = hit.why.length ? `${meaning}: by ${formatWhy(hit)}` : meaning;
      if (!this.similarity.isConnected) this.link.append(this.similarity);
    }
  }

  /** Load the picture, as sharp as the screen shows it. @param {Box} box */
  load(box) {
    const needed_px = Math.max(box.width, box.height) * Math.min(2, window.devicePixelRatio);
    const src = thumbnailAddress(this.hit, needed_px > 400 ? 640 : 320);
    if (this.image.getAttribute("src") === src) return;
    const start_ms = performance.now();
    this.image.onload = () => {
      this.image.classList.toggle("fresh", performance.now() - start_ms > INSTANT_MS);
      this.image.classList.add("shown");
    };
    this.image.onerror = () => this.#showBroken();
    this.image.src = src;
  }

  /** Leave the wall; a picture that is still coming is no longer wanted. */
  remove() {
    this.image.onerror = null;
    if (!this.image.complete) this.image.removeAttribute("src");
    this.element.remove();
  }

  #showBroken() {
    this.image.hidden = true;
    if (!this.link.querySelector(".broken")) this.link.prepend(h("span", { class: "broken" }, this.hit.name));
  }
}

/** A place whose picture isn't known yet. */
export class Blank {
  constructor() {
    this.element = h("li", { class: "tile blank", "aria-hidden": "true" }, h("span"));
  }

  /** @param {Box} box */
  place(box) {
    put(this.element, box);
  }

  load() {}

  remove() {
    this.element.remove();
  }
}

/** @param {HTMLElement} element @param {Box} box */
function put(element, { x, y, width, height }) {
  element.style.transform = `translate(${x}px, ${y}px)`;
  element.style.width = `${width}px`;
  element.style.height = `${height}px`;
}
