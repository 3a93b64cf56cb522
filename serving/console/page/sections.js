// What the server knows of a model, section by section.

import { history as spark, steps } from "./charts.js";
import { h, mark, table } from "./dom.js";
import { between, number, percent, seconds, time, whole } from "./format.js";

const STATES = { "in service": "good", "on trial": "busy", archived: "none" };
const DRIFTS = { stable: "good", drift: "warn", "broken data": "bad", "not enough rows": "none" };
const RESULTS = { "on trial": "good", "in service": "good", failed: "bad", refused: "warn", "nothing new": "none", archived: "none" };
const DECISIONS = { PROMOTE: "good", STEP: "good", HOLD: "busy", ABORT: "bad" };
const CHECKS = { fine: "good", worse: "bad", waiting: "busy" };

export const drift = (status) => mark(DRIFTS[status] ?? "none", status || "not looked at yet");

export function models(overview, selected) {
  const link = (model) => h("a", { id: `to-${model.name}`, href: `#${model.name}`, "aria-current": model.name === selected ? "true" : undefined }, model.name);
  const trial = ({ rollout }) => (rollout?.candidate ? mark("busy", `version ${rollout.candidate} at ${percent(rollout.weight)}${rollout.state === "paused" ? ", paused" : ""}`) : "–");
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

export function rollout(model, history) {
  const trial = model.rollout?.candidate;
  const newest = history.verdicts[0];
  const told = history.verdicts.length ? evidence(newest, newest.candidate === trial) : [h("p", { class: "soft" }, "No candidate has been judged yet.")];
  return [
    ...state(model),
    ...told,
    folded(`verdicts-${model.name}`, `Verdicts (${history.verdicts.length})`, history.verdicts, [
      { title: "When", head: true, cell: (row) => time(row.at) },
      { title: "Decision", cell: (row) => decision(row) },
      { title: "Version", number: true, cell: (row) => row.candidate ?? "–" },
      { title: "Share", number: true, cell: (row) => percent(row.weight) },
      { title: "Why", wide: true, cell: (row) => row.reasons.join("; ") || row.summary },
    ]),
    folded(`changes-${model.name}`, `Changes of the rollout (${history.rollouts.length})`, history.rollouts, LINES),
    folded(`gates-${model.name}`, `Gate before the rollout (${history.gates.length})`, history.gates, LINES),
  ];
}

const LINES = [
  { title: "When", head: true, cell: (row) => time(row.at) },
  { title: "What", wide: true, cell: (row) => row.summary },
];

const decision = (row) => mark(DECISIONS[row.decision] ?? "none", row.decision || "unknown form");

function state(model) {
  if (model.fault) return [h("p", { class: "notice bad" }, model.fault)];
  const { rollout } = model;
  if (!rollout) return [h("p", { class: "soft" }, "No version is in service.")];
  if (!rollout.candidate) return [h("p", {}, mark("good", `Version ${rollout.stable} gets all traffic`), " since ", time(rollout.updated_at), rollout.updated_by ? ` (by ${rollout.updated_by})` : "", ".")];
  return [
    h("p", {}, mark("busy", `Version ${rollout.candidate} gets ${percent(rollout.weight)}`), ` beside version ${rollout.stable}; ${rollout.state}, on trial since `, time(rollout.started_at), ", at this step since ", time(rollout.stepped_at), "."),
    steps(rollout, percent),
  ];
}

function evidence(verdict, current) {
  const about = current ? "Newest verdict" : "Last verdict";
  return [
    h("p", {}, `${about}: `, decision(verdict), " ", time(verdict.at), ". ", verdict.reasons.join("; ") || verdict.summary),
    verdict.checks.length ? table(`What the verdict about version ${verdict.candidate} rests on (a check that reaches 100 % of the evidence needed aborts)`, CHECK_COLUMNS, verdict.checks) : null,
  ];
}

// A value in the unit that the judge gives it.
function measured(value, unit) {
  if (value === null || value === undefined) return "–";
  if (unit.startsWith("share")) return percent(value);
  return unit.startsWith("p99 in microseconds") ? seconds(value / 1e6) : number(value);
}

const CHECK_COLUMNS = [
  { title: "Check", head: true, cell: (row) => row.name },
  { title: "Outcome", cell: (row) => mark(CHECKS[row.outcome] ?? "none", row.outcome) },
  { title: "Control", number: true, cell: (row) => measured(row.control, row.unit) },
  { title: "Candidate", number: true, cell: (row) => measured(row.candidate, row.unit) },
  { title: "Evidence against", number: true, cell: (row) => (row.needed ? percent(Math.max(row.log_e / row.needed, 0)) : "–") },
  { title: "In words", wide: true, cell: (row) => row.detail },
];

export function driftSection(model, history) {
  const [newest] = history.drifts;
  if (!newest) return [h("p", { class: "soft" }, "Nobody has looked for drift yet.")];
  return [
    h("p", {}, drift(newest.status), " ", time(newest.at), ". ", newest.summary, " ", report(newest, "newest")),
    newest.outcomes.length ? table(MONITORS_CAPTION, monitorColumns(history.drifts), newest.outcomes) : null,
    folded(`drifts-${model.name}`, `Decisions (${history.drifts.length})`, history.drifts, DRIFT_COLUMNS),
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

const DRIFT_COLUMNS = [
  { title: "When", head: true, cell: (row) => time(row.at) },
  { title: "Version", number: true, cell: (row) => row.version ?? "–" },
  { title: "Decision", cell: (row) => drift(row.status) },
  { title: "Quality", wide: true, cell: quality },
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

const folded = (id, title, rows, columns) =>
  rows.length ? h("details", { id }, h("summary", { id: `${id}-title` }, title), table(title, columns, rows, { hideCaption: true })) : null;
