/**
 * A query: the words being typed, the parts that are set as chips, filters and settings. It lives in the page's
 * address, so back, forward, bookmarks and sharing work.
 */

import { chosenLibrary } from "../api.js";
import { makeWhere } from "./where.js";

/**
 * @typedef {{kind: "text", text: string, weight: number}} TextPart
 * @typedef {{kind: "image", id: number, weight: number, mark?: boolean}} ImagePart a picture of the library; with `mark`
 *   one that was marked right (weight above 0) or wrong
 * @typedef {{kind: "upload", key: string, weight: number}} UploadPart a picture from elsewhere
 * @typedef {TextPart | ImagePart | UploadPart} Part
 *
 * @typedef {object} Filters each "" where it isn't set
 * @property {string} after first day, `2024-05-01`
 * @property {string} before last day
 * @property {string} folder
 * @property {string} size `large`, `medium`, `small`
 * @property {string} shape `landscape`, `portrait`, `square`, `panorama`
 * @property {string} camera
 * @property {string} captions `yes`, `no`
 * @property {string} where a filter in the library's own language
 *
 * @typedef {object} Query
 * @property {string} text what stands in the box: `beach`, or several parts as in `beach - people`
 * @property {Part[]} parts
 * @property {Filters} filters
 * @property {string} match `pictures`, `captions`, `both`
 * @property {string} min the least similarity, "" for none
 * @property {boolean} newest whether the newest come first, of those that are likely right
 * @property {boolean} again whether the first are read again, image and words together
 * @property {string} model "" for the library's own
 */

export const FILTER_NAMES = /** @type {const} */ ([
  "after",
  "before",
  "folder",
  "size",
  "shape",
  "camera",
  "captions",
  "where",
]);

/** @returns {Filters} */
export const noFilters = () => ({
  after: "",
  before: "",
  folder: "",
  size: "",
  shape: "",
  camera: "",
  captions: "",
  where: "",
});

/** @returns {Query} */
export const emptyQuery = () => ({ text: "", parts: [], filters: noFilters(), match: "both", min: "", newest: false, again: false, model: "" });

/** Of the first pictures so many are read again: more gain nothing (docs/search.md). */
const READ_AGAIN = 20;

