/** Addresses and what is shown for them: links of the app change the address without loading the page again. */

/** @typedef {(address: URL) => void} Listener */

/** @type {Listener[]} */
const listeners = [];

history.scrollRestoration = "manual";

/** Call this whenever the address has changed. @param {Listener} listener */
export function onNavigate(listener) {
  listeners.push(listener);
}

const tell = () => listeners.forEach((listener) => listener(new URL(location.href)));

/**
 * Go to an address of the app.
 *
 * @param {string} path
 * @param {{replace?: boolean}} [options] replace: without a step that "back" would return to
 */
export function navigate(path, { replace = false } = {}) {
  note(path, { replace });
  tell();
}

/**
 * Change the address only: what is shown is there already.
 *
 * @param {string} path
 * @param {{replace?: boolean}} [options]
 */
export function note(path, { replace = false } = {}) {
  if (path === location.pathname + location.search) return;
  if (replace) history.replaceState(history.state, "", path);
  else history.pushState({ inside: true }, "", path);
}

/** Whether "back" stays inside the app. */
export const canGoBack = () => history.state?.inside === true;

/**
 * Where another site's page led here: take what its address asks for away, and give the words. They may be shown, but
 * nothing is asked of the server until the user says so: a link must not search, and even less choose a model.
 */
export function takeForeignWords() {
  const meta = document.querySelector('meta[name="sightline-opened-by"]');
  if (meta?.getAttribute("content") !== "another-site" || !location.search) return "";
  const words = new URLSearchParams(location.search).get("q") ?? "";
  history.replaceState(history.state, "", location.pathname);
  return words.trim();
}

/** @param {string} path */
const isPage = (path) => /^\/(library|caption|compare|train|image\/\d+)?$/.test(path);

/** Begin: show what the address says, follow links and the browser's buttons. */
export function startRouter() {
  addEventListener("popstate", tell);
  document.addEventListener("click", (event) => {
    const link = /** @type {Element} */ (event.target).closest?.("a");
    const isPlain = event.button === 0 && !event.ctrlKey && !event.metaKey && !event.shiftKey && !event.altKey;
    if (!link || !isPlain || event.defaultPrevented || link.target || link.download) return;
    const address = new URL(link.href, location.href);
    if (address.origin !== location.origin || !isPage(address.pathname)) return;
    event.preventDefault();
    navigate(address.pathname + address.search);
  });
  tell();
}
