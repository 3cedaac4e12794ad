// A long list that the daemon gives page by page, newest first. Must not know: what the entries show.

import { Refused, get } from "./api.js";

/** Entries of one page. */
export const PAGE = 100;
/** The newest page is asked for again after a poll, this long after the last time, while nobody has gone further back. */
const AGAIN_MS = 7_500;

/**
 * Fetches a list. `path(before)` is the request for the page before that entry (null: the newest), `take(answer)` gives
 * `{entries, next}`, `update(list)` shows `{entries, next, message}`.
 */
export function paged(app, path, take, update) {
  let gone = new AbortController();
  let list = { entries: [], next: null, message: "Loading …" };
  let askedAt = 0;
  let isAsking = false;

  async function load(before) {
    const { signal } = gone;
    isAsking = true;
    askedAt = performance.now();
    try {
      const answer = take(await get(path(before), signal));
      const entries = before === null ? answer.entries : [...list.entries, ...answer.entries];
      list = { entries, next: answer.next, message: "" };
    } catch (problem) {
      if (signal.aborted) return;
      if (problem instanceof Refused) list = { entries: [], next: null, message: problem.message };
      else app.trouble(problem);
    }
    isAsking = false;
    update(list);
  }

  return {
    /** The request has changed: starts from the newest entry. */
    restart() {
      gone.abort();
      gone = new AbortController();
      load(null);
    },
    older: () => load(list.next),
    /** After each poll of the frame. */
    changed() {
      if (performance.now() - askedAt > AGAIN_MS && !isAsking && list.entries.length <= PAGE) load(null);
    },
    stop: () => gone.abort(),
  };
}
