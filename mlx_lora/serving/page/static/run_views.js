// Runs and jobs: the table of all runs, one run with its curves, and the queue.

import { ago, ask as askFor, badge, count, figure, h, marked, morph, progress, table } from "./dom.js";
import * as curves from "./curves.js";
import { ask, follow, pause, query } from "./server.js";

const ENDED = ["succeeded", "failed", "cancelled", "finished"];
const filter = { text: "", status: "", by: "changed", descending: true };
const COLUMNS = [
  { label: "Run", sort: "label" }, { label: "Model", sort: "model", is: "full" }, { label: "Status", sort: "status", is: "state" },
  { label: "Loss", sort: "loss", number: true }, { label: "Validation", sort: "validation_loss", number: true },
  { label: "Tokens/s", sort: "tokens_per_second", number: true, is: "less" }, { label: "Peak GB", sort: "peak_memory_gb", number: true, is: "less" },
  { label: "Changed", sort: "changed" },
];

export const runLink = (name, label = name) => h("a", { href: `#/run?${query({ name })}` }, label);

export const runs = {
  title: "Runs",
  every: 4000,
  load: (params, signal) => ask("/v1/ui/runs", { signal }),
  render(data) {
    const statuses = [...new Set(data.runs.map((run) => run.status))].sort();
    if (!statuses.includes(filter.status)) filter.status = "";
    const words = filter.text.toLowerCase().split(/\s+/).filter(Boolean);
    const chosen = data.runs
      .filter((run) => !filter.status || run.status === filter.status)
      .filter((run) => words.every((word) => `${run.label} ${run.model} ${run.kind} ${run.status}`.toLowerCase().includes(word)))
      .sort((a, b) => compare(a[filter.by], b[filter.by]) * (filter.descending ? -1 : 1));
    const columns = COLUMNS.map((column) => ({ ...column, sorted: column.sort === filter.by && (filter.descending ? "descending" : "ascending") }));
    return [
      h("h1", {}, "Runs"),
      h("p", { class: "dim path" }, data.directory),
      data.runs.length > 0 && h("form", { class: "filter", role: "search" },
        h("label", {}, h("span", {}, "Filter"), h("input", { type: "search", name: "text", "data-input": "filter", value: filter.text, autocomplete: "off" })),
        h("label", {}, h("span", {}, "Status"), h("select", { name: "status", "data-input": "filter" },
          h("option", { value: "" }, "all"), statuses.map((status) => h("option", { value: status, selected: status === filter.status }, status.replaceAll("_", " "))))),
        h("label", { class: "narrow-only" }, h("span", {}, "Order"), h("select", { name: "by", "data-input": "filter" },
          COLUMNS.map((column) => h("option", { value: column.sort, selected: column.sort === filter.by }, column.label)))),
        h("output", { class: "dim number", "aria-live": "polite" }, chosen.length === data.runs.length ? `${count(chosen.length)} runs` : `${count(chosen.length)} of ${count(data.runs.length)} runs`)),
      !data.whole && h("p", { class: "note" }, "There are more directories than this page looks into; start the server with --models on the directory of the runs."),
      chosen.length > 0 && table("Runs", columns, chosen.map((run) => ({
        key: `run ${run.name}`,
        cells: [
          h("span", { class: "name" }, runLink(run.name, run.label), run.kind === "run" ? "" : h("span", { class: "kind" }, run.kind)),
          h("span", { class: "model" }, run.model), [badge(run.status), " ", run.status === "finished" || run.status === "succeeded" ? h("span", { class: "dim number" }, `${count(run.step)} steps`) : progress(run.step, run.total_steps, `Steps of ${run.label}`)],
          figure(run.loss), figure(run.validation_loss), figure(run.tokens_per_second, 3), figure(run.peak_memory_gb, 3), ago(run.changed),
        ],
      })), { class: "rows named" }),
      data.runs.length === 0 && h("p", { class: "empty-note" }, "There is no run below this directory yet. ", h("code", {}, "mlx-lora train"), " makes one, and so does a job that is posted to this server."),
      data.runs.length > 0 && chosen.length === 0 && h("p", { class: "empty-note" }, "No run fits the filter."),
    ];
  },
  input(form) {
    Object.assign(filter, { text: form.elements.text.value, status: form.elements.status.value });
    if (form.elements.by.value !== filter.by) sortBy(form.elements.by.value);
  },
  sort: (by) => sortBy(by),
};

function sortBy(by) {
  filter.descending = by === filter.by ? !filter.descending : !["label", "model", "status"].includes(by);
  filter.by = by;
}

function compare(a, b) {
  if (a === b) return 0;
  if (a === null || a === undefined) return -1;
  if (b === null || b === undefined) return 1;
  return typeof a === "string" ? a.localeCompare(b, "en", { numeric: true }) : a - b;
}

