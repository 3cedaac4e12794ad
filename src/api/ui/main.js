// The frame: polls how everything stands, shows what concerns all, and the view that the address names.
//
// Reading order: `api.js` asks the daemon; `dom.js`, `time.js`, `dialog.js` make and change elements; `keys.js` shortcuts; `overview.js`, `wall.js`, `timeline.js`,
// `job.js`, `run.js`, `runs.js`, `machines.js`, `problems.js`, `audit.js` are the views, `grid.js` is a part of a job's, `output.js` of a run's,
// `pages.js` of those that are long lists. A view is `{node, title, changed, stop}`: `changed`
// is called after each poll, `title` for the window's title.

import { Refused, Unreachable, get, part } from "./api.js";
import { badge, counted, h, list, setAttr, setText, show } from "./dom.js";
import { clock, isUtc, now, setUtc, synchronize, tick } from "./time.js";
import { auditView } from "./audit.js";
import { jobView } from "./job.js";
import { shortcuts, toSearch } from "./keys.js";
import { machinesView } from "./machines.js";
import { hasFailed, overviewView } from "./overview.js";
import { problemsView } from "./problems.js";
import { runView } from "./run.js";
import { runsView } from "./runs.js";
import { timelineView } from "./timeline.js";
import { wallView } from "./wall.js";

/** Between two polls, in milliseconds: while somebody looks, and while the window is behind others. */
const POLL_MS = 2_000;
const POLL_HIDDEN_MS = 30_000;
/** The same while the daemon tells of changes by itself. */
const POLL_TOLD_MS = 8_000;
/** From a change to the poll that fetches it: several come together. */
const GATHER_MS = 50;
/** Before a stream that was refused is tried again. */
const STREAM_AGAIN_MS = 30_000;
/** What an action's result stays on the page, in milliseconds. */
const SAID_MS = 8_000;

/** The pages of the navigation bar: path, name, and how many things there are wrong. */
const PAGES = [
  ["/", "Overview", () => [...state.jobs.values()].filter(hasFailed).length],
  // the path /timeline is an old one of the API
  ["/runs/timeline", "Timeline", () => 0],
  ["/runs", "Runs", () => 0],
  ["/machines", "Machines", () => 0],
  ["/problems", "Problems", () => state.problems.length + state.troubles.length],
  ["/audit", "Audit", () => 0],
];

/** After `g`. */
const LETTERS = [
  ["o", "/", "overview"], ["t", "/runs/timeline", "timeline"], ["r", "/runs", "runs"], ["m", "/machines", "machines"], ["p", "/problems", "problems"],
  ["a", "/audit", "audit"], ["w", "/?view=wall", "wall"],
];

const ROLES = ["read", "operate", "admin"];

const state = {
  jobs: new Map(),
  running: [],
  maintenance: { global: false, machines: [], switches: [] },
  problems: [],
  troubles: [],
  you: null,
};
let asOf = null;
let page = null;
let isNewer = false;
let silentSince = null;
let silentWhy = "";
let view = null;
let timer = null;
let stream = null;
let streamAgain = 0;
let isPolling = false;
/** Something has changed since the poll began. */
let isStale = false;

/** What a view may use of the frame. */
const app = {
  state,
  /** Whoever looks may do what needs this role. */
  may: (role) => state.you !== null && ROLES.indexOf(state.you.role) >= ROLES.indexOf(role),
  say,
  go,
  /** Does something, tells how it went, and looks again at once; gives the answer, or null. */
  async act(ask, done) {
    try {
      const answer = await ask();
      say(done ?? answer.message ?? "done");
      poll();
      return answer;
    } catch (problem) {
      say(problem.message, true);
      return null;
    }
  },
  /** For what a view asks beside the poll: true if the daemon has answered. */
  trouble(problem) {
    if (problem instanceof Unreachable) unreachable(problem);
    else if (!(problem instanceof Refused)) throw problem;
  },
};

const element = (id) => document.getElementById(id);

// -- the poll

