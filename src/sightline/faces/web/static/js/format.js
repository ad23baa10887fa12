/** Numbers, dates and sizes as people read them, in the language that the page is written in. */

const LOCALE = "en";
const whole = new Intl.NumberFormat(LOCALE);
const precise = new Intl.NumberFormat(LOCALE, { maximumFractionDigits: 1 });

/** @param {number} value */
export const formatCount = (value) => whole.format(value);

/**
 * `1 picture`, `2,000 pictures`.
 *
 * @param {number} count
 * @param {string} noun
 */
export const formatPlural = (count, noun) => `${whole.format(count)} ${noun}${count === 1 ? "" : "s"}`;

/** @param {number} bytes */
export function formatBytes(bytes) {
  const units = ["bytes", "kB", "MB", "GB", "TB"];
  let value = bytes;
  let unit = 0;
  while (value >= 1000 && unit < units.length - 1) {
    value /= 1000;
    unit += 1;
  }
  return `${value >= 100 || unit === 0 ? whole.format(Math.round(value)) : precise.format(value)} ${units[unit]}`;
}

/** @param {number} milliseconds */
export function formatDuration(milliseconds) {
  if (milliseconds < 1000) return `${whole.format(Math.max(1, Math.round(milliseconds)))} ms`;
  const seconds = milliseconds / 1000;
  if (seconds < 60) return `${precise.format(seconds)} s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 90) return `${minutes} min`;
  return `${precise.format(minutes / 60)} h`;
}

/**
 * A cosine with its sign, always as wide.
 *
 * @param {number} value
 */
export const formatSimilarity = (value) => value.toFixed(3).replace("-", "−");

/**
 * A probability; none is certain.
 *
 * @param {number} value
 */
export const formatProbability = (value) => `${Math.min(99, Math.max(1, Math.round(100 * value)))}%`;

/**
 * How well a picture fits the query: its probability where that is known, else its similarity; null without a query.
 *
 * @param {{probability: number | null, similarity: number | null}} hit
 */
export function formatMatch({ probability, similarity }) {
  if (probability !== null) return formatProbability(probability);
  return similarity === null ? null : formatSimilarity(similarity);
}

const REASONS = { picture: "what it shows", name: "its name", folder: "its folder", caption: "its caption", keyword: "its keywords", text: "text in it" };

/** Why a picture is a hit: `what it shows, its name`; "" without a reason. @param {{why: (keyof typeof REASONS)[]}} hit */
export const formatWhy = ({ why }) => why.map((reason) => REASONS[reason]).join(", ");

/** @param {number} value a rate for each second; a slow one is told for each minute */
export function formatRate(value) {
  if (value < 0.5) return `${precise.format(value * 60)}/min`;
  return `${value >= 10 ? whole.format(Math.round(value)) : precise.format(value)}/s`;
}

/** @param {number} value a fraction */
export const formatPercent = (value) => `${Math.round(value * 100)}%`;

/**
 * A moment without a zone (`2024-05-01T12:30:00`), as photos have it.
 *
 * @param {string} moment
 */
export function formatMoment(moment) {
  const date = parseMoment(moment);
  return date ? date.toLocaleString(LOCALE, { dateStyle: "long", timeStyle: "short" }) : moment;
}

/** @param {string} moment */
export function formatMonth(moment) {
  const date = parseMoment(moment);
  return date ? date.toLocaleString(LOCALE, { month: "long", year: "numeric" }) : moment;
}

/** @param {string} moment */
function parseMoment(moment) {
  const date = new Date(moment);
  return Number.isNaN(date.getTime()) ? null : date;
}

/**
 * How long ago a moment was, in words.
 *
 * @param {string} moment
 */
export function formatAgo(moment) {
  const date = parseMoment(moment);
  if (!date) return moment;
  const seconds = (date.getTime() - Date.now()) / 1000;
  const relative = new Intl.RelativeTimeFormat(LOCALE, { numeric: "auto" });
  for (const [unit, size] of /** @type {const} */ ([
    ["day", 86400],
    ["hour", 3600],
    ["minute", 60],
  ])) {
    if (Math.abs(seconds) >= size) return relative.format(Math.round(seconds / size), unit);
  }
  return "just now";
}

/**
 * The last name of a path.
 *
 * @param {string} path
 */
export const baseName = (path) =>
  path
    .replace(/[/\\]+$/, "")
    .split(/[/\\]/)
    .pop() || path;
