/* What a reader who can't see, or can't see well, would stumble over. Returns one line for each fault. */
() => {
  const faults = [];
  const say = (element, what) => faults.push(`${what}: ${element.outerHTML.slice(0, 140)}`);
  const isVisible = (element) =>
    element.checkVisibility({ opacityProperty: true, visibilityProperty: true }) &&
    !element.closest("[inert], [aria-hidden=true]");
  const all = [...document.querySelectorAll("body *")].filter(isVisible);

  const nameOf = (element) => {
    const labelledBy = (element.getAttribute("aria-labelledby") ?? "")
      .split(/\s+/)
      .map((id) => document.getElementById(id)?.textContent ?? "")
      .join(" ");
    const labels = [...(element.labels ?? [])].map((label) => label.textContent).join(" ");
    const inner = [...element.querySelectorAll("img[alt]")].map((image) => image.alt).join(" ") + element.textContent;
    return (
      element.getAttribute("aria-label") ||
      labelledBy ||
      labels ||
      inner ||
      element.title ||
      element.alt ||
      ""
    ).trim();
  };
  for (const element of all.filter((one) =>
    one.matches(
      "a[href], button, input:not([type=hidden]), select, textarea, [role=dialog], [role=progressbar], summary, nav, svg[role=img]",
    ),
  )) {
    if (!nameOf(element)) say(element, "has no name");
  }
  for (const image of all.filter((one) => one.matches("img"))) if (!image.hasAttribute("alt")) say(image, "has no alt");
  for (const element of all.filter((one) => one.matches("a[href], button"))) {
    if (element.querySelector("a[href], button, input, select, textarea"))
      say(element, "has a control inside a control");
  }

  const ids = [...document.querySelectorAll("[id]")].map((element) => element.id);
  for (const id of new Set(ids.filter((one, at) => ids.indexOf(one) !== at))) faults.push(`id twice: ${id}`);
  for (const element of document.querySelectorAll("[aria-labelledby], [aria-controls], label[for]")) {
    for (const id of (
      element.getAttribute("aria-labelledby") ??
      element.getAttribute("aria-controls") ??
      element.htmlFor
    ).split(/\s+/)) {
      if (!document.getElementById(id)) say(element, `names #${id}, which isn't there`);
    }
  }
  if (!document.querySelector("h1:not([hidden])")) faults.push("no h1");
  if (!document.documentElement.lang || !document.title) faults.push("no language or title");

  const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const read = (colour) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const over = ([r, g, b, a], below) =>
    [r, g, b].map((value, at) => (value * a + below[at] * (255 - a)) / 255).concat(255);
  const groundOf = (element) => {
    const layers = [];
    for (let at = element; at; at = at.parentElement) {
      const colour = read(getComputedStyle(at).backgroundColor);
      if (colour[3] > 0) layers.unshift(colour);
      if (colour[3] === 255) break;
    }
    return layers.reduce((below, layer) => over(layer, below), [255, 255, 255, 255]);
  };
  const light = (colour) => {
    const [r, g, b] = colour.map((value) =>
      value / 255 <= 0.04045 ? value / 255 / 12.92 : ((value / 255 + 0.055) / 1.055) ** 2.4,
    );
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  for (const element of all) {
    const hasText = [...element.childNodes].some((node) => node.nodeType === Node.TEXT_NODE && node.textContent.trim());
    if (!hasText || element.closest(".tile, :disabled, svg, option")) continue;
    const style = getComputedStyle(element);
    const ground = groundOf(element);
    const [a, b] = [light(over(read(style.color), ground)), light(ground)];
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    const isLarge =
      parseFloat(style.fontSize) >= 24 || (parseFloat(style.fontSize) >= 18.66 && Number(style.fontWeight) >= 700);
    if (contrast < (isLarge ? 3 : 4.5)) say(element, `contrast ${contrast.toFixed(2)}`);
  }
  return faults;
};
