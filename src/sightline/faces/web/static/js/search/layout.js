/**
 * Justified rows: pictures keep their shape, every row is as wide as the wall, and rows are about as high as wanted.
 *
 * Rows are broken for the whole section at once (least squares over all breaks, as Knuth and Plass break lines), so no
 * row is much higher than its neighbours and no section ends ragged.
 */

const NARROWEST = 0.45;
const WIDEST = 3.2;
/** A last row that would be this much higher than wanted stays at its height, with room beside it. */
const RAGGED_FROM = 1.3;

/**
 * @typedef {object} Box
 * @property {number} x
 * @property {number} y
 * @property {number} width
 * @property {number} height
 *
 * @typedef {object} Layout
 * @property {Box[]} boxes one for each picture, in order
 * @property {number[]} rowOf the row of each picture
 * @property {number} height of all rows with the gap below each
 */

/**
 * @param {ArrayLike<number>} aspects width / height
 * @param {{width: number, rowHeight: number, gap: number, isLast: boolean}} frame
 * @returns {Layout}
 */
export function justify(aspects, { width, rowHeight, gap, isLast }) {
  const shapes = Array.from(aspects, (aspect) => Math.min(WIDEST, Math.max(NARROWEST, aspect || 1)));
  const starts = breakRows(shapes, { width, rowHeight, gap, isLast });
  /** @type {Layout} */
  const layout = { boxes: [], rowOf: [], height: 0 };
  starts.forEach((start, row) => {
    const end = starts[row + 1] ?? shapes.length;
    const natural = fitHeight(shapes, start, end, width, gap);
    const ragged = isLast && end === shapes.length && natural > rowHeight * RAGGED_FROM;
    placeRow(layout, shapes.slice(start, end), {
      row,
      height: Math.round(ragged ? rowHeight : natural),
      width: ragged ? 0 : width,
      gap,
    });
  });
  return layout;
}

/**
 * Where each row starts.
 *
 * @param {number[]} shapes
 * @param {{width: number, rowHeight: number, gap: number, isLast: boolean}} frame
 */
function breakRows(shapes, { width, rowHeight, gap, isLast }) {
  const count = shapes.length;
  const cost = new Float64Array(count + 1).fill(Infinity);
  const from = new Int32Array(count + 1);
  cost[0] = 0;
  for (let start = 0; start < count; start += 1) {
    for (let end = start + 1; end <= count; end += 1) {
      const height = fitHeight(shapes, start, end, width, gap);
      const free = isLast && end === count && height > rowHeight;
      const price = cost[start] + (free ? 0 : Math.log(height / rowHeight) ** 2);
      if (price < cost[end]) {
        cost[end] = price;
        from[end] = start;
      }
      if (height < rowHeight / 3) break; // more pictures only make the row lower
    }
  }
  const starts = [];
  for (let at = count; at > 0; at = from[at]) starts.unshift(from[at]);
  return starts;
}

/** The height at which pictures `start` to `end` fill a row. @param {number[]} shapes @param {number} start @param {number} end @param {number} width @param {number} gap */
function fitHeight(shapes, start, end, width, gap) {
  let sum = 0;
  for (let at = start; at < end; at += 1) sum += shapes[at];
  return Math.max(1, width - gap * (end - start - 1)) / sum;
}

/**
 * @param {Layout} layout
 * @param {number[]} shapes
 * @param {{row: number, height: number, width: number, gap: number}} frame width 0 leaves the end ragged
 */
function placeRow(layout, shapes, { row, height, width, gap }) {
  let x = 0;
  shapes.forEach((shape, at) => {
    const fills = width > 0 && at === shapes.length - 1;
    const box = { x, y: layout.height, width: fills ? width - x : Math.round(shape * height), height };
    layout.boxes.push(box);
    layout.rowOf.push(row);
    x += box.width + gap;
  });
  layout.height += height + gap;
}
