/** A picture's captions: the fused best, both kinds with their scores, and the person's own, which can be undone. */

import { api } from "../api.js";
import { fill, h } from "../dom.js";
import { formatSimilarity } from "../format.js";
import { icon } from "../icons.js";
import { toast, toastProblem } from "../toast.js";

/**
 * @typedef {import("../types.js").Caption} Caption
 * @typedef {import("../types.js").Picture} Picture
 */

/** @type {Record<Caption["source"], string>} */
const SOURCES = { clip: "Ranked", generated: "Written", user: "Yours" };

/**
 * Who made a caption: what writes is called by its name.
 * @param {Caption} caption
 */
const author = ({ source, model }) =>
  source === "generated" && model ? `Written by ${model}` : SOURCES[source];

/** @param {Caption} caption */
const hint = (caption) =>
  ({
    clip: "Chosen from many candidates by CLIP",
    generated: "Written by a captioning model",
    user: "Your own words",
  })[caption.source] + (caption.model ? ` (${caption.model})` : "");

/** @param {Caption} caption */
export function showScores(caption) {
  const scores = [];
  if (caption.similarity !== null)
    scores.push(
      h(
        "span",
        { title: "Similarity of words and picture (cosine)" },
        `similarity ${formatSimilarity(caption.similarity)}`,
      ),
    );
  if (caption.log_prob !== null)
    scores.push(
      h(
        "span",
        { title: "Mean log-probability of a token, in nats" },
        `log-prob. ${caption.log_prob.toFixed(2).replace("-", "−")}`,
      ),
    );
  return scores;
}

/** @param {Caption} caption */
function showFacts(caption) {
  return h(
    "p",
    { class: "caption-facts" },
    h(
      "span",
      { class: caption.best ? "tag accent" : "tag", title: hint(caption) },
      caption.best && icon("star"),
      caption.best ? `Best · ${author(caption)}` : author(caption),
    ),
    showScores(caption),
  );
}

export class CaptionsView {
  #picture = /** @type {Picture | null} */ (null);

  /** @param {{onchange: (captions: Caption[]) => void}} events */
  constructor(events) {
    this.events = events;
    this.element = h("section", { class: "panel-part", "aria-label": "Captions" });
  }

  /** @param {Picture} picture */
  show(picture) {
    this.#picture = picture;
    const { captions } = picture;
    const best = captions.find((caption) => caption.best) ?? captions[0];
    const own = captions.find((caption) => caption.source === "user");
    fill(
      this.element,
      best
        ? h("div", { class: "caption-line" }, h("p", { class: "best-caption" }, best.text), showFacts(best))
        : h("p", { class: "best-caption soft" }, "No caption yet"),
      h(
        "div",
        { class: "panel-actions" },
        h(
          "button",
          {
            class: "button small",
            type: "button",
            "data-action": "edit",
            onclick: () => this.#edit(own?.text ?? best?.text ?? ""),
          },
          icon("pencil"),
          best ? "Edit" : "Write one",
        ),
        own &&
          h(
            "button",
            { class: "button small bare", type: "button", onclick: () => void this.#remove() },
            "Remove mine",
          ),
        !captions.some((caption) => caption.source !== "user") && this.#captionButton(),
      ),
      captions.length > 1 &&
        h(
          "ul",
          { class: "caption-list" },
          captions
            .filter((caption) => caption !== best)
            .map((caption) => h("li", { class: "caption-line" }, h("p", {}, caption.text), showFacts(caption))),
        ),
    );
  }

  #captionButton() {
    const button = h(
      "button",
      { class: "button small", type: "button", onclick: () => void this.#caption(button) },
      icon("caption"),
      "Caption it",
    );
    return button;
  }

  /** @param {HTMLButtonElement} button */
  async #caption(button) {
    const picture = /** @type {Picture} */ (this.#picture);
    button.disabled = true;
    fill(button, h("span", { class: "spinner" }), "Captioning …");
    try {
      await api.captionImage(picture.id);
      const { captions } = await api.image(picture.id);
      this.#update(picture, captions);
    } catch (error) {
      toastProblem(error);
      if (picture === this.#picture) this.show(picture);
    }
  }

  /** @param {string} text */
  #edit(text) {
    const picture = /** @type {Picture} */ (this.#picture);
    const area = h("textarea", { class: "textarea", rows: 3, maxlength: 2000, "aria-label": "Caption" });
    area.value = text;
    const stop = () => {
      this.show(picture);
      this.#focusEdit();
    };
    const save = () => (area.value.trim() ? void this.#save(picture, area.value.trim()) : stop());
    area.addEventListener("keydown", (event) => {
      if (event.key === "Escape") (event.stopPropagation(), stop());
      if (event.key === "Enter" && !event.shiftKey) (event.preventDefault(), save());
    });
    fill(
      this.element,
      area,
      h(
        "div",
        { class: "panel-actions" },
        h("button", { class: "button small primary", type: "button", onclick: save }, "Keep"),
        h("button", { class: "button small bare", type: "button", onclick: stop }, "Cancel"),
        h("span", { class: "soft small" }, "Enter keeps it"),
      ),
    );
    area.focus();
    area.setSelectionRange(area.value.length, area.value.length);
  }

  #focusEdit() {
    /** @type {HTMLElement | null} */ (this.element.querySelector("[data-action=edit]"))?.focus();
  }

  /** @param {Picture} picture @param {string} text */
  async #save(picture, text) {
    try {
      const { captions, previous } = await api.putCaption(picture.id, text);
      this.#update(picture, captions);
      this.#focusEdit();
      toast("Caption kept", { label: "Undo", run: () => void this.#restore(picture, previous) });
    } catch (error) {
      toastProblem(error);
    }
  }

  async #remove() {
    const picture = /** @type {Picture} */ (this.#picture);
    try {
      const { captions, previous } = await api.deleteCaption(picture.id);
      this.#update(picture, captions);
      this.#focusEdit();
      toast("Your caption is removed", { label: "Undo", run: () => void this.#restore(picture, previous) });
    } catch (error) {
      toastProblem(error);
    }
  }

  /** @param {Picture} picture @param {string | null} text */
  async #restore(picture, text) {
    try {
      const { captions } = await (text === null ? api.deleteCaption(picture.id) : api.putCaption(picture.id, text));
      this.#update(picture, captions);
      toast(text === null ? "Your caption is removed" : "The caption is as it was");
    } catch (error) {
      toastProblem(error);
    }
  }

  /** @param {Picture} picture @param {Caption[]} captions */
  #update(picture, captions) {
    picture.captions = captions;
    if (this.#picture?.id !== picture.id) return;
    this.show({ ...this.#picture, captions });
    this.events.onchange(captions);
  }
}
