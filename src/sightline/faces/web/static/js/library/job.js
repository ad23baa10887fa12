/** One job: what it does, how far it is, what it left out, and how to steer it. */

import { api } from "../api.js";
import { fill, h } from "../dom.js";
import { noteAnswer } from "../events.js";
import {
  baseName,
  formatAgo,
  formatCount,
  formatDuration,
  formatPercent,
  formatPlural,
  formatRate,
} from "../format.js";
import { icon } from "../icons.js";
import { toastProblem } from "../toast.js";

/** @typedef {import("../types.js").Job} Job */

/** @param {Job} job */
export const isRunning = (job) => job.state === "running";

/** @param {Job} job */
export const isOpen = (job) => ["queued", "running", "paused"].includes(job.state);

/** @type {Record<Job["kind"], string>} */
const VERBS = { index: "Indexing", caption: "Captioning", add_model: "Adding" };

/** @param {Job} job */
export function nameJob(job) {
  if (job.kind === "add_model") return `${VERBS.add_model} ${job.model ?? "a model"}`;
  const folders = job.folders.map(baseName).join(", ");
  return `${VERBS[job.kind]} ${folders || (job.kind === "index" ? "all folders" : "pictures")}`;
}

/** @type {Record<Job["state"], [text: string, look: string]>} */
const STATES = {
  queued: ["Waiting", "tag"],
  running: ["Running", "tag accent"],
  paused: ["Paused", "tag"],
  done: ["Done", "tag"],
  failed: ["Failed", "tag alarm"],
  cancelled: ["Cancelled", "tag"],
};

/** A card that follows one job. @param {Job} job */
export function makeJobCard(job) {
  const state = h("span", {});
  const bar = h("span", {});
  const meter = h("div", { class: "meter", role: "progressbar", "aria-valuemin": 0, "aria-valuemax": 100 }, bar);
  const facts = h("p", { class: "soft small numbers job-facts" });
  const buttons = h("div", { class: "job-buttons" });
  const list = h("ul", { class: "skipped-list" });
  const summary = h("summary", {});
  const skipped = h("details", { class: "skipped", hidden: true }, summary, list);
  const title = h("h3", {});
  const element = h(
    "li",
    { class: "job" },
    h("div", { class: "job-head" }, title, state, buttons),
    meter,
    facts,
    skipped,
  );
  let drawnButtons = "";

  /** @param {Job} next */
  function update(next) {
    const { done, total, skipped_count: left } = next.progress;
    title.textContent = nameJob(next);
    const [text, look] = next.stopping
      ? [next.stopping === "pause" ? "Pausing …" : "Cancelling …", "tag"]
      : STATES[next.state];
    [state.textContent, state.className] = [text, look];
    const share = total ? Math.min(1, done / total) : 0;
    bar.style.transform = `scaleX(${share})`;
    meter.hidden = !isOpen(next);
    meter.setAttribute("aria-label", nameJob(next));
    meter.setAttribute("aria-valuenow", String(Math.round(share * 100)));
    facts.textContent = describe(next);
    skipped.hidden = left === 0;
    summary.textContent = `${formatPlural(left, "file")} left out`;
    fill(
      list,
      next.progress.skipped.map((file) =>
        h("li", {}, h("code", {}, file.path), h("span", { class: "soft" }, file.reason)),
      ),
      left > next.progress.skipped.length &&
        h("li", { class: "soft" }, `The latest ${formatCount(next.progress.skipped.length)} of ${formatCount(left)}.`),
    );
    const state_of_buttons = `${next.state} ${next.stopping}`;
    if (state_of_buttons !== drawnButtons) fill(buttons, makeButtons(next));
    drawnButtons = state_of_buttons;
  }
  update(job);
  return { element, update };
}

/** @param {Job} job */
function describe(job) {
  const { done, total, found, rate_per_s: rate, seconds_left: left } = job.progress;
  if (job.state === "failed") return job.error ?? "It failed.";
  if (!isOpen(job)) {
    const soFar = total !== null && `${formatCount(done)} of ${formatCount(total)} done`;
    return [job.summary ?? soFar, job.ended_at && formatAgo(job.ended_at)].filter(Boolean).join(" · ");
  }
  if (job.state === "queued") return "Waits for the work before it.";
  if (total === null) return found ? `${formatPlural(found, "picture")} found so far` : "Looking through folders …";
  return [
    `${formatCount(done)} of ${formatCount(total)} (${formatPercent(total ? done / total : 1)})`,
    isRunning(job) && rate && formatRate(rate),
    isRunning(job) && left !== null && left > 0 && `${formatDuration(left * 1000)} left`,
  ]
    .filter(Boolean)
    .join(" · ");
}

/** @param {Job} job */
function makeButtons(job) {
  const steer = (
    /** @type {"pause" | "resume" | "cancel"} */ verb,
    /** @type {string} */ label,
    /** @type {import("../icons.js").IconName} */ name,
  ) =>
    h(
      "button",
      {
        class: "icon-button small",
        type: "button",
        "aria-label": `${label}: ${nameJob(job)}`,
        title: label,
        disabled: job.stopping !== null && job.stopping !== undefined,
        onclick: async () => {
          try {
            await noteAnswer(job.id, api.steerJob(job.id, verb));
          } catch (error) {
            toastProblem(error);
          }
        },
      },
      icon(name),
    );
  return [
    ["queued", "running"].includes(job.state) && steer("pause", "Pause", "pause"),
    ["paused", "failed", "cancelled"].includes(job.state) && steer("resume", "Resume", "play"),
    isOpen(job) && steer("cancel", "Cancel", "close"),
  ].filter((button) => button !== false);
}