const told = { job: null, events: [] };

export const run = {
  title: (params) => params.name ?? "Run",
  parent: "runs",
  every: (data) => (ENDED.includes(data.run.status) || data.run.status === "unfinished" ? 10000 : 2500),
  start(params) {
    curves.reset();
    Object.assign(told, { job: null, events: [] });
  },
  load: (params, signal) => ask(`/v1/ui/run?${query({ name: params.name })}`, { signal }),
  render(data, params) {
    const { run: row } = data;
    const zoomed = curves.shown.range;
    return [
      h("p", { class: "back" }, h("a", { href: "#/runs" }, "All runs")),
      h("div", { class: "title" }, h("h1", {}, row.label), badge(row.status), !ENDED.includes(row.status) && progress(row.step, row.total_steps, "Steps"), row.job && buttons(row.job, row.status)),
      h("p", { class: "dim" }, row.model, " · ", h("span", { class: "path" }, data.directory), " · changed ", ago(row.changed)),
      data.cards.length > 0 && h("dl", { class: "cards" }, data.cards.map(([label, value, note]) => h("div", {}, h("dt", {}, label), h("dd", {}, h("b", {}, value), note && h("span", {}, note))))),
      h("div", { "data-key": "warnings" }, data.warnings.map((warning) => h("p", { class: "note" }, warning))),
      h("section", { "data-key": "curves", "aria-labelledby": "curves-title" },
        h("div", { class: "bar" }, h("h2", { id: "curves-title" }, "Curves"),
          h("button", { "data-do": "log", "aria-pressed": String(curves.shown.log) }, "Logarithmic"),
          h("button", { "data-do": "whole", disabled: !zoomed }, "All steps"),
          h("span", { class: "dim small" }, zoomed ? `Steps ${count(Math.round(zoomed[0]))} to ${count(Math.round(zoomed[1]))}` : "Drag to zoom. Keys: arrows, +, − and 0.")),
        h("div", { class: "curves", "data-own": true, id: "curves" })),
      gate(data.gate),
      samples(data.samples),
      row.job && h("section", { "data-key": "events" }, h("h2", {}, "Events"), h("ol", { class: "events", "data-own": true, id: "events" })),
      h("details", { "data-key": "settings" }, h("summary", {}, "Settings"), pairs("Settings", data.settings)),
      h("details", { "data-key": "data" }, h("summary", {}, "Data"), pairs("Data", data.data)),
      h("p", { "data-key": "more" }, h("a", { href: `#/compare?${query({ a: row.model, b: row.name })}` }, "Compare its answers with the base's")),
    ];
  },
  async after(main, data, params, signal) {
    const { run: row } = data, mark = `${row.step} ${row.status} ${row.changed}`;
    const place = main.querySelector("#curves");
    if (place.dataset.mark !== mark) {
      if (await curves.draw(place, params.name, signal)) place.dataset.mark = mark;
    }
    if (row.job) events(main, row.job, signal);
  },
  redraw: (main, params, signal) => curves.draw(main.querySelector("#curves"), params.name, signal),
};

function pairs(caption, rows) {
  return table(caption, [{ label: "Key" }, { label: "Value" }], rows.map(([key, value]) => ({ key, cells: [key, value] })), { class: "pairs" });
}

function gate(found) {
  if (!found) return null;
  const columns = [{ label: "Suite" }, { label: "Gate" }, { label: "Status" }, { label: "Passed", number: true }, { label: "Rate", number: true }, { label: "Threshold", number: true }, { label: "Verdict" }, { label: "Reasons", wide: true }];
  return h("section", { "data-key": "gate" },
    h("div", { class: "bar" }, h("h2", {}, "Gate"), found.cleared_for_deployment ? badge("cleared for deployment", "good") : badge("not cleared", "bad"), h("span", { class: "dim small number" }, `overall ${figure(found.overall_score, 3)}, asked ${figure(found.target_score, 3)}`)),
    table("Gate", columns, found.suites.map((suite) => ({
      key: suite.test_name,
      cells: [suite.test_name, suite.gate, badge(suite.status), `${count(suite.passed)} of ${count(suite.total_tests)}`, figure(suite.pass_rate, 3), figure(suite.threshold, 3), suite.verdict ?? "", suite.reasons.map((reason) => h("div", { class: "small" }, reason))],
    })), { class: "rows" }));
}

