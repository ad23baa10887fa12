/** Captions for any picture, at once and both ways: candidates ranked by CLIP, sentences written by a captioner. */

import { api } from "../api.js";
import { fill, h } from "../dom.js";
import { formatDuration, formatSimilarity } from "../format.js";
import { icon } from "../icons.js";
import { Latest } from "../latest.js";
import { makeFailure } from "../search/empty.js";
import { announce } from "../toast.js";
import { copyText } from "../viewer/details.js";

/**
 * @typedef {import("../types.js").Caption} Caption
 * @typedef {import("../types.js").DualCaption} DualCaption
 */

/** @param {HTMLElement} root */
export function makePage(root) {
  root.classList.add("narrow");
  const latest = new Latest();
  /** @type {File | null} */
  let file = null;
  let preview = "";
  const picker = h("input", {
    type: "file",
    accept: "image/*,.heic,.heif",
    hidden: true,
    onchange: () => picker.files?.[0] && take(picker.files[0]),
  });
  const place = h("button", { class: "drop-zone", type: "button", onclick: () => picker.click() });
  const answer = h("div", { class: "caption-answer", "aria-live": "polite" });
  const candidates = h("textarea", {
    class: "textarea",
    rows: 4,
    id: "candidates",
    placeholder: "a dog on a beach\na birthday party\nan empty street at night",
    spellcheck: "false",
  });
  const again = h(
    "button",
    { class: "button", type: "button", hidden: true, onclick: () => void run() },
    icon("refresh"),
    "Caption again",
  );
  fill(
    root,
    h(
      "header",
      { class: "page-head" },
      h(
        "div",
        {},
        h("h1", {}, "Caption"),
        h("p", {}, "Drop any picture: it is described at once, in this machine, and kept nowhere."),
      ),
    ),
    h(
      "div",
      { class: "caption-page" },
      place,
      picker,
      answer,
      h(
        "div",
        { class: "caption-own" },
        h(
          "label",
          { for: "candidates" },
          h("span", { class: "soft small" }, "Your own candidates, one a line (optional)"),
        ),
        candidates,
        again,
      ),
    ),
  );
  showPlace();
  showIntroduction();

  /** @param {File} next */
  function take(next) {
    file = next;
    picker.value = "";
    if (preview) URL.revokeObjectURL(preview);
    preview = URL.createObjectURL(next);
    again.hidden = false;
    showPlace();
    void run();
  }

  function showPlace() {
    place.classList.toggle("filled", preview !== "");
    const image =
      preview &&
      h("img", {
        src: preview,
        alt: file?.name ?? "",
        onerror: () => image && image.replaceWith(h("span", { class: "soft" }, file?.name ?? "")),
      });
    fill(
      place,
      image || null,
      h(
        "span",
        { class: "drop-text" },
        icon("image"),
        preview ? "Another picture" : h("strong", {}, "Drop or paste a picture"),
        !preview && h("span", { class: "soft" }, "or choose a file"),
      ),
    );
  }

  function showIntroduction() {
    fill(
      answer,
      h(
        "div",
        { class: "caption-intro soft" },
        h(
          "p",
          {},
          h("strong", {}, "Ranked"),
          " compares the picture with many candidate sentences (or yours) and takes the nearest.",
        ),
        h("p", {}, h("strong", {}, "Written"), " lets a captioning model put it in its own words."),
        h("p", {}, "Both are scored, and the best of all is chosen."),
      ),
    );
  }

  async function run() {
    const current = file;
    if (!current) return;
    fill(answer, h("div", { class: "busy-line" }, h("span", { class: "spinner" }), "Looking at it …"));
    try {
      const result = await latest.run((signal) => api.caption(current, candidates.value.trim(), signal));
      if (!result) return;
      showResult(result);
      announce(result.best.text);
    } catch (error) {
      fill(
        answer,
        makeFailure(error, () => void run()),
      );
    }
  }

  /** @param {DualCaption} result */
  function showResult(result) {
    const writer = result.generated[0]?.model;
    fill(
      answer,
      h(
        "figure",
        { class: "best" },
        h("p", { class: "best-text" }, result.best.text),
        h(
          "figcaption",
          { class: "soft small numbers" },
          h("span", { class: "tag accent" }, icon("star"), "Best of all"),
          ` in ${formatDuration(result.took_ms)}`,
          h(
            "button",
            {
              class: "icon-button small",
              type: "button",
              "aria-label": "Copy the caption",
              title: "Copy",
              onclick: () => void copyText(result.best.text, "Caption"),
            },
            icon("copy"),
          ),
        ),
      ),
      h(
        "div",
        { class: "caption-kinds" },
        makeKind(
          "Ranked",
          candidates.value.trim() ? "Your candidates, nearest first" : "Candidates, nearest first",
          result.clip,
        ),
        makeKind(
          "Written",
          writer ? `Sentences of ${writer}, most probable first` : "Sentences, most probable first",
          result.generated,
        ),
      ),
    );
  }

  return {
    open() {},
    leave: () => latest.stop(),
    drop: { text: "Drop to caption this picture", take },
  };
}

/** @param {string} title @param {string} text @param {Caption[]} captions */
function makeKind(title, text, captions) {
  const most = Math.max(...captions.map((caption) => caption.similarity ?? 0), 0.01);
  return h(
    "section",
    { class: "card" },
    h("h2", {}, title),
    h("p", { class: "soft small" }, text),
    captions.length
      ? h(
          "ol",
          { class: "scored" },
          captions.map((caption) => makeScored(caption, most)),
        )
      : h("p", { class: "soft" }, "None: no captioner is at work."),
  );
}

/** @param {Caption} caption @param {number} most */
function makeScored(caption, most) {
  const share = Math.max(0, (caption.similarity ?? 0) / most);
  const bar = h("span", {});
  bar.style.transform = `scaleX(${share})`;
  return h(
    "li",
    {},
    h("p", {}, caption.text, caption.best && h("span", { class: "tag accent" }, "best")),
    h(
      "div",
      { class: "scored-facts" },
      h("div", { class: "meter", "aria-hidden": "true" }, bar),
      h(
        "span",
        { class: "soft small numbers" },
        [
          caption.similarity !== null && `similarity ${formatSimilarity(caption.similarity)}`,
          caption.log_prob !== null && `log-prob. ${caption.log_prob.toFixed(2).replace("-", "−")}`,
        ]
          .filter(Boolean)
          .join(" · "),
      ),
    ),
  );
}
