// Rollouts, blobs on their way, flights of this node, members with trouble: each a list.

import { bar, bytes, count, duration, element, number, percent, shortDigest, zoneName } from "./format.js";

const TROUBLED_MAX = 24;

export function drawRollouts(list, rollouts) {
  fill(list, rollouts.map(rollout), "Nothing is being warmed from this node. Pulls show below as blobs on their way.");
}

export function drawBlobs(list, blobs, members, tell) {
  fill(list, blobs.map((blob) => onTheWay(blob, members, tell)), "No blob is on its way, as far as this node knows.");
}

export function drawFlights(list, flights, more, tell) {
  const items = flights.map((flight) => received(flight, tell));
  if (more > 0) items.push(item("more", element("span", { className: "quiet", textContent: `and ${count(more, "more blob")}` })));
  fill(list, items, "Nothing.");
}

export function drawTroubled(list, members) {
  const troubled = (member) => {
    const what = member.flags & 2 ? ["bad", "✕ will not be ready"]
      : member.flags & 8 ? ["warn", "○ is away, a rollout waits for it"] : ["warn", "▲ receives slowly"];
    const who = `${member.name} `;
    const where = ` ${member.address}, ${zoneName(member.zone)}`;
    return item(member.name,
      element("span", { className: "mono", textContent: who }),
      element("span", { className: what[0], textContent: what[1] }),
      element("span", { className: "quiet", textContent: where }));
  };
  const items = members.slice(0, TROUBLED_MAX).map(troubled);
  const more = members.length - items.length;
  if (more > 0) items.push(item("more", element("span", { className: "quiet", textContent: `and ${more} more` })));
  fill(list, items, "None, as far as this node knows.");
}

function rollout(rollout) {
  const { phase, ready, failed, nodes } = rollout;
  const more = rollout.image_count - rollout.images.length;
  const title = rollout.images.join(", ") + (more > 0 ? ` and ${more} more` : "");
  const states = {
    warming: "under way", done: "done", partial: "over, not everything came", failed: "failed", cancelled: "cancelled",
  };
  const figures = [`${number(ready)} of ${count(nodes, "node")} ready`];
  if (failed > 0) figures.push(`${failed} failed`);
  const notes = [
    `${states[rollout.outcome]} ${phase === "warming" ? "for" : "after"} ${duration(rollout.elapsed_ms / 1000)}`,
    `${bytes(rollout.bytes)} of ${bytes(rollout.bytes_of)} on the nodes`,
  ];
  if (rollout.upstream_bytes !== null) notes.push(`${bytes(rollout.upstream_bytes)} from upstream`);
  notes.push(`request ${rollout.id}`);
  // The part of the bytes that is on its way belongs to nodes that are not ready yet.
  const reached = rollout.bytes_of > 0 ? (rollout.bytes / rollout.bytes_of) * nodes : 0;
  const partial = Math.max(0, Math.min(reached, nodes - failed) - ready);
  const shown = item(rollout.id,
    element("div", { className: "head" },
      element("strong", { textContent: title }), element("span", { textContent: figures.join(", ") })),
    bar(nodes, [["done", ready], ["under-way", phase === "warming" ? partial : 0], ["lost", failed]], figures.join(", ")),
    element("div", { className: "quiet", textContent: notes.join(" · ") }));
  // Without one of its images a rollout makes no node ready, however much has come.
  for (const { image, error } of rollout.missing ?? []) {
    shown.append(element("div", { className: "bad", textContent: `✕ ${image} cannot be warmed: ${error}` }));
  }
  if (rollout.zones.length > 1) {
    const zones = rollout.zones.map((zone) => element("span", {
      textContent: `${zoneName(zone.zone)} ${zone.ready}/${zone.nodes}${zone.failed ? `, ${zone.failed} failed` : ""}`,
    }));
    shown.append(element("div", { className: "zones quiet" }, ...zones));
  }
  return shown;
}

function onTheWay(blob, members, tell) {
  const all = Math.max(members, blob.holders + blob.receivers);
  const figures = `${number(blob.holders)} of ${number(all)} have it` +
    (blob.receivers ? `, ${number(blob.receivers)} receiving` : "");
  const notes = [bytes(blob.size)];
  if (blob.fetchers) notes.push(`${count(blob.fetchers, "member")} ${blob.fetchers === 1 ? "fetches" : "fetch"} it from upstream`);
  if (blob.slow) notes.push(`${blob.slow} slow`);
  if (blob.repository) notes.push(blob.repository);
  return item(blob.digest,
    element("div", { className: "head" }, digestLink(blob.digest, tell), element("span", { textContent: figures })),
    bar(all, [["done", blob.holders], ["under-way", blob.receivers]], figures),
    element("div", { className: "quiet", textContent: notes.join(" · ") }));
}

function received(flight, tell) {
  const of = flight.size ?? 0;
  const figures = of ? `${percent(flight.received, of)} of ${bytes(of)}` : bytes(flight.received);
  const notes = [flight.phase];
  if (flight.clients) notes.push(`${count(flight.clients, "client")} ${flight.clients === 1 ? "waits" : "wait"}`);
  if (flight.transfers) notes.push(count(flight.transfers, "transfer from upstream", "transfers from upstream"));
  if (flight.repository) notes.push(flight.repository);
  return item(flight.digest,
    element("div", { className: "head" }, digestLink(flight.digest, tell), element("span", { textContent: figures })),
    bar(of, [["done", flight.received]], figures),
    element("div", { className: "quiet", textContent: notes.join(" · ") }));
}

function digestLink(digest, tell) {
  const link = element("button", { className: "link mono", type: "button", textContent: shortDigest(digest), title: digest });
  link.dataset.digest = digest;
  link.addEventListener("click", () => tell(digest));
  return link;
}

/** An item that is the same as long as its key is. */
function item(key, ...children) {
  const made = element("li", {}, ...children);
  made.dataset.key = key;
  return made;
}

/** Makes a list say what the items say, and leaves in place what is the same: a click, the keyboard's place, a bar that grows. */
function fill(list, items, nothing) {
  const wanted = items.length ? items : [item("none", element("span", { className: "none", textContent: nothing }))];
  const known = new Map([...list.children].map((child) => [child.dataset.key, child]));
  wanted.forEach((fresh, at) => {
    const old = known.get(fresh.dataset.key);
    known.delete(fresh.dataset.key);
    const node = old ?? fresh;
    if (list.children[at] !== node) list.insertBefore(node, list.children[at] ?? null);
    if (old) patch(old, fresh);
  });
  for (const gone of known.values()) gone.remove();
}

function patch(old, fresh) {
  if (old.nodeName !== fresh.nodeName || old.childNodes.length !== fresh.childNodes.length) {
    old.replaceWith(fresh);
  } else if (old.nodeType === Node.TEXT_NODE) {
    if (old.data !== fresh.data) old.data = fresh.data;
  } else {
    for (const name of ["class", "aria-label", "title"]) {
      const value = fresh.getAttribute(name);
      if (value !== null && value !== old.getAttribute(name)) old.setAttribute(name, value);
    }
    if (old.style.width !== fresh.style.width) old.style.width = fresh.style.width;
    const children = [...fresh.childNodes];
    [...old.childNodes].forEach((child, at) => patch(child, children[at]));
  }
}
