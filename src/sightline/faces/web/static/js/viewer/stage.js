/** The picture, as large as there is room; zoomed and moved with wheel, fingers, pointer or keys. */

import { fileAddress, thumbnailAddress } from "../api.js";
import { h, showPlaceholder } from "../dom.js";

/** @typedef {import("../types.js").Picture} Picture */

const STEP = 1.5;
/** A small picture is shown at most this much larger than it is, as long as nobody zooms. */
const LARGEST_ENLARGEMENT = 3;
const WHEEL_SPEED = 0.0022;

export class Stage {
  #picture = /** @type {Picture | null} */ (null);
  #zoom = 1;
  #most = 8;
  #x = 0;
  #y = 0;
  /** @type {Map<number, PointerEvent>} */
  #pointers = new Map();

  /** @param {{onzoom: (zoom: number) => void, onswipe: (step: 1 | -1) => void}} events */
  constructor(events) {
    this.events = events;
    this.preview = h("img", { class: "stage-preview", alt: "", draggable: "false" });
    this.image = h("img", { class: "stage-image", alt: "", draggable: "false" });
    this.frame = h("div", { class: "stage-frame" }, this.preview, this.image);
    this.element = h("div", { class: "stage-view" }, this.frame);
    this.image.addEventListener("load", () => this.image.classList.add("shown"));
    this.image.addEventListener("error", () => this.element.classList.add("failed"));
    this.element.addEventListener("wheel", (event) => this.#onWheel(event), { passive: false });
    this.element.addEventListener("dblclick", (event) => this.#toggle(event));
    this.element.addEventListener("pointerdown", (event) => this.#onPress(event));
    this.element.addEventListener("pointermove", (event) => this.#onMove(event));
    for (const name of /** @type {const} */ (["pointerup", "pointercancel"])) {
      this.element.addEventListener(name, (event) => this.#onRelease(event));
    }
    new ResizeObserver(() => this.#fit()).observe(this.element);
  }

  /**
   * Keep its place for a picture of which only the shape is known.
   *
   * @param {{width: number, height: number, thumbnail: string, placeholder: string | null}} hit
   */
  expect(hit) {
    this.#picture = /** @type {Picture} */ (hit);
    this.element.classList.remove("failed");
    this.image.classList.remove("shown");
    this.image.removeAttribute("src");
    showPlaceholder(this.frame, hit.placeholder);
    this.preview.src = thumbnailAddress(hit, 640);
    this.reset();
    this.#fit();
  }

  /** @param {Picture} picture */
  show(picture) {
    this.#picture = picture;
    this.image.alt = picture.captions[0]?.text ?? picture.name;
    this.image.src = fileAddress(picture);
    this.#fit();
  }

  reset() {
    [this.#zoom, this.#x, this.#y] = [1, 0, 0];
    this.#apply();
  }

  zoomIn() {
    this.#zoomAt(this.#zoom * STEP, 0, 0);
  }

  zoomOut() {
    this.#zoomAt(this.#zoom / STEP, 0, 0);
  }

  get isZoomed() {
    return this.#zoom > 1.001;
  }

  /** @param {number} dx @param {number} dy */
  pan(dx, dy) {
    this.#x += dx;
    this.#y += dy;
    this.#apply();
  }

  /** The frame is as large as the picture shows; zooming is a transform of it. */
  #fit() {
    const picture = this.#picture;
    const { clientWidth: width, clientHeight: height } = this.element;
    if (!picture || !width || !height) return;
    const enlargement = Math.min(width / picture.width, height / picture.height, LARGEST_ENLARGEMENT);
    this.frame.style.width = `${Math.round(picture.width * enlargement)}px`;
    this.frame.style.height = `${Math.round(picture.height * enlargement)}px`;
    this.#most = Math.max(6, 3 / enlargement);
    this.#apply();
  }

  /** @param {number} zoom @param {number} x where to zoom, from the middle @param {number} y */
  #zoomAt(zoom, x, y) {
    const next = Math.min(this.#most, Math.max(1, zoom));
    const ratio = next / this.#zoom;
    this.#x = x - (x - this.#x) * ratio;
    this.#y = y - (y - this.#y) * ratio;
    this.#zoom = next;
    this.#apply();
  }

  #apply() {
    const room = (/** @type {number} */ size, /** @type {number} */ view) =>
      Math.max(0, (size * this.#zoom - view) / 2);
    const mostX = room(this.frame.offsetWidth, this.element.clientWidth);
    const mostY = room(this.frame.offsetHeight, this.element.clientHeight);
    this.#x = Math.min(mostX, Math.max(-mostX, this.#x));
    this.#y = Math.min(mostY, Math.max(-mostY, this.#y));
    this.frame.style.transform = `translate(${this.#x}px, ${this.#y}px) scale(${this.#zoom})`;
    this.element.classList.toggle("zoomed", this.isZoomed);
    this.events.onzoom(this.#zoom);
  }

  /** @param {{clientX: number, clientY: number}} event */
  #fromMiddle(event) {
    const view = this.element.getBoundingClientRect();
    return { x: event.clientX - view.left - view.width / 2, y: event.clientY - view.top - view.height / 2 };
  }

  /** @param {WheelEvent} event */
  #onWheel(event) {
    event.preventDefault();
    const { x, y } = this.#fromMiddle(event);
    const lines = event.deltaMode === WheelEvent.DOM_DELTA_LINE ? 16 : 1;
    this.#zoomAt(this.#zoom * Math.exp(-event.deltaY * lines * WHEEL_SPEED), x, y);
  }

  /** @param {MouseEvent} event */
  #toggle(event) {
    const { x, y } = this.#fromMiddle(event);
    this.#zoomAt(this.isZoomed ? 1 : Math.min(this.#most, 2.5), x, y);
  }

  /** @param {PointerEvent} event */
  #onPress(event) {
    if (event.button !== 0) return;
    this.#pointers.set(event.pointerId, event);
    this.element.setPointerCapture(event.pointerId);
  }

  /** @param {PointerEvent} event */
  #onMove(event) {
    const before = this.#pointers.get(event.pointerId);
    if (!before) return;
    const others = [...this.#pointers.values()].filter((one) => one.pointerId !== event.pointerId);
    if (others.length === 1) this.#pinch(others[0], before, event);
    else if (this.isZoomed) this.pan(event.clientX - before.clientX, event.clientY - before.clientY);
    if (this.isZoomed || others.length) this.#pointers.set(event.pointerId, event);
  }

  /** @param {PointerEvent} other @param {PointerEvent} before @param {PointerEvent} now */
  #pinch(other, before, now) {
    const span = (/** @type {PointerEvent} */ one) =>
      Math.hypot(one.clientX - other.clientX, one.clientY - other.clientY);
    const { x, y } = this.#fromMiddle({
      clientX: (now.clientX + other.clientX) / 2,
      clientY: (now.clientY + other.clientY) / 2,
    });
    this.#zoomAt((this.#zoom * span(now)) / Math.max(1, span(before)), x, y);
  }

  /** @param {PointerEvent} event */
  #onRelease(event) {
    const start = this.#pointers.get(event.pointerId);
    this.#pointers.delete(event.pointerId);
    if (!start || this.isZoomed || event.pointerType === "mouse") return;
    const [dx, dy] = [event.clientX - start.clientX, event.clientY - start.clientY];
    if (Math.abs(dx) > 60 && Math.abs(dx) > 2 * Math.abs(dy)) this.events.onswipe(dx < 0 ? 1 : -1);
  }
}
