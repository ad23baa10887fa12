/** The app: pages by address, what all of them share, and the first request. */

import { api, chooseLibrary, chosenLibrary } from "./api.js";
import { fill, find, h } from "./dom.js";
import { setDropTarget, listenForPictures } from "./drop.js";
import { followEvents, knownJobs, noteJob, onConnection, onJob, onLibrary } from "./events.js";
import { formatPercent } from "./format.js";
import { drawIcons, icon } from "./icons.js";
import { isRunning, nameJob } from "./library/job.js";
import { listenForKeys, showKeys } from "./keyboard.js";
import { navigate, onNavigate, startRouter, takeForeignWords } from "./router.js";
import { SearchPage } from "./search/page.js";
import { recall } from "./storage.js";
import { addThemeButton } from "./theme.js";
import { announce, toastProblem } from "./toast.js";
import { Viewer } from "./viewer/viewer.js";

/** @typedef {import("./types.js").Stats} Stats */
/**
 * @typedef {object} Page
 * @property {(address: URL) => void} open
 * @property {() => void} leave
 * @property {(stats: Stats) => void} [refresh] the library has changed
 * @property {import("./drop.js").Target} [drop]
 */

/** @type {Stats | null} */
let stats = null;
/** Pages other than the search, made when they are first shown. @type {Map<string, Page>} */
const pages = new Map();
/** @type {Page | null} */
let shown = null;

/** @type {Record<string, {text: string, icon: import("./icons.js").IconName, load: () => Promise<(root: HTMLElement, app: App) => Page>}>} */
const OTHERS = {
  library: { text: "Library", icon: "library", load: async () => (await import("./library/page.js")).makePage },
  caption: { text: "Caption", icon: "caption", load: async () => (await import("./caption/page.js")).makePage },
  compare: { text: "Compare", icon: "compare", load: async () => (await import("./compare/page.js")).makePage },
  train: { text: "Train", icon: "train", load: async () => (await import("./train/page.js")).makePage },
};

/**
 * @typedef {object} App what pages may ask of the whole
 * @property {() => Stats | null} stats
 * @property {() => Promise<Stats>} reload the facts of the library
 */
const app = {
  stats: () => stats,
  reload: async () => {
    stats = await api.stats();
    drawNav();
    search.filters.show();
    return stats;
  },
};

const savedLibrary = recall("library");
if (savedLibrary) chooseLibrary(savedLibrary);
drawIcons();
addThemeButton(find("#theme"));
find("#keys").addEventListener("click", showKeys);
const search = new SearchPage(find("#page-search"), {
  stats: () => stats,
  onopen: (index) => navigate(search.addressOf(index)),
});
const viewer = new Viewer(search);

function drawNav() {
  const at = location.pathname.split("/")[1];
  const entries = [
    { path: "/", text: "Search", icon: /** @type {const} */ ("search"), isHere: at === "" || at === "image" },
    ...Object.entries(OTHERS)
      .filter(([name]) => stats?.pages.includes(name) ?? name === "library")
      .map(([name, page]) => ({ path: `/${name}`, text: page.text, icon: page.icon, isHere: at === name })),
  ];
  fill(
    find("#nav"),
    entries.map((entry) =>
      h(
        "a",
        { href: entry.path, "aria-current": entry.isHere ? "page" : null, title: entry.text },
        icon(entry.icon),
        h("span", {}, entry.text),
      ),
    ),
  );
}

/** @param {string} name @param {URL} address */
async function showOther(name, address) {
  search.leave();
  viewer.hide();
  const place = find("#page-other");
  place.hidden = false;
  if (!pages.has(name)) {
    const root = h("div", { class: `page-${name}` });
    const makePage = await OTHERS[name].load();
    if (!pages.has(name)) {
      pages.set(name, Object.assign(makePage(root, app), { root }));
    }
  }
  if (location.pathname !== address.pathname) return;
  const page = /** @type {Page & {root: HTMLElement}} */ (pages.get(name));
  if (shown !== page) {
    shown?.leave();
    place.replaceChildren(page.root);
    scrollTo({ top: 0, behavior: "instant" });
  }
  shown = page;
  document.title = `${OTHERS[name].text} – Sightline`;
  find("#page-title").hidden = true;
  setDropTarget(page.drop ?? null);
  page.open(address);
}

/** @param {URL} address */
function showSearch(address) {
  shown?.leave();
  shown = null;
  find("#page-other").hidden = true;
  find("#page-title").hidden = false;
  setDropTarget({ text: "Drop to search by this picture", take: (file) => void search.searchByPicture(file) });
  search.open(address);
  const id = Number(/^\/image\/(\d+)$/.exec(address.pathname)?.[1]);
  if (id) viewer.open(id);
  else viewer.hide();
}

onNavigate((address) => {
  const library = address.searchParams.get("library");
  if (library && library !== chosenLibrary()) {
    chooseLibrary(library);
    if (stats) void app.reload().catch(toastProblem);
  }
  const name = address.pathname.slice(1);
  drawNav();
  if (name in OTHERS) void showOther(name, address).catch(toastProblem);
  else showSearch(address);
});

let isConnected = true;

/** What is at work now, in the bar, wherever the reader is; or that nobody knows. */
function showWork() {
  const job = knownJobs().find(isRunning);
  const place = find("#work");
  if (!isConnected)
    return fill(place, h("span", { class: "work-pill lost" }, icon("offline"), h("span", {}, "Not connected")));
  if (!job) return place.replaceChildren();
  const { done, total } = job.progress;
  fill(
    place,
    h(
      "a",
      { class: "work-pill", href: "/library", title: nameJob(job) },
      h("span", { class: "spinner" }),
      h("span", { class: "work-name" }, nameJob(job)),
      total ? h("span", {}, formatPercent(done / total)) : null,
    ),
  );
}

const REFRESH_MS = 1500;
let refreshing = 0;

/** The library has changed: what is shown follows, however often it changes. */
function refreshSoon() {
  refreshing ||= window.setTimeout(() => {
    refreshing = 0;
    void refresh().catch(() => {});
  }, REFRESH_MS);
}

async function refresh() {
  search.refresh();
  const now = await app.reload();
  shown?.refresh?.(now);
}

/** A server that is there again may have gone on meanwhile. @param {boolean} isBack */
function showConnection(isBack) {
  isConnected = isBack;
  showWork();
  announce(isBack ? "Connected again" : "Sightline doesn't answer");
  if (!isBack) return;
  refreshSoon();
  void api.jobs().then(({ jobs }) => jobs.forEach(noteJob), toastProblem);
}

listenForPictures();
listenForKeys({
  focusSearch: () => search.box.focus(),
  escape: () => {
    if (document.activeElement !== search.box.input) return;
    if (search.box.input.value) search.change({ text: "" });
    else search.box.input.blur();
  },
});
drawNav();
search.hold(takeForeignWords());
startRouter();
void app.reload().catch(async (error) => {
  if (error?.status !== 404 || chosenLibrary() === null) return toastProblem(error);
  chooseLibrary(null); // a library that was open here once isn't served any more
  await app.reload().catch(toastProblem);
  search.refresh();
});
/** How many pictures each library had when the server last told of it. @type {Map<string, string>} */
const told = new Map();
onJob(showWork);
onConnection(showConnection);
onLibrary(({ library, images, captions }) => {
  const state = `${images} ${captions}`;
  if (told.has(library) && told.get(library) !== state) refreshSoon();
  told.set(library, state);
});
followEvents();
