// Small charts in SVG. Each is one image to a screen reader, with its message as the name; the numbers stand in a table beside it.

import { h, s } from "./dom.js";

const NARROW = 600; // pixels of the window
const HEIGHT = 190;
const LEFT = 58;
const RIGHT = 8;
const TOP = 10;
const BOTTOM = 24;

// A round number at or above the value: 1, 2 or 5 times a power of ten.
function ceiling(value) {
  if (!(value > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((step) => step * power).find((step) => step >= value * 0.999999);
}

// Lines over time. A series is {name, style, points: [[time in ms, value]]}; points without a finite value break the line.
export function lines(title, series, { format, span }) {
  const width = innerWidth < NARROW ? 360 : 560; // scaled to its place, so that letters stay of a readable size
  const newest = Math.max(...series.flatMap((one) => one.points.map(([at]) => at)), 0);
  const top = ceiling(Math.max(0, ...series.flatMap((one) => one.points.map(([, value]) => value)).filter(Number.isFinite)));
  const x = (at) => LEFT + (width - LEFT - RIGHT) * (1 - (newest - at) / span);
  const y = (value) => TOP + (HEIGHT - TOP - BOTTOM) * (1 - value / top);
  const grid = [0, 0.5, 1].map((share) => [
    s("line", { class: "grid", x1: LEFT, x2: width - RIGHT, y1: y(top * share), y2: y(top * share) }),
    s("text", { x: LEFT - 6, y: y(top * share) + 4, "text-anchor": "end" }, format(top * share)),
  ]);
  const minutes = span / 60000;
  const times = [[0, "now", "end"], [0.5, `${minutes / 2} min`, "middle"], [1, `${minutes} min ago`, "start"]].map(([share, text, anchor]) =>
    s("text", { x: x(newest - share * span), y: HEIGHT - 6, "text-anchor": anchor }, text));
  const drawn = series.map((one) => s("path", { class: `line ${one.style}`, d: path(one.points, newest - span, x, y) }));
  return h("figure", {},
    h("figcaption", {}, title),
    s("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, role: "img", "aria-label": described(title, series, format) }, grid, times, drawn));
}

function path(points, oldest, x, y) {
  let drawn = "";
  let pen = "M";
  for (const [at, value] of points) {
    if (at < oldest || !Number.isFinite(value)) {
      pen = "M";
      continue;
    }
    drawn += `${pen}${x(at).toFixed(1)} ${y(value).toFixed(1)}`;
    pen = "L";
  }
  return drawn;
}

function described(title, series, format) {
  const now = series.map((one) => `${one.name} ${format(one.points.at(-1)?.[1] ?? NaN)}`);
  return `${title}. Newest: ${now.join("; ") || "nothing yet"}`;
}

// How one monitor's distance went from decision to decision; a decision in which it drifts has a filled square,
// and a dashed line stands where another version began.
export function history(points, label) {
  const width = 180;
  const height = 36;
  const values = points.map((point) => point.value ?? 0);
  const low = Math.min(...values, 0);
  const top = Math.max(...values, low + 1e-12);
  const x = (position) => 6 + ((width - 12) * position) / Math.max(points.length - 1, 1);
  const y = (value) => height - 6 - (height - 12) * ((value - low) / (top - low));
  const known = points.map((point, position) => ({ ...point, x: x(position), y: y(point.value ?? 0) })).filter((point) => point.value !== null);
  const line = known.map((point, position) => `${position ? "L" : "M"}${point.x.toFixed(1)} ${point.y.toFixed(1)}`).join("");
  const dots = known.map((point) => point.drifted
    ? s("rect", { class: "drifted", x: point.x - 3.5, y: point.y - 3.5, width: 7, height: 7 })
    : s("circle", { class: "calm", cx: point.x, cy: point.y, r: 2 }));
  const others = known.slice(1).filter((point, position) => point.version !== known[position].version)
    .map((point) => s("line", { class: "other", x1: point.x, x2: point.x, y1: 0, y2: height }));
  return s("svg", { class: "spark", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label }, others, s("path", { class: "line", d: line }), dots);
}

// The share of traffic that a candidate has gone through, step by step.
export function steps(rollout, percent) {
  const items = rollout.steps.map((share, position) => {
    const state = position < rollout.step ? "done" : position === rollout.step ? "now" : "ahead";
    const said = { done: "passed", now: "now", ahead: "ahead" }[state];
    return h("li", { class: state, "aria-current": state === "now" ? "step" : undefined }, h("b", {}, percent(share)), h("span", {}, said));
  });
  return h("ol", { class: "steps", "aria-label": "Steps of the rollout" }, items);
}
