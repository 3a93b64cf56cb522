// Elements from plain values. Text is always text: nothing here parses HTML.

const SVG = "http://www.w3.org/2000/svg";

function filled(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== ""));
  return node;
}

export const h = (tag, attributes = {}, ...children) => filled(document.createElement(tag), attributes, children);
export const s = (tag, attributes = {}, ...children) => filled(document.createElementNS(SVG, tag), attributes, children);

// A table. A column is {title, cell(row), number, head, wide}; `head` marks the one that names its row, `wide` prose,
// `drawn` a picture, `stack` several values one below the other. On a narrow screen rows become cards: the roles are said, because a table that is laid out as something else
// loses its own.
export function table(caption, columns, rows, { hideCaption = false, empty = "Nothing yet." } = {}) {
  if (!rows.length) return h("p", { class: "soft" }, empty);
  const kind = (column) => (column.number ? "number" : column.wide ? "wide-text" : column.drawn ? "drawn" : column.stack ? "stack" : undefined);
  const title = (column) => h("th", { scope: "col", role: "columnheader", class: kind(column) }, column.title);
  const cell = (column, row) => {
    const content = h("span", {}, column.cell(row));
    return column.head
      ? h("th", { scope: "row", role: "rowheader", "data-title": column.title }, content)
      : h("td", { role: "cell", class: kind(column), "data-title": column.title }, content);
  };
  const line = (row) => h("tr", { role: "row" }, columns.map((column) => cell(column, row)));
  return h("table", { role: "table" },
    h("caption", { class: hideCaption ? "unseen" : undefined }, caption),
    h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, columns.map(title))),
    h("tbody", { role: "rowgroup" }, rows.map(line)));
}

// A table that opens at a click; nothing where there are no rows.
export const folded = (id, title, rows, columns) =>
  rows.length ? h("details", { id }, h("summary", { id: `${id}-title` }, title), table(title, columns, rows, { hideCaption: true })) : null;

// Put new content into a place. What had the focus, or was open, is so again if it has an id.
export function replace(place, ...content) {
  const held = place.contains(document.activeElement) ? document.activeElement.id : "";
  const open = [...place.querySelectorAll("details[open][id]")].map((one) => one.id);
  place.replaceChildren(...content.flat(Infinity).filter(Boolean));
  for (const id of open) {
    const one = document.getElementById(id);
    if (one) one.open = true;
  }
  if (held) document.getElementById(held)?.focus({ preventScroll: true });
}

// A word with a sign before it, so that colour is never all that tells.
const SIGNS = { good: "✓", bad: "✕", warn: "!", busy: "…", none: "–" };
export const mark = (kind, text) =>
  h("span", { class: `mark ${kind}` }, h("span", { "aria-hidden": "true", class: "sign" }, SIGNS[kind]), text);
