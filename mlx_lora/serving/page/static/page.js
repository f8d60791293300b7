// The page: which view the address names, when it is looked at again, and what its buttons do.

import * as curves from "./curves.js";
import { h, morph, say } from "./dom.js";
import { adapter, adapters, night, promote, rollback } from "./adapter_views.js";
import { check, compare, compareAnswers, dataset, datasets, stop } from "./data_views.js";
import { changeJob, jobs, run, runs } from "./run_views.js";
import { Refused, pause, setToken, takeToken } from "./server.js";

const VIEWS = { runs, run, jobs, adapters, adapter, night, datasets, dataset, compare };
const main = document.getElementById("main");
let now = null;

/** Show the view that the address names. */
function go() {
  const [name, search = ""] = location.hash.replace(/^#\/?/, "").split("?");
  const view = VIEWS[name] ?? runs;
  const first = now === null;
  now?.leave.abort();
  now = { view, params: Object.fromEntries(new URLSearchParams(search)), leave: new AbortController(), wake: new AbortController(), data: null };
  const title = typeof view.title === "string" ? view.title : view.title(now.params);
  document.title = `${title} · mlx-lora`;
  for (const link of document.querySelectorAll("#nav a")) {
    const here = link.hash === `#/${view.parent ?? (VIEWS[name] ? name : "runs")}`;
    if (here) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  view.start?.(now.params);
  main.replaceChildren(h("h1", {}, title), h("p", { class: "dim" }, "Loading…"));
  if (!first) {
    main.focus({ preventScroll: true });
    scrollTo(0, 0);
  }
  keepLooking(now);
}

async function keepLooking(shown) {
  let wait = 1000;
  while (!shown.leave.signal.aborted) {
    shown.wake = new AbortController();
    let rest;
    try {
      shown.data = await shown.view.load(shown.params, shown.leave.signal);
      render(shown);
      wait = 1000;
      rest = typeof shown.view.every === "function" ? shown.view.every(shown.data) : shown.view.every;
    } catch (error) {
      if (shown.leave.signal.aborted) return;
      if (error instanceof Refused && error.status === 401) return askForToken(shown);
      if (error instanceof Refused) {
        main.replaceChildren(h("h1", {}, "This cannot be shown"), h("p", { class: "note bad" }, error.message));
        rest = 10000;
      } else {
        if (!(error instanceof TypeError)) console.error(error);
        rest = wait;
        wait = Math.min(wait * 2, 8000);
      }
    }
    await pause(rest, AbortSignal.any([shown.leave.signal, shown.wake.signal]));
    // Nobody looks at a page in the background.
    while (document.hidden && !shown.leave.signal.aborted) await pause(1000, shown.leave.signal);
  }
}

function render(shown) {
  if (shown !== now || shown.data === null) return;
  const focused = main.contains(document.activeElement);
  morph(main, holder(shown.view.render(shown.data, shown.params)));
  if (focused && !main.contains(document.activeElement)) main.focus({ preventScroll: true });
  Promise.resolve(shown.view.after?.(main, shown.data, shown.params, shown.leave.signal)).catch((error) => {
    if (!shown.leave.signal.aborted && !(error instanceof TypeError)) say(error.message, true);
  });
}

const holder = (nodes) => [...h("div", {}, nodes).childNodes];

/** Look again now. */
const look = () => now.wake.abort();

function askForToken(shown) {
  shown.leave.abort();
  main.replaceChildren(h("h1", {}, "Token"), h("form", { class: "token", "data-do": "token" },
    h("p", {}, "This server asks for its token: ", h("code", {}, "mlx-lora ui"), " opens this page with it, and ", h("code", {}, "mlx-lora serve"), " prints the file that holds it."),
    h("label", {}, h("span", {}, "Token"), h("input", { type: "password", name: "token", required: true, autocomplete: "off" })),
    h("button", { type: "submit", class: "main" }, "Open")));
  main.querySelector("input").focus();
}

async function doing(work) {
  try {
    const said = await work();
    if (said) say(said);
  } catch (error) {
    say(error instanceof TypeError ? "The server does not answer; nothing was changed by this page." : error.message, true);
  }
  look();
}

const CLICKS = {
  skip: () => main.focus(),
  sort: (button) => { now.view.sort(button.dataset.by); render(now); },
  log: () => { curves.shown.log = !curves.shown.log; redraw(); },
  whole: () => curves.zoom(null),
  job: (button) => doing(() => changeJob(button.dataset.job, button.dataset.change)),
  promote: (button) => doing(() => promote(button.dataset.name, button.dataset.generation)),
  rollback: (button) => doing(() => rollback(button.dataset.name)),
  check: (button) => check(button.dataset.name),
  stop,
};
const SUBMITS = {
  compare: (form) => compareAnswers(form).catch((error) => say(error.message, true)),
  token: (form) => { setToken(form.elements.token.value); go(); },
};

function redraw() {
  render(now);
  now.view.redraw?.(main, now.params, now.leave.signal).catch(() => {});
}

document.addEventListener("click", (event) => {
  const target = event.target.closest("button[data-do], a[data-do]");
  if (!target) return;
  event.preventDefault();
  CLICKS[target.dataset.do]?.(target);
});
document.addEventListener("submit", (event) => {
  event.preventDefault();
  SUBMITS[event.target.dataset.do]?.(event.target);
});
document.addEventListener("input", (event) => {
  if (event.target.dataset.input !== "filter") return;
  now.view.input(event.target.form);
  render(now);
});
document.addEventListener("curves", redraw);
document.addEventListener("look", look);
document.addEventListener("visibilitychange", () => { if (!document.hidden) look(); });
let resized;
addEventListener("resize", () => {
  clearTimeout(resized);
  resized = setTimeout(() => now.view.redraw?.(main, now.params, now.leave.signal).catch(() => {}), 200);
});
addEventListener("hashchange", () => { takeToken(); go(); });
takeToken();
go();
