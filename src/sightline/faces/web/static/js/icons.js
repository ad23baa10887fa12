/** Icons: drawn for Sightline on a grid of 24, as paths that take the text's colour. */

const PATHS = {
  search: "M11 4a7 7 0 1 1 0 14a7 7 0 0 1 0-14M16.2 16.2 20.5 20.5",
  image:
    "M5.5 4.5h13a2 2 0 0 1 2 2v11a2 2 0 0 1-2 2h-13a2 2 0 0 1-2-2v-11a2 2 0 0 1 2-2M3.8 16.2 8.5 11.5l4.2 4.2 2.8-2.7 4.9 4.6M15.4 8.9h.01",
  library: "M4 7.5h16v10a2 2 0 0 1-2 2H6a2 2 0 0 1-2-2zM6.5 4.5h11M4 7.5l2.5-3M20 7.5l-2.5-3M9.5 12h5",
  caption:
    "M5.5 4.5h13a2 2 0 0 1 2 2v8.5a2 2 0 0 1-2 2h-6l-4.5 3.5V17H5.5a2 2 0 0 1-2-2V6.5a2 2 0 0 1 2-2M8 9h8M8 12.5h5",
  compare:
    "M5 4.5h4a1 1 0 0 1 1 1v13a1 1 0 0 1-1 1H5a1 1 0 0 1-1-1v-13a1 1 0 0 1 1-1M15 4.5h4a1 1 0 0 1 1 1v13a1 1 0 0 1-1 1h-4a1 1 0 0 1-1-1v-13a1 1 0 0 1 1-1",
  train: "M4 4.5v13a2 2 0 0 0 2 2h14M7.5 8c1.6 5.5 5 7 12 7.4",
  close: "M6.5 6.5l11 11M17.5 6.5l-11 11",
  down: "M7 10l5 5 5-5",
  left: "M14.5 5.5 8 12l6.5 6.5",
  right: "M9.5 5.5 16 12l-6.5 6.5",
  plus: "M12 5.5v13M5.5 12h13",
  minus: "M5.5 12h13",
  check: "M5 12.5 10 17.5 19 7",
  star: "M12 4.2l2.4 5 5.4.7-4 3.8 1 5.4-4.8-2.7-4.8 2.7 1-5.4-4-3.8 5.4-.7z",
  sun: "M12 8.2a3.8 3.8 0 1 1 0 7.6a3.8 3.8 0 0 1 0-7.6M12 2.8v1.8M12 19.4v1.8M2.8 12h1.8M19.4 12h1.8M5.5 5.5l1.3 1.3M17.2 17.2l1.3 1.3M5.5 18.5l1.3-1.3M17.2 6.8l1.3-1.3",
  moon: "M19.8 14.3A8 8 0 0 1 9.7 4.2a8 8 0 1 0 10.1 10.1",
  device:
    "M5 5.5h14a1.5 1.5 0 0 1 1.5 1.5v8a1.5 1.5 0 0 1-1.5 1.5H5A1.5 1.5 0 0 1 3.5 15V7A1.5 1.5 0 0 1 5 5.5M9 20h6M12 16.5V20",
  sliders:
    "M4 7.5h9M17 7.5h3M4 16.5h3M11 16.5h9M15 5.4a2.1 2.1 0 1 1 0 4.2a2.1 2.1 0 0 1 0-4.2M9 14.4a2.1 2.1 0 1 1 0 4.2a2.1 2.1 0 0 1 0-4.2",
  percent: "M18 6 6 18M8 6.2a1.9 1.9 0 1 1 0 3.8a1.9 1.9 0 0 1 0-3.8M16 14a1.9 1.9 0 1 1 0 3.8a1.9 1.9 0 0 1 0-3.8",
  rows: "M4.5 5h6v6h-6zM13.5 5h6v6h-6zM4.5 14h6v5h-6zM13.5 14h6v5h-6z",
  like: "M4.5 4.5h10v10h-10zM18 9.5h1.5v10h-10V18",
  copy: "M9 8.5h9a1.5 1.5 0 0 1 1.5 1.5v9a1.5 1.5 0 0 1-1.5 1.5H9A1.5 1.5 0 0 1 7.5 19v-9A1.5 1.5 0 0 1 9 8.5M4.5 15.5V5A1.5 1.5 0 0 1 6 3.5h9.5",
  pencil: "M4.5 19.5l.8-4L15.8 5a1.8 1.8 0 0 1 2.6 0l.6.6a1.8 1.8 0 0 1 0 2.6L8.5 18.7zM13.8 7l3.2 3.2",
  text: "M4.5 8V4.5H8M16 4.5h3.5V8M19.5 16v3.5H16M8 19.5H4.5V16M8.5 9h7M12 9v7",
  eye: "M2.8 12S6 5.8 12 5.8 21.2 12 21.2 12 18 18.2 12 18.2 2.8 12 2.8 12M12 9.3a2.7 2.7 0 1 1 0 5.4a2.7 2.7 0 0 1 0-5.4",
  info: "M12 3.8a8.2 8.2 0 1 1 0 16.4a8.2 8.2 0 0 1 0-16.4M12 11.2v5M12 7.9h.01",
  zoomIn: "M11 4a7 7 0 1 1 0 14a7 7 0 0 1 0-14M16.2 16.2 20.5 20.5M11 8.2v5.6M8.2 11h5.6",
  zoomOut: "M11 4a7 7 0 1 1 0 14a7 7 0 0 1 0-14M16.2 16.2 20.5 20.5M8.2 11h5.6",
  fit: "M4.5 9V5.5a1 1 0 0 1 1-1H9M15 4.5h3.5a1 1 0 0 1 1 1V9M19.5 15v3.5a1 1 0 0 1-1 1H15M9 19.5H5.5a1 1 0 0 1-1-1V15",
  download: "M12 4v11M7.5 10.8 12 15.2l4.5-4.4M5 19.5h14",
  folder: "M3.5 7a2 2 0 0 1 2-2h4l2 2.5h7a2 2 0 0 1 2 2v7.5a2 2 0 0 1-2 2h-13a2 2 0 0 1-2-2z",
  pause: "M8.5 5.5v13M15.5 5.5v13",
  play: "M8 5.2v13.6l11-6.8z",
  refresh: "M19.5 12a7.5 7.5 0 1 1-2.3-5.4M19.5 4v4h-4",
  trash: "M5 7h14M9.5 7V4.8h5V7M7 7l.8 12.2h8.4L17 7",
  warning: "M12 4.5 21 19.5H3zM12 10v4.5M12 17h.01",
  keyboard:
    "M4.5 6.5h15a1.5 1.5 0 0 1 1.5 1.5v8a1.5 1.5 0 0 1-1.5 1.5h-15A1.5 1.5 0 0 1 3 16V8a1.5 1.5 0 0 1 1.5-1.5M7 10h.01M10.3 10h.01M13.7 10h.01M17 10h.01M8 14h8",
  calendar:
    "M5.5 6h13A1.5 1.5 0 0 1 20 7.5v11a1.5 1.5 0 0 1-1.5 1.5h-13A1.5 1.5 0 0 1 4 18.5v-11A1.5 1.5 0 0 1 5.5 6M4 10.2h16M8.3 3.8V7M15.7 3.8V7",
  offline:
    "M3.5 9.2a13 13 0 0 1 5-2.8M20.5 9.2A13 13 0 0 0 13 6M7 13a8 8 0 0 1 3-1.7M17 13a8 8 0 0 0-2-1.3M12 18h.01M4 4l16 16",
};

/** @typedef {keyof typeof PATHS} IconName */

const SVG = "http://www.w3.org/2000/svg";

/**
 * An icon, hidden from screen readers: what it stands in carries the name.
 *
 * @param {IconName} name
 * @returns {SVGSVGElement}
 */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", "icon");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", PATHS[name]);
  svg.append(path);
  return svg;
}

/**
 * Draw the icons that the page's HTML asks for with `data-icon`.
 *
 * @param {ParentNode} [root]
 */
export function drawIcons(root = document) {
  for (const place of root.querySelectorAll("[data-icon]")) {
    place.prepend(icon(/** @type {IconName} */ (place.getAttribute("data-icon"))));
    place.removeAttribute("data-icon");
  }
}
