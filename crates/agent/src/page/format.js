// How figures and names are written, and elements made.

const UNITS = ["B", "kB", "MB", "GB", "TB", "PB"];

export function bytes(n) {
  let unit = 0;
  while (n >= 1000 && unit < UNITS.length - 1) {
    n /= 1000;
    unit += 1;
  }
  return `${unit === 0 ? Math.round(n) : n.toFixed(1)} ${UNITS[unit]}`;
}

export const rate = (perSecond) => `${bytes(perSecond)}/s`;

export const percent = (part, whole) => (whole > 0 ? `${Math.floor((100 * part) / whole)} %` : "–");

export const number = (n) => n.toLocaleString("en");

export function count(n, one, many = `${one}s`) {
  return `${number(n)} ${n === 1 ? one : many}`;
}

/** The first few of some names, and how many more there are. */
export function few(names, most) {
  const more = names.length - most;
  return names.slice(0, most).join(", ") + (more > 0 ? ` and ${number(more)} more` : "");
}

export function duration(seconds) {
  if (seconds < 60) return `${seconds < 10 ? seconds.toFixed(1) : Math.round(seconds)} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min ${Math.round(seconds % 60)} s`;
  const hours = Math.floor(minutes / 60);
  return hours < 48 ? `${hours} h ${minutes % 60} min` : `${Math.floor(hours / 24)} days`;
}

export const clock = (ms) => new Date(ms).toLocaleTimeString(undefined, { hour12: false });

/** `sha256:` and twelve digits tell blobs apart. */
export const shortDigest = (digest) => digest.slice(0, digest.indexOf(":") + 13);

export const shortName = (name) => name.slice(0, 12);

export const zoneName = (zone) => zone || "no zone";

/** An element with properties and children; texts become text, never markup. */
export function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** A progress bar: parts of `whole`, each `[class, amount]`; what it says stands beside it as text. */
export function bar(whole, parts, label) {
  const shown = element("div", { className: "bar", role: "img", ariaLabel: label });
  for (const [className, amount] of parts) {
    const part = element("i", { className });
    part.style.width = whole > 0 ? `${(100 * amount) / whole}%` : "0";
    shown.append(part);
  }
  return shown;
}
