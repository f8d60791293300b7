// Datasets with their findings, and two models' answers to one prompt.

import { ago, badge, bytes, count, h, marked, morph, say, table } from "./dom.js";
import { ask, chat, query } from "./server.js";

const total = (files, key) => files.reduce((sum, file) => (file[key] === null ? sum : sum + file[key]), 0);

export const datasets = {
  title: "Datasets",
  every: 10000,
  load: (params, signal) => ask("/v1/ui/datasets", { signal }),
  render: (data) => [
    h("h1", {}, "Datasets"),
    data.datasets.length === 0 && h("p", { class: "empty-note" }, "There is no dataset below this directory: a directory with a file ", h("code", {}, "train.jsonl"), "."),
    data.datasets.length > 0 && table("Datasets", [{ label: "Dataset" }, { label: "Rows" }, { label: "Size", number: true }, { label: "Source" }, { label: "Changed" }], data.datasets.map((one) => ({
      key: `dataset ${one.name}`,
      cells: [
        h("a", { href: `#/dataset?${query({ name: one.name })}` }, one.name),
        one.files.map((file) => h("span", { class: "split" }, file.split, " ", h("b", { class: "number" }, file.rows === null ? "?" : count(file.rows)))),
        bytes(total(one.files, "bytes")), one.source, ago(one.changed),
      ],
    })), { class: "rows" }),
  ],
};

// Findings by the name of the dataset: a check may take minutes.
const checks = new Map();
// Smaller ones are checked as soon as they are looked at.
const AT_ONCE = 4e6;

export const dataset = {
  title: (params) => params.name ?? "Dataset",
  parent: "datasets",
  every: 15000,
  load: (params, signal) => ask(`/v1/ui/dataset?${query({ name: params.name })}`, { signal }),
  render(data, params) {
    const check = checks.get(params.name);
    return [
      h("p", { class: "back" }, h("a", { href: "#/datasets" }, "All datasets")),
      h("div", { class: "title" }, h("h1", {}, data.name), h("span", { class: "buttons" }, h("button", { "data-do": "check", "data-name": params.name, disabled: check === "runs" }, check === "runs" ? "Checking…" : check ? "Check again" : "Check"))),
      h("p", { class: "dim" }, h("span", { class: "path" }, data.directory), data.source && ` · ${data.source}`, " · changed ", ago(data.changed)),
      table("Files", [{ label: "Split" }, { label: "File" }, { label: "Rows", number: true }, { label: "Size", number: true }], data.files.map((file) => ({ key: file.file, cells: [file.split, file.file, file.rows === null ? "" : count(file.rows), bytes(file.bytes)] })), { class: "rows short" }),
      h("section", { "data-key": "findings", "aria-live": "polite" }, h("h2", {}, "Findings"), findings(check)),
      data.examples.length > 0 && h("section", { "data-key": "rows" }, h("h2", {}, "First rows"), data.examples.map((row, i) => h("details", { class: "case", open: i === 0, "data-key": `row ${i}` },
        h("summary", {}, row.where.split("/").pop()), row.error && h("p", { class: "note" }, row.error),
        row.messages.map((message) => [h("h3", {}, message.role), h("pre", { class: `text ${message.role === "assistant" ? "" : "given"}`.trim() }, message.text)])))),
    ];
  },
  after(main, data, params) {
    if (!checks.has(params.name) && total(data.files, "bytes") < AT_ONCE) check(params.name);
  },
};

function findings(check) {
  if (!check) return h("p", { class: "dim" }, "Not checked yet.");
  if (check === "runs") return h("p", { class: "dim" }, "The rows are being checked for duplicates, leaks, contradictions and secrets…");
  if (check.failed) return h("p", { class: "note bad" }, check.failed);
  return [
    h("p", {}, `${count(check.rows)} rows, ${count(check.distinct_rows)} of them distinct. `, check.findings.length === 0 ? badge("nothing found", "good") : ""),
    check.findings.map((one) => h("details", { class: `case ${one.severity}`, "data-key": one.check },
      h("summary", {}, badge(one.severity, one.severity === "error" ? "bad" : "warn"), h("b", {}, one.check.replaceAll("_", " ")), h("span", { class: "number dim" }, count(one.count))),
      h("ul", { class: "plain" }, one.examples.map((example) => h("li", {}, example)), one.count > one.examples.length && h("li", { class: "dim" }, `and ${count(one.count - one.examples.length)} more`)))),
    check.notes.map((note) => h("p", { class: "small dim" }, note)),
  ];
}

