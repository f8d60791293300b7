// Adapters: nights, generations, history, and which one is live.

import { ask as askFor, badge, count, h, parsed, table } from "./dom.js";
import { ask, query } from "./server.js";

const REFS = ["live", "previous", "best", "trial"];
const named = (number) => (number === null ? "base" : `generation ${number}`);
const adapterLink = (name) => h("a", { href: `#/adapter?${query({ name })}` }, name);

export const adapters = {
  title: "Adapters",
  every: 6000,
  load: (params, signal) => ask("/v1/ui/adapters", { signal }),
  render(data) {
    const columns = [{ label: "Adapter" }, ...REFS.map((ref) => ({ label: ref[0].toUpperCase() + ref.slice(1), number: true })), { label: "Generations", number: true }, { label: "Nights", number: true }, { label: "Last night", wide: true }];
    return [
      h("h1", {}, "Adapters"),
      data.adapters.length === 0 && h("p", { class: "empty-note" }, "No adapter here has generations or nights yet. ", h("code", {}, "mlx-lora sleep run"), " makes them."),
      data.adapters.length > 0 && table("Adapters", columns, data.adapters.map((adapter) => ({
        key: `adapter ${adapter.name}`,
        cells: [
          adapterLink(adapter.name), adapter.live === null ? "base" : String(adapter.live), ...REFS.slice(1).map((ref) => (adapter[ref] === null ? "" : String(adapter[ref]))), count(adapter.generations), count(adapter.nights),
          adapter.running ? badge("a night runs", "busy") : adapter.last && [badge(adapter.last.decision, adapter.last.kind), " ", h("span", { class: "dim number" }, adapter.last.when)],
        ],
      })), { class: "rows" }),
    ];
  },
};

export const adapter = {
  title: (params) => params.name ?? "Adapter",
  parent: "adapters",
  every: 5000,
  load: (params, signal) => ask(`/v1/ui/adapter?${query({ name: params.name })}`, { signal }),
  render(data) {
    return [
      h("p", { class: "back" }, h("a", { href: "#/adapters" }, "All adapters")),
      h("div", { class: "title" }, h("h1", {}, data.name), badge(data.live === null ? "the base is live" : `generation ${data.live} is live`, data.live === null ? "" : "good"), data.trial !== null && badge("on trial", "warn"), data.running && badge("a night runs", "busy"),
        h("span", { class: "buttons" }, h("button", { "data-do": "rollback", "data-name": data.name, "data-key": "rollback", disabled: data.live === null }, "Roll back"))),
      h("p", { class: "dim" }, h("span", { class: "path" }, data.directory), data.next_due && ` · next night ${data.next_due}`),
      data.broken && h("p", { class: "note bad" }, data.broken),
      data.notes.map((note) => h("p", { class: "note" }, note)),
      generations(data),
      nights(data),
      data.matrices.length > 0 && h("section", { "data-key": "matrices" }, h("h2", {}, "What each night still knows"), data.matrices.map((matrix) => h("figure", { "data-key": matrix.title },
        h("figcaption", {}, matrix.title), h("p", { class: "dim small" }, matrix.about),
        h("div", { class: "heat-map", tabindex: "0", role: "group", "aria-label": `${matrix.title}, may be scrolled` }, parsed(matrix.svg, "image/svg+xml"))))),
      history(data),
    ];
  },
};

function generations(data) {
  if (!data.generations.length) return h("p", { class: "empty-note" }, "There is no generation yet.");
  const columns = [{ label: "Generation" }, { label: "Is" }, { label: "Night" }, { label: "From", number: true }, { label: "Verdict" }, { label: "Reasons", wide: true }, { label: "Actions", is: "act" }];
  return h("section", { "data-key": "generations" }, h("h2", {}, "Generations"),
    table("Generations", columns, data.generations.map((one) => ({
      key: `generation ${one.number}`,
      class: one.number === data.live ? "live" : "",
      cells: [
        h("span", { class: "number" }, `Generation ${one.number}`),
        [...one.refs, ...(one.pinned ? ["pinned"] : [])].map((ref) => [badge(ref), " "]),
        one.cycle && data.nights.some((night) => night.cycle === one.cycle) ? nightLink(data.name, one.cycle, `Night ${one.night}`) : one.night,
        one.parent === null ? "base" : String(one.parent), one.verdict && badge(one.verdict),
        [one.broken && h("div", { class: "small bad" }, one.broken), ...one.reasons.map((reason) => h("div", { class: "small" }, reason))].filter(Boolean),
        one.number !== data.live ? change(data.name, one.number, "Make live") : one.number === data.trial ? change(data.name, one.number, "Confirm") : "",
      ],
    })), { class: "rows" }));
}

