/** The search page: one query, its results, and everything that changes it. */

import { api, chosenLibrary } from "../api.js";
import { fill, find, h } from "../dom.js";
import { formatCount, formatDuration, formatMonth, formatPlural } from "../format.js";
import { icon } from "../icons.js";
import { debounce, Latest } from "../latest.js";
import { navigate, note } from "../router.js";
import { recall, remember, rememberPreview } from "../storage.js";
import { announce, toastProblem } from "../toast.js";
import { Box } from "./box.js";
import { makeAction, makeFailure, makeMessage } from "./empty.js";
import { Filters } from "./filters.js";
import { Grid, ROW_HEIGHTS } from "./grid.js";
import { describe, emptyQuery, fromAddress, isEmpty, isFiltered, noFilters, toAddress, toParams } from "./query.js";
import { Results } from "./results.js";

/**
 * @typedef {import("./query.js").Query} Query
 * @typedef {import("../types.js").Hit} Hit
 */

const TYPING_MS = 40;
const DATE_SHOWN_MS = 900;

/** @type {import("../types.js").SearchAnswer} */
const NO_ANSWER = {
  hits: [],
  total: 0,
  next: null,
  took_ms: 0,
  model: "",
  parts: [],
  note: null,
  verdict: null,
};

export class SearchPage {
  /** @type {Query} */
  query = emptyQuery();
  #latest = new Latest();
  /** Whether typing has made its step in the history, which later keys only change. */
  #isTyping = false;
  /** What was asked for last, and what the results on the page answer; null for neither. @type {string | null} */
  #askedKey = null;
  /** @type {string | null} */
  #shownKey = null;
  /** The query whose less likely pictures the reader wants to see. @type {string | null} */
  #unfoldedKey = null;
  #searchSoon = debounce(() => void this.search(), TYPING_MS);
  /** Words of another site's link, to be shown first, "" where there are none. */
  #foreignWords = "";
  /** Whether such words stand in the box and wait for the user. */
  #isHeld = false;
  #place = { restore: () => {} };
  /** The place that is to have the focus once the list is ranked anew; -1 for none. */
  #focusNext = -1;
  #dateTimer = 0;

  /**
   * @param {HTMLElement} root
   * @param {{stats: () => import("../types.js").Stats | null, onopen: (index: number) => void}} app
   */
  constructor(root, app) {
    this.root = root;
    this.app = app;
    this.list = find("#results", root);
    this.message = find("#message", root);
    this.notices = find("#notices", root);
    this.count = find("#count", root);
    this.busy = find("#busy");
    this.date = find("#date-pill", root);
    this.box = new Box({
      ontext: (text) => this.change({ text }, { isTyping: true }),
      onparts: (parts, text) => this.change({ parts, text }),
      oncommit: () => void this.#commit(),
      onclear: () => this.change({ text: "", parts: [] }),
      onpicture: (file) => void this.searchByPicture(file),
    });
    this.grid = new Grid(this.list, {
      href: (index) => this.addressOf(index),
      onopen: (index) => app.onopen(index),
      onlike: (hit) => this.showLike(hit.id),
      onuse: (hit, sign) => this.addPart({ kind: "image", id: hit.id, weight: sign }),
      onmark: (index, hit, sign) => {
        this.#focusNext = index;
        this.mark(hit.id, sign);
      },
      onscroll: (hit) => this.#showDate(hit),
      onfold: () => this.fold(true),
      onleave: () => this.box.focus(),
      onproblem: toastProblem,
    });
    this.filters = new Filters(find("#filters", root), {
      query: () => this.query,
      facts: () => ({ folders: app.stats()?.folders ?? [], models: Object.keys(app.stats()?.models ?? {}) }),
      onchange: ({ filters = {}, ...rest }) => this.change({ ...rest, filters: { ...this.query.filters, ...filters } }),
    });
    this.#addViewButtons();
  }

  get results() {
    return this.grid.results;
  }

  /** Whether what is shown answers the query as it stands. */
  get isCurrent() {
    return this.#keyOf() === this.#shownKey;
  }

