// Asks the daemon. Must not know: what is shown.

/** Longest that an answer may take, in milliseconds. */
const PATIENCE_MS = 20_000;

/** The daemon does not answer. */
export class Unreachable extends Error {}

/** The daemon says no; the message is its own. */
export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** One part of a path. */
export const part = encodeURIComponent;

export const jobPath = (name) => `/jobs/${part(name)}`;
export const runPath = (instance) => `/runs/${part(instance)}`;
export const outputPath = (instance, machine) =>
  `/api/v1/runs/${part(instance)}/machines/${part(machine)}/output`;

/** The session is over, or never was: logs in, and comes back here. */
export function logIn() {
  const here = location.pathname + location.search;
  location.assign(here === "/" ? "/login" : `/login?next=${part(here)}`);
}

async function ask(path, options) {
  let response;
  try {
    response = await fetch(path, { cache: "no-store", credentials: "same-origin", ...options });
  } catch (problem) {
    if (options.signal?.aborted && options.signal.reason?.name !== "TimeoutError") throw problem;
    throw new Unreachable("the daemon does not answer");
  }
  if (response.ok) return response;
  let message = `${response.status} ${response.statusText}`;
  try {
    message = (await response.json()).detail ?? message;
  } catch {
    // a proxy's own page
  }
  if ([502, 503, 504].includes(response.status) && !response.headers.get("content-type")?.includes("json")) {
    throw new Unreachable("a proxy answers, the daemon behind it does not");
  }
  throw new Refused(response.status, message);
}

async function json(path, options) {
  const signals = [AbortSignal.timeout(PATIENCE_MS), options.signal].filter(Boolean);
  const response = await ask(path, { ...options, signal: AbortSignal.any(signals) });
  try {
    return await response.json();
  } catch (problem) {
    if (options.signal?.aborted) throw problem;
    throw new Unreachable("the daemon's answer breaks off");
  }
}

/** What a path shows. Sends to the login when it takes one. */
export async function get(path, signal) {
  try {
    return await json(path, { signal });
  } catch (problem) {
    if (problem instanceof Refused && problem.status === 401) logIn();
    throw problem;
  }
}

/** Does something. */
export function post(path, body = {}) {
  return json(path, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
  });
}

/** Sets something. */
export function put(path, body) {
  return json(path, { method: "PUT", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
}

/** Takes something back. */
export function remove(path) {
  return json(path, { method: "DELETE" });
}

/** A part of a machine's output: the bytes from there up to (not with) there, and how many there are in all. */
export async function piece(instance, machine, from, until, signal) {
  const signals = [AbortSignal.timeout(PATIENCE_MS), signal].filter(Boolean);
  const options = { headers: { Range: `bytes=${from}-${until - 1}` }, signal: AbortSignal.any(signals) };
  const response = await ask(outputPath(instance, machine), options);
  const data = new Uint8Array(await response.arrayBuffer());
  const total = Number(response.headers.get("content-range")?.split("/")[1] ?? data.length);
  return { data, total };
}

/** A machine's output from that byte on, while it comes: gives the body to be read. */
export async function follow(instance, machine, from, signal) {
  const headers = from > 0 ? { Range: `bytes=${from}-` } : {};
  const response = await ask(`${outputPath(instance, machine)}?follow=1`, { headers, signal });
  return response.body.getReader();
}
