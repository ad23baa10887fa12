/** Making elements: text stays text, and styles go through the CSSOM, as the page's security policy demands. */

/** @typedef {Node | string | number | null | undefined | false} Child */

const PROPERTIES = new Set(["value", "checked", "disabled", "hidden", "htmlFor", "indeterminate", "selected", "inert"]);

/**
 * An element. `on...` are listeners, `style` an object of CSS properties, `class` and the rest attributes;
 * null, undefined and false leave a property out.
 *
 * @template {keyof HTMLElementTagNameMap} K
 * @param {K} tag
 * @param {Record<string, any>} [props]
 * @param {...(Child | Child[])} children
 * @returns {HTMLElementTagNameMap[K]}
 */
export function h(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) setProperty(element, name, value);
  append(element, children);
  return element;
}

/**
 * @param {HTMLElement} element
 * @param {string} name
 * @param {any} value
 */
function setProperty(element, name, value) {
  if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
  else if (name === "style") for (const [key, style] of Object.entries(value)) element.style.setProperty(key, style);
  else if (PROPERTIES.has(name)) Reflect.set(element, name, value);
  else if (value === true) element.setAttribute(name, "");
  else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, String(value));
}

/**
 * @param {Element} element
 * @param {(Child | Child[])[]} children
 */
export function append(element, children) {
  for (const child of children.flat()) {
    if (child !== null && child !== undefined && child !== false)
      element.append(child instanceof Node ? child : String(child));
  }
}

/**
 * Put these children in place of what is there.
 *
 * @param {Element} element
 * @param {...(Child | Child[])} children
 */
export function fill(element, ...children) {
  element.replaceChildren();
  append(element, children);
}

/**
 * The one element that a selector finds; the page is broken where it isn't there.
 *
 * @template {HTMLElement} [T=HTMLElement]
 * @param {string} selector
 * @param {ParentNode} [root]
 * @returns {T}
 */
export function find(selector, root = document) {
  const element = root.querySelector(selector);
  if (!element) throw new Error(`The page has no ${selector}.`);
  return /** @type {T} */ (element);
}

/**
 * Fill a picture's place with its blurred copy of some pixels, until the picture has come.
 *
 * @param {HTMLElement} element
 * @param {string | null} placeholder a `data:` address
 */
export function showPlaceholder(element, placeholder) {
  element.style.backgroundImage = placeholder ? `url("${placeholder}")` : "";
}
