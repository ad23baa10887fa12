/** Training runs: their curves while they go on, their settings, and what was measured. */

import { api } from "../api.js";
import { fill, h } from "../dom.js";
import { formatAgo, formatCount, formatPercent } from "../format.js";
import { icon } from "../icons.js";
import { debounce, Latest } from "../latest.js";
import { makeFailure, makeMessage } from "../search/empty.js";
import { formatValue, makeChart } from "./chart.js";

/**
 * @typedef {import("../types.js").Run} Run
 * @typedef {import("../types.js").RunDetail} RunDetail
 * @typedef {import("./chart.js").Series} Series
 */

const REFRESH_MS = 4000;
/** As in css/train.css: the least width of a card, the gap between two, and what its border and padding take. */
const CARD_PX = 416;
const GAP_PX = 20;
const INSET_PX = 46;

/** Charts: a title and, for each line, kind of row, its field, the name to show and the look. */
const CHARTS = /** @type {const} */ ([
  [
    "Loss",
    [
      ["train", "loss", "loss", "main"],
      ["train", "chance_loss", "chance", "quiet"],
    ],
  ],
  [
    "Image retrieval, recall",
    [
      ["val", "image_retrieval_recall@1", "@1", "second"],
      ["val", "image_retrieval_recall@5", "@5", "quiet"],
      ["val", "image_retrieval_recall@10", "@10", "main"],
    ],
  ],
  [
    "Text retrieval, recall",
    [
      ["val", "text_retrieval_recall@1", "@1", "second"],
      ["val", "text_retrieval_recall@5", "@5", "quiet"],
      ["val", "text_retrieval_recall@10", "@10", "main"],
    ],
  ],
  ["Learning rate", [["train", "learning_rate", "rate", "main"]]],
  ["Gradient norm", [["train", "gradient_norm", "norm", "main"]]],
  ["Scale of similarities", [["train", "scale", "scale", "main"]]],
]);

