// Live traffic: readings of /metrics since the page was opened, by arm and version. The server keeps no history of its own.

import { lines } from "./charts.js";
import { h, mark, s, table } from "./dom.js";
import { counts, difference, gauge, parse, quantile } from "./exposition.js";
import { percent, rate, seconds, whole } from "./format.js";

const SPAN_MS = 5 * 60 * 1000;
const WINDOW_MS = 15 * 1000; // what "now" is, in the table and for quantiles
const ORDER = ["stable", "control", "candidate", "pinned"];

export class Traffic {
  #readings = [];

  add(text, at) {
    this.#readings.push({ at, families: parse(text), arms: new Map() });
    while (this.#readings[0].at < at - SPAN_MS - WINDOW_MS) this.#readings.shift();
  }

  get newest() {
    return this.#readings.at(-1)?.families;
  }

  // "ready" and so on, for the page's head.
  health() {
    const families = this.newest;
    const workers = gauge(families, "driftwheel_workers") ?? 1;
    const up = gauge(families, "driftwheel_workers_up") ?? workers;
    const ready = gauge(families, "driftwheel_ready") === 1;
    const crew = workers > 1 || up < workers ? `, ${up} of ${workers} workers up` : "";
    return mark(ready && up >= workers ? "good" : "bad", `${ready ? "ready" : "not ready"}${crew}`);
  }

  // Whether a version can answer: "1" where every worker has it.
  loaded(model, version) {
    const samples = this.newest?.get("driftwheel_model_version_loaded") ?? [];
    return samples.some(({ labels, value }) => labels.model === model && labels.version === String(version) && value === 1);
  }

  section(model) {
    const newest = this.#readings.at(-1);
    const arms = [...this.#arms(newest, model).values()].sort((a, b) => ORDER.indexOf(a.arm) - ORDER.indexOf(b.arm) || a.version - b.version);
    if (!arms.length) return [h("p", { class: "soft" }, "Nobody has asked this model since the server started (or its metrics are off).")];
    const tried = arms.filter((one) => one.arm === "candidate");
    const rows = arms.map((arm) => ({ ...this.#row(model, arm), style: style(arm, tried.indexOf(arm)) }));
    const series = rows.filter((row) => row.active).map((row) => ({ name: row.name, style: row.style, ...row.series }));
    return [
      h("div", { class: "charts" },
        lines("Requests per second", series.map((one) => ({ ...one, points: one.rates })), { format: rate, span: SPAN_MS }),
        lines("Latency, 99th percentile", series.map((one) => ({ ...one, points: one.latencies })), { format: seconds, span: SPAN_MS })),
      table(`By arm of the split: the last ${WINDOW_MS / 1000} seconds, and since the server started`, COLUMNS, rows),
    ];
  }

  #arms(reading, model) {
    if (!reading.arms.has(model)) reading.arms.set(model, counts(reading.families, model));
    return reading.arms.get(model);
  }

  #row(model, arm) {
    const newest = this.#readings.at(-1);
    const rates = [];
    const latencies = [];
    for (let position = 1; position < this.#readings.length; position += 1) {
      const now = this.#readings[position];
      const current = this.#arms(now, model).get(arm.key);
      if (!current) continue;
      const since = this.#before(position, model, arm.key, current);
      rates.push([now.at, since.rate]);
      latencies.push([now.at, quantile(0.99, since.buckets)]);
    }
    const last = this.#readings.length > 1 ? this.#before(this.#readings.length - 1, model, arm.key, arm) : undefined;
    const active = rates.some(([at, value]) => at >= newest.at - SPAN_MS && value > 0);
    return { arm, name: `${arm.arm}, version ${arm.version}`, last, active, series: { rates, latencies } };
  }

  // What came in the window before a reading.
  #before(position, model, key, current) {
    const now = this.#readings[position];
    let first = position - 1;
    while (first > 0 && this.#readings[first].at > now.at - WINDOW_MS) first -= 1;
    const then = this.#readings[first];
    return difference(this.#arms(then, model).get(key), current, (now.at - then.at) / 1000);
  }
}

// How an arm's line looks; of several candidates each has a look of its own, and the fifth that of the first.
const style = (arm, place) => (place % 4 > 0 ? `${arm.arm} rival-${place % 4}` : arm.arm);

const swatch = (style) =>
  s("svg", { class: "swatch", viewBox: "0 0 28 10", "aria-hidden": "true" }, s("path", { class: `line ${style}`, d: "M0 5H28" }));

const recent = (row, show) => (row.last && row.last.requests ? show(row.last) : "–");

const COLUMNS = [
  { title: "Arm", head: true, cell: (row) => [swatch(row.style), " ", row.arm.arm] },
  { title: "Version", number: true, cell: (row) => row.arm.version },
  { title: "Requests/s", number: true, cell: (row) => (row.last ? rate(row.last.rate) : "…") },
  { title: "Failed", number: true, cell: (row) => recent(row, (last) => percent(last.errors / last.requests)) },
  { title: "p50", number: true, cell: (row) => recent(row, (last) => seconds(quantile(0.5, last.buckets))) },
  { title: "p99", number: true, cell: (row) => recent(row, (last) => seconds(quantile(0.99, last.buckets))) },
  { title: "Requests in all", number: true, cell: (row) => whole(row.arm.requests) },
  { title: "Failed in all", number: true, cell: (row) => whole(row.arm.errors) },
  { title: "p99 in all", number: true, cell: (row) => seconds(quantile(0.99, row.arm.buckets)) },
];
