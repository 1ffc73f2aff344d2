// The map: a cell for each member, by zone. Cells are made once and only change when their member does.

import { count, element, setText, zoneName } from "./format.js";

const SLOW = 1;
const FAILED = 2;
const SELF = 4;
const AWAY = 8;

export class MemberMap {
  #root;
  #card;
  #members = new Map();
  #zones = new Map();
  #chosen = null;
  #stale = new Set();

  constructor(root, card) {
    this.#root = root;
    this.#card = card;
    root.addEventListener("click", (event) => {
      if (event.target.dataset.id) this.#choose(Number(event.target.dataset.id));
    });
    root.addEventListener("keydown", (event) => this.#key(event));
    root.addEventListener("focus", () => this.#chosen ?? this.#choose(this.#first()));
  }

  get size() {
    return this.#members.size;
  }

  reset(members) {
    this.#members.clear();
    this.#zones.clear();
    this.#root.replaceChildren();
    this.#chosen = null;
    this.#card.hidden = true;
    this.join(members);
  }

  join(members) {
    // One append for each zone: a thousand cells are laid out once.
    const fresh = new Map();
    for (const { standing, ...member } of members) {
      const cell = element("i", { className: "cell", title: `${member.name} ${member.address}` });
      cell.dataset.id = member.id;
      const entry = { ...member, cell, have: 0, receiving: 0, flags: 0 };
      this.#members.set(member.id, entry);
      this.#zone(member.zone).members.add(entry);
      this.#stand(entry, standing);
      if (!fresh.has(member.zone)) fresh.set(member.zone, []);
      fresh.get(member.zone).push(cell);
    }
    for (const [zone, cells] of fresh) this.#zone(zone).cells.append(...cells);
  }

  leave(ids) {
    for (const id of ids) {
      const member = this.#members.get(id);
      if (!member) continue;
      member.cell.remove();
      this.#members.delete(id);
      this.#zone(member.zone).members.delete(member);
      this.#stale.add(member.zone);
      if (this.#chosen === id) this.#choose(null);
    }
  }

  change(standings) {
    for (const [id, standing] of standings) {
      const member = this.#members.get(id);
      if (member) this.#stand(member, standing);
    }
  }

  /** Writes what the zones and the chosen member are like by now. */
  draw() {
    for (const name of this.#stale) this.#drawZone(name);
    this.#stale.clear();
    if (this.#chosen !== null) setText(this.#card, describe(this.#members.get(this.#chosen)));
  }

  /** Members with trouble, for the list of them. */
  troubled() {
    return [...this.#members.values()].filter((member) => member.flags & (SLOW | FAILED | AWAY));
  }

  #stand(member, [have, receiving, flags]) {
    Object.assign(member, { have, receiving, flags });
    const of = have + receiving;
    const { cell } = member;
    cell.className = [
      "cell",
      receiving > 0 ? "receiving" : have > 0 ? "whole" : "",
      flags & SLOW ? "slow" : "",
      flags & FAILED ? "failed" : "",
      flags & AWAY ? "away" : "",
      flags & SELF ? "self" : "",
      member.id === this.#chosen ? "chosen" : "",
    ].join(" ").trim();
    cell.style.setProperty("--fill", of > 0 ? `${Math.round((100 * have) / of)}%` : "0%");
    this.#stale.add(member.zone);
  }

  #zone(name) {
    let zone = this.#zones.get(name);
    if (!zone) {
      const title = element("h3");
      const cells = element("div", { className: "cells" });
      const box = element("div", { className: "zone" }, title, cells);
      zone = { box, title, cells, members: new Set() };
      this.#zones.set(name, zone);
      // In the order of the names, so that a zone is always found at its place.
      const after = [...this.#zones.keys()].sort().find((other) => other > name);
      this.#root.insertBefore(box, after === undefined ? null : this.#zones.get(after).box);
    }
    return zone;
  }

  #drawZone(name) {
    const { box, title, members } = this.#zone(name);
    if (members.size === 0) {
      box.remove();
      this.#zones.delete(name);
      return;
    }
    let [whole, receiving, slow, failed, away] = [0, 0, 0, 0, 0];
    for (const member of members) {
      if (member.flags & FAILED) failed += 1;
      if (member.flags & AWAY) away += 1;
      if (member.flags & SLOW) slow += 1;
      if (member.receiving > 0) receiving += 1;
      else if (member.have > 0) whole += 1;
    }
    const parts = [count(members.size, "member")];
    if (whole) parts.push(`${whole} have all`);
    if (receiving) parts.push(`${receiving} receiving`);
    if (slow) parts.push(`${slow} slow`);
    if (failed) parts.push(`${failed} failed`);
    if (away) parts.push(`${away} away`);
    setText(title, `${zoneName(name)}: ${parts.join(", ")}`);
  }

  #choose(id) {
    this.#members.get(this.#chosen)?.cell.classList.remove("chosen");
    this.#chosen = id;
    const member = this.#members.get(id);
    member?.cell.classList.add("chosen");
    this.#card.hidden = !member;
    if (member) {
      setText(this.#card, describe(member));
      member.cell.scrollIntoView({ block: "nearest" });
    }
  }

  #first() {
    const cell = this.#root.querySelector(".cell");
    return cell ? Number(cell.dataset.id) : null;
  }

  #key(event) {
    const cells = [...this.#root.querySelectorAll(".cell")];
    const at = cells.findIndex((cell) => Number(cell.dataset.id) === this.#chosen);
    const to = target(event.key, cells, Math.max(at, 0));
    if (to === undefined) return;
    event.preventDefault();
    if (cells[to]) this.#choose(Number(cells[to].dataset.id));
  }
}

function target(key, cells, at) {
  switch (key) {
    case "ArrowRight": return Math.min(at + 1, cells.length - 1);
    case "ArrowLeft": return Math.max(at - 1, 0);
    case "Home": return 0;
    case "End": return cells.length - 1;
    case "ArrowDown": return vertical(cells, at, 1);
    case "ArrowUp": return vertical(cells, at, -1);
    default: return undefined;
  }
}

/** The nearest cell of the next row, which may be another zone's. */
function vertical(cells, at, direction) {
  const from = cells[at]?.getBoundingClientRect();
  if (!from) return undefined;
  let best = at;
  let row = null;
  for (let i = at + direction; i >= 0 && i < cells.length; i += direction) {
    const box = cells[i].getBoundingClientRect();
    if (Math.abs(box.top - from.top) < 2) continue;
    if (row !== null && Math.abs(box.top - row) >= 2) break;
    row = box.top;
    const distance = (j) => Math.abs(cells[j].getBoundingClientRect().left - from.left);
    if (best === at || distance(i) < distance(best)) best = i;
  }
  return best;
}

function describe(member) {
  const parts = [];
  if (member.flags & SELF) parts.push("this node");
  if (member.flags & FAILED) parts.push("will not be ready in a rollout");
  if (member.flags & AWAY) parts.push("away, and a rollout waits for it");
  if (member.receiving > 0) {
    parts.push(`receives ${count(member.receiving, "blob")} of those on their way`);
  }
  if (member.have > 0) parts.push(`has ${count(member.have, "blob")} of them`);
  if (member.flags & SLOW) parts.push("slowly");
  if (parts.length === 0) parts.push("nothing on its way");
  const version = member.version ? `, version ${member.version}` : "";
  return `${member.name} at ${member.address}, ${zoneName(member.zone)}${version}: ${parts.join(", ")}`;
}
