/** What a browser remembers for this page; where storage is off, it forgets. */

/** @param {string} name */
export function recall(name) {
  try {
    return localStorage.getItem(`sightline-${name}`);
  } catch {
    return null;
  }
}

/** @param {string} name @param {string} value */
export function remember(name, value) {
  try {
    localStorage.setItem(`sightline-${name}`, value);
  } catch {
    // Off or full: the choice lasts as long as the page.
  }
}

/** Small previews of pictures that were dropped, by their key, for as long as the tab lives. */
const previews = new Map();

/** @param {string} key @param {string} address */
export function rememberPreview(key, address) {
  previews.set(key, address);
  try {
    sessionStorage.setItem(`sightline-upload-${key}`, address);
  } catch {
    // As above.
  }
}

/** @param {string} key @returns {string | null} */
export function recallPreview(key) {
  if (previews.has(key)) return previews.get(key);
  try {
    return sessionStorage.getItem(`sightline-upload-${key}`);
  } catch {
    return null;
  }
}