/** Check a dataset, and show what was found. */
export async function check(name) {
  checks.set(name, "runs");
  document.dispatchEvent(new CustomEvent("look"));
  try {
    checks.set(name, await ask("/v1/ui/check", { body: { name } }));
  } catch (error) {
    checks.set(name, { failed: error.message });
  }
  document.dispatchEvent(new CustomEvent("look"));
}

const answers = { asking: null };

export const compare = {
  title: "Compare",
  every: 60000,
  async load(params, signal) {
    const { data } = await ask("/v1/models", { signal });
    return { models: data.map((model) => model.id) };
  },
  render({ models }, params) {
    // A run is named as the list of models has it.
    const meant = (wish) => models.find((id) => id === wish) ?? models.find((id) => wish && id.endsWith(`:${wish.replace(/^ftjob-/, "")}`)) ?? models.find((id) => wish && id === `${wish}@live`);
    const choice = (name, label, wish, other) => h("label", {}, h("span", {}, label), h("select", { name, required: true }, models.map((id) => h("option", { value: id, selected: id === (meant(wish) ?? other) }, id))));
    return [
      h("h1", {}, "Compare answers"),
      models.length === 0 && h("p", { class: "empty-note" }, "There is no model to ask below this directory."),
      models.length > 0 && h("form", { class: "compare", "data-do": "compare", "data-key": "form" },
        h("div", { class: "sides" }, choice("a", "First", params.a, models[0]), choice("b", "Second", params.b, models[1] ?? models[0])),
        h("label", {}, h("span", {}, "Prompt"), h("textarea", { name: "prompt", rows: "4", required: true })),
        h("div", { class: "options" },
          h("label", {}, h("span", {}, "Longest answer, tokens"), h("input", { name: "max_tokens", type: "number", min: "1", max: "4096", value: "256" })),
          h("label", {}, h("span", {}, "Temperature"), h("input", { name: "temperature", type: "number", min: "0", max: "2", step: "0.1", value: "0" })),
          h("button", { type: "submit", class: "main" }, "Ask both"), h("button", { type: "button", "data-do": "stop" }, "Stop"))),
      h("div", { class: "sides answers", "data-own": true, id: "answers" }),
    ];
  },
};

/** Ask both models, one after the other as the server allows, and mark how their answers differ. */
export async function compareAnswers(form) {
  answers.asking?.abort();
  const { signal } = (answers.asking = new AbortController());
  const values = Object.fromEntries(new FormData(form)), place = document.getElementById("answers");
  const sides = [values.a, values.b].map((model) => ({ model, text: "", note: "asking…" }));
  const show = (diff) => morph(place, sides.map((side, i) => h("section", { "data-key": `side ${i}`, "aria-busy": String(side.note === "asking…") },
    h("h2", {}, side.model), h("pre", { class: "text" }, diff ? marked([diff.before, diff.after][i]) : side.text), h("p", { class: "dim small" }, side.note))));
  show();
  await Promise.all(sides.map(async (side) => {
    const began = performance.now();
    const body = { model: side.model, messages: [{ role: "user", content: values.prompt }], max_tokens: Number(values.max_tokens) || 256, temperature: Number(values.temperature) || 0 };
    try {
      for await (const piece of chat(body, signal)) {
        side.text += piece;
        show();
      }
      side.note = `${((performance.now() - began) / 1000).toLocaleString("en", { maximumFractionDigits: 1 })} s`;
    } catch (error) {
      side.note = signal.aborted ? "stopped" : error.message;
    }
    show();
  }));
  if (signal.aborted || !sides.every((side) => side.text)) return;
  show(await ask("/v1/ui/diff", { body: { before: sides[0].text, after: sides[1].text } }));
  say("Both have answered.");
}

export const stop = () => answers.asking?.abort();
