// Moments and durations as people read them, by the daemon's clock. Must not know: what happened then.

import { h, setAttr, setText } from "./dom.js";

let ahead_ms = 0;

/** The daemon's clock shows this now. */
export function synchronize(iso) {
  ahead_ms = Date.parse(iso) - Date.now();
}

/** Milliseconds since the epoch, by the daemon's clock. */
export function now() {
  return Date.now() + ahead_ms;
}

/** Times are shown in UTC, or else in the browser's zone; kept for the next visit. */
const UTC = "saltpeter-utc";
let inUtc = false;
try {
  inUtc = localStorage.getItem(UTC) === "1";
} catch {
  // storage is forbidden: it is asked for each time
}

export const isUtc = () => inUtc;

export function setUtc(wanted) {
  inUtc = wanted;
  try {
    localStorage.setItem(UTC, wanted ? "1" : "0");
  } catch {
    // until the next visit
  }
}

/** Year, month, day, hour, minute and second as numbers, in the zone that is shown. */
export function parts(at_ms) {
  const at = new Date(at_ms);
  return inUtc
    ? [at.getUTCFullYear(), at.getUTCMonth() + 1, at.getUTCDate(), at.getUTCHours(), at.getUTCMinutes(), at.getUTCSeconds()]
    : [at.getFullYear(), at.getMonth() + 1, at.getDate(), at.getHours(), at.getMinutes(), at.getSeconds()];
}

/** What `parts` takes off a moment to show it, in milliseconds. */
export const offset = (at_ms) => (inUtc ? 0 : new Date(at_ms).getTimezoneOffset() * 60_000);

const two = (number) => String(number).padStart(2, "0");

/** `3 s`, `4 min 10 s`, `2 h 5 min`, `3 d 4 h`. */
export function duration(ms) {
  const s = Math.max(0, Math.round(ms / 1000));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min${s % 60 ? ` ${s % 60} s` : ""}`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
}

/** The same for what may be short: `40 ms`, `1.2 s`. */
export function precise(ms) {
  if (ms < 1_000) return `${Math.round(ms)} ms`;
  return ms < 10_000 ? `${(ms / 1000).toFixed(1)} s` : duration(ms);
}

/** One unit is enough beside a clock time. */
function roughly(ms) {
  const s = Math.max(0, Math.round(ms / 1000));
  if (s < 100) return `${s} s`;
  if (s < 6000) return `${Math.round(s / 60)} min`;
  if (s < 172800) return `${Math.round(s / 3600)} h`;
  return `${Math.round(s / 86400)} d`;
}

/** `14:30:05`; on another day `2026-11-22 14:30`. */
export function clock(at_ms) {
  const [year, month, day, hour, minute, second] = parts(at_ms);
  const time = `${two(hour)}:${two(minute)}:${two(second)}`;
  if (parts(now()).slice(0, 3).join() === [year, month, day].join()) return time;
  return `${year}-${two(month)}-${two(day)} ${time.slice(0, 5)}`;
}

/** A `<time>` that says when, and how long ago or in how long. Brought up to date by [`tick`]. */
export function moment(iso) {
  const node = h("time");
  setMoment(node, iso);
  return node;
}

export function setMoment(node, iso) {
  setAttr(node, "datetime", iso);
  refresh(node);
}

function refresh(node) {
  const iso = node.getAttribute("datetime");
  if (!iso) return setText(node, "–");
  const at = Date.parse(iso);
  const away = at - now();
  let text = away > 0 ? `in ${roughly(away)}` : `${roughly(-away)} ago`;
  // the next look will tell what became of it
  if (away <= 0 && node.hasAttribute("data-due")) text = "now";
  setText(node, `${clock(at)} (${text})`);
  setAttr(node, "title", iso);
}

/** A `<time>` that says how long something takes, or has taken until now; `took_ms` where that is known otherwise. */
export function setLasting(node, from, until, took_ms = null) {
  setAttr(node, "data-took", took_ms);
  setAttr(node, "data-from", from);
  setAttr(node, "data-until", until);
  refreshLasting(node);
}

function refreshLasting(node) {
  const from = node.getAttribute("data-from");
  if (!from) return setText(node, "–");
  const took = node.getAttribute("data-took");
  if (took) return setText(node, duration(Number(took)));
  const until = node.getAttribute("data-until");
  setText(node, duration((until ? Date.parse(until) : now()) - Date.parse(from)));
}

/** Once a second: all times that are shown. */
export function tick(root) {
  for (const node of root.querySelectorAll("time[datetime]")) refresh(node);
  for (const node of root.querySelectorAll("time[data-from]:not([data-until])")) refreshLasting(node);
}
