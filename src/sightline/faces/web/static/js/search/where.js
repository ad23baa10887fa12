/** Filters that a person picks -> the library's filter language. */

/** @typedef {import("./query.js").Filters} Filters */

/** Longer side in pixels; a picture is `large` from the first, `small` below the second. */
const LARGE_PX = 2400;
const SMALL_PX = 1000;

/** @type {Record<string, string>} */
const SIZES = {
  large: `(width >= ${LARGE_PX} or height >= ${LARGE_PX})`,
  medium: `(width < ${LARGE_PX} and height < ${LARGE_PX} and (width >= ${SMALL_PX} or height >= ${SMALL_PX}))`,
  small: `(width < ${SMALL_PX} and height < ${SMALL_PX})`,
};

/** @type {Record<string, string>} width / height */
const SHAPES = {
  landscape: "aspect > 1.05",
  portrait: "aspect < 0.95",
  square: "aspect between 0.95 and 1.05",
  panorama: "aspect >= 2",
};

/** @type {Record<string, string>} */
const CAPTIONED = { yes: "captioned = 1", no: "captioned = 0" };

/** @param {string} text */
const quote = (text) => `'${text.replaceAll("'", "''")}'`;

/**
 * The filter as text; "" where none is set.
 *
 * @param {Filters} filters
 */
export function makeWhere(filters) {
  const conditions = [
    filters.after && dated(`>= ${quote(filters.after)}`),
    filters.before && dated(`<= ${quote(filters.before)}`),
    filters.folder && below(filters.folder.replace(/\/+$/, "")),
    SIZES[filters.size],
    SHAPES[filters.shape],
    filters.camera && `camera like ${quote(`%${filters.camera}%`)}`,
    CAPTIONED[filters.captions],
    filters.where.trim() && `(${filters.where.trim()})`,
  ];
  return conditions.filter(Boolean).join(" and ");
}

/** @param {string} comparison with the day of the photo, else of the file */
const dated = (comparison) => `(taken_at ${comparison} or (taken_at is null and modified_at ${comparison}))`;

/** @param {string} folder itself and all below: `0` is the character after `/`, and no name is a wildcard so */
const below = (folder) =>
  `(folder = ${quote(folder)} or (folder >= ${quote(`${folder}/`)} and folder < ${quote(`${folder}0`)}))`;
