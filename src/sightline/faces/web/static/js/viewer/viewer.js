/** One picture, large, over the search page, which keeps its place below. */

import { address as resource, api } from "../api.js";
import { fill, find, h } from "../dom.js";
import { formatCount, formatProbability, formatWhy } from "../format.js";
import { icon } from "../icons.js";
import { Latest } from "../latest.js";
import { isPanelOpen } from "../popover.js";
import { canGoBack, navigate } from "../router.js";
import { makeFailure } from "../search/empty.js";
import { allParts, toAddress } from "../search/query.js";
import { recall, remember } from "../storage.js";
import { announce } from "../toast.js";
import { CaptionsView } from "./captions.js";
import { copyText, makeCopies, makeDetails } from "./details.js";
import { HeatmapView } from "./heatmap.js";
import { NamingView } from "./naming.js";
import { Stage } from "./stage.js";
import { TextView } from "./text.js";

/** @typedef {import("../icons.js").IconName} IconName */

export class Viewer {
  #id = 0;
  #index = -1;
  #latest = new Latest();
  #copies = new AbortController();

  /** @param {import("../search/page.js").SearchPage} page */
  constructor(page) {
    this.page = page;
    this.stage = new Stage({ onzoom: (zoom) => this.#showZoom(zoom), onswipe: (step) => void this.step(step) });
    this.heatmap = new HeatmapView(this.stage.frame);
    this.text = new TextView(this.stage.frame);
    this.captions = new CaptionsView({ onchange: () => page.refresh() });
    this.naming = new NamingView(page);
    this.title = h("h2", { class: "panel-title" });
    this.place = h("p", { class: "soft small numbers" });
    this.details = h("div", {});
    this.panel = h(
      "aside",
      { class: "panel", "aria-label": "About the picture" },
      h("header", { class: "panel-head" }, this.title, this.place),
      this.captions.element,
      this.#makeUses(),
      this.naming.element,
      this.details,
    );
    this.buttons = this.#makeButtons();
    this.copyText = h(
      "button",
      { class: "button small copy-text", type: "button", hidden: true, onclick: () => void copyText(this.text.text, "Text") },
      icon("copy"),
      "Copy text",
    );
    this.element = h(
      "section",
      { class: "viewer", role: "dialog", "aria-modal": "true", "aria-label": "Picture", tabindex: "-1", hidden: true },
      h(
        "div",
        { class: "stage" },
        h(
          "div",
          { class: "stage-bar" },
          this.buttons.close,
          h("span", { class: "stage-space" }),
          this.buttons.zoomOut,
          this.buttons.zoomIn,
          this.buttons.fit,
          this.buttons.text,
          this.buttons.heat,
          this.buttons.info,
        ),
        this.stage.element,
        this.buttons.previous,
        this.buttons.next,
        this.heatmap.bar,
        this.copyText,
      ),
      this.panel,
    );
    this.element.addEventListener("keydown", (event) => this.#onKey(event));
    this.#showPanel(recall("panel") !== "off");
    find("#main").after(this.element);
  }

  get isOpen() {
    return !this.element.hidden;
  }

  /** Show a picture. @param {number} id */
  open(id) {
    const isNew = !this.isOpen;
    this.element.hidden = false;
    for (const other of [find("header.bar"), find("#main")]) other.inert = true;
    const { documentElement: page } = document;
    if (isNew) page.style.setProperty("--scrollbar", `${innerWidth - document.body.offsetWidth}px`);
    page.classList.add("viewing");
    if (id === this.#id && !isNew) return;
    this.#id = id;
    this.#index = this.page.results?.indexOf(id) ?? -1;
    const hit = this.#index >= 0 ? this.page.results?.hit(this.#index) : undefined;
    if (hit) this.stage.expect(hit);
    if (this.#index >= (this.page.results?.total ?? 0)) this.page.fold(false);
    this.#showPlace();
    this.heatmap.follow(id);
    this.#followText(null);
    this.naming.show(id);
    if (isNew) this.element.focus({ preventScroll: true });
    void this.#load(id);
  }

  /** The address no longer asks for a picture. */
  hide() {
    if (!this.isOpen) return;
    this.element.hidden = true;
    this.#latest.stop();
    this.#copies.abort();
    for (const other of [find("header.bar"), find("#main")]) other.inert = false;
    document.documentElement.classList.remove("viewing");
    this.heatmap.toggle(false, "");
    this.toggleText(false);
    this.buttons.heat.setAttribute("aria-pressed", "false");
    if (this.#index >= 0 && !this.page.root.hidden && this.page.isCurrent) this.page.grid.focus(this.#index);
    this.#id = 0;
  }

  /** Back to where the reader came from. */
  close() {
    if (canGoBack()) history.back();
    else navigate(`/${toAddress(this.page.query)}`, { replace: true });
  }

  /** Another picture of the results. @param {1 | -1} step */
  async step(step) {
    const results = this.page.results;
    const index = this.#index + step;
    if (!results || this.#index < 0 || index < 0 || index >= results.total) return;
    const hit = await results.reach(index);
    if (hit) navigate(`/image/${hit.id}${location.search}`, { replace: true });
  }

  /** @param {number} id */
  async #load(id) {
    this.#copies.abort();
    this.#copies = new AbortController();
    try {
      const picture = await this.#latest.run((signal) => api.image(id, signal));
      if (!picture) return;
      if (this.#index < 0) this.stage.expect(picture);
      this.stage.show(picture);
      this.title.textContent = picture.name;
      document.title = `${picture.captions[0]?.text ?? picture.name} – Sightline`;
      this.captions.show(picture);
      this.#followText(picture);
      fill(this.details, makeDetails(picture), makeCopies(picture, this.#copies.signal));
      announce(picture.captions[0]?.text ?? picture.name);
      this.#preload();
    } catch (error) {
      this.title.textContent = "No such picture";
      fill(
        this.captions.element,
        makeFailure(error, () => void this.#load(id)),
      );
      fill(this.details);
    }
  }

  /** What is likely to be looked at next. */
  #preload() {
    for (const index of [this.#index + 1, this.#index - 1]) {
      const hit = this.#index >= 0 && this.page.results?.hit(index);
      if (hit) new Image().src = resource(hit.thumbnail, { size: 640 });
    }
  }

  #showPlace() {
    const total = this.page.results?.total ?? 0;
    const isKnown = this.#index >= 0 && total > 0;
    const hit = this.page.results?.hit(this.#index);
    const probability = hit?.probability ?? null;
    this.place.textContent = isKnown
      ? `${formatCount(this.#index + 1)} of ${formatCount(total)}${probability === null ? "" : ` · ${formatProbability(probability)} likely${hit?.why.length ? ` by ${formatWhy(hit)}` : ""}`}`
      : "";
    this.place.title = probability === null ? "" : "How probably it shows what was asked";
    this.buttons.previous.hidden = !isKnown || this.#index === 0;
    this.buttons.next.hidden = !isKnown || this.#index === total - 1;
  }

  #makeUses() {
    const use = (/** @type {1 | -1} */ sign) => () => this.page.addPart({ kind: "image", id: this.#id, weight: sign });
    return h(
      "section",
      { class: "panel-part panel-actions", "aria-label": "Search with this picture" },
      h(
        "button",
        { class: "button small", type: "button", onclick: () => this.page.showLike(this.#id) },
        icon("like"),
        "More like this",
      ),
      h(
        "button",
        {
          class: "button small",
          type: "button",
          "aria-label": "Add to the query",
          title: "Add to the query",
          onclick: use(1),
        },
        icon("plus"),
        "Add",
      ),
      h(
        "button",
        {
          class: "button small",
          type: "button",
          "aria-label": "Subtract from the query",
          title: "Less like this",
          onclick: use(-1),
        },
        icon("minus"),
        "Subtract",
      ),
    );
  }

  #makeButtons() {
    const make = (
      /** @type {IconName} */ name,
      /** @type {string} */ label,
      /** @type {() => void} */ run,
      extra = "",
    ) =>
      h(
        "button",
        { class: `icon-button ${extra}`, type: "button", "aria-label": label, title: label, onclick: run },
        icon(name),
      );
    return {
      close: make("close", "Close", () => this.close()),
      zoomOut: make("zoomOut", "Zoom out", () => this.stage.zoomOut(), "wide-only"),
      zoomIn: make("zoomIn", "Zoom in", () => this.stage.zoomIn(), "wide-only"),
      fit: make("fit", "Whole picture", () => this.stage.reset(), "wide-only"),
      text: make("text", "Show text", () => this.toggleText(!this.text.isShown)),
      heat: make("eye", "Where words match", () => this.toggleHeatmap()),
      info: make("info", "About the picture", () => this.#showPanel(Boolean(this.panel.hidden))),
      previous: make("left", "Previous picture", () => void this.step(-1), "step previous"),
      next: make("right", "Next picture", () => void this.step(1), "step next"),
    };
  }

  /** The words that are looked for. */
  get #words() {
    const words = allParts(this.page.query).filter((part) => part.kind === "text" && part.weight > 0);
    return words.map((part) => (part.kind === "text" ? part.text : "")).join(" ");
  }

  toggleHeatmap() {
    const isShown = !this.heatmap.isShown;
    if (isShown) this.toggleText(false);
    this.buttons.heat.setAttribute("aria-pressed", String(isShown));
    this.heatmap.toggle(isShown, this.#words);
  }

  /** @param {boolean} isShown */
  toggleText(isShown) {
    if (isShown && !this.text.hasText) return;
    if (isShown && this.heatmap.isShown) this.toggleHeatmap();
    this.text.toggle(isShown);
    this.#showTextButtons();
  }

  /** @param {import("../types.js").Picture | null} picture which is shown; null until it is known */
  #followText(picture) {
    this.text.follow(picture, this.#words);
    this.#showTextButtons();
  }

  #showTextButtons() {
    this.buttons.text.hidden = !this.text.hasText;
    this.buttons.text.setAttribute("aria-pressed", String(this.text.isShown));
    if (!this.text.isShown && document.activeElement === this.copyText) this.buttons.text.focus(); // keys go on
    this.copyText.hidden = !this.text.isShown;
  }

  /** @param {boolean} isShown */
  #showPanel(isShown) {
    this.panel.hidden = !isShown;
    this.buttons.info.setAttribute("aria-pressed", String(isShown));
    remember("panel", isShown ? "on" : "off");
  }

  /** @param {number} zoom */
  #showZoom(zoom) {
    if (this.buttons) this.buttons.zoomOut.disabled = this.buttons.fit.disabled = zoom <= 1;
  }

  /** @param {KeyboardEvent} event */
  #onKey(event) {
    if (event.key === "Tab") return this.#keepFocus(event);
    if (event.ctrlKey || event.metaKey || event.altKey || isPanelOpen()) return;
    const isTyping = event.target instanceof HTMLInputElement || event.target instanceof HTMLTextAreaElement;
    if (event.key === "Escape") {
      event.preventDefault();
      if (this.heatmap.isShown) this.toggleHeatmap();
      else if (this.text.isShown) this.toggleText(false);
      else if (this.stage.isZoomed) this.stage.reset();
      else this.close();
    }
    if (isTyping) return;
    const run = {
      ArrowLeft: () => void this.step(-1),
      ArrowRight: () => void this.step(1),
      "+": () => this.stage.zoomIn(),
      "=": () => this.stage.zoomIn(),
      "-": () => this.stage.zoomOut(),
      0: () => this.stage.reset(),
      i: () => this.#showPanel(Boolean(this.panel.hidden)),
      h: () => this.toggleHeatmap(),
      t: () => this.toggleText(!this.text.isShown),
      l: () => this.page.showLike(this.#id),
      y: () => this.page.mark(this.#id, 1),
      n: () => this.page.mark(this.#id, -1),
    }[event.key];
    if (!run) return;
    event.preventDefault();
    run();
  }

  /** Tab stays inside, as in any dialog. @param {KeyboardEvent} event */
  #keepFocus(event) {
    const stops = /** @type {HTMLElement[]} */ ([
      ...this.element.querySelectorAll("button, a[href], input, textarea"),
    ]).filter((stop) => stop.offsetParent && !stop.matches(":disabled"));
    const [first, last] = [stops[0], stops[stops.length - 1]];
    const isAtEnd = event.shiftKey
      ? [first, this.element].includes(/** @type {HTMLElement} */ (document.activeElement))
      : document.activeElement === last;
    if (!isAtEnd) return;
    event.preventDefault();
    (event.shiftKey ? last : first).focus();
  }
}