const change = (name, number, words) => h("button", { "data-do": "promote", "data-name": name, "data-generation": number, "data-key": "promote", "aria-label": `${words}: generation ${number}` }, words);
const nightLink = (name, cycle, words) => h("a", { class: "number", href: `#/night?${query({ name, cycle })}` }, words);

function nights(data) {
  if (!data.nights.length) return null;
  const columns = [{ label: "Night" }, { label: "When" }, { label: "Decision" }, { label: "Generation", number: true }, { label: "New", number: true }, { label: "Score", number: true }, { label: "Loss", number: true }, { label: "Reason", wide: true }];
  return h("section", { "data-key": "nights" }, h("h2", {}, "Nights"),
    table("Nights", columns, data.nights.map((night) => ({
      key: `night ${night.cycle}`,
      cells: [nightLink(data.name, night.cycle, `Night ${night.number}`), h("span", { class: "number" }, night.when), badge(night.decision, night.kind), night.generation === null ? "" : String(night.generation), night.new, night.score, night.loss, night.reason && h("span", { class: "small" }, night.reason)],
    })), { class: "rows" }));
}

function history(data) {
  if (!data.history.length) return null;
  const columns = [{ label: "No." }, { label: "Time" }, { label: "Event" }, { label: "Generation" }, { label: "Live then" }, { label: "Reason", wide: true }];
  const told = (number) => (number === null ? "base" : String(number));
  return h("details", { "data-key": "history", open: data.history.length <= 12 }, h("summary", {}, "History"),
    h("p", { class: "dim small" }, data.broken ? "The chain of this log is broken after these lines." : `The chain of these ${count(data.history.length)} lines is intact.`),
    table("History", columns, data.history.map((line) => ({ key: `line ${line.number}`, cells: [String(line.number), h("span", { class: "number" }, line.when), line.event, told(line.generation), told(line.live), line.reason && h("span", { class: "small" }, line.reason)] })), { class: "rows" }));
}

export const night = {
  title: (params) => `Night ${Number(params.cycle)} of ${params.name}`,
  parent: "adapters",
  every: 15000,
  load: (params, signal) => ask(`/v1/ui/night?${query(params)}`, { signal }),
  render: (data, params) => [
    h("p", { class: "back" }, adapterLink(params.name)),
    h("div", { class: "report", "data-own": true, id: "report" }),
  ],
  after(main, data) {
    const place = main.querySelector("#report");
    if (place.shown === data.html) return;
    place.shown = data.html;
    place.replaceChildren(...parsed(data.html));
    place.querySelectorAll("svg[data-chart]").forEach(globalThis.watchChart);
  },
};

/** Make a generation live. */
export async function promote(name, number) {
  const values = await askFor(`Make generation ${number} live?`, "Make it live", h("p", {}, `${name}@live answers with it from the next request on.`), reason());
  if (values === null) return null;
  await ask("/v1/ui/promote", { body: { name, generation: Number(number), reason: values.reason || "on the page" } });
  return `Generation ${number} of ${name} is live.`;
}

/** Return to an earlier generation. */
export async function rollback(name) {
  const data = await ask(`/v1/ui/adapter?${query({ name })}`);
  const others = data.generations.filter((one) => one.number !== data.live);
  const options = [h("option", { value: "" }, `the previous one: ${named(data.previous)}`), ...others.map((one) => h("option", { value: one.number }, `generation ${one.number}`)), h("option", { value: "0" }, "the base, without an adapter")];
  const values = await askFor(`Roll back ${name}?`, "Roll back", h("p", {}, `Now ${named(data.live)} is live. Nothing is deleted.`), h("label", {}, h("span", {}, "Return to"), h("select", { name: "to" }, options)), reason());
  if (values === null) return null;
  const done = await ask("/v1/ui/rollback", { body: { name, generation: values.to === "" ? null : Number(values.to), reason: values.reason || "on the page" } });
  return `${done.live === null ? "The base" : `Generation ${done.live}`} is live, no longer ${named(data.live)}.`;
}

const reason = () => h("label", {}, h("span", {}, "Reason, for the history"), h("input", { name: "reason", maxlength: "2000", autocomplete: "off" }));
