/** A line chart: one quantity over steps, with the value under the pointer. Drawn as SVG, sized by its place. */

import { h } from "../dom.js";

/**
 * @typedef {{name: string, points: [x: number, y: number][], look: "main" | "second" | "quiet", colour?: string}} Series
 */

const SVG = "http://www.w3.org/2000/svg";
const HEIGHT = 210;
const MARGIN = { left: 52, right: 12, top: 10, bottom: 26 };

/** @param {string} tag @param {Record<string, string | number>} props @param {...(Node | string)} children */
function draw(tag, props, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(props)) element.setAttribute(name, String(value));
  element.append(...children);
  return element;
}

/** @param {number} value */
export function formatValue(value) {
  const size = Math.abs(value);
  if (size !== 0 && (size < 0.001 || size >= 1e6)) return value.toExponential(1);
  return String(Number(value.toPrecision(size >= 1000 ? 5 : 3)));
}

/** Round places on an axis. @param {number} low @param {number} high @param {number} count */
function ticks(low, high, count) {
  const rough = (high - low) / count || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((one) => one * power).find((one) => one >= rough) ?? rough;
  const places = [];
  for (let at = Math.ceil(low / step) * step; at <= high + step * 1e-6; at += step)
    places.push(Number(at.toPrecision(12)));
  return places;
}

/** @param {string} title @param {Series[]} series @param {number} width */
export function makeChart(title, series, width) {
  const points = series.flatMap((one) => one.points);
  const [lowX, highX] = [Math.min(...points.map(([x]) => x)), Math.max(...points.map(([x]) => x))];
  let [lowY, highY] = [Math.min(...points.map(([, y]) => y)), Math.max(...points.map(([, y]) => y))];
  if (lowY === highY) [lowY, highY] = [lowY - Math.abs(lowY || 1) * 0.1, highY + Math.abs(highY || 1) * 0.1];
  const toX = (/** @type {number} */ x) =>
    MARGIN.left + ((x - lowX) / (highX - lowX || 1)) * (width - MARGIN.left - MARGIN.right);
  const toY = (/** @type {number} */ y) =>
    HEIGHT - MARGIN.bottom - ((y - lowY) / (highY - lowY)) * (HEIGHT - MARGIN.top - MARGIN.bottom);
  const svg = draw("svg", {
    viewBox: `0 0 ${width} ${HEIGHT}`,
    width,
    height: HEIGHT,
    role: "img",
    "aria-label": describe(title, series),
    class: "chart",
  });
  for (const y of ticks(lowY, highY, 4)) {
    svg.append(
      draw("line", { class: "chart-grid", x1: MARGIN.left, x2: width - MARGIN.right, y1: toY(y), y2: toY(y) }),
      draw("text", { class: "chart-label", x: MARGIN.left - 8, y: toY(y) + 4, "text-anchor": "end" }, formatValue(y)),
    );
  }
  for (const x of ticks(lowX, highX, Math.max(2, Math.floor(width / 110))).filter(Number.isInteger)) {
    svg.append(draw("text", { class: "chart-label", x: toX(x), y: HEIGHT - 6, "text-anchor": "middle" }, String(x)));
  }
  for (const one of series) {
    const path = one.points.map(([x, y], at) => `${at ? "L" : "M"}${toX(x).toFixed(1)} ${toY(y).toFixed(1)}`).join("");
    const line = draw("path", { class: `chart-line ${one.look}`, d: path });
    if (one.colour) line.style.stroke = one.colour;
    svg.append(line);
    if (one.points.length < 30 && one.look !== "quiet")
      one.points.forEach(([x, y]) => {
        const dot = draw("circle", { class: `chart-dot ${one.look}`, cx: toX(x), cy: toY(y), r: 2.5 });
        if (one.colour) dot.style.fill = one.colour;
        svg.append(dot);
      });
  }
  const readout = h("p", { class: "chart-readout soft small numbers" }, latest(series));
  const cursor = draw("line", { class: "chart-cursor", y1: MARGIN.top, y2: HEIGHT - MARGIN.bottom, x1: -10, x2: -10 });
  svg.append(cursor);
  svg.addEventListener("pointermove", (event) => {
    const place = svg.getBoundingClientRect();
    const x =
      lowX +
      (((event.clientX - place.left) * (width / place.width) - MARGIN.left) / (width - MARGIN.left - MARGIN.right)) *
        (highX - lowX);
    const nearest = series.map((one) =>
      one.points.reduce((best, point) => (Math.abs(point[0] - x) < Math.abs(best[0] - x) ? point : best)),
    );
    const at = toX(nearest[0][0]);
    cursor.setAttribute("x1", String(at));
    cursor.setAttribute("x2", String(at));
    readout.textContent = `step ${nearest[0][0]}: ${series.map((one, index) => `${one.name} ${formatValue(nearest[index][1])}`).join(" · ")}`;
  });
  svg.addEventListener("pointerleave", () => {
    cursor.setAttribute("x1", "-10");
    cursor.setAttribute("x2", "-10");
    readout.textContent = latest(series);
  });
  return h(
    "figure",
    { class: "chart-figure" },
    h(
      "figcaption",
      {},
      h("strong", {}, title),
      h(
        "ul",
        { class: "chart-legend" },
        series.length > 1 && series.map(makeLegend),
      ),
    ),
    svg,
    readout,
  );
}

/** @param {Series} one */
function makeLegend(one) {
  const entry = h("li", { class: one.look }, one.name);
  if (one.colour) entry.style.setProperty("--series", one.colour);
  return entry;
}

/** @param {Series[]} series */
const latest = (series) =>
  series.map((one) => `${one.name} ${formatValue(one.points[one.points.length - 1][1])}`).join(" · ");

/** @param {string} title @param {Series[]} series */
function describe(title, series) {
  const parts = series.map(
    (one) =>
      `${one.name} from ${formatValue(one.points[0][1])} to ${formatValue(one.points[one.points.length - 1][1])}`,
  );
  const steps = series[0].points[series[0].points.length - 1][0];
  return `${title} over ${steps} steps: ${parts.join(", ")}`;
}
