// The rollout: its step, the judge's newest word on each version on trial, and what it rests on.

import { steps } from "./charts.js";
import { folded, h, mark, table } from "./dom.js";
import { named, number, percent, seconds, time } from "./format.js";

const DECISIONS = { PROMOTE: "good", STEP: "good", HOLD: "busy", ABORT: "bad" };
const CHECKS = { fine: "good", worse: "bad", waiting: "busy" };

// The candidate and its rivals.
export const onTrial = (rollout) => (rollout?.candidate ? [rollout.candidate, ...rollout.rivals] : []);

export function rollout(model, history) {
  const told = history.arms.length > 1 ? sideBySide(model, history.arms) : history.arms.length ? evidence(model, history.arms[0]) : [h("p", { class: "soft" }, "No candidate has been judged yet.")];
  return [
    ...state(model),
    ...told,
    folded(`verdicts-${model.name}`, `Verdicts (${history.verdicts.length})`, history.verdicts, [
      { title: "When", head: true, cell: (row) => time(row.at) },
      { title: "Decision", cell: (row) => decision(row) },
      { title: "Version", number: true, cell: (row) => row.candidate ?? "–" },
      { title: "Share", number: true, cell: (row) => percent(row.weight) },
      { title: "Why", wide: true, cell: why },
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

const why = (row) => row.reasons.join("; ") || row.summary;

function state(model) {
  if (model.fault) return [h("p", { class: "notice bad" }, model.fault)];
  const { rollout } = model;
  if (!rollout) return [h("p", { class: "soft" }, "No version is in service.")];
  const versions = onTrial(rollout);
  if (!versions.length) return [h("p", {}, mark("good", `Version ${rollout.stable} gets all traffic`), " since ", time(rollout.updated_at), rollout.updated_by ? ` (by ${rollout.updated_by})` : "", ".")];
  const gets = versions.length > 1 ? `V${named(versions).slice(1)} get ${percent(rollout.weight)} each` : `Version ${versions[0]} gets ${percent(rollout.weight)}`;
  return [
    h("p", {}, mark("busy", gets), ` beside version ${rollout.stable}; ${rollout.state}, on trial since `, time(rollout.started_at), ", at this step since ", time(rollout.stepped_at), "."),
    steps(rollout, percent),
  ];
}

// Whether a verdict is about a version in the trial that goes on.
const current = (model, verdict) => onTrial(model.rollout).includes(verdict.candidate) && verdict.started_at === model.rollout.started_at;

function evidence(model, verdict) {
  const about = current(model, verdict) ? "Newest verdict" : "Last verdict";
  return [
    h("p", {}, `${about}: `, decision(verdict), " ", time(verdict.at), ". ", why(verdict)),
    verdict.checks.length ? table(`What the verdict about version ${verdict.candidate} rests on (a check that reaches 100 % of the evidence needed aborts)`, CHECK_COLUMNS, verdict.checks) : null,
  ];
}

// Several versions that were on trial at once: a row for the verdict on each, and a column each for what it rests on.
function sideBySide(model, arms) {
  const names = [...new Set(arms.flatMap((arm) => arm.checks.map((check) => check.name)))];
  const rows = names.map((name) => ({ name, checks: arms.map((arm) => arm.checks.find((check) => check.name === name)) }));
  const columns = arms.map((arm, position) => ({ title: `Version ${arm.candidate}`, stack: true, cell: (row) => stacked(row.checks[position]) }));
  const words = arms.flatMap((arm) => arm.checks.map((check) => ({ ...check, version: arm.candidate })));
  return [
    table("The newest verdict on each version of the trial", [
      { title: "Version", head: true, cell: (row) => short(`version ${row.candidate}`) },
      { title: "State", cell: (row) => standing(model, row) },
      { title: "Verdict", cell: decision },
      { title: "When", cell: (row) => time(row.at) },
      { title: "Share", number: true, cell: (row) => percent(row.weight) },
      { title: "Why", wide: true, cell: why },
    ], arms),
    table("What the verdicts rest on, version by version, beside control's values then (a check that reaches 100 % of the evidence needed aborts)", [{ title: "Check", head: true, cell: (row) => row.name }, ...columns], rows, { empty: "The verdicts hold no checks." }),
    folded(`words-${model.name}`, `Every check in words (${words.length})`, words, [{ title: "Version", head: true, cell: (row) => `version ${row.version}` }, ...CHECK_COLUMNS.map((column) => ({ ...column, head: false }))]),
  ];
}

// Words that stay on one line.
const short = (text) => h("span", { class: "short" }, text);

function standing(model, verdict) {
  if (current(model, verdict)) return mark("busy", "on trial");
  return model.rollout?.stable === verdict.candidate ? mark("good", "in service") : mark("none", "dropped");
}

// One check of one version. A verdict that was given early may lack it.
function stacked(check) {
  if (!check) return "–";
  const part = (...content) => h("span", { class: "part" }, ...content);
  const known = (value) => value !== null && value !== undefined;
  return [
    part(mark(CHECKS[check.outcome] ?? "none", check.outcome)),
    known(check.candidate) ? part(h("b", {}, measured(check.candidate, check.unit))) : null,
    known(check.control) ? part(h("span", { class: "soft" }, "control ", short(measured(check.control, check.unit)))) : null,
    check.needed && check.outcome !== "waiting" ? part(h("span", { class: "soft" }, "evidence ", short(against(check)))) : null,
  ];
}

// A value in the unit that the judge gives it.
function measured(value, unit) {
  if (value === null || value === undefined) return "–";
  if (unit.startsWith("share")) return percent(value);
  return unit.startsWith("p99 in microseconds") ? seconds(value / 1e6) : number(value);
}

// How far a check is on its way to an abort.
const against = (check) => (check.needed ? percent(Math.max(check.log_e / check.needed, 0)) : "–");

const CHECK_COLUMNS = [
  { title: "Check", head: true, cell: (row) => row.name },
  { title: "Outcome", cell: (row) => mark(CHECKS[row.outcome] ?? "none", row.outcome) },
  { title: "Control", number: true, cell: (row) => measured(row.control, row.unit) },
  { title: "Candidate", number: true, cell: (row) => measured(row.candidate, row.unit) },
  { title: "Evidence against", number: true, cell: against },
  { title: "In words", wide: true, cell: (row) => row.detail },
];
