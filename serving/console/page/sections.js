// What the server knows of a model, section by section.

import { history as spark } from "./charts.js";
import { folded, h, mark, table } from "./dom.js";
import { between, named, number, percent, time, whole } from "./format.js";
import { onTrial } from "./rollout.js";

const STATES = { "in service": "good", "on trial": "busy", archived: "none" };
const DRIFTS = { stable: "good", drift: "warn", "broken data": "bad", "not enough rows": "none" };
const RESULTS = { "on trial": "good", "in service": "good", failed: "bad", refused: "warn", "nothing new": "none", archived: "none" };

export const drift = (status) => mark(DRIFTS[status] ?? "none", status || "not looked at yet");

export function models(overview, selected) {
  const link = (model) => h("a", { id: `to-${model.name}`, href: `#${model.name}`, "aria-current": model.name === selected ? "true" : undefined }, model.name);
  const trial = ({ rollout }) => {
    const versions = onTrial(rollout);
    if (!versions.length) return "–";
    return mark("busy", `${named(versions)} at ${percent(rollout.weight)}${versions.length > 1 ? " each" : ""}${rollout.state === "paused" ? ", paused" : ""}`);
  };
  const columns = [
    { title: "Model", head: true, cell: link },
    { title: "In service", cell: (model) => (model.rollout ? `version ${model.rollout.stable}` : model.fault ? mark("bad", "rollout unreadable") : "–") },
    { title: "On trial", cell: trial },
    { title: "Drift", cell: (model) => drift(model.drift) },
    { title: "Last retrain", cell: ({ retrain }) => (retrain ? [ended(retrain, true), " ", time(retrain.finished_at || retrain.started_at)] : "–") },
  ];
  const more = overview.more_models ? h("p", { class: "soft" }, `${overview.more_models} more models are not listed.`) : null;
  return [table("All models", columns, overview.models, { hideCaption: true, empty: "No model has been exported yet." }), more];
}

export function driftSection(model, history) {
  const [newest] = history.drifts;
  if (!newest) return [h("p", { class: "soft" }, "Nobody has looked for drift yet.")];
  return [
    h("p", {}, drift(newest.status), " ", time(newest.at), ". ", newest.summary, " ", report(newest, "newest")),
    newest.estimated ? h("p", {}, `Without labels: ${expected(newest)}.`) : null,
    newest.recommended ? h("p", {}, `Recommended lately: ${recommended(newest)}.`) : null,
    newest.outcomes.length ? table(MONITORS_CAPTION, monitorColumns(history.drifts), newest.outcomes) : null,
    folded(`drifts-${model.name}`, `Decisions (${history.drifts.length})`, history.drifts, driftColumns(history.drifts)),
  ];
}

const MONITORS_CAPTION = "Monitors: the distance from the reference, decision by decision (■ drifts, ┆ another version)";

const report = (row, key) =>
  row.report ? h("a", { id: `report-${key}`, href: row.report, target: "_blank", rel: "noopener" }, "Evidently report", h("span", { class: "unseen" }, ` of ${row.at}, in a new tab`)) : "";

function monitorColumns(drifts) {
  const past = [...drifts].reverse().filter((row) => row.outcomes.length);
  const points = (name) => past.map((row) => ({ version: row.version, outcome: row.outcomes.find((one) => one.monitor === name) }))
    .filter((one) => one.outcome).map(({ version, outcome }) => ({ version, value: outcome.statistic, drifted: outcome.drifted }));
  const drawn = (row) => {
    const all = points(row.monitor);
    const times = all.filter((point) => point.drifted).length;
    return spark(all, `${row.monitor}: newest distance ${number(row.statistic)}, drifts in ${times} of ${all.length} decisions`);
  };
  return [
    { title: "Monitor", head: true, cell: (row) => row.monitor },
    { title: "Now", cell: (row) => mark(row.drifted ? "warn" : "good", row.drifted ? "drifts" : "calm") },
    { title: "Over time", drawn: true, cell: drawn },
    { title: "Distance", number: true, cell: (row) => number(row.statistic) },
    { title: "p-value", number: true, cell: (row) => number(row.p_value, 2) },
    { title: "Windows", number: true, cell: (row) => `${row.alarms} of ${row.windows}` },
    { title: "What differs most", wide: true, cell: (row) => row.why },
  ];
}

