/** What happens on the server, as it happens: jobs and the size of libraries (Server-Sent Events). */

/** @typedef {import("./types.js").Job} Job */

/** @type {((job: Job) => void)[]} */
const jobListeners = [];
/** @type {((library: Record<string, any>) => void)[]} */
const libraryListeners = [];
/** @type {((isConnected: boolean) => void)[]} */
const connectionListeners = [];

/** A connection that is lost for less, as a page is left or a server started again, isn't spoken of. */
const LOST_MS = 1500;
const RETRY_MS = 4000;

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

/**
 * Take what a request about a job is answered, unless events told of the job meanwhile: they may know what came after.
 * @param {string} id @param {Promise<Job>} answer
 */
export async function noteAnswer(id, answer) {
  const before = jobs.get(id);
  const job = await answer;
  if (jobs.get(id) === before) noteJob(job);
}

/** @param {(isConnected: boolean) => void} listener told when the server is lost, and when it is there again */
export function onConnection(listener) {
  connectionListeners.push(listener);
}

let isLost = false;
let losing = 0;

/** @param {boolean} isConnected */
function tellConnection(isConnected) {
  clearTimeout(losing);
  if (isLost !== isConnected) return;
  isLost = !isConnected;
  for (const listener of connectionListeners) listener(isConnected);
}

/** @type {EventSource | null} */
let source = null;

/** Begin to listen. */
export function followEvents() {
  connect();
  addEventListener("pagehide", () => source?.close());
  addEventListener("pageshow", (event) => event.persisted && connect());
}

/** Browsers connect again by themselves and say what they have seen, unless something else answered, such as a proxy. */
function connect() {
  const stream = new EventSource("/api/events");
  stream.addEventListener("job", (event) => noteJob(JSON.parse(event.data)));
  stream.addEventListener("library", (event) => {
    for (const listener of libraryListeners) listener(JSON.parse(event.data));
  });
  stream.addEventListener("open", () => tellConnection(true));
  stream.addEventListener("error", () => {
    clearTimeout(losing);
    losing = window.setTimeout(() => tellConnection(false), LOST_MS);
    if (stream.readyState === EventSource.CLOSED) window.setTimeout(connect, RETRY_MS);
  });
  source = stream;
}
