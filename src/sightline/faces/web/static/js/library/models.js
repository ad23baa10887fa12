/** The models of a library: which one searches use, and which can be added beside it. */

import { h } from "../dom.js";
import { formatBytes, formatCount, formatPercent } from "../format.js";
import { icon } from "../icons.js";

/** @typedef {import("../types.js").ModelEntry} ModelEntry */

/**
 * @param {{default: string | null, models: ModelEntry[]}} answer
 * @param {import("../types.js").Stats} stats
 * @param {{add: (name: string) => void, use: (name: string) => void}} actions
 */
export function makeModels(answer, stats, actions) {
  const encoders = answer.models.filter((model) => model.kind === "encoder");
  const own = encoders.filter((model) => model.vectors > 0);
  const others = encoders.filter((model) => model.vectors === 0 && model.available);
  const away = encoders.filter((model) => model.vectors === 0 && !model.available);
  return h(
    "section",
    { class: "card", "aria-labelledby": "models-title" },
    h("h2", { id: "models-title" }, "Models"),
    h(
      "p",
      { class: "soft small" },
      "Each model keeps an index of its own: changing or adding one never loses another.",
    ),
    own.length > 0 &&
      h(
        "ul",
        { class: "model-list" },
        own.map((model) => makeOwn(model, answer.default, stats.images, actions)),
      ),
    own.length === 0 && h("p", {}, `New pictures will be indexed with ${answer.default ?? "the default model"}.`),
    stats.images > 0 && others.length > 0 && h("h3", {}, "Ready to add"),
    stats.images > 0 &&
      h(
        "ul",
        { class: "model-list" },
        others.map((model) =>
          h(
            "li",
            {},
            describe(model),
            h(
              "button",
              { class: "button small", type: "button", onclick: () => actions.add(model.name) },
              icon("plus"),
              "Add",
            ),
          ),
        ),
      ),
    away.length > 0 &&
      h(
        "details",
        { class: "more-models" },
        h("summary", {}, `${away.length} more, to be fetched first`),
        h(
          "ul",
          { class: "model-list" },
          away.map((model) => h("li", {}, describe(model))),
        ),
        h("p", { class: "soft small" }, "Fetch one at the command line: ", h("code", {}, "sightline models pull NAME")),
      ),
  );
}

/** @param {ModelEntry} model @param {string | null} current @param {number} images @param {{add: (name: string) => void, use: (name: string) => void}} actions */
function makeOwn(model, current, images, actions) {
  const isCurrent = model.name === current;
  const isWhole = model.vectors >= images;
  return h(
    "li",
    {},
    describe(
      model,
      isWhole
        ? `all ${formatCount(images)} pictures`
        : `${formatCount(model.vectors)} of ${formatCount(images)} pictures`,
    ),
    !isWhole &&
      model.available &&
      h("button", { class: "button small", type: "button", onclick: () => actions.add(model.name) }, "Complete"),
    isCurrent
      ? h("span", { class: "tag accent" }, icon("check"), "In use")
      : h(
          "button",
          { class: "button small", type: "button", disabled: !model.available, onclick: () => actions.use(model.name) },
          "Use",
        ),
  );
}

/** @param {ModelEntry} model @param {string} [more] */
function describe(model, more) {
  const accuracy = model.figures?.imagenet_zeroshot_acc1;
  const facts = [
    more,
    model.dim && `${model.dim} dimensions`,
    model.size_bytes && formatBytes(model.size_bytes),
    accuracy && `ImageNet ${formatPercent(accuracy)}`,
  ].filter(Boolean);
  return h(
    "div",
    {},
    h("strong", {}, model.name),
    h("span", { class: "soft small numbers" }, facts.join(" · ")),
    h("span", { class: "soft small licence", title: model.licence }, `Licence: ${model.licence}`),
  );
}