const WEIGHT = /^(\d{1,3}(?:\.\d*)?|\.\d+):(?=[^\s\d])/; // 10:30 is a time, "2001: a space odyssey" a title
const QUOTED = /["“„][^"“”„]*["“”]?/.source;
const TOKEN = new RegExp(
  `(?<sign>[+-])(?=\\s|$)` +
    `|(?<glued>[+-])(?<body>(?:${WEIGHT.source.slice(1)})?(?:${QUOTED}|(?:[\\p{L}_]|[^\\x00-\\x7f]|[.~]{0,2}[/\\\\])\\S*))` +
    `|(?<words>${QUOTED}(?=\\s|$)|\\S+)`,
  "gu",
);

/**
 * The box's text -> its parts, as `core/search/query.py` reads it. A `+` or `-` that stands alone begins a part; before
 * a word or a phrase in quotes it takes that alone. A number and a colon is a weight. While it is being typed a text may
 * end with a sign.
 *
 * @param {string} text
 * @returns {TextPart[]}
 */
export function parseText(text) {
  let lasting = { sign: 1, words: /** @type {string[]} */ ([]) };
  const groups = [lasting];
  for (const { groups: token } of text.matchAll(TOKEN)) {
    const sign = token?.sign ?? token?.glued;
    const group = { sign: sign === "-" ? -1 : 1, words: token?.body ? [token.body] : [] };
    if (sign) groups.push(group);
    if (token?.sign) lasting = group;
    if (token?.words) lasting.words.push(token.words);
  }
  return groups.map(({ sign, words }) => readPart(sign, words.join(" "))).filter((part) => part.text !== "");
}

/** @param {number} sign @param {string} text @returns {TextPart} */
function readPart(sign, text) {
  const weight = WEIGHT.exec(text);
  const body = weight ? text.slice(weight[0].length).trim() : text;
  const words = new RegExp(`^${QUOTED}$`).test(body) ? body.replace(/^["“„]|["“”]$/g, "").trim() : body;
  return { kind: "text", text: words, weight: sign * (weight ? Number(weight[1]) || 1 : 1) };
}

/**
 * A part as it would be typed.
 *
 * @param {TextPart} part
 */
export function formatText({ text, weight }) {
  const size = Math.abs(weight) === 1 ? "" : `${Math.abs(weight)}:`;
  const isOne = parseText(text).length === 1 && parseText(text)[0].text === text;
  return `${weight < 0 ? "- " : ""}${size}${isOne ? text : `"${text}"`}`;
}

/** @param {Query} query */
export const allParts = (query) => [...query.parts, ...parseText(query.text)];

/** @param {Query} query */
export const isEmpty = (query) => allParts(query).length === 0;

/** @param {Query} query */
export const isFiltered = (query) => FILTER_NAMES.some((name) => query.filters[name] !== "");

/**
 * What the server is asked for.
 *
 * @param {Query} query
 * @returns {import("../api.js").SearchParams}
 */
export function toParams(query) {
  const parts = allParts(query);
  const words = parts.some((part) => part.kind === "text" && part.weight > 0);
  return {
    parts: parts.length ? JSON.stringify(parts.map(toRequest)) : null,
    where: makeWhere(query.filters),
    match: parts.length && words && query.match !== "both" ? query.match : null,
    min_similarity: parts.length ? query.min : null,
    rerank: words && query.again && !query.newest ? READ_AGAIN : null,
    sort: parts.length && query.newest ? "date" : null,
    model: query.model,
  };
}

/** @param {Part} part */
function toRequest(part) {
  if (part.kind === "text") return { text: part.text, weight: part.weight };
  if (part.kind === "upload") return { upload: part.key, weight: part.weight };
  return { id: part.id, weight: part.weight, ...(part.mark && { mark: true }) };
}

/**
 * The query as an address's search: `?q=beach&p=-1:people&size=large`, "" where it is empty. A library that isn't the
 * server's first is named, too: pictures of another have other numbers.
 *
 * @param {Query} query
 */
export function toAddress(query) {
  const params = new URLSearchParams();
  if (query.text.trim()) params.set("q", query.text.trim());
  for (const part of query.parts) params.append("p", formatPart(part));
  for (const name of FILTER_NAMES) if (query.filters[name]) params.set(name, query.filters[name]);
  if (query.match !== "both") params.set("match", query.match);
  if (query.min) params.set("min", query.min);
  if (query.newest) params.set("sort", "date");
  if (query.again) params.set("again", "1");
  if (query.model) params.set("model", query.model);
  const library = chosenLibrary();
  if (library !== null) params.set("library", library);
  const text = params.toString();
  return text && `?${text}`;
}

/** @param {Part} part a weight, then `:` and words, `@` (marked: `!`) and a picture's number, or `^` and an upload's key */
function formatPart(part) {
  if (part.kind === "text") return `${part.weight}:${part.text}`;
  return part.kind === "image"
    ? `${part.weight}${part.mark ? "!" : "@"}${part.id}`
    : `${part.weight}^${part.key}`;
}

/** @param {string} text @returns {Part | null} */
function parsePart(text) {
  const found = /^([+-]?\d*\.?\d+)([:@!^])(.+)$/s.exec(text);
  const weight = Number(found?.[1]);
  if (!found || !weight) return null;
  if (found[2] === ":") return { kind: "text", text: found[3], weight };
  if (found[2] === "^") return { kind: "upload", key: found[3], weight };
  const id = Number(found[3]);
  if (!Number.isSafeInteger(id)) return null;
  return { kind: "image", id, weight, ...(found[2] === "!" && { mark: true }) };
}

/**
 * An address's search -> the query; what makes no sense there is left out.
 *
 * @param {string} search
 * @returns {Query}
 */
export function fromAddress(search) {
  const params = new URLSearchParams(search);
  const filters = noFilters();
  for (const name of FILTER_NAMES) filters[name] = params.get(name) ?? "";
  const match = params.get("match") ?? "";
  return {
    text: params.get("q") ?? "",
    parts: params
      .getAll("p")
      .map(parsePart)
      .filter((part) => part !== null),
    filters,
    match: ["captions", "pictures"].includes(match) ? match : "both",
    min: Number.isFinite(Number.parseFloat(params.get("min") ?? "")) ? String(params.get("min")) : "",
    newest: params.get("sort") === "date",
    again: params.get("again") === "1",
    model: params.get("model") ?? "",
  };
}

/**
 * The query in words, for titles and screen readers.
 *
 * @param {Query} query
 */
export function describe(query) {
  const words = allParts(query).map((part) => {
    if (part.kind === "image" && part.mark) return part.weight < 0 ? "a picture is wrong" : "a picture is right";
    const label = part.kind === "text" ? part.text : "a picture";
    return part.weight < 0 ? `without ${label}` : label;
  });
  return words.join(", ");
}
