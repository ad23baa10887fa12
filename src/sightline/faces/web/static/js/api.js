/** The server's API. Every failure is a `Problem` whose words can be shown to a person. */

/** What the server refused or couldn't do, in its own words (RFC 9457). */
export class Problem extends Error {
  /**
   * @param {number} status 0 where no answer came
   * @param {string} detail
   * @param {string} [type]
   */
  constructor(status, detail, type = "about:blank") {
    super(detail);
    this.name = "Problem";
    this.status = status;
    this.type = type;
  }
}

/** The library that all requests are about; null is the server's default. */
let library = /** @type {string | null} */ (null);

/** @param {string | null} name */
export function chooseLibrary(name) {
  library = name;
}

export const chosenLibrary = () => library;

const UNREACHABLE = "Sightline doesn't answer. Is `sightline serve` still running?";

let token = document.querySelector('meta[name="sightline-token"]')?.getAttribute("content") ?? "";

/** A server that was started again has another token; its page holds it. */
async function renewToken() {
  const page = new DOMParser().parseFromString(await (await fetch("/", { cache: "no-store" })).text(), "text/html");
  const renewed = page.querySelector('meta[name="sightline-token"]')?.getAttribute("content") ?? "";
  const changed = renewed !== "" && renewed !== token;
  token = renewed || token;
  return changed;
}

/**
 * @typedef {object} RequestOptions
 * @property {string} [method]
 * @property {Record<string, string | number | null | undefined>} [params]
 * @property {unknown} [json]
 * @property {FormData} [form]
 * @property {AbortSignal} [signal]
 * @property {"high" | "low" | "auto"} [priority]
 */

/**
 * @param {string} path
 * @param {RequestOptions} options
 */
async function send(path, { method = "GET", params = {}, json, form, signal, priority = "auto" }) {
  const headers = new Headers({ Accept: "application/json" });
  if (method !== "GET") headers.set("X-Sightline-Token", token);
  if (json !== undefined) headers.set("Content-Type", "application/json");
  const body = json === undefined ? form : JSON.stringify(json);
  try {
    return await fetch(address(path, params), { method, headers, body, signal, priority });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Problem(0, UNREACHABLE);
  }
}

/** Addresses that are about no library, or about a job, whose id is enough. */
const OF_NO_LIBRARY = /^\/api\/(libraries$|runs|jobs\/)/;

/**
 * The address of a resource of the chosen library.
 *
 * @param {string} path
 * @param {RequestOptions["params"]} [params]
 */
export function address(path, params = {}) {
  const query = new URLSearchParams();
  const all = path.includes("library=") || OF_NO_LIBRARY.test(path) ? params : { ...params, library };
  for (const [name, value] of Object.entries(all)) {
    if (value !== null && value !== undefined && value !== "") query.set(name, String(value));
  }
  const text = query.toString();
  return text ? `${path}${path.includes("?") ? "&" : "?"}${text}` : path;
}

/**
 * @param {string} path
 * @param {RequestOptions} [options]
 * @returns {Promise<any>}
 */
async function request(path, options = {}) {
  let response = await send(path, options);
  if (response.status === 403 && (options.method ?? "GET") !== "GET" && (await renewToken())) {
    response = await send(path, options);
  }
  if (!response.ok) throw await readProblem(response);
  return response.status === 204 ? null : response.json();
}

/** @param {Response} response */
async function readProblem(response) {
  try {
    const problem = await response.json();
    const fields = (problem.errors ?? []).map(
      (/** @type {{field: string, message: string}} */ e) => `${e.field}: ${e.message}`,
    );
    return new Problem(
      response.status,
      [problem.detail ?? problem.title, ...fields].filter(Boolean).join(" "),
      problem.type,
    );
  } catch {
    return new Problem(response.status, `The server answered ${response.status} ${response.statusText}.`);
  }
}

/** @param {Blob} file @param {Record<string, string>} [fields] */
function asForm(file, fields = {}) {
  const form = new FormData();
  form.set("file", file, file instanceof File ? file.name : "picture");
  for (const [name, value] of Object.entries(fields)) form.set(name, value);
  return form;
}

/**
 * @typedef {Record<string, string | number | null>} SearchParams
 */

