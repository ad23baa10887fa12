/**
 * The wall of results: only what is on the screen (and a little around it) exists as elements, so 100,000 pictures
 * scroll like fifty. Places that aren't known yet are estimated; when they are, what the reader looks at stays where
 * it is.
 */

import { h } from "../dom.js";
import { Rows } from "./rows.js";
import { SECTION } from "./results.js";
import { Blank, Tile } from "./tile.js";

const MARGIN_PX = 700;
/** Faster than this nobody sees pictures, so none are loaded until it slows down. */
const FAST_PX_PER_MS = 5;
const SETTLED_MS = 90;

/** @type {Record<string, number>} */
export const ROW_HEIGHTS = { small: 132, medium: 204, large: 304 };

/**
 * @typedef {object} GridEvents
 * @property {(index: number) => string} href where a picture's link leads
 * @property {(index: number) => void} onopen
 * @property {(hit: import("../types.js").Hit) => void} onlike
 * @property {(hit: import("../types.js").Hit, sign: 1 | -1) => void} onuse
 * @property {(index: number, hit: import("../types.js").Hit, sign: 1 | -1) => void} onmark right or wrong
 * @property {(hit: import("../types.js").Hit | undefined) => void} onscroll with the first picture on the screen
 * @property {() => void} onfold what is less likely is to be left out again
 * @property {() => void} onleave the reader goes up, out of the wall
 * @property {(problem: import("../api.js").Problem) => void} onproblem
 */

export class Grid {
  /** @type {Map<string, Tile | Blank>} */
  #tiles = new Map();
  #results = /** @type {import("./results.js").Results | null} */ (null);
  #rows = /** @type {Rows | null} */ (null);
  #active = 0;
  /** The picture that is to have the focus once it is loaded; -1 for none. */
  #awaited = -1;
  #frame = 0;
  #settle = 0;
  #lastScroll = { y: 0, at_ms: 0 };
  #isFast = false;
  #showSimilarity = false;
  #size = "medium";

