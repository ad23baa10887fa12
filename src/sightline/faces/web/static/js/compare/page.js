/** Models side by side on one query: what they find, how quickly, and how far they agree. */

import { api, pictureLink, thumbnailAddress } from "../api.js";
import { fill, h } from "../dom.js";
import { formatBytes, formatDuration, formatPercent, formatSimilarity } from "../format.js";
import { icon } from "../icons.js";
import { debounce, Latest } from "../latest.js";
import { note } from "../router.js";
import { makeFailure, makeMessage } from "../search/empty.js";
import { announce } from "../toast.js";

/**
 * @typedef {import("../types.js").ModelEntry} ModelEntry
 * @typedef {{name: string, hits: import("../types.js").Hit[], took_ms: number}} Compared
 */

const SHOWN = 12;
const MOST_MODELS = 4;
const TYPING_MS = 180;
const FIRSTS = 10;

/** @param {HTMLElement} root */
export function makePage(root) {
  const latest = new Latest();
  /** @type {ModelEntry[]} */
  let models = [];
  /** @type {Set<string>} */
  const chosen = new Set();
  const input = h("input", {
    class: "input",
    type: "search",
    maxlength: 1000,
    "aria-label": "Query to compare models on",
    placeholder: "dogs in the snow",
    autocomplete: "off",
    spellcheck: "false",
  });
  const picks = h("fieldset", { class: "compare-models" });
  const summary = h("p", { class: "compare-summary", role: "status" });
  const columns = h("div", { class: "compare-columns" });
  input.addEventListener(
    "input",
    debounce(() => void run(), TYPING_MS),
  );
  fill(
    root,
    h(
      "header",
      { class: "page-head" },
      h(
        "div",
        {},
        h("h1", {}, "Compare"),
        h("p", {}, "One query, several models. Ringed pictures are among the first ten of all of them."),
      ),
    ),
    h("div", { class: "compare-query" }, input, picks),
    summary,
    columns,
  );

  function drawPicks() {
    fill(
      picks,
      h("legend", { class: "visually-hidden" }, "Models"),
      models.map((model) =>
        h(
          "label",
          { class: "check" },
          h("input", {
            type: "checkbox",
            checked: chosen.has(model.name),
            disabled: !chosen.has(model.name) && chosen.size >= MOST_MODELS,
            onchange: () => {
              if (!chosen.delete(model.name)) chosen.add(model.name);
              drawPicks();
              void run();
            },
          }),
          h("span", {}, model.name),
        ),
      ),
    );
  }

  async function run() {
    const words = input.value.trim();
    const params = new URLSearchParams(words ? { q: words, models: [...chosen].join(",") } : {});
    note(`/compare${words ? `?${params}` : ""}`, { replace: true });
    if (!words || chosen.size === 0) {
      latest.stop();
      fill(summary);
      return fill(
        columns,
        makeMessage({
          icon: "compare",
          title: words ? "Choose a model" : "Type a query",
          text: words
            ? "Two make a comparison."
            : "Each model ranks the whole library; their answers stand side by side.",
        }),
      );
    }
    try {
      const answer = await latest.run((signal) => api.compare(words, [...chosen], SHOWN, signal));
      if (answer) show(answer.models, answer.agreement);
    } catch (error) {
      fill(summary);
      fill(
        columns,
        makeFailure(error, () => void run()),
      );
    }
  }

  /** @param {Compared[]} compared @param {number | null} agreement */
  function show(compared, agreement) {
    const shared = findShared(compared);
    const quickest = Math.min(...compared.map((one) => one.took_ms));
    fill(
      summary,
      agreement === null
        ? "Choose a second model to see how far they agree."
        : h("span", {}, "Of their first ten, models share ", h("strong", {}, formatPercent(agreement)), "."),
    );
    announce(summary.textContent ?? "");
    fill(
      columns,
      compared.map((one) =>
        makeColumn(
          one,
          models.find((model) => model.name === one.name),
          shared,
          compared.length > 1 && one.took_ms === quickest,
        ),
      ),
    );
  }

  /** @param {URL} address */
  async function open(address) {
    try {
      models = (await api.models()).models.filter((model) => model.kind === "encoder" && model.vectors > 0);
    } catch (error) {
      return fill(
        columns,
        makeFailure(error, () => void open(address)),
      );
    }
    const asked = (address.searchParams.get("models") ?? "").split(",");
    const known = models.map((model) => model.name);
    const initial = known.filter((name) => asked.includes(name));
    if (initial.length) chosen.clear();
    for (const name of initial.length ? initial : chosen.size ? [] : known.slice(0, 2)) chosen.add(name);
    if (address.searchParams.has("q")) input.value = address.searchParams.get("q") ?? "";
    drawPicks();
    if (models.length < 2) showLone(models.length);
    else await run();
  }

  /** @param {number} count */
  function showLone(count) {
    fill(
      columns,
      makeMessage({
        icon: "compare",
        title: "Comparing needs two models",
        text: count
          ? "This library knows one. A second is added beside it; nothing is lost."
          : "This library has no pictures yet.",
        actions: [h("a", { class: "button primary", href: "/library" }, count ? "Add a model" : "Add a folder")],
      }),
    );
  }

  return { open: (/** @type {URL} */ address) => void open(address), leave: () => latest.stop() };
}

/** Pictures among the first ten of every model. @param {Compared[]} compared */
function findShared(compared) {
  if (compared.length < 2) return new Set();
  const firsts = compared.map((one) => new Set(one.hits.slice(0, FIRSTS).map((hit) => hit.id)));
  return new Set([...firsts[0]].filter((id) => firsts.every((ids) => ids.has(id))));
}

/** @param {Compared} one @param {ModelEntry | undefined} model @param {Set<any>} shared @param {boolean} isQuickest */
function makeColumn(one, model, shared, isQuickest) {
  const accuracy = model?.figures?.imagenet_zeroshot_acc1;
  /** @type {[string, string | null | undefined | false][]} */
  const facts = [
    ["Time", formatDuration(one.took_ms)],
    ["Quality", accuracy && `ImageNet ${formatPercent(accuracy)}`],
    ["Size", model?.size_bytes ? formatBytes(model.size_bytes) : null],
    ["Dimensions", model?.dim ? String(model.dim) : null],
  ];
  return h(
    "section",
    { class: "compare-column", "aria-label": one.name },
    h("header", {}, h("h2", {}, one.name), isQuickest && h("span", { class: "tag accent" }, "quickest")),
    h(
      "dl",
      { class: "compare-facts" },
      facts
        .filter(([, value]) => value)
        .map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, /** @type {string} */ (value)))),
    ),
    one.hits.length === 0 && h("p", { class: "soft" }, "It finds nothing."),
    h(
      "ol",
      { class: "compare-hits" },
      one.hits.map((hit, at) =>
        h(
          "li",
          {},
          h(
            "a",
            {
              class: shared.has(hit.id) ? "thumb shared" : "thumb",
              href: pictureLink(hit.id),
              "aria-label": `${at + 1}. ${hit.caption ?? hit.name}${shared.has(hit.id) ? ", found by all" : ""}`,
            },
            h("img", { src: thumbnailAddress(hit, 320), alt: "" }),
            h("span", { class: "rank" }, String(at + 1)),
            shared.has(hit.id) && h("span", { class: "shared-mark" }, icon("check")),
          ),
          h("span", { class: "soft small numbers" }, hit.similarity === null ? "" : formatSimilarity(hit.similarity)),
        ),
      ),
    ),
  );
}
