/** What happens on the server, as it happens: jobs and the size of libraries (Server-Sent Events). */

/** @typedef {import("./types.js").Job} Job */

/** @type {((job: Job) => void)[]} */
const jobListeners = [];
/** @type {((library: Record<string, any>) => void)[]} */
const libraryListeners = [];

/** The latest state of each job. @type {Map<string, Job>} */
const jobs = new Map();

/** @param {(job: Job) => void} listener @returns {() => void} call it to stop */
export function onJob(listener) {
  jobListeners.push(listener);
  return () => void jobListeners.splice(jobListeners.indexOf(listener), 1);
}

/** @param {(library: Record<string, any>) => void} listener */
export function onLibrary(listener) {
  libraryListeners.push(listener);
}

/** Jobs that are known, the newest first. */
export const knownJobs = () => [...jobs.values()].sort((a, b) => b.created_at.localeCompare(a.created_at));

/** @param {Job} job */
export function noteJob(job) {
  jobs.set(job.id, job);
  for (const listener of [...jobListeners]) listener(job);
}

/** Begin to listen. Browsers connect again by themselves and say what they have seen. */
export function followEvents() {
  const source = new EventSource("/api/events");
  source.addEventListener("job", (event) => noteJob(JSON.parse(event.data)));
  source.addEventListener("library", (event) => {
    for (const listener of libraryListeners) listener(JSON.parse(event.data));
  });
  addEventListener("pagehide", () => source.close());
}
