// The console: asks the server from time to time, and draws what has changed.

import * as api from "./api.js";
import { h, replace } from "./dom.js";
import { rollout } from "./rollout.js";
import * as sections from "./sections.js";
import { Traffic } from "./traffic.js";

const TRAFFIC_EVERY_MS = 2000;
const STATE_EVERY_MS = 5000;

const $ = (id) => document.getElementById(id);
const traffic = new Traffic();
const drawn = new Map(); // by section: what it was drawn from
let overview = null;
let history = null;
let readTo = ""; // the ledger's id and the judge's look that `history` was read at
let paused = false;
let stateAt = -Infinity;
let underWay = null; // the look at the server that is going on

const selected = () => overview.models.find((model) => model.name === decodeURIComponent(location.hash.slice(1))) ?? overview.models[0];

// Draw a section, unless what it shows is what it showed.
function draw(id, source, content) {
  const text = JSON.stringify(source);
  if (drawn.get(id) === text) return;
  drawn.set(id, text);
  replace($(id), content());
}

const newest = (model) => `${overview.ledger_id} ${model.looked_at}`;

async function readState() {
  overview = await api.overview();
  const model = selected();
  if (!model) history = null;
  else if (history?.model !== model.name || newest(model) !== readTo) {
    const before = history?.model === model.name ? history : null;
    const reading = newest(model);
    history = await api.history(model.name);
    readTo = reading;
    if (before) announce(before, history);
  }
}

// Said to screen readers, and only what is news: a verdict on each version on trial, a drift decision, a retrain.
function announce(before, after) {
  const lines = (known) => [...known.arms, ...known.drifts.slice(0, 1), ...known.retrains.slice(0, 1)];
  const told = new Set(lines(before).map((one) => one.id));
  const news = lines(after).filter((one) => !told.has(one.id)).map((one) => one.summary);
  if (news.length) $("news").textContent = `${after.model}: ${news.join(". ")}`;
}

function drawState() {
  const model = selected();
  $("data").hidden = false;
  $("sign-in").hidden = true;
  $("sign-out").hidden = !overview.signed_in;
  $("server").textContent = `Version ${overview.server}`;
  draw("models", [overview.models, model?.name], () => sections.models(overview, model?.name));
  $("model").hidden = !model;
  if (!model) return;
  $("model-title").textContent = model.name;
  document.title = `${model.name} - Driftwheel console`;
  draw("parts", model.name, () => ["traffic", "rollout", "drift", "retrains", "versions"].map((part) => {
    const button = h("button", { type: "button", id: `go-${part}` }, $(`${part}-title`).textContent);
    button.addEventListener("click", () => goTo(`${part}-title`));
    return button;
  }));
  const loaded = model.versions.map((one) => traffic.loaded(model.name, one.version));
  draw("rollout", [model, history.verdicts, history.arms, history.rollouts, history.gates], () => rollout(model, history));
  draw("drift", [model.name, history.drifts], () => sections.driftSection(model, history));
  draw("retrains", [model.name, history.retrains], () => sections.retrains(history));
  draw("versions", [model, loaded], () => sections.versions(model, traffic));
}

function drawTraffic() {
  replace($("health"), traffic.health());
  const model = selected();
  if (model) replace($("traffic"), traffic.section(model.name));
}

function goTo(id) {
  const target = $(id);
  target.tabIndex = -1;
  target.scrollIntoView();
  target.focus({ preventScroll: true });
}

// One look at the server. Looks never overlap: a slow server is not asked twice at once.
async function turn(everything = false) {
  if (underWay && !everything) return;
  await underWay;
  underWay = look(everything).finally(() => { underWay = null; });
  await underWay;
}

async function look(everything) {
  try {
    const now = performance.now();
    if (!$("sign-in").hidden && !everything) return;
    const due = everything || now - stateAt >= STATE_EVERY_MS;
    traffic.add(await api.metrics(), now);
    if (due) {
      await readState();
      stateAt = now;
    }
    drawState();
    drawTraffic();
    fault("");
  } catch (error) {
    if (error instanceof api.SignInNeeded) askForToken();
    else fault(`The server does not answer as it should: ${error.message}. What is shown may be old.`);
  }
}

function fault(text) {
  if ($("fault").textContent !== text) $("fault").textContent = text;
  $("fault").hidden = !text;
}

function askForToken() {
  if (!$("sign-in").hidden) return;
  $("data").hidden = true;
  $("sign-out").hidden = true;
  $("sign-in").hidden = false;
  $("token").focus();
}

$("sign-in").addEventListener("submit", async (event) => {
  event.preventDefault();
  $("sign-in-fault").textContent = "";
  try {
    await api.signIn($("token").value.trim());
    $("token").value = "";
    await turn(true);
    $("content").focus();
  } catch (error) {
    $("sign-in-fault").textContent = error.message;
    $("token").focus();
  }
});

$("sign-out").addEventListener("click", async () => {
  await api.signOut();
  overview = history = null;
  readTo = -1;
  drawn.clear();
  askForToken();
});

$("pause").addEventListener("click", () => {
  paused = !paused;
  $("pause").setAttribute("aria-pressed", String(paused));
  $("news").textContent = paused ? "Updates are paused" : "Updates go on";
  if (!paused) turn();
});

addEventListener("hashchange", async () => {
  await turn(true);
  if (overview) goTo("model-title");
});

addEventListener("resize", () => overview && traffic.newest && drawTraffic());
document.addEventListener("visibilitychange", () => document.hidden || paused || turn());
setInterval(() => document.hidden || paused || turn(), TRAFFIC_EVERY_MS);
turn(true);