async function poll() {
  if (isPolling) {
    isStale = true;
    return;
  }
  isPolling = true;
  clearTimeout(timer);
  try {
    take(await get(`/api/v1/overview${asOf ? `?since=${part(asOf)}` : ""}`));
    silentSince = null;
  } catch (problem) {
    if (problem instanceof Refused && problem.status === 401) return;
    unreachable(problem);
  } finally {
    isPolling = false;
    const isTold = stream?.readyState === EventSource.OPEN;
    const pause = document.hidden ? POLL_HIDDEN_MS : isTold ? POLL_TOLD_MS : POLL_MS;
    timer = setTimeout(poll, isStale ? GATHER_MS : pause);
    isStale = false;
  }
  listen();
  frame();
  view?.changed();
  title();
}

/** Has the daemon tell of changes, as long as somebody looks: a browser has few connections for all its windows. */
function listen() {
  if (document.hidden || silentSince !== null) {
    stream?.close();
    stream = null;
  } else if (stream === null && performance.now() >= streamAgain) {
    stream = new EventSource("/api/v1/stream");
    stream.addEventListener("message", (event) => {
      if (event.data === asOf) return;
      clearTimeout(timer);
      timer = setTimeout(poll, GATHER_MS);
    });
    stream.addEventListener("open", () => { document.body.dataset.live = "yes"; });
    stream.addEventListener("error", () => {
      document.body.dataset.live = "no";
      stream?.close();
      stream = null;
      streamAgain = performance.now() + STREAM_AGAIN_MS;
      clearTimeout(timer);
      timer = setTimeout(poll, POLL_MS);
    });
  }
}

function unreachable(problem) {
  silentSince ??= now();
  silentWhy = problem.message;
  frame();
}

function take(answer) {
  asOf = answer.as_of;
  synchronize(answer.now);
  state.you = answer.you;
  state.running = answer.running;
  if (answer.whole) {
    state.jobs.clear();
    state.maintenance = answer.maintenance;
    state.problems = answer.problems;
    state.troubles = answer.troubles;
  }
  for (const job of answer.jobs) state.jobs.set(job.name, job);
  page ??= answer.page;
  isNewer = page !== answer.page;
  setText(element("version"), answer.version);
}

// -- what concerns all

function frame() {
  const { you } = state;
  if (you) {
    const rights = { read: "can view", operate: "can run and kill", admin: "can do everything" }[you.role];
    setText(element("who"), `${you.who}, ${rights}`);
    show(element("logout"), you.session);
    show(element("login"), you.login && !you.session);
  }
  list(element("pages"), PAGES, ([path]) => path, ([path, name]) => h("a", { href: path }, name, " ", h("span", { class: "badge bad" })), (node, [path, , wrong]) => {
    const count = wrong();
    show(node.lastChild, count > 0);
    setText(node.lastChild, count > 0 ? String(count) : "");
    setAttr(node, "aria-current", location.pathname === path ? "page" : null);
  });
  list(element("banner"), bars(), (bar) => bar.key, makeBar, (node, bar) => {
    setText(node.firstChild.nextSibling, bar.text);
  });
}

function makeBar(bar) {
  const action = bar.action ? h("button", { on: { click: bar.action.run } }, bar.action.text) : null;
  const more = bar.link ? h("a", { href: bar.link.path }, bar.link.text) : null;
  return h("p", { class: `bar ${bar.kind}` }, badge(bar.kind, bar.word), h("span"), " ", action, more);
}

function bars() {
  const { maintenance, problems, troubles } = state;
  const found = [];
  if (silentSince !== null) {
    found.push({
      key: "silent", kind: "bad", word: "no answer",
      text: `${silentWhy}; since ${clock(silentSince)}, asking again and again. What stands here may be old.`,
    });
  }
  if (isNewer) {
    found.push({
      key: "newer", kind: "warn", word: "upgraded", text: "The daemon has a newer page than this one.",
      action: { text: "Load it", run: () => location.reload() },
    });
  }
  for (const trouble of troubles) found.push({ key: `t${trouble}`, kind: "bad", word: "trouble", text: trouble });
  if (maintenance.global) {
    found.push({
      key: "global", kind: "warn", word: "maintenance", text: `No run starts. ${why(maintenance, null)}`,
    });
  }
  if (maintenance.machines.length > 0) {
    const names = maintenance.machines.slice(0, 10).join(", ");
    const more = maintenance.machines.length > 10 ? ", …" : "";
    const reasons = maintenance.machines.length === 1 ? why(maintenance, maintenance.machines[0]) : "";
    found.push({
      key: "machines", kind: "warn", word: "maintenance",
      text: `${counted(maintenance.machines.length, "machine")} left out of every run: ${names}${more}. ${reasons}`,
    });
  }
  if (problems.length > 0 && !["/", "/problems"].includes(location.pathname)) {
    const errors = problems.filter((problem) => problem.severity === "error").length;
    found.push({
      key: "problems", kind: errors > 0 ? "bad" : "warn", word: "job files",
      text: [[errors, "error"], [problems.length - errors, "warning"]].filter(([count]) => count > 0)
        .map(([count, word]) => counted(count, word)).join(" and "),
      link: { path: "/problems", text: "Show" },
    });
  }
  return found;
}

