/** Pictures that are dropped on the page or pasted into it. */

import { h } from "./dom.js";
import { icon } from "./icons.js";
import { toast } from "./toast.js";

/** @typedef {{text: string, take: (file: File) => void}} Target */

/** What happens to a picture on the page that is shown. @type {Target | null} */
let target = null;

/** @param {Target | null} next */
export function setDropTarget(next) {
  target = next;
}

/** @param {DataTransfer | null} data */
const holdsFile = (data) => data !== null && [...data.types].includes("Files");

/** @param {DataTransfer | null} data */
function take(data) {
  const file = [...(data?.files ?? [])].find(
    (one) => one.type.startsWith("image/") || /\.(heic|heif|avif|tiff?)$/i.test(one.name),
  );
  if (file) target?.take(file);
  else toast("That is no picture. Drop a file such as a JPEG, PNG, WebP or HEIC.");
}

/** Begin to listen. */
export function listenForPictures() {
  const veil = h("div", { class: "drop-target", hidden: true, "aria-hidden": "true" });
  document.body.append(veil);
  let depth = 0; // of dragenter events: each element that is crossed fires one
  const hide = () => {
    depth = 0;
    veil.hidden = true;
  };
  addEventListener("dragenter", (event) => {
    if (!holdsFile(event.dataTransfer) || !target) return;
    depth += 1;
    veil.replaceChildren(h("div", {}, icon("image"), target.text));
    veil.hidden = false;
  });
  addEventListener("dragleave", () => {
    depth -= 1;
    if (depth <= 0) hide();
  });
  addEventListener("dragover", (event) => {
    if (holdsFile(event.dataTransfer)) event.preventDefault();
  });
  addEventListener("drop", (event) => {
    hide();
    if (!holdsFile(event.dataTransfer)) return;
    event.preventDefault();
    take(event.dataTransfer);
  });
  addEventListener("paste", (event) => {
    if (!event.clipboardData?.files.length) return;
    event.preventDefault();
    take(event.clipboardData);
  });
}
