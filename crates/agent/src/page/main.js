// The page: listens to the agent's events, keeps what they say, and draws what has changed, once a frame.

import { Chart } from "./chart.js";
import { bytes, count, duration, few, percent, setText } from "./format.js";
import { drawBlobs, drawFlights, drawRollouts, drawTroubled } from "./lists.js";
import { MemberMap } from "./map.js";
import { Story } from "./story.js";

const RETRY_MS = 5_000;
const CHART_EVERY_MS = 5_000;
// Clients can name any number of registries.
const UNWELL_MAX = 5;

const $ = (id) => document.getElementById(id);
const map = new MemberMap($("map"), $("member"));
const chart = new Chart($("chart"), $("chart-table"));
const story = new Story($("story-form"), $("digest"), $("story"), $("story-title"));
const tell = (digest) => story.show(digest);

const known = { at_ms: 0, node: null, traffic: null, blobs: [], flights: [], rollouts: [] };
const stale = new Set();

function listen() {
  const source = new EventSource("v1/events");
  source.addEventListener("snapshot", (event) => snapshot(JSON.parse(event.data)));
  source.addEventListener("change", (event) => change(JSON.parse(event.data)));
  source.addEventListener("open", () => link("live", "live"));
  source.addEventListener("error", () => {
    link("lost", "no connection, trying again");
    // The browser tries again by itself, but not after an answer that is no stream of events.
    if (source.readyState === EventSource.CLOSED) setTimeout(listen, RETRY_MS);
  });
}

function snapshot({ history, members, ...all }) {
  Object.assign(known, all);
  map.reset(members);
  chart.reset(history);
  chart.add(known.at_ms, known.traffic);
  for (const part of ["node", "traffic", "members", "blobs", "flights", "rollouts"]) stale.add(part);
  schedule();
}

function change({ at_ms, joined = [], left = [], standings = [], ...parts }) {
  known.at_ms = at_ms;
  announce(parts.rollouts);
  for (const [name, value] of Object.entries(parts)) {
    known[name] = value;
    stale.add(name);
  }
  if (parts.traffic) chart.add(at_ms, parts.traffic);
  if (joined.length || left.length || standings.length) {
    map.leave(left);
    map.join(joined);
    map.change(standings);
    stale.add("members");
  }
  schedule();
}

let scheduled = false;
function schedule() {
  if (scheduled) return;
  scheduled = true;
  requestAnimationFrame(draw);
}

function draw() {
  scheduled = false;
  if (stale.has("node") || stale.has("traffic") || stale.has("members")) drawFigures();
  if (stale.has("traffic")) chart.draw(Date.now());
  if (stale.has("members")) {
    map.draw();
    drawTroubled($("slow"), map.troubled());
  }
  if (stale.has("rollouts")) drawRollouts($("rollouts"), known.rollouts);
  if (stale.has("blobs") || stale.has("members")) drawBlobs($("blobs"), known.blobs, map.size, tell);
  if (stale.has("flights") || stale.has("node")) {
    drawFlights($("flights"), known.flights, known.node.flights - known.flights.length, tell);
  }
  stale.clear();
}

function drawFigures() {
  const { node, traffic } = known;
  const upstream = traffic.registries + traffic.mirrors;
  const saved = Math.max(0, traffic.served - upstream);
  setText($("saved"), bytes(saved));
  const got = `${percent(saved, traffic.served)} of the ${bytes(traffic.served)} that clients here got`;
  setText($("saved-note"), traffic.served > 0 ? got : "clients of this node have got nothing yet");
  setText($("upstream"), bytes(upstream));
  setText($("upstream-note"), `to this node, up ${duration(Date.now() / 1000 - node.started_at)}`);
  setText($("from-members"), bytes(traffic.members));
  const swarm = `${bytes(traffic.given)} given to them; ${count(map.size, "member")} in all`;
  setText($("members-note"), node.name ? swarm : "this agent works alone");
  setText($("stored"), bytes(node.bytes));
  setText($("stored-note"), `${count(node.blobs, "blob")}; ${count(node.waiting, "request")} waiting for bytes`);
  const name = node.name ? `node ${node.name}` : "a node that works alone";
  setText($("identity"), `${name}, version ${node.version}`);
  const trouble = [];
  const full = ["capacity", "disk-full"].includes(node.store_trouble);
  if (node.degraded && full) trouble.push("The store is full: what finds no room goes straight upstream. shoal status says more.");
  else if (node.degraded) trouble.push("The store cannot be used: pulls go straight upstream. The agent’s log says why.");
  if (node.unwell.length) trouble.push(`Left alone for now: ${few([...new Set(node.unwell)], UNWELL_MAX)}.`);
  $("trouble").hidden = trouble.length === 0;
  setText($("trouble"), trouble.join(" "));
}

/** Only what somebody who does not look wants to hear: that a rollout is over. */
function announce(rollouts) {
  for (const rollout of rollouts ?? []) {
    const before = known.rollouts.find((other) => other.id === rollout.id);
    if (before?.phase === "warming" && rollout.phase !== "warming") {
      setText($("news"), `Rollout of ${rollout.images[0]} is over: ${rollout.ready} of ${count(rollout.nodes, "node")} ready`);
    }
  }
}

function link(state, text) {
  const shown = $("link");
  if (shown.dataset.state === state) return;
  if (shown.dataset.state !== "waiting") setText($("news"), state === "live" ? "Connected again" : "Connection lost");
  shown.dataset.state = state;
  setText(shown, text);
}

// Time goes on although nothing changes.
setInterval(() => {
  if (!known.node || document.hidden) return;
  chart.draw(Date.now());
  drawFigures();
}, CHART_EVERY_MS);

$("chart-table").closest("details").addEventListener("toggle", () => chart.draw(Date.now()));
listen();
