// One blob's story: who has it, who receives it, and who sent this node which part of it when.

import { bytes, clock, count, duration, element, percent, shortName } from "./format.js";

const DIGEST = /^(sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128})$/;
const NAMED_MAX = 12;

export class Story {
  #box;
  #input;
  #title;
  #asked = 0;

  constructor(form, input, box, title) {
    this.#box = box;
    this.#input = input;
    this.#title = title;
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.tell(input.value.trim());
    });
  }

  /** From elsewhere on the page: goes there. */
  show(digest) {
    this.#input.value = digest;
    this.#title.scrollIntoView({ block: "start" });
    this.#title.focus({ preventScroll: true });
    this.tell(digest);
  }

  async tell(digest) {
    const number = ++this.#asked;
    if (!DIGEST.test(digest)) {
      this.#say("That is no digest: it looks like sha256: and 64 hexadecimal digits.");
      return;
    }
    this.#say("The members that keep its book are asked …");
    try {
      const answer = await fetch(`v1/blobs/${digest}/story`);
      const told = await answer.json();
      if (number !== this.#asked) return;
      if (answer.ok) this.#box.replaceChildren(...draw(told));
      else this.#say(told.error ?? `The agent answered ${answer.status}.`);
    } catch {
      if (number === this.#asked) this.#say("The agent did not answer. Is it still there?");
    }
  }

  #say(text) {
    this.#box.replaceChildren(element("p", { className: "quiet", textContent: text }));
  }
}

function draw(story) {
  const parts = [facts(story)];
  if (story.sources.length > 0) parts.push(sources(story));
  else if (story.state !== "absent") {
    parts.push(quiet("Where this node has it from is not known: it came before the agent started, or long ago."));
  }
  return parts;
}

function facts(story) {
  const list = element("dl");
  const fact = (name, text) => list.append(
    element("dt", { textContent: name }), element("dd", { textContent: text }));
  fact("Digest", story.digest);
  fact("On this node", here(story));
  if (story.homes.length > 0) fact("Book kept by", story.homes.map(shortName).join(", "));
  const book = story.books.reduce(
    (best, book) => (!best || book.receiver_count + book.holder_count > best.receiver_count + best.holder_count ? book : best), null);
  if (book) {
    fact("Have it", named(book.holders, book.holder_count));
    fact("Receive it", named(book.receivers, book.receiver_count));
    if (book.slow_count > 0) fact("Slowly", named(book.slow, book.slow_count));
    for (const lease of book.leases) {
      fact("From upstream", `${shortName(lease.holder)} fetches bytes ${bytes(lease.start)} to ${bytes(lease.end)}`);
    }
  } else if (story.homes.length > 0) {
    fact("In the cluster", "nobody is known to have it or to receive it");
  }
  return list;
}

function here({ state, size, received, stored_at }) {
  if (state === "receiving") return size ? `${percent(received, size)} of ${bytes(size)} received` : "being received";
  if (state === "stored") return `${bytes(size)}${stored_at ? `, since ${new Date(stored_at * 1000).toLocaleString()}` : ""}`;
  return "not there";
}

function named(names, all) {
  if (all === 0) return "nobody";
  const shown = names.slice(0, NAMED_MAX).map(shortName).join(", ");
  return `${count(all, "member")}: ${shown}${all > NAMED_MAX ? ", …" : ""}`;
}

function sources({ sources }) {
  const total = sources.reduce((all, source) => all + source.bytes, 0);
  const begun = (source) => source.last_at_ms - source.seconds * 1000;
  const start = Math.min(...sources.map(begun));
  const span = Math.max(1, Math.max(...sources.map((source) => source.last_at_ms)) - start);
  const rows = sources.map((source) => {
    const line = element("i", { className: source.is_member ? "" : "upstream" });
    line.style.left = `${(100 * (begun(source) - start)) / span}%`;
    line.style.width = `${(100 * source.seconds * 1000) / span}%`;
    return element("tr", {},
      element("td", { className: "mono", textContent: source.is_member ? shortName(source.source) : source.source }),
      element("td", { textContent: source.is_member ? "member" : "upstream" }),
      element("td", { textContent: bytes(source.bytes) }),
      element("td", { textContent: percent(source.bytes, total) }),
      element("td", { textContent: `${clock(begun(source))}, ${duration(source.seconds)}` }),
      element("td", {}, element("div", { className: "span" }, line)));
  });
  const heads = ["From", "Kind", "Bytes", "Share", "From when, how long", "When"];
  const head = element("tr", {}, ...heads.map((text) => element("th", { scope: "col", textContent: text })));
  const table = element("table", {},
    element("caption", { className: "visually-hidden", textContent: "Who sent this node which part, and when" }),
    element("thead", {}, head), element("tbody", {}, ...rows));
  return element("div", { className: "scroll" }, table);
}

const quiet = (text) => element("p", { className: "quiet", textContent: text });
