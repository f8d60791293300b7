// Elements from data, and the smallest change of what is shown. Data becomes text, never markup.

const SVG = "http://www.w3.org/2000/svg";

/** Make an element: attributes (`null` and `false` leave one out), then children: nodes, texts, lists of them. */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false && child !== ""));
  return element;
}

/** Make `element` hold `fresh` nodes and keep what is the same, with its focus, its scroll and what was typed. */
export function morph(element, fresh) {
  const kept = new Set([...fresh].map((node) => node.dataset?.key));
  // First, so that what stays need not move: an element that moves loses the focus.
  for (const child of [...element.children]) if (child.dataset.key && !kept.has(child.dataset.key)) child.remove();
  const keyed = new Map([...element.children].filter((child) => child.dataset.key).map((child) => [child.dataset.key, child]));
  let place = element.firstChild;
  for (const node of [...fresh]) {
    const key = node.dataset?.key;
    const same = key ? keyed.get(key) : place && !place.dataset?.key ? place : null;
    if (same && same.nodeName === node.nodeName && same.nodeType === node.nodeType) {
      if (same === place) place = place.nextSibling;
      else element.insertBefore(same, place);
      update(same, node);
    } else {
      element.insertBefore(node, place);
    }
  }
  while (place) {
    const next = place.nextSibling;
    place.remove();
    place = next;
  }
}

function update(old, node) {
  if (node.nodeType === Node.TEXT_NODE) {
    if (old.data !== node.data) old.data = node.data;
    return;
  }
  // Filled by others: the curves, answers that arrive, a report.
  if (old.hasAttribute("data-own")) return;
  for (const { name } of [...old.attributes]) {
    if (!node.hasAttribute(name) && !(name === "open" && old.nodeName === "DETAILS")) old.removeAttribute(name);
  }
  for (const { name, value } of node.attributes) {
    if (old.getAttribute(name) !== value && !(name === "open" && old.nodeName === "DETAILS")) old.setAttribute(name, value);
  }
  morph(old, node.childNodes);
}

/** Return the nodes of HTML or SVG that the server made, its values escaped; no script in it ever runs. */
export function parsed(markup, type = "text/html") {
  const tree = new DOMParser().parseFromString(markup, type);
  const nodes = type === "text/html" ? [...tree.body.childNodes] : [tree.documentElement];
  return nodes.filter((node) => node.nodeName !== "SCRIPT").map((node) => document.importNode(node, true));
}

export function svg(tag, attributes) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

/** A table that stays one for screen readers where it is laid out as a list. Cells: a node, a text or a list. */
export function table(caption, columns, rows, options = {}) {
  const head = columns.map((column) => h("th", { role: "columnheader", scope: "col", class: [column.number ? "number" : "", column.is === "less" ? "less" : ""].join(" ").trim() || null, "aria-sort": column.sorted || null },
    column.sort ? h("button", { class: "plain", "data-do": "sort", "data-by": column.sort }, column.label, h("span", { "aria-hidden": "true", class: "arrow" }, { ascending: "↑", descending: "↓" }[column.sorted] || "")) : column.label));
  const body = rows.map((row) => h("tr", { role: "row", "data-key": row.key, class: row.class || null },
    row.cells.map((cell, i) => i === 0
      ? h("th", { role: "rowheader", scope: "row" }, cell)
      : h("td", { role: "cell", "data-label": columns[i].label, class: [columns[i].number ? "number" : "", empty(cell) ? "empty" : "", columns[i].wide ? "wide" : "", columns[i].is ?? ""].join(" ").trim() || null }, empty(cell) ? "" : cell))));
  return h("table", { role: "table", class: options.class || null },
    h("caption", { class: options.titled ? null : "unseen" }, caption),
    h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, head)),
    h("tbody", { role: "rowgroup" }, body));
}

const empty = (cell) => cell === null || cell === undefined || cell === "" || (Array.isArray(cell) && cell.length === 0);

const GOOD = ["finished", "succeeded", "passed", "live", "better", "not worse", "PASSED"];
const BAD = ["failed", "error", "worse", "FAILED", "BLOCKED"];
const BUSY = ["running", "validating_files"];

export function badge(words, kind) {
  const found = kind ?? (GOOD.includes(words) ? "good" : BAD.includes(words) ? "bad" : BUSY.includes(words) ? "busy" : words === "warn" || words === "warning" ? "warn" : "");
  return h("span", { class: `badge ${found}`.trim() }, String(words).replaceAll("_", " "));
}

export function progress(step, total, label) {
  if (!total) return step ? h("span", { class: "number" }, `step ${count(step)}`) : null;
  return h("span", { class: "progress" },
    h("progress", { max: total, value: Math.min(step, total), "aria-label": label }),
    h("span", { class: "number" }, `${count(step)} / ${count(total)}`));
}

export const count = (number) => (number === null || number === undefined ? "" : number.toLocaleString("en"));

export function figure(number, digits = 4) {
  if (number === null || number === undefined) return "";
  if (number !== 0 && (Math.abs(number) < 1e-3 || Math.abs(number) >= 1e9)) return number.toExponential(2);
  return number.toLocaleString("en", { maximumSignificantDigits: digits });
}

export function bytes(number) {
  const units = ["B", "kB", "MB", "GB"];
  const power = Math.min(units.length - 1, Math.floor(Math.log10(Math.max(number, 1)) / 3));
  return `${figure(number / 1000 ** power, 3)} ${units[power]}`;
}

/** Seconds since the epoch as "5 min ago", with the moment itself on top of it. */
export function ago(seconds) {
  if (!seconds) return "";
  const passed = Math.max(0, Date.now() / 1000 - seconds);
  const steps = [[60, 1, "s"], [3600, 60, "min"], [86400, 3600, "h"], [Infinity, 86400, "d"]];
  const [, unit, name] = steps.find(([limit]) => passed < limit);
  const moment = new Date(seconds * 1000);
  const words = passed < 5 ? "now" : `${Math.floor(passed / unit)} ${name} ago`;
  return h("time", { datetime: moment.toISOString(), title: moment.toLocaleString() }, words);
}

/** Show pieces (differs, text) of an answer with the words marked that the other answer lacks. */
export const marked = (pieces) => pieces.map(([differs, text]) => (differs ? h("mark", {}, text) : text));

/** Ask in a dialog; resolves to the values of its fields by name, `null` where it was closed. */
export function ask(title, button, ...content) {
  const dialog = document.getElementById("dialog");
  const form = h("form", {},
    h("h2", { id: "dialog-title" }, title),
    content,
    h("p", { class: "buttons" },
      h("button", { type: "button", value: "close" }, "Close"),
      h("button", { type: "submit", class: "main" }, button)));
  dialog.replaceChildren(form);
  return new Promise((resolve) => {
    let values = null;
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      values = Object.fromEntries(new FormData(form));
      dialog.close();
    });
    form.querySelector("[value=close]").addEventListener("click", () => dialog.close());
    dialog.addEventListener("close", () => resolve(values), { once: true });
    dialog.showModal();
    (form.querySelector("select, input, textarea") || form.querySelector(".main")).focus();
  });
}

let quiet;
/** Say a sentence to everybody, a failure until the next one. */
export function say(sentence, failed = false) {
  const place = document.getElementById("said");
  clearTimeout(quiet);
  place.className = failed ? "bad" : "good";
  place.textContent = sentence;
  if (!failed) quiet = setTimeout(() => { place.textContent = ""; }, 8000);
}