/** @param {HTMLElement} root */
export function makePage(root) {
  const latest = new Latest();
  const list = h("ul", { class: "runs" });
  const detail = h("div", { class: "run-detail" });
  /** @type {RunDetail | null} */
  let shown = null;
  let timer = 0;
  fill(
    root,
    h(
      "header",
      { class: "page-head" },
      h(
        "div",
        {},
        h("h1", {}, "Train"),
        h(
          "p",
          {},
          "Runs of ",
          h("code", {}, "sightline train"),
          ", the one that wrote last first. Curves follow a run while it goes on.",
        ),
      ),
    ),
    h("div", { class: "train-page" }, list, detail),
  );
  new ResizeObserver(debounce(() => shown && draw(shown), 120)).observe(detail);

  /** @param {URL} address */
  async function open(address) {
    clearTimeout(timer);
    try {
      const { runs } = await api.runs();
      if (!runs.length)
        return fill(
          detail,
          makeMessage({
            icon: "train",
            title: "No runs yet",
            text: "Runs in the folder given with --runs show up here: sightline train RECIPE --output DIR",
          }),
        );
      const name = address.searchParams.get("run") ?? runs[0].name;
      drawRuns(runs, name);
      if (shown?.name !== name) {
        shown = null;
        fill(detail, h("div", { class: "skeleton block tall" }));
      }
      await follow(name);
    } catch (error) {
      fill(
        detail,
        makeFailure(error, () => void open(address)),
      );
    }
  }

  /** Ask for what is new, again and again while the page is shown. @param {string} name */
  async function follow(name) {
    const before = shown?.name === name ? shown : null;
    const next = await latest.run((signal) => api.run(name, before?.next ?? 0, signal));
    if (!next) return;
    const goesOn = before && next.next >= before.next;
    if (before && next.next < before.next) {
      shown = null; // resumed from an earlier step: its rows start anew
      return follow(name);
    }
    const isNew = !goesOn || next.rows.length > 0;
    shown = goesOn ? { ...next, rows: [...before.rows, ...next.rows] } : next;
    if (isNew) draw(shown);
    timer = window.setTimeout(
      () =>
        void follow(name).catch(
          () => (timer = window.setTimeout(() => void follow(name).catch(() => {}), 5 * REFRESH_MS)),
        ),
      REFRESH_MS,
    );
  }

  /** @param {Run[]} runs @param {string} current */
  function drawRuns(runs, current) {
    fill(
      list,
      runs.map((run) =>
        h(
          "li",
          {},
          h(
            "a",
            {
              href: `/train?run=${encodeURIComponent(run.name)}`,
              "aria-current": run.name === current ? "true" : null,
            },
            h("strong", {}, run.name),
            h(
              "span",
              { class: "soft small numbers" },
              [
                run.step !== null && `step ${formatCount(run.step)}${run.steps ? ` of ${formatCount(run.steps)}` : ""}`,
                "mean_recall" in run.metrics && `recall ${formatPercent(run.metrics.mean_recall)}`,
              ]
                .filter(Boolean)
                .join(" · "),
            ),
            h("span", { class: "soft small" }, formatAgo(run.modified_at)),
          ),
        ),
      ),
    );
  }

  /** @param {RunDetail} run */
  function draw(run) {
    const share = run.steps ? Math.min(1, (run.step ?? 0) / run.steps) : null;
    const bar = h("span", {});
    bar.style.transform = `scaleX(${share ?? 0})`;
    const columns = Math.max(1, Math.floor((detail.clientWidth + GAP_PX) / (CARD_PX + GAP_PX)));
    const width = Math.floor((detail.clientWidth - (columns - 1) * GAP_PX) / columns) - INSET_PX;
    const opened = detail.querySelector("details")?.open ?? false;
    fill(
      detail,
      h(
        "div",
        { class: "run-head" },
        h("h2", {}, run.name),
        h(
          "p",
          { class: "soft numbers" },
          `step ${formatCount(run.step ?? 0)}${run.steps ? ` of ${formatCount(run.steps)}` : ""} · written ${formatAgo(run.modified_at)}`,
        ),
      ),
      share !== null &&
        share < 1 &&
        h(
          "div",
          {
            class: "meter",
            role: "progressbar",
            "aria-label": "Steps done",
            "aria-valuenow": Math.round(share * 100),
            "aria-valuemin": 0,
            "aria-valuemax": 100,
          },
          bar,
        ),
      h(
        "ul",
        { class: "alarms" },
        run.rows
          .filter((row) => row.kind === "alarm")
          .map((row) => h("li", {}, icon("warning"), h("span", {}, String(row.message ?? row.alarm)))),
      ),
      h(
        "div",
        { class: "charts" },
        CHARTS.map(([title, lines]) => ({ title, series: collect(run.rows, lines) }))
          .filter(({ series }) => series.length)
          .map(({ title, series }) => h("div", { class: "card" }, makeChart(title, series, Math.max(240, width)))),
      ),
      Object.keys(run.metrics).length > 0 && makeMetrics(run.metrics),
      h(
        "details",
        { class: "card settings", open: opened },
        h("summary", {}, "Settings"),
        h(
          "dl",
          { class: "settings-list" },
          flatten(run.config).map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))),
        ),
      ),
    );
  }

  return {
    open: (/** @type {URL} */ address) => void open(address),
    leave: () => {
      latest.stop();
      clearTimeout(timer);
    },
  };
}

/** @param {Record<string, any>[]} rows @param {readonly (readonly [string, string, string, "main" | "second" | "quiet"])[]} lines @returns {Series[]} */
function collect(rows, lines) {
  return lines
    .map(([kind, field, name, look]) => ({
      name,
      look,
      points: rows
        .filter((row) => row.kind === kind && Number.isFinite(row[field]))
        .map((row) => /** @type {[number, number]} */ ([row.step, row[field]])),
    }))
    .filter((one) => one.points.length > 0);
}

/** @param {Record<string, number>} metrics */
function makeMetrics(metrics) {
  return h(
    "section",
    { class: "card" },
    h("h3", {}, "Newest measurements"),
    h(
      "dl",
      { class: "metrics" },
      Object.entries(metrics).map(([name, value]) =>
        h("div", {}, h("dt", {}, name.replaceAll("_", " ")), h("dd", {}, formatValue(value))),
      ),
    ),
  );
}

/** @param {Record<string, any>} config @param {string} [before] @returns {[string, string][]} */
function flatten(config, before = "") {
  return Object.entries(config).flatMap(([name, value]) =>
    value !== null && typeof value === "object" && !Array.isArray(value)
      ? flatten(value, `${before}${name}.`)
      : [
          /** @type {[string, string]} */ ([
            `${before}${name}`,
            Array.isArray(value) ? value.join(", ") : String(value),
          ]),
        ],
  );
}
