/** The box: words as they are typed, parts as chips before them, a picture to search by. */

import { find } from "../dom.js";
import { Chips } from "./chips.js";
import { formatText, parseText } from "./query.js";

/** @typedef {import("./query.js").Part} Part */

/**
 * @typedef {object} BoxEvents
 * @property {(text: string) => void} ontext at each key
 * @property {(parts: Part[], text: string) => void} onparts chips or signs have changed
 * @property {() => void} oncommit Enter: on to the results
 * @property {() => void} onclear
 * @property {(file: File) => void} onpicture
 */

/** Words, then a sign that stands alone and a space: the words are a part of their own now. */
const ENDS_PART = /\S\s+[+-]\s$/;

export class Box {
  /** @type {Part[]} */
  #parts = [];

  /** @param {BoxEvents} events */
  constructor(events) {
    this.events = events;
    this.form = find("#search");
    this.input = /** @type {HTMLInputElement} */ (find("#search-input"));
    this.chips = new Chips(find("#chips"), {
      onchange: (at, part) => this.#change(at, part),
      onedit: (at) => this.#edit(at),
    });
    this.clear = find("#clear");
    this.add = find("#add-part");
    const picker = /** @type {HTMLInputElement} */ (find("#picture-file"));
    this.form.addEventListener("submit", (event) => (event.preventDefault(), events.oncommit()));
    this.form.addEventListener("pointerdown", (event) => this.#onPress(event));
    this.input.addEventListener("input", () => this.#onInput());
    this.input.addEventListener("keydown", (event) => this.#onKey(event));
    this.clear.addEventListener("click", () => (events.onclear(), this.input.focus()));
    this.add.addEventListener("click", () => this.#keepPart());
    find("#pick-picture").addEventListener("click", () => picker.click());
    picker.addEventListener("change", () => {
      if (picker.files?.[0]) events.onpicture(picker.files[0]);
      picker.value = "";
    });
  }

  /** Show a query; the text that is being typed stays as it is. @param {{text: string, parts: Part[]}} query */
  show({ text, parts }) {
    this.#parts = parts;
    if (this.input.value.trim() !== text.trim()) this.input.value = text;
    this.chips.show(parts);
    this.#showButtons();
    this.input.placeholder = parts.length ? "Add words" : "Search your pictures";
  }

  focus() {
    this.input.focus();
    this.input.select();
  }

  #showButtons() {
    const hasText = this.input.value.trim() !== "";
    this.clear.hidden = !hasText && this.#parts.length === 0;
    this.add.hidden = !hasText;
    find("#slash-hint").hidden = hasText || this.#parts.length > 0;
  }

  /** @param {PointerEvent} event anywhere in the box is in the box */
  #onPress(event) {
    if (/** @type {Element} */ (event.target).closest("button, input, .popover")) return;
    event.preventDefault();
    this.input.focus();
  }

  #onInput() {
    const { value } = this.input;
    this.#showButtons();
    if (!ENDS_PART.test(value)) return this.events.ontext(value);
    const isNegative = /-\s$/.test(value);
    this.#take(value.slice(0, -2), isNegative ? "- " : "");
  }

  /** The words so far become chips. */
  #keepPart() {
    this.#take(this.input.value, "");
    this.input.focus();
  }

  /** @param {string} words @param {string} rest */
  #take(words, rest) {
    this.input.value = rest;
    this.events.onparts([...this.#parts, ...parseText(words)], rest);
  }

  /** @param {KeyboardEvent} event */
  #onKey(event) {
    if (event.key === "Backspace" && this.input.value === "" && this.#parts.length) {
      event.preventDefault();
      const at = this.#parts.length - 1;
      if (this.#parts[at].kind === "text") this.#edit(at);
      else this.#change(at, null);
    } else if (event.key === "ArrowLeft" && this.input.selectionEnd === 0) {
      this.chips.focusLast();
    } else if (event.key === "ArrowDown") {
      event.preventDefault();
      this.events.oncommit();
    }
  }

  /** @param {number} at @param {Part | null} part */
  #change(at, part) {
    const parts = part ? this.#parts.with(at, part) : this.#parts.toSpliced(at, 1);
    this.events.onparts(parts, this.input.value);
    if (!part && !parts.length) this.input.focus();
  }

  /** A chip goes back to being text. @param {number} at */
  #edit(at) {
    const part = this.#parts[at];
    if (part.kind !== "text") return;
    const kept = parseText(this.input.value);
    const text = formatText(part);
    this.input.value = text;
    this.events.onparts([...this.#parts.toSpliced(at, 1), ...kept], text);
    this.input.focus();
    this.input.setSelectionRange(text.length, text.length);
  }
}