/** Who has switched maintenance, why, and until when. */
function why(maintenance, machine) {
  const found = maintenance.switches.find((entry) => entry.on && entry.machine === machine);
  if (!found) return "Set in the configuration files.";
  return `${found.reason} (${found.by}, until ${clock(Date.parse(found.until))})`;
}

let quiet = null;

function say(text, isBad = false) {
  const node = element("said");
  clearTimeout(quiet);
  node.className = isBad ? "bad" : "good";
  node.textContent = text;
  quiet = setTimeout(() => { node.textContent = ""; }, SAID_MS);
}

// -- views

function go(path) {
  history.pushState(null, "", path);
  open();
}

function open() {
  view?.stop();
  const parts = location.pathname.split("/");
  let name = "";
  try {
    name = decodeURIComponent(parts[2] ?? "");
  } catch {
    // no name of ours
  }
  view = viewOf(parts[1], name);
  const main = element("main");
  main.replaceChildren(view.node);
  document.body.classList.toggle("wall", isWall());
  frame();
  if (state.you) view.changed();
  title();
  scrollTo(0, 0);
}

function isWall() {
  return location.pathname === "/" && new URLSearchParams(location.search).get("view") === "wall";
}

function viewOf(page, name) {
  if (isWall()) return wallView(app);
  if (page === "jobs") return jobView(app, name);
  if (page === "runs" && name === "timeline") return timelineView(app);
  if (page === "runs") return name ? runView(app, name) : runsView(app);
  if (page === "machines") return machinesView(app);
  if (page === "problems") return problemsView(app);
  if (page === "audit") return auditView(app);
  return overviewView(app);
}

function title() {
  const text = view.title();
  const failed = [...state.jobs.values()].filter(hasFailed).length;
  const name = text ? `${text} – Saltpeter` : "Saltpeter";
  document.title = failed > 0 ? `(${failed} failed) ${name}` : name;
  setAttr(document.querySelector("link[rel=icon]"), "href", failed > 0 ? "/ui/icon-failed.svg" : "/ui/icon.svg");
}

document.addEventListener("click", (event) => {
  const target = event.target.closest?.("a");
  const isPlain = event.button === 0 && !event.metaKey && !event.ctrlKey && !event.shiftKey && !event.altKey;
  if (!target || !isPlain || event.defaultPrevented || target.hasAttribute("download")) return;
  const url = new URL(target.href);
  if (url.origin !== location.origin || url.hash || !/^\/($|jobs\/|runs($|\/)|machines$|problems$|audit$)/.test(url.pathname)) return;
  event.preventDefault();
  if (view.stays?.(url)) {
    history.pushState(null, "", url);
    view.moved();
    return;
  }
  go(url.pathname + url.search);
  element("main").focus({ preventScroll: true });
});

document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  toSearch();
});
shortcuts(LETTERS, go);
addEventListener("popstate", open);
document.addEventListener("visibilitychange", () => {
  view?.looked?.(!document.hidden);
  if (document.hidden) listen();
  else poll();
});
function zones() {
  const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
  setText(element("zone"), isUtc() ? "times in UTC" : `times in ${zone}`);
  setAttr(element("zone"), "title", isUtc() ? `Show times in ${zone}` : "Show times in UTC");
}

element("zone").addEventListener("click", () => {
  setUtc(!isUtc());
  zones();
  tick(document);
  open();
});
zones();
setInterval(() => {
  if (!document.hidden) tick(document);
}, 1_000);

open();
poll();