function samples(found) {
  if (!found.length) return null;
  const side = (title, sample, key) => {
    const text = sample.sides ? marked(sample.sides[key]) : sample[key];
    return h("div", {}, h("h3", {}, title), sample[key] === null ? h("p", { class: "dim" }, "not asked") : h("pre", { class: "text" }, text));
  };
  return h("section", { "data-key": "samples" }, h("h2", {}, "Samples before and after"),
    found.map((sample, i) => h("article", { class: "sample", "data-key": `sample ${i}` },
      h("div", { class: "sides" },
        h("div", {}, h("h3", {}, "Prompt"), h("pre", { class: "text given" }, sample.prompt)),
        h("div", {}, h("h3", {}, "Reference"), h("pre", { class: "text given" }, sample.reference)),
        side("Before", sample, "before"), side("After", sample, "after")))));
}

/** Follow a job's events once; each metric is a reason to look at the run again. */
async function events(main, job, signal) {
  if (told.job === job) return;
  told.job = job;
  let looked = false;
  await follow(`/v1/jobs/${encodeURIComponent(job)}/events`, signal, (event) => {
    if (event.type !== "metrics") {
      told.events.push(event);
      const place = main.querySelector("#events");
      if (place) morph(place, told.events.slice(-200).reverse().map((one) => h("li", { "data-key": one.id },
        h("time", { class: "dim number" }, new Date(one.created_at * 1000).toLocaleTimeString()), badge(one.level, one.level === "info" ? "" : one.level === "warn" ? "warn" : "bad"), h("span", {}, one.message))));
    }
    if (looked) return;
    looked = true;
    // Many metrics that come at once are one look.
    pause(700, signal).then(() => {
      looked = false;
      if (!signal.aborted) document.dispatchEvent(new CustomEvent("look"));
    });
  });
}

const MAY = { pause: ["validating_files", "queued", "running"], resume: ["paused"], cancel: ["validating_files", "queued", "running", "paused"] };

function buttons(job, status, wish = null) {
  if (ENDED.includes(status)) return null;
  return h("span", { class: "buttons" }, wish && h("span", { class: "dim" }, `will ${wish}`),
    Object.entries(MAY).filter(([, statuses]) => !wish && statuses.includes(status)).map(([name]) => h("button", { "data-do": "job", "data-change": name, "data-job": job, "data-key": name, "aria-label": `${name[0].toUpperCase()}${name.slice(1)} ${job}` }, name[0].toUpperCase() + name.slice(1))));
}

export const jobs = {
  title: "Jobs",
  every: 2500,
  load: (params, signal) => ask("/v1/ui/jobs", { signal }),
  render(data) {
    const order = ["running", "validating_files", "queued", "paused"];
    const rank = (job) => (order.includes(job.status) ? order.indexOf(job.status) : order.length);
    const sorted = [...data.jobs].sort((a, b) => rank(a) - rank(b) || (a.position ?? 0) - (b.position ?? 0) || b.created_at - a.created_at);
    const columns = [{ label: "Job" }, { label: "Model", is: "full" }, { label: "Status", is: "state" }, { label: "Loss", number: true }, { label: "Created" }, { label: "Actions", is: "act" }];
    return [
      h("h1", {}, "Jobs"),
      h("p", { class: "dim" }, "One job trains at a time, the oldest first."),
      sorted.length === 0 && h("p", { class: "empty-note" }, "There was no job yet. ", h("code", {}, "POST /v1/fine_tuning/jobs"), " makes one."),
      sorted.length > 0 && table("Jobs", columns, sorted.map((job) => ({
        key: `job ${job.id}`,
        cells: [
          h("span", { class: "name" }, runLink(job.id), job.suffix && h("span", { class: "kind" }, job.suffix)),
          h("span", { class: "model" }, job.model),
          [badge(job.status), " ", job.position !== null && h("span", { class: "dim" }, job.position === 0 ? "next" : `${count(job.position)} before it`), job.status === "running" || job.status === "paused" ? progress(job.progress.step, job.progress.total_steps, `Steps of ${job.id}`) : "", job.error && h("div", { class: "small" }, job.error.message)].filter((part) => part !== null && part !== false && part !== ""),
          figure(job.progress.loss), ago(job.created_at), buttons(job.id, job.status, job.wish),
        ],
      })), { class: "rows named" }),
      data.more > 0 && h("p", { class: "dim" }, `${count(data.more)} older jobs are not shown.`),
    ];
  },
};

/** Pause, resume or cancel a job. */
export async function changeJob(job, change) {
  if (change === "cancel" && (await askFor("Cancel this job?", "Cancel the job", h("p", {}, "The steps that it has done are lost for this job; to keep them, pause it."), h("p", { class: "path" }, job))) === null) return null;
  await ask(`/v1/fine_tuning/jobs/${encodeURIComponent(job)}/${change}`, { post: true });
  return { pause: `${job} will pause at its next step.`, resume: `${job} is in the queue again.`, cancel: `${job} is cancelled.` }[change];
}
