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
/** What is seen of a run over this time gives its rate. */
const RATE_WINDOW_MS = 120_000;
/** Okabe and Ito's colours, told apart with every kind of colour blindness: of the run that is open, then of others. */
const COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"];
/** As in css/train.css: the least width of a card, the gap between two, and what its border and padding take. */
const CARD_PX = 416;
const GAP_PX = 20;
const INSET_PX = 46;

/** Charts: a title and, for each line, kind of row, its field, the name to show and the look. */
const CHARTS = /** @type {const} */ ([
  [
    "Loss",
    [
      ["train", "loss", "training", "main"],
      ["val", "loss", "val", "second"],
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
  ["Logit scale (1 / temperature)", [["train", "scale", "scale", "main"]]],
]);

/** @param {HTMLElement} root */
export function makePage(root) {
  const latest = new Latest();
  const list = h("ul", { class: "runs" });
  const detail = h("div", { class: "run-detail" });
  /** @type {RunDetail | null} */
  let shown = null;
  /** Runs that are drawn beside it, by name, as far as they are read. @type {Map<string, RunDetail>} */
  const beside = new Map();
  /** When the open run was at which step. @type {{at: number, step: number}[]} */
  let seen = [];
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
    const asked = address.searchParams.get("run");
    if (!shown || shown.name !== asked) {
      shown = null;
      seen = [];
      fill(detail, h("div", { class: "skeleton block tall" }));
    }
    await follow(asked);
  }

  /** Ask for what is new, again and again while the page is shown. @param {string | null} asked */
  async function follow(asked) {
    let wait = REFRESH_MS;
    try {
      if (!(await refresh(asked))) return; // another page was opened meanwhile
    } catch (error) {
      if (!shown)
        return fill(
          detail,
          makeFailure(error, () => void follow(asked)),
        );
      wait *= 5;
    }
    timer = window.setTimeout(() => void follow(asked), wait);
  }

  /** The list and the curves as they are now; whether they are still wanted. @param {string | null} asked */
  async function refresh(asked) {
    const found = await latest.run(async (signal) => {
      const { runs } = await api.runs(signal);
      const name = asked ?? runs[0]?.name;
      const wanted = name ? [name, ...[...beside.keys()].filter((other) => other !== name)] : [];
      const details = await Promise.all(
        wanted.map((one) => readOn(one, one === shown?.name ? shown : beside.get(one), signal)),
      );
      return { runs, details };
    });
    if (!found) return false;
    const [next, ...others] = found.details;
    if (!next) {
      fill(list);
      fill(
        detail,
        makeMessage({
          icon: "train",
          title: "No runs yet",
          text: "Runs in the folder given with --runs show up here: sightline train RECIPE --output DIR",
        }),
      );
      return true;
    }
    drawRuns(found.runs, next.name);
    const isNew = next !== shown || others.some((one) => one !== beside.get(one.name));
    for (const one of others) beside.set(one.name, one);
    if (next.name !== shown?.name || (next.step ?? 0) < (seen[seen.length - 1]?.step ?? 0)) seen = [];
    const now = performance.now();
    if (next.step !== seen[seen.length - 1]?.step) seen.push({ at: now, step: next.step ?? 0 });
    seen = seen.filter(({ at }, index) => now - at < RATE_WINDOW_MS || index >= seen.length - 2);
    shown = next;
    if (isNew) draw(shown);
    return true;
  }

  /** A run with the rows that came since it was read; the same object where none did. @param {string} name @param {RunDetail | undefined} before @param {AbortSignal} signal @returns {Promise<RunDetail>} */
  async function readOn(name, before, signal) {
    const next = await api.run(name, before?.next ?? 0, signal);
    if (!before) return next;
    if (next.next < before.next) return readOn(name, undefined, signal); // resumed: its rows start anew
    if (!next.rows.length && next.ended === before.ended) return before;
    return { ...next, rows: [...before.rows, ...next.rows] };
  }

  /** Images a second and the time left, from what was seen of a run; empty before there is something to tell. @param {RunDetail} run */
  function describePace(run) {
    const [first, last] = [seen[0], seen[seen.length - 1]];
    if (run.ended || !first || last.step === first.step || performance.now() - last.at > RATE_WINDOW_MS) return "";
    const stepsPerS = ((last.step - first.step) * 1000) / (last.at - first.at);
    const images = Number(run.config.batch_size) * stepsPerS;
    const left = run.steps ? ` · ${formatDuration((run.steps - last.step) / stepsPerS)} left` : "";
    return Number.isFinite(images) ? ` · ${formatCount(Math.round(images))} images/s${left}` : left;
  }

  /** @param {Run[]} runs @param {string} current */
  function drawRuns(runs, current) {
    fill(
      list,
      runs.map((run) =>
        h(
          "li",
          { class: "run-entry" },
          run.name !== current && makeCompare(run.name),
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
                run.ended && "ended",
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

  /** A box that draws a run beside the open one. @param {string} name */
  function makeCompare(name) {
    const box = /** @type {HTMLInputElement} */ (
      h("input", { type: "checkbox", "aria-label": `Draw ${name} beside the open run` })
    );
    box.checked = beside.has(name);
    box.addEventListener("change", async () => {
      if (!box.checked) beside.delete(name);
      else beside.set(name, await api.run(name, 0));
      if (shown) draw(shown);
    });
    return box;
  }

  /** @param {RunDetail} run */
  function draw(run) {
    const drawn = [run, ...[...beside.values()].filter((other) => other.name !== run.name)];
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
          `step ${formatCount(run.step ?? 0)}${run.steps ? ` of ${formatCount(run.steps)}` : ""}${describePace(run)} · ${run.ended ? "ended" : "written"} ${formatAgo(run.modified_at)}`,
        ),
      ),
      share !== null &&
        share < 1 &&
        !run.ended &&
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
        CHARTS.map(([title, lines]) => ({
          title,
          series: drawn.length > 1 ? collectRuns(drawn, lines) : collect(run.rows, lines),
        }))
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

/** The main line of each run and, dashed, its val loss, in the run's colour. @param {RunDetail[]} runs @param {readonly (readonly [string, string, string, "main" | "second" | "quiet"])[]} lines @returns {Series[]} */
function collectRuns(runs, lines) {
  const told = lines.filter(([kind, field, , look]) => look === "main" || (kind === "val" && field === "loss"));
  return runs.flatMap((run, index) =>
    collect(run.rows, told).map((one) => ({
      ...one,
      name: told.length > 1 ? `${run.name}, ${one.name}` : run.name,
      colour: COLOURS[index % COLOURS.length],
    })),
  );
}

/** @param {number} seconds */
function formatDuration(seconds) {
  const minutes = Math.round(seconds / 60);
  if (minutes < 1) return "under a minute";
  return minutes < 90 ? `${minutes} min` : `${(seconds / 3600).toFixed(1)} h`;
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
