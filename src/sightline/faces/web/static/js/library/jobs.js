/** Work on the library, as it goes on. */

import { api, chosenLibrary } from "../api.js";
import { fill, h } from "../dom.js";
import { knownJobs, noteJob, onJob } from "../events.js";
import { isOpen, makeJobCard } from "./job.js";

/** @typedef {import("../types.js").Job} Job */

const SHOWN_ENDED = 3;

/**
 * The list of jobs; it follows them for as long as it is on the page.
 *
 * @param {{onend: (job: Job) => void, library: () => string | undefined}} page
 */
export function makeJobs(page) {
  const list = h("ul", { class: "jobs" });
  const element = h(
    "section",
    { class: "card", "aria-labelledby": "jobs-title" },
    h("h2", { id: "jobs-title" }, "Activity"),
    list,
  );
  /** @type {Map<string, ReturnType<typeof makeJobCard>>} */
  const cards = new Map();
  /** @type {Map<string, Job["state"]>} */
  const states = new Map();

  function draw() {
    const library = chosenLibrary() ?? page.library();
    const own = knownJobs().filter((job) => !library || job.library === library);
    const shown = [...own.filter(isOpen), ...own.filter((job) => !isOpen(job)).slice(0, SHOWN_ENDED)];
    for (const job of shown) {
      const card = cards.get(job.id) ?? makeJobCard(job);
      cards.set(job.id, card);
      card.update(job);
    }
    const elements = shown.map((job) => cards.get(job.id)?.element ?? null);
    const isSame = elements.length === list.children.length && elements.every((one, at) => one === list.children[at]);
    if (!isSame) fill(list, elements);
    if (!shown.length)
      fill(list, h("li", { class: "soft" }, "Nothing is at work. Indexing and captioning show up here."));
  }

  onJob((job) => {
    const before = states.get(job.id);
    states.set(job.id, job.state);
    draw();
    if (before && isOpen({ ...job, state: before }) && !isOpen(job)) page.onend(job);
  });
  return {
    element,
    draw,
    load: async () => {
      for (const job of (await api.jobs()).jobs) noteJob(job);
      draw();
    },
  };
}
