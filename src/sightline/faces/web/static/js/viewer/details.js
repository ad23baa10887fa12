/** What is known of a picture's file, and its copies. */

import { api, fileAddress, thumbnailAddress } from "../api.js";
import { fill, h } from "../dom.js";
import { formatBytes, formatCount, formatMoment, formatPlural } from "../format.js";
import { icon } from "../icons.js";
import { toast } from "../toast.js";

/** @typedef {import("../types.js").Picture} Picture */

const SHOWN_COPIES = 8;

/** @param {string} text @param {string} what */
export async function copyText(text, what) {
  try {
    await navigator.clipboard.writeText(text);
    toast(`${what} copied`);
  } catch {
    toast(`The browser doesn't allow copying. ${what}: ${text}`);
  }
}

/** @param {Picture} picture */
export function makeDetails(picture) {
  const megapixels = (picture.width * picture.height) / 1e6;
  /** @type {[string, string | null | false][]} */
  const facts = [
    [picture.taken_at ? "Taken" : "Modified", formatMoment(picture.taken_at ?? picture.modified_at)],
    [
      "Size",
      `${formatCount(picture.width)} × ${formatCount(picture.height)}${megapixels >= 1 ? ` · ${megapixels.toFixed(1)} MP` : ""}`,
    ],
    ["File", `${picture.format} · ${formatBytes(picture.size_bytes)}`],
    ["Camera", picture.camera],
    [
      "Place",
      picture.latitude !== null && picture.longitude !== null && formatPlace(picture.latitude, picture.longitude),
    ],
    ...describeFacts(picture.facts),
    ["Models", picture.models.join(", ")],
  ];
  return h(
    "section",
    { class: "panel-part", "aria-label": "Details" },
    h(
      "dl",
      { class: "facts" },
      facts
        .filter(([, value]) => value)
        .map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, /** @type {string} */ (value)))),
    ),
    h(
      "div",
      { class: "path-line" },
      h("code", { title: picture.path }, picture.path),
      h(
        "button",
        {
          class: "icon-button small",
          type: "button",
          "aria-label": "Copy the path",
          title: "Copy the path",
          onclick: () => void copyText(picture.path, "Path"),
        },
        icon("copy"),
      ),
      h(
        "a",
        {
          class: "icon-button small",
          href: fileAddress(picture),
          download: picture.name,
          "aria-label": "Save a copy",
          title: "Save a copy",
        },
        icon("download"),
      ),
    ),
    !picture.exists && h("p", { class: "tag alarm" }, icon("warning"), "The file isn't there now"),
  );
}

/**
 * What the file tells beside, in the order of the list, each with its unit.
 *
 * @param {Record<string, any>} facts
 * @returns {[string, string | false][]}
 */
function describeFacts(facts) {
  const { exposure_s: exposure, f_number, iso, focal_mm, altitude_m, rating, keywords } = facts;
  const time = exposure && (exposure < 0.5 ? `1/${Math.round(1 / exposure)} s` : `${exposure} s`);
  const taken = [time, f_number && `f/${f_number}`, iso && `ISO ${iso}`, focal_mm && `${focal_mm} mm`];
  return [
    ["Near", [facts.city, facts.region, facts.country].filter(Boolean).join(", ")],
    ["Altitude", altitude_m !== undefined && `${Math.round(altitude_m)} m`],
    ["Lens", facts.lens],
    ["Exposure", taken.filter(Boolean).join(" · ")],
    ["Rating", rating === -1 ? "rejected" : rating > 0 && "★".repeat(rating)],
    ["Title", facts.title],
    ["Description", facts.description],
    ["Keywords", keywords?.join(", ")],
    ["Author", facts.author],
  ];
}

/** @param {number} latitude @param {number} longitude */
const formatPlace = (latitude, longitude) =>
  `${Math.abs(latitude).toFixed(4)}° ${latitude < 0 ? "S" : "N"}, ${Math.abs(longitude).toFixed(4)}° ${longitude < 0 ? "W" : "E"}`;

/** Exact copies of a picture, drawn once they are known. @param {Picture} picture @param {AbortSignal} signal */
export function makeCopies(picture, signal) {
  const element = h("section", { class: "panel-part", "aria-label": "Copies", hidden: true });
  if (picture.duplicates.length) void load();
  return element;

  async function load() {
    try {
      const copies = await Promise.all(picture.duplicates.slice(0, SHOWN_COPIES).map((id) => api.image(id, signal)));
      fill(
        element,
        h("h2", {}, formatPlural(picture.duplicates.length, "exact copy").replace("copys", "copies")),
        h(
          "ul",
          { class: "copies" },
          copies.map((copy) =>
            h(
              "li",
              {},
              h(
                "a",
                { href: `/image/${copy.id}${location.search}`, class: "copy", title: copy.path },
                h("span", { class: "thumb" }, h("img", { src: thumbnailAddress(copy, 320), alt: "" })),
                h("span", {}, copy.path),
              ),
            ),
          ),
        ),
      );
      element.hidden = false;
    } catch (error) {
      if (!signal.aborted) throw error;
    }
  }
}