  /**
   * @param {HTMLElement} list
   * @param {GridEvents} events
   */
  constructor(list, events) {
    this.list = list;
    this.events = events;
    list.tabIndex = -1;
    this.line = h(
      "li",
      { class: "fold-line" },
      h("span", {}, "Less likely"),
      h("button", { class: "button small bare", type: "button", onclick: () => events.onfold() }, "Hide them"),
    );
    addEventListener("scroll", () => this.#onScroll(), { passive: true });
    new ResizeObserver(() => this.#resize()).observe(list);
    list.addEventListener("click", (event) => this.#onClick(event));
    list.addEventListener("keydown", (event) => this.#onKey(event));
    list.addEventListener("focusin", (event) => this.#onFocus(event));
  }

  get results() {
    return this.#results;
  }

  /**
   * Show other results, from their start; with `stay` at the place where the reader is.
   *
   * @param {import("./results.js").Results} results
   * @param {{stay?: boolean}} [options]
   */
  show(results, { stay = false } = {}) {
    this.#results?.close();
    this.#results = results;
    this.#rows = new Rows(results, this.#makeFrame());
    this.#active = stay ? Math.min(this.#active, Math.max(0, results.total - 1)) : 0;
    results.follow((section) => this.#learn(section), this.events.onproblem);
    if (!stay && scrollY > 0) scrollTo({ top: 0, behavior: "instant" });
    this.render();
  }

  /** Show similarities on the pictures, or not. */
  set showSimilarity(/** @type {boolean} */ value) {
    this.#showSimilarity = value;
    this.render();
  }

  /** Leave out what is less likely, or show it: the wall gets shorter or longer, and the reader stays. @param {boolean} isFolded */
  fold(isFolded) {
    const results = this.#results;
    if (!results) return;
    const change = () => {
      results.isFolded = isFolded && results.hasTail;
      this.#rows?.reset(this.#makeFrame());
    };
    if (isFolded) change();
    else this.#keepPlace(change);
    this.#active = Math.min(this.#active, Math.max(0, results.total - 1));
    this.render();
  }

  /** How high rows are: a key of `ROW_HEIGHTS`. */
  set size(/** @type {string} */ value) {
    this.#size = value;
    this.#relayout();
  }

  /** Draw what is on the screen. */
  render() {
    if (!this.#rows || !this.#results || this.list.offsetParent === null) return;
    this.list.style.height = `${this.#rows.height}px`;
    const top = this.#viewTop();
    const visible = this.#rows.between(top - MARGIN_PX, top + innerHeight + MARGIN_PX);
    this.#reconcile(visible);
    if (!this.#isFast) this.#results.want([...new Set(visible.map((index) => Math.floor(index / SECTION)))]);
  }

  /** Remember what the reader looks at, wherever it will be by the time of `restore`. */
  markPlace() {
    const top = this.#viewTop();
    const [first] = top > 0 && this.#rows ? this.#rows.between(top, top + innerHeight) : [];
    const below = first === undefined ? 0 : (this.#rows?.boxOf(first).y ?? 0) - top;
    const y = scrollY;
    const restore = () => {
      const listTop = this.list.getBoundingClientRect().top + scrollY;
      this.render();
      scrollTo({
        top: first === undefined || !this.#rows ? y : listTop + this.#rows.boxOf(first).y - below,
        behavior: "instant",
      });
    };
    return { restore };
  }

  /** Put the focus on a picture, scrolling to it. @param {number} index */
  focus(index) {
    if (!this.#rows || !this.#results?.total) return;
    this.#active = Math.max(0, Math.min(index, this.#results.total - 1));
    this.reveal(this.#active);
    this.#isFast = false;
    this.render();
    const hit = this.#results.hit(this.#active);
    const tile = hit && this.#tiles.get(keyOf(hit, this.#active));
    this.#awaited = tile instanceof Tile ? -1 : this.#active;
    (tile instanceof Tile ? tile.link : this.list).focus({ preventScroll: true });
  }

  /** Scroll until a picture is on the screen. @param {number} index */
  reveal(index) {
    if (!this.#rows) return;
    const box = this.#rows.boxOf(index);
    const listTop = this.list.getBoundingClientRect().top + scrollY;
    const covered = this.list.parentElement?.previousElementSibling?.getBoundingClientRect().bottom ?? 0;
    const head = Math.max(covered, 64) + 12;
    if (listTop + box.y - head < scrollY)
      scrollTo({ top: index === 0 ? 0 : listTop + box.y - head, behavior: "instant" });
    else if (listTop + box.y + box.height > scrollY + innerHeight - 80) {
      scrollTo({ top: listTop + box.y + box.height - innerHeight + 80, behavior: "instant" });
    }
  }

  #viewTop() {
    return -this.list.getBoundingClientRect().top;
  }

  #makeFrame() {
    const width = this.list.clientWidth || innerWidth;
    const scale = width < 700 ? 0.6 : width > 1600 ? 1.15 : 1;
    return { width, rowHeight: Math.round(ROW_HEIGHTS[this.#size] * scale), gap: width < 700 ? 3 : 6 };
  }

  #resize() {
    if (this.#rows && this.list.clientWidth && this.list.clientWidth !== this.#rows.frame.width) this.#relayout();
    else this.render();
  }

  #relayout() {
    this.#keepPlace(() => this.#rows?.reset(this.#makeFrame()));
    this.render();
  }

  /** @param {number} section */
  #learn(section) {
    this.#keepPlace(() => this.#rows?.learn(section));
    this.render();
    const isFocused = document.activeElement === this.list;
    if (isFocused && Math.floor(this.#awaited / SECTION) === section) this.focus(this.#awaited);
  }

  /** Change places without moving what the reader looks at. @param {() => void} change */
  #keepPlace(change) {
    const rows = this.#rows;
    const top = this.#viewTop();
    if (!rows || !this.#results?.total || top <= 0) return change();
    const [anchor] = rows.between(top, top + innerHeight);
    const before = anchor === undefined ? 0 : rows.boxOf(anchor).y;
    const y = scrollY; // taken now: a page that gets shorter is scrolled up by the browser
    change();
    this.list.style.height = `${rows.height}px`;
    const moved = anchor === undefined ? 0 : rows.boxOf(anchor).y - before;
    if (moved) scrollTo({ top: y + moved, behavior: "instant" });
  }

  /** @param {number[]} visible */
  #reconcile(visible) {
    const stale = new Set(this.#tiles.keys());
    const wanted = visible.map((index) => {
      const hit = this.#results?.hit(index);
      const key = keyOf(hit, index);
      stale.delete(key);
      return { index, hit, key };
    });
    for (const key of stale) {
      const tile = this.#tiles.get(key);
      if (tile?.element.contains(document.activeElement)) this.list.focus({ preventScroll: true });
      tile?.remove();
      this.#tiles.delete(key);
    }
    let next = this.list.firstElementChild;
    for (const { index, hit, key } of wanted) {
      const tile = this.#draw(index, hit, key);
      if (tile.element === next) next = next.nextElementSibling;
      else this.list.insertBefore(tile.element, next);
    }
    this.#placeLine();
    this.#setTabStop(wanted.map(({ key }) => key));
  }

  /** The line between what is likely and what is less so, where both are shown. */
  #placeLine() {
    const top = this.#rows?.lineTop ?? null;
    if (top === null) return this.line.remove();
    this.line.style.transform = `translate(0, ${top}px)`;
    if (!this.line.isConnected) this.list.append(this.line);
  }

  /** @param {number} index @param {import("../types.js").Hit | undefined} hit @param {string} key */
  #draw(index, hit, key) {
    const rows = /** @type {Rows} */ (this.#rows);
    const box = rows.boxOf(index);
    let tile = this.#tiles.get(key);
    if (!tile) {
      tile = hit ? new Tile(hit, this.events.href(index)) : new Blank();
      this.#tiles.set(key, tile);
    }
    if (tile instanceof Tile && hit) {
      tile.place(box, {
        index,
        total: rows.results.total,
        showSimilarity: this.#showSimilarity,
        hit,
        href: this.events.href(index),
      });
    } else if (tile instanceof Blank) tile.place(box);
    if (!this.#isFast) tile.load(box);
    return tile;
  }

  /** One picture can be reached with Tab: the active one, or the first on the screen. @param {string[]} keys */
  #setTabStop(keys) {
    const tiles = keys.map((key) => this.#tiles.get(key)).filter((tile) => tile instanceof Tile);
    const active = tiles.find((tile) => Number(tile.link.dataset.index) === this.#active);
    const top = this.#viewTop();
    const first =
      active ?? tiles.find((tile) => (this.#rows?.boxOf(Number(tile.link.dataset.index)).y ?? 0) >= top) ?? tiles[0];
    for (const tile of tiles) tile.link.tabIndex = tile === first ? 0 : -1;
  }

  #onScroll() {
    const now = { y: scrollY, at_ms: performance.now() };
    const speed = Math.abs(now.y - this.#lastScroll.y) / Math.max(1, now.at_ms - this.#lastScroll.at_ms);
    this.#lastScroll = now;
    this.#isFast = speed > FAST_PX_PER_MS;
    clearTimeout(this.#settle);
    this.#settle = window.setTimeout(() => {
      this.#isFast = false;
      this.render();
    }, SETTLED_MS);
    if (this.#frame) return;
    this.#frame = requestAnimationFrame(() => {
      this.#frame = 0;
      this.render();
      const top = this.#viewTop();
      const [first] = this.#rows && this.list.offsetParent ? this.#rows.between(top + 80, top + innerHeight) : [];
      if (first !== undefined) this.events.onscroll(this.#results?.hit(first));
    });
  }

  /** @param {Event} event */
  #hitOf(event) {
    const link = /** @type {Element} */ (event.target).closest?.(".tile")?.querySelector("a");
    const index = Number(link?.dataset.index ?? -1);
    return { index, hit: index < 0 ? undefined : this.#results?.hit(index) };
  }

  /** @param {MouseEvent} event */
  #onClick(event) {
    const { index, hit } = this.#hitOf(event);
    if (!hit || event.ctrlKey || event.metaKey || event.shiftKey || event.button !== 0) return;
    event.preventDefault();
    if (/** @type {Element} */ (event.target).closest(".tile-like")) return this.events.onlike(hit);
    this.#active = index;
    this.events.onopen(index);
  }

  /** @param {FocusEvent} event */
  #onFocus(event) {
    const { index } = this.#hitOf(event);
    if (index >= 0) this.#active = index;
  }

  /** @param {KeyboardEvent} event */
  #onKey(event) {
    const { index: own, hit } = this.#hitOf(event);
    const index = own < 0 ? this.#active : own;
    if (!this.#results?.total || event.ctrlKey || event.metaKey || event.altKey) return;
    if (hit && (event.key === "+" || event.key === "-")) {
      event.preventDefault();
      return this.events.onuse(hit, event.key === "+" ? 1 : -1);
    }
    if (hit && (event.key === "y" || event.key === "n")) {
      event.preventDefault();
      return this.events.onmark(index, hit, event.key === "y" ? 1 : -1);
    }
    const target = this.#target(event.key, index);
    if (target === undefined) return;
    event.preventDefault();
    if (event.key === "ArrowUp" && target === index) this.events.onleave();
    else this.focus(target);
  }

  /** @param {string} key @param {number} index */
  #target(key, index) {
    const rows = /** @type {Rows} */ (this.#rows);
    switch (key) {
      case "ArrowRight":
        return index + 1;
      case "ArrowLeft":
        return index - 1;
      case "ArrowDown":
        return rows.neighbour(index, 1);
      case "ArrowUp":
        return rows.neighbour(index, -1);
      case "Home":
        return 0;
      case "End":
        return rows.results.total - 1;
      default:
        return undefined;
    }
  }
}

/** @param {import("../types.js").Hit | undefined} hit @param {number} index */
const keyOf = (hit, index) => (hit ? `picture ${hit.id}` : `place ${index}`);
