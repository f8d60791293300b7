// Curves of a run: the server draws them for this width and these steps; here they are placed, and zoomed into.

import { h, parsed, svg } from "./dom.js";
import { ask, query } from "./server.js";

export const shown = { log: false, range: null, whole: null };
const drawn = new Map();
let dragging = false, turns = 0;

/** Forget what is drawn: another run is shown. */
export function reset() {
  shown.log = false;
  shown.range = null;
  shown.whole = null;
  dragging = false;
  drawn.clear();
}

/** Draw the curves of a run into `place`; false: not now. */
export async function draw(place, name, signal) {
  const width = Math.max(280, Math.min(2400, Math.round(widthOf(place) / 10) * 10));
  const [low, high] = shown.range ?? [null, null], turn = ++turns;
  const { charts } = await ask(`/v1/ui/charts?${query({ name, width, log: shown.log, low, high })}`, { signal });
  // What is under a pointer that drags stays, and an answer that a later one has overtaken counts no more.
  if (!place.isConnected || signal.aborted || dragging || turn !== turns) return false;
  const titles = charts.map((chart) => chart.title);
  for (const figure of [...place.querySelectorAll("figure")]) {
    if (!titles.includes(figure.dataset.title)) {
      drawn.delete(figure.dataset.title);
      figure.remove();
    }
  }
  for (const chart of charts) show(place, chart);
  place.hidden = charts.length === 0;
  return true;
}

/** Measure how wide a chart is, or would be. */
function widthOf(place) {
  place.hidden = false;
  const plot = place.querySelector(".plot");
  if (plot) return plot.clientWidth;
  const probe = emptyFigure("");
  place.append(probe);
  const width = probe.querySelector(".plot").clientWidth;
  probe.remove();
  return width;
}

const emptyFigure = (title) => h("figure", { "data-title": title }, h("figcaption", {}, title), h("div", { class: "plot" }), h("output", { "aria-live": "polite" }));

function show(place, { title, svg: markup }) {
  let figure = [...place.children].find((child) => child.dataset.title === title);
  if (!figure) {
    figure = emptyFigure(title);
    place.append(figure);
  }
  if (drawn.get(title) === markup && figure.querySelector("svg")) return;
  drawn.set(title, markup);
  const plot = figure.querySelector(".plot"), old = plot.querySelector("svg");
  const focused = old && old === document.activeElement;
  if (!markup) {
    plot.replaceChildren(h("p", { class: "dim" }, shown.log ? "Nothing above 0 was measured in these steps." : "Nothing was measured in these steps."));
    return;
  }
  const [fresh] = parsed(markup, "image/svg+xml");
  plot.replaceChildren(fresh);
  globalThis.watchChart(fresh);
  watchZoom(fresh);
  if (focused) fresh.focus({ preventScroll: true });
}

/** Let the pointer or the keys choose the steps of all curves. */
function watchZoom(chart) {
  const { x: [low, high], box: [left, top, right, bottom] } = JSON.parse(chart.dataset.chart);
  const at = (event) => {
    const box = chart.getBoundingClientRect();
    const px = (event.clientX - box.left) * (chart.viewBox.baseVal.width / box.width);
    return Math.max(left, Math.min(right, px));
  };
  const step = (px) => low + ((px - left) / (right - left)) * (high - low);
  if (shown.range === null) shown.whole = [Math.min(low, shown.whole?.[0] ?? low), Math.max(high, shown.whole?.[1] ?? high)];
  let from = null, area = null;
  const end = () => {
    from = null;
    dragging = false;
    area?.remove();
    area = null;
  };
  chart.addEventListener("pointerdown", (event) => {
    if (event.button !== 0 || event.pointerType === "touch") return;
    from = at(event);
    dragging = true;
    chart.setPointerCapture(event.pointerId);
  });
  chart.addEventListener("pointermove", (event) => {
    if (from === null) return;
    const to = at(event);
    area ??= chart.appendChild(svg("rect", { class: "area", y: top, height: bottom - top }));
    area.setAttribute("x", Math.min(from, to));
    area.setAttribute("width", Math.abs(to - from));
  });
  chart.addEventListener("pointerup", (event) => {
    const to = from === null ? null : at(event), start = from;
    end();
    if (to !== null && Math.abs(to - start) > 6) zoom([step(Math.min(start, to)), step(Math.max(start, to))]);
  });
  chart.addEventListener("pointercancel", end);
  chart.addEventListener("dblclick", () => zoom(null));
  chart.addEventListener("keydown", (event) => {
    const middle = Number(chart.dataset.at ?? (low + high) / 2), half = (high - low) / 2;
    if (event.key === "+" || event.key === "=") zoom([middle - half / 2, middle + half / 2]);
    else if (event.key === "-") zoom(shown.range && [middle - half * 2, middle + half * 2]);
    else if (event.key === "0") zoom(null);
    else return;
    event.preventDefault();
  });
}

/** Choose the steps that are drawn; `null`: all. */
export function zoom(range) {
  const [first, last] = shown.whole ?? [0, Infinity];
  const inside = range && [Math.max(first, Math.round(range[0])), Math.min(last, Math.round(range[1]))];
  const all = !inside || inside[1] <= inside[0] || (inside[0] <= first && inside[1] >= last);
  shown.range = all ? null : inside;
  document.dispatchEvent(new CustomEvent("curves"));
}
