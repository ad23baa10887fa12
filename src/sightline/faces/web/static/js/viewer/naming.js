/** "Name this": a word of one's own, taught by this picture and by those that are marked right. */

import { api } from "../api.js";
import { fill, h } from "../dom.js";
import { icon } from "../icons.js";
import { toast, toastProblem } from "../toast.js";

/** @typedef {import("../types.js").Word} Word */

export class NamingView {
  #id = 0;

  /** @param {import("../search/page.js").SearchPage} page */
  constructor(page) {
    this.page = page;
    this.element = h("section", { class: "panel-part", "aria-label": "Name this" });
  }

  /** @param {number} id */
  show(id) {
    this.#id = id;
    const open = h(
      "button",
      { class: "button small", type: "button", onclick: () => void this.#open() },
      icon("pencil"),
      "Name this",
    );
    fill(this.element, open);
  }

  /** The pictures that the word is taught by. */
  get #examples() {
    return [...new Set([this.#id, ...this.page.marked])];
  }

  async #open() {
    const name = h("input", { class: "input", "aria-label": "Name", placeholder: "Rex", maxlength: 60 });
    const kind = h("input", { class: "input", "aria-label": "What it is", placeholder: "what it is: dog", maxlength: 60 });
    const count = this.#examples.length;
    const stop = () => this.show(this.#id);
    const form = h(
      "form",
      { class: "naming", onsubmit: (/** @type {Event} */ event) => (event.preventDefault(), this.#keep(name, kind)) },
      name,
      kind,
      h(
        "div",
        { class: "panel-actions" },
        h("button", { class: "button small primary", type: "submit" }, "Keep"),
        h("button", { class: "button small bare", type: "button", onclick: stop }, "Cancel"),
        h("span", { class: "soft small" }, count > 1 ? `From ${count} pictures` : "Mark others with Y to teach by more"),
      ),
    );
    form.addEventListener("keydown", (event) => {
      if (event.key === "Escape") (event.stopPropagation(), stop());
    });
    const words = h("ul", { class: "word-list" });
    fill(this.element, form, words);
    name.focus();
    try {
      this.#list(words, (await api.words()).words);
    } catch (error) {
      toastProblem(error);
    }
  }

  /** @param {HTMLElement} list @param {Word[]} words */
  #list(list, words) {
    const forget = async (/** @type {Word} */ word) => {
      try {
        this.#list(list, (await api.forget(word.name)).words);
        toast(`${word.name} is forgotten`);
      } catch (error) {
        toastProblem(error);
      }
    };
    fill(
      list,
      words.map((word) =>
        h(
          "li",
          {},
          h("span", {}, word.name, h("span", { class: "soft small" }, ` ${word.examples}`)),
          h(
            "button",
            { class: "icon-button", type: "button", "aria-label": `Forget ${word.name}`, onclick: () => void forget(word) },
            icon("close"),
          ),
        ),
      ),
    );
  }

  /** @param {HTMLInputElement} name @param {HTMLInputElement} kind */
  async #keep(name, kind) {
    if (!name.value.trim()) return name.focus();
    try {
      const word = await api.teach(name.value.trim(), this.#examples, kind.value.trim());
      this.show(this.#id);
      const run = () => this.page.change({ text: word.name, parts: [] });
      toast(`${word.name} is known from ${word.examples} picture${word.examples === 1 ? "" : "s"}`, { label: "Search", run });
    } catch (error) {
      toastProblem(error);
    }
  }
}