export const api = {
  /**
   * @param {SearchParams} params
   * @param {{limit: number, cursor?: string | null, signal?: AbortSignal}} page
   * @returns {Promise<import("./types.js").SearchAnswer>}
   */
  search: (params, { limit, cursor = null, signal }) =>
    request("/api/search", { params: { ...params, limit, cursor }, signal, priority: "high" }),

  /** @param {Blob} file @param {AbortSignal} [signal] @returns {Promise<{key: string, width: number, height: number, thumbnail: string}>} */
  upload: (file, signal) => request("/api/uploads", { method: "POST", form: asForm(file), signal }),

  /** @param {number} id @param {AbortSignal} [signal] @returns {Promise<import("./types.js").Picture>} */
  image: (id, signal) => request(`/api/images/${id}`, { signal }),

  /** @param {number} id @param {string} words @param {AbortSignal} [signal] @returns {Promise<import("./types.js").Heatmap>} */
  heatmap: (id, words, signal) => request(`/api/images/${id}/heatmap`, { params: { q: words }, signal }),

  /** @param {number} id @param {string} text @returns {Promise<{captions: import("./types.js").Caption[], previous: string | null}>} */
  putCaption: (id, text) => request(`/api/images/${id}/captions`, { method: "PUT", json: { text } }),

  /** @param {number} id @returns {Promise<{captions: import("./types.js").Caption[], previous: string | null}>} */
  deleteCaption: (id) => request(`/api/images/${id}/captions`, { method: "DELETE" }),

  /** @param {Blob} file @param {string} candidates @param {AbortSignal} [signal] @returns {Promise<import("./types.js").DualCaption>} */
  caption: (file, candidates, signal) =>
    request("/api/caption", { method: "POST", form: asForm(file, candidates ? { candidates } : {}), signal }),

  /** @param {number} id @param {AbortSignal} [signal] @returns {Promise<import("./types.js").DualCaption>} */
  captionImage: (id, signal) => {
    const form = new FormData();
    form.set("id", String(id));
    return request("/api/caption", { method: "POST", form, signal });
  },

  /** @param {AbortSignal} [signal] @returns {Promise<import("./types.js").Stats>} */
  stats: (signal) => request("/api/stats", { signal }),

  /** @returns {Promise<{name: string, images: number, default: boolean}[]>} */
  libraries: () => request("/api/libraries"),

  /** @param {string | null} [path] @returns {Promise<import("./types.js").Folders>} */
  folders: (path = null) => request("/api/folders", { params: { path } }),

  /** @returns {Promise<{jobs: import("./types.js").Job[]}>} */
  jobs: () => request("/api/jobs"),

  /** @param {{kind: string, folders?: string[], model?: string}} job @returns {Promise<import("./types.js").Job>} */
  startJob: (job) => request("/api/jobs", { method: "POST", json: job }),

  /** @param {string} id @param {"pause" | "resume" | "cancel"} verb @returns {Promise<import("./types.js").Job>} */
  steerJob: (id, verb) => request(`/api/jobs/${encodeURIComponent(id)}/${verb}`, { method: "POST" }),

  /** @returns {Promise<{default: string | null, models: import("./types.js").ModelEntry[]}>} */
  models: () => request("/api/models"),

  /** @returns {Promise<{words: import("./types.js").Word[]}>} */
  words: () => request("/api/words"),

  /** @param {string} name @param {number[]} images @param {string} kind "" for none @returns {Promise<import("./types.js").Word>} */
  teach: (name, images, kind) => request("/api/words", { method: "POST", json: { name, images, kind: kind || null } }),

  /** @param {string} name @returns {Promise<{words: import("./types.js").Word[]}>} */
  forget: (name) => request(`/api/words/${encodeURIComponent(name)}`, { method: "DELETE" }),

  /** @param {string} name */
  useModel: (name) => request("/api/models/default", { method: "PUT", json: { name } }),

  /**
   * @param {import("./types.js").DuplicateGroup["kind"]} kind
   * @param {number | null} min_similarity of what is alike
   * @param {{offset: number, limit: number, signal?: AbortSignal}} page
   * @returns {Promise<import("./types.js").Duplicates>}
   */
  duplicates: (kind, min_similarity, { offset, limit, signal }) =>
    request("/api/duplicates", { params: { kind, min_similarity, offset, limit }, signal }),

  /**
   * @param {{kind: string, keep: number[], files: number, folder: string | null}} move
   * @returns {Promise<import("./types.js").Moves>}
   */
  setAside: (move) => request("/api/duplicates/set-aside", { method: "POST", json: move }),

  /** @param {import("./types.js").Moves} moves what `setAside` answered @returns {Promise<import("./types.js").Moves>} */
  undoSetAside: ({ log, folder }) => request("/api/duplicates/undo", { method: "POST", json: { log, folder } }),

  /**
   * @param {string} words @param {string[]} models @param {number} limit @param {AbortSignal} [signal]
   * @returns {Promise<{models: {name: string, hits: import("./types.js").Hit[], took_ms: number}[], agreement: number | null}>}
   */
  compare: (words, models, limit, signal) =>
    request("/api/compare", { params: { q: words, models: models.join(","), limit }, signal }),

  /** @returns {Promise<{runs: import("./types.js").Run[]}>} */
  runs: (/** @type {AbortSignal} */ signal) => request("/api/runs", { signal }),

  /** @param {string} name @param {number} after rows that are here already @param {AbortSignal} [signal] @returns {Promise<import("./types.js").RunDetail>} */
  run: (name, after, signal) =>
    request(`/api/runs/${name.split("/").map(encodeURIComponent).join("/")}`, { params: { after }, signal }),
};

/**
 * A picture's thumbnail, wide enough for the screen.
 *
 * @param {{thumbnail: string}} picture
 * @param {320 | 640} size_px
 */
export const thumbnailAddress = (picture, size_px) => address(picture.thumbnail, { size: size_px });

/** Where the app shows a picture. @param {number} id */
export const pictureLink = (id) => address(`/image/${id}`);

/** Formats that browsers show; others come as JPEG. */
const SHOWN = new Set(["JPEG", "PNG", "WEBP", "GIF", "AVIF", "BMP", "MPO"]);

/** @param {import("./types.js").Picture} picture */
export const fileAddress = (picture) =>
  address(`/api/images/${picture.id}/file`, { display: SHOWN.has(picture.format.toUpperCase()) ? null : 1 });
