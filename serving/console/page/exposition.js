// Prometheus' text format, and what a model's counters say between two readings of it.

const LINE = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)/;
const LABEL = /([a-zA-Z_]\w*)="((?:[^"\\]|\\.)*)"/g;
const UNESCAPED = { "\\n": "\n", '\\"': '"', "\\\\": "\\" };

// All samples of our own metrics, by name: [{labels, value}].
export function parse(text) {
  const families = new Map();
  for (const line of text.split("\n")) {
    if (!line.startsWith("driftwheel_")) continue;
    const found = LINE.exec(line);
    if (!found) continue;
    const labels = {};
    for (const [, name, value] of (found[2] ?? "").matchAll(LABEL)) labels[name] = value.replace(/\\./g, (two) => UNESCAPED[two] ?? two);
    const value = found[3] === "+Inf" ? Infinity : Number(found[3]);
    if (!families.has(found[1])) families.set(found[1], []);
    families.get(found[1]).push({ labels, value });
  }
  return families;
}

export const gauge = (families, name) => families.get(name)?.[0]?.value;

// What the server counted of a model, by arm and version: {arm, version, requests, errors, buckets: Map(upper bound -> count)}.
export function counts(families, model) {
  const arms = new Map();
  const of = (labels) => {
    const key = `${labels.arm} ${labels.version}`;
    if (!arms.has(key)) arms.set(key, { key, arm: labels.arm, version: labels.version, requests: 0, errors: 0, buckets: new Map() });
    return arms.get(key);
  };
  for (const { labels, value } of families.get("driftwheel_requests_total") ?? []) {
    if (labels.model !== model) continue;
    const arm = of(labels);
    arm.requests += value;
    if (labels.code !== "OK") arm.errors += value;
  }
  for (const { labels, value } of families.get("driftwheel_request_duration_seconds_bucket") ?? []) {
    if (labels.model !== model) continue;
    const buckets = of(labels).buckets;
    const bound = labels.le === "+Inf" ? Infinity : Number(labels.le);
    buckets.set(bound, (buckets.get(bound) ?? 0) + value);
  }
  return arms;
}

// What came between two readings, in `span` seconds. A counter that went down began anew: all of it is new.
export function difference(before, after, span) {
  const lower = before !== undefined && after.requests < before.requests;
  const past = lower ? undefined : before;
  const requests = after.requests - (past?.requests ?? 0);
  const buckets = new Map([...after.buckets].map(([bound, count]) => [bound, count - (past?.buckets.get(bound) ?? 0)]));
  return { requests, errors: after.errors - (past?.errors ?? 0), rate: requests / span, buckets };
}

// A quantile from cumulative buckets, in seconds, linear within a bucket as Prometheus has it; NaN where nothing was counted.
export function quantile(share, buckets) {
  const bounds = [...buckets.keys()].sort((a, b) => a - b);
  const total = buckets.get(Infinity) ?? 0;
  if (!total) return NaN;
  const rank = share * total;
  let low = 0;
  let below = 0;
  for (const bound of bounds) {
    const count = buckets.get(bound);
    if (count >= rank) return bound === Infinity ? Infinity : low + ((bound - low) * (rank - below)) / Math.max(count - below, 1e-12);
    low = bound;
    below = count;
  }
  return Infinity;
}