  /** The address of a picture of the results. @param {number} index */
  addressOf(index) {
    const hit = this.results?.hit(index);
    return hit ? `/image/${hit.id}${toAddress(this.query)}` : "/";
  }

  /** Begin with words that wait in the box until the user searches for them. @param {string} words */
  hold(words) {
    this.#foreignWords = words.slice(0, this.box.input.maxLength);
  }

  /** Show what an address asks for. @param {URL} address */
  open(address) {
    const wasHidden = this.root.hidden;
    this.root.hidden = false;
    const words = this.#foreignWords;
    this.#foreignWords = "";
    this.#isHeld = words !== "";
    this.query = this.#isHeld ? { ...emptyQuery(), text: words } : fromAddress(address.search);
    this.#isTyping = false;
    this.#showQuery();
    if (this.#isHeld) this.#showHeld();
    else if (this.#keyOf() !== this.#askedKey) void this.search();
    else if (wasHidden) this.#place.restore();
  }

  /** Another page comes; this one stays as it is. */
  leave() {
    if (this.root.hidden) return;
    this.#place = this.grid.markPlace();
    this.root.hidden = true;
  }

  /**
   * Change the query and search.
   *
   * @param {Partial<Query>} change
   * @param {{isTyping?: boolean}} [options] typing: one step of the history for all keys, and a moment's wait
   */
  change(change, { isTyping = false } = {}) {
    this.#isHeld = false;
    this.query = { ...this.query, ...change };
    const path = `/${toAddress(this.query)}`;
    if (location.pathname !== "/") return navigate(path);
    note(path, { replace: isTyping && this.#isTyping });
    this.#isTyping = isTyping;
    this.#showQuery();
    if (isTyping) this.#searchSoon();
    else void this.search();
  }

  /** Search for what is like a picture of the library. @param {number} id */
  showLike(id) {
    this.change({ text: "", parts: [{ kind: "image", id, weight: 1 }] });
  }

  /** @param {import("./query.js").Part} part */
  addPart(part) {
    this.change({ parts: [...this.query.parts, part] });
  }

  /** Mark a picture right or wrong, and rank anew; the same mark again takes it back. @param {number} id @param {1 | -1} sign */
  mark(id, sign) {
    const isThis = (/** @type {import("./query.js").Part} */ part) => part.kind === "image" && part.mark && part.id === id;
    const parts = this.query.parts.filter((part) => !isThis(part));
    const isTakenBack = this.query.parts.some((part) => isThis(part) && part.weight === sign);
    if (!isTakenBack) parts.push({ kind: "image", id, weight: sign, mark: true });
    announce(isTakenBack ? "No longer marked" : `Marked ${sign > 0 ? "right" : "wrong"}`);
    this.change({ parts });
  }

  /** Ids of the pictures that are marked right. */
  get marked() {
    return this.query.parts.flatMap((part) => (part.kind === "image" && part.mark && part.weight > 0 ? [part.id] : []));
  }

  /** Search by a picture from elsewhere. @param {File} file */
  async searchByPicture(file) {
    this.busy.classList.add("busy");
    try {
      const { key, thumbnail } = await api.upload(file);
      rememberPreview(key, thumbnail);
      this.addPart({ kind: "upload", key, weight: 1 });
    } catch (error) {
      toastProblem(error);
    } finally {
      this.busy.classList.remove("busy");
    }
  }

  /**
   * Ask the server. An answer that a newer question has overtaken is dropped.
   *
   * @param {{stay?: boolean}} [options] stay: keep the reader's place
   */
  async search({ stay = false } = {}) {
    this.#searchSoon.cancel();
    const key = this.#keyOf();
    this.#askedKey = key;
    if (this.#shownKey === null) this.#showWaiting();
    this.busy.classList.add("busy");
    try {
      const results = await this.#latest.run((signal) => Results.search(this.#params, signal));
      if (!results) return;
      this.#shownKey = key;
      this.#show(results, stay);
    } catch (error) {
      this.#shownKey = key;
      this.#showFailure(error);
    }
    this.busy.classList.remove("busy");
  }

  /** The library has changed: look again, without moving the reader. */
  refresh() {
    if (this.#isHeld) return;
    if (this.root.hidden) this.#askedKey = null;
    else if (!this.#latest.busy) void this.search({ stay: true });
  }

  /** Show what is less likely too, or leave it out again. @param {boolean} isFolded */
  fold(isFolded) {
    const { results } = this;
    if (!results) return;
    this.#unfoldedKey = isFolded ? null : this.#shownKey;
    const hadFocus = this.message.contains(document.activeElement) || this.grid.line.contains(document.activeElement);
    this.list.hidden = isFolded && results.likely === 0;
    this.grid.fold(isFolded);
    this.#showMessage(results);
    if (hadFocus) this.grid.focus(isFolded ? results.total - 1 : (results.likely ?? 0));
    const likely = results.total ? formatPlural(results.total, "likely picture") : "Nothing here matches";
    announce(isFolded ? likely : formatPlural(results.total, "picture"));
  }

  /** While words are being typed, the last one may be the beginning of one. */
  get #params() {
    return { ...toParams(this.query), typing: this.#isTyping && this.query.text.trim() ? "true" : null };
  }

  #keyOf() {
    return JSON.stringify([chosenLibrary(), this.#params]);
  }

  #showQuery() {
    this.box.show(this.query);
    this.filters.show();
    const words = describe(this.query);
    document.title = words ? `${words} – Sightline` : "Sightline";
  }

  async #commit() {
    if (this.#isHeld) return this.change({});
    this.#isTyping = false;
    if (!this.isCurrent) await this.search();
    if (this.results?.total) this.grid.focus(0);
  }

  /** @param {Results} results @param {boolean} stay */
  #show(results, stay) {
    if (this.#unfoldedKey === this.#shownKey) results.isFolded = false;
    this.list.hidden = results.total === 0;
    this.list.setAttribute("aria-busy", "false");
    this.grid.show(results, { stay });
    if (this.#focusNext >= 0) this.grid.focus(this.#focusNext);
    this.#focusNext = -1;
    const { all, likely, hasTail } = results;
    fill(
      this.count,
      h("strong", {}, formatCount(likely ?? all)),
      hasTail ? ` likely of ${formatCount(all)}` : ` picture${all === 1 ? "" : "s"}`,
      h("span", { class: "took" }, ` · ${formatDuration(results.took_ms)}`),
    );
    announce(
      results.total
        ? `${formatPlural(results.total, hasTail && results.isFolded ? "likely picture" : "picture")}${isEmpty(this.query) ? "" : `, ${this.query.newest ? "newest" : "best match"}: ${results.hit(0)?.caption ?? results.hit(0)?.name}`}`
        : all
          ? "Nothing here matches"
          : "Nothing found",
    );
    fill(this.notices, results.notices.join(" "));
    this.notices.hidden = results.notices.length === 0;
    this.#showMessage(results);
    this.#showMatchToggle(results);
  }

  /** What is said below the wall, or in its place. @param {Results} results */
  #showMessage(results) {
    const { all, likely, isFolded } = results;
    const showTail = (/** @type {string} */ label) => makeAction(label, () => this.fold(false), true);
    if (all === 0) fill(this.message, this.#explainNothing(results));
    else if (!isFolded) fill(this.message);
    else if (likely === 0) fill(this.message, this.#explainNothingLikely(results, showTail("Show the nearest")));
    else
      fill(
        this.message,
        h(
          "div",
          { class: "fold" },
          h("p", {}, formatPlural(all - (likely ?? 0), "less likely picture")),
          makeAction("Show them", () => this.fold(false)),
        ),
      );
  }

  /** The button that shows numbers on pictures says which. @param {Results} results */
  #showMatchToggle(results) {
    const toggle = find("#similarity-toggle", this.root);
    toggle.hidden = isEmpty(this.query);
    const label = typeof results.hit(0)?.probability === "number" ? "Show probability" : "Show similarity";
    toggle.setAttribute("aria-label", label);
    toggle.title = label;
  }

  /** @param {Results} results @param {HTMLElement} action */
  #explainNothingLikely({ all }, action) {
    const whole = isFiltered(this.query) ? " that pass the filters" : "";
    return makeMessage({
      icon: "search",
      title: "Nothing here matches",
      text: `None of the ${formatPlural(all, "picture")}${whole} is likely to show this. Try other words, or fewer.`,
      actions: [
        action,
        isFiltered(this.query) && makeAction("Clear filters", () => this.change({ filters: noFilters() })),
      ],
    });
  }

  #showHeld() {
    const title = "Press Enter to search";
    this.list.hidden = true;
    fill(this.count);
    fill(this.message, makeMessage({ icon: "search", title, text: "A link from another site brought these words." }));
    announce(title);
  }

  #showWaiting() {
    this.list.hidden = false;
    fill(this.message);
    this.list.setAttribute("aria-busy", "true");
    this.grid.show(new Results({}, { ...NO_ANSWER, total: 60 }));
  }

  /** @param {unknown} error */
  #showFailure(error) {
    this.list.hidden = true;
    this.grid.show(new Results({}, NO_ANSWER));
    fill(this.count);
    this.notices.hidden = true;
    const gone = error instanceof Error && "status" in error && error.status === 410;
    fill(
      this.message,
      gone
        ? makeMessage({
            icon: "image",
            title: "That picture is no longer remembered",
            text: "Pictures that were dropped are kept for a while only. Drop it again to go on.",
            actions: [
              makeAction(
                "Search without it",
                () => this.change({ parts: this.query.parts.filter((part) => part.kind !== "upload") }),
                true,
              ),
            ],
          })
        : makeFailure(error, () => void this.search()),
    );
    announce(error instanceof Error ? error.message : "The search failed");
  }

  /** @param {Results} results */
  #explainNothing({ note: reason }) {
    const isBare = isEmpty(this.query) && !isFiltered(this.query);
    if (isBare) {
      return makeMessage({
        icon: "library",
        title: "Your library is empty",
        text: "Add a folder of pictures, and find any of them by describing it.",
        actions: [h("a", { class: "button primary", href: "/library" }, "Add a folder")],
      });
    }
    return makeMessage({
      icon: "search",
      title: "Nothing here matches",
      text: reason,
      actions: [
        isFiltered(this.query) && makeAction("Clear filters", () => this.change({ filters: noFilters() }), true),
        this.query.min !== "" && makeAction("Remove the minimum", () => this.change({ min: "" }), true),
        this.query.match === "captions" &&
          makeAction("Search in pictures, too", () => this.change({ match: "both" }), true),
      ],
    });
  }

  /** While pictures go by in order of time: of which month they are. @param {Hit | undefined} hit */
  #showDate(hit) {
    const isShown = isEmpty(this.query) && scrollY > 200 && hit?.taken_at;
    if (!isShown) return this.date.classList.remove("shown");
    this.date.textContent = formatMonth(isShown);
    this.date.classList.add("shown");
    clearTimeout(this.#dateTimer);
    this.#dateTimer = window.setTimeout(() => this.date.classList.remove("shown"), DATE_SHOWN_MS);
  }

  #addViewButtons() {
    const similarity = find("#similarity-toggle", this.root);
    const size = find("#size-toggle", this.root);
    similarity.append(icon("percent"));
    size.append(icon("rows"));
    const showSimilarity = (/** @type {boolean} */ on) => {
      similarity.setAttribute("aria-pressed", String(on));
      this.grid.showSimilarity = on;
    };
    showSimilarity(recall("similarity") === "on");
    similarity.addEventListener("click", () => {
      const on = similarity.getAttribute("aria-pressed") !== "true";
      remember("similarity", on ? "on" : "off");
      showSimilarity(on);
    });
    const sizes = Object.keys(ROW_HEIGHTS);
    let chosen = sizes.find((name) => name === recall("size")) ?? "medium";
    const showSize = () => {
      this.grid.size = chosen;
      size.setAttribute("aria-label", `Size of pictures: ${chosen}`);
      size.title = `Size of pictures: ${chosen}`;
    };
    showSize();
    size.addEventListener("click", () => {
      chosen = sizes[(sizes.indexOf(chosen) + 1) % sizes.length];
      remember("size", chosen);
      showSize();
      announce(`Size of pictures: ${chosen}`);
    });
  }
}
