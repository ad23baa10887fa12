/**
 * Places in a ranking. A person drags the scrollbar to picture 70,000; reading a thousand pages on the way would take
 * minutes. The page comes with the server (`web/cursors.py`), so it may do what other clients may not: look into a
 * cursor, which is `[query, version, offset]`, and set the offset.
 */

/**
 * A cursor of the same ranking for another place.
 *
 * @param {string} next as the server gave it
 * @param {number} offset
 */
export function cursorAt(next, offset) {
  const fields = JSON.parse(atob(next.replaceAll("-", "+").replaceAll("_", "/")));
  fields[fields.length - 1] = offset;
  return btoa(JSON.stringify(fields)).replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, "");
}
