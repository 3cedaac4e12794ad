// Makes and changes elements. What comes from jobs goes through textContent and attributes alone, never through markup.

/**
 * An element. `props`: `class`, `on` (events), `text`, any other is an attribute; null and false leave it out.
 * Children are elements or texts.
 */
export function h(tag, props = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "on") {
      for (const [event, handler] of Object.entries(value)) node.addEventListener(event, handler);
    } else if (name === "text") {
      node.textContent = value;
    } else {
      node.setAttribute(name, value === true ? "" : value);
    }
  }
  node.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

const SVG = "http://www.w3.org/2000/svg";

/** An element of a drawing, with attributes; children are elements or texts. */
export function s(tag, props = {}, ...children) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(props)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

/** Changes a text only if it is another: what is selected stays selected. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** Sets an attribute, or takes it away. */
export function setAttr(node, name, value) {
  if (value === null || value === undefined || value === false) node.removeAttribute(name);
  else if (node.getAttribute(name) !== String(value)) node.setAttribute(name, value);
}

export function show(node, isShown) {
  if (node.hidden === isShown) node.hidden = !isShown;
}

const rowsOf = new WeakMap();

/**
 * Makes `parent`'s children be one for each item, in order, and keeps those that are there: `key(item)` tells which is
 * which, `make(item)` makes a new one, `update(node, item)` brings one up to date.
 */
export function list(parent, items, key, make, update) {
  const old = rowsOf.get(parent) ?? new Map();
  const rows = new Map();
  let at = parent.firstChild;
  for (const item of items) {
    const name = key(item);
    if (rows.has(name)) continue;
    let node = old.get(name);
    if (!node) node = make(item);
    old.delete(name);
    rows.set(name, node);
    update(node, item);
    if (node === at) at = at.nextSibling;
    else parent.insertBefore(node, at);
  }
  for (const node of old.values()) node.remove();
  rowsOf.set(parent, rows);
}

/** A state in a word, with a mark whose colour says the same. */
export function badge(kind, text) {
  return h("span", { class: `badge ${kind}` }, text);
}

export function setBadge(node, kind, text) {
  setAttr(node, "class", `badge ${kind}`);
  setText(node, text);
}

/** A link within the page; a name that no path can hold is only text. */
export function link(path, text, props = {}) {
  const last = path.split("?")[0].split("/").pop();
  if (/^\.{0,2}$/.test(last)) return h("span", props, text);
  return h("a", { href: path, ...props }, text);
}

const UNITS = ["B", "KB", "MB", "GB", "TB"];

/** So many bytes, for people. */
export function bytes(count) {
  let unit = 0;
  while (count >= 1000 && unit < UNITS.length - 1) {
    count /= 1000;
    unit += 1;
  }
  return `${unit === 0 || count >= 100 ? Math.round(count) : count.toFixed(1)} ${UNITS[unit]}`;
}

/** `1 machine`, `2 machines`. */
export function counted(count, word) {
  return `${count.toLocaleString("en")} ${word}${count === 1 ? "" : "s"}`;
}