const quality = ({ quality }) =>
  quality && quality.window_mean !== null ? `${quality.loss} ${number(quality.window_mean)} (reference ${number(quality.reference_mean)}), ${quality.outcome}` : quality?.outcome ?? "–";

// What a model's own probabilities say, if they can be relied on.
function expected({ estimated }) {
  if (!estimated) return "–";
  if (estimated.outcome === "not calibrated") return "the probabilities were not right about the reference, and say nothing";
  const area = estimated.window_auc === null ? "" : `, an area under the ROC curve of ${number(estimated.window_auc)} (${number(estimated.reference_auc)})`;
  return `a loss of ${number(estimated.window_loss)} is to be expected (reference ${number(estimated.reference_loss)})${area}, ${estimated.outcome}`;
}

const recommended = ({ recommended: lists }) =>
  `${percent(lists.coverage)} of the catalogue in ${whole(lists.lists)} lists, ${whole(lists.empty_lists)} empty; ${percent(lists.top_share)} of what they hold is among the 50 most popular items (reference ${percent(lists.asked_top_share)})`;

// A model has the one or the other, or neither.
const driftColumns = (drifts) => DRIFT_COLUMNS.filter((column) => !column.only || drifts.some((row) => row[column.only]));

const DRIFT_COLUMNS = [
  { title: "When", head: true, cell: (row) => time(row.at) },
  { title: "Version", number: true, cell: (row) => row.version ?? "–" },
  { title: "Decision", cell: (row) => drift(row.status) },
  { title: "Quality", wide: true, cell: quality },
  { title: "Without labels", wide: true, only: "estimated", cell: expected },
  { title: "Recommended", only: "recommended", cell: ({ recommended: lists }) => (lists ? `${percent(lists.coverage)}, ${percent(lists.top_share)} popular` : "–") },
  { title: "Retrain", cell: (row) => (row.retrain ? "asked for" : "no") },
  { title: "Report", cell: (row) => report(row, row.id) || "–" },
];

// How a retrain ended. Of one that has not, only the newest can still be running.
function ended(row, newest) {
  if (row.finished_at) return mark(RESULTS[row.result] ?? "none", row.result || "unknown form");
  return newest ? mark("busy", "not finished") : mark("warn", "interrupted");
}

export function retrains(history) {
  return [table("Retrains, newest first", [
    { title: "Started", head: true, cell: (row) => time(row.started_at || row.finished_at) },
    { title: "Took", number: true, cell: (row) => (row.finished_at && row.started_at ? between(row.started_at, row.finished_at) : "–") },
    { title: "Set off by", cell: (row) => row.trigger || "–" },
    { title: "Result", cell: (row) => ended(row, row === history.retrains[0]) },
    { title: "Version", number: true, cell: (row) => row.version ?? "–" },
    { title: "What came of it", wide: true, cell: (row) => row.summary },
  ], history.retrains, { hideCaption: true, empty: "No retrain yet." })];
}

export function versions(model, traffic) {
  const names = [...new Set(model.versions.flatMap((one) => Object.keys(one.metrics)))];
  const shown = HEADLINES.filter((name) => names.includes(name));
  const state = (row) => (row.fault ? mark("bad", "unreadable") : row.state ? mark(STATES[row.state], row.state === "on trial" ? `on trial at ${percent(model.rollout.weight)}` : row.state) : "–");
  const faults = model.versions.filter((one) => one.fault).map((one) => h("p", { class: "notice bad" }, one.fault));
  const more = model.more_versions ? h("p", { class: "soft" }, `${model.more_versions} older versions are not listed.`) : null;
  return [table("Exported versions, newest first, with their metrics on the test split", [
    { title: "Version", head: true, cell: (row) => `version ${row.version}` },
    { title: "State", cell: state },
    { title: "Loaded", cell: (row) => (traffic.loaded(model.name, row.version) ? "yes" : "no") },
    { title: "Exported", cell: (row) => time(row.created_at) },
    { title: "Data until", cell: (row) => (row.data_until ? time(row.data_until) : "–") },
    { title: "Rows", number: true, cell: (row) => whole(row.rows) },
    ...shown.map((name) => ({ title: name.replaceAll("_", " "), number: true, cell: (row) => number(row.metrics[name]) })),
  ], model.versions, { empty: "No version has a bundle." }), faults, more];
}

const HEADLINES = ["rmse", "mae", "ndcg_at_10", "auc", "log_loss", "calibration_error"];
