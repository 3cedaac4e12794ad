// The overview: what is wrong, what runs, and how every job stands.

import { jobPath, runPath } from "./api.js";
import { counted, h, link, list, setAttr, setBadge, setText, show } from "./dom.js";
import { moment, setLasting, setMoment } from "./time.js";

/** Rows shown at once; more on request. */
const ROWS = 200;
/** Runs shown of those that are under way: at first, and on request. */
const RUNS_FIRST = 5;
const RUNS = 50;
const PROBLEMS = 8;

const CHOICES = [
  ["all", "All", () => true],
  ["failed", "Failed", (job) => job.last_ok === false],
  ["running", "Running", (job) => job.state === "running"],
  ["attention", "Attention", (job) => job.missed > 0 || job.overlap || job.problems > 0],
  ["paused", "Paused", (job) => job.state === "paused"],
  ["disabled", "Disabled", (job) => job.state === "disabled" || job.state === "gone"],
];

/** Its last run has failed, and it is a job that should run. */
export function hasFailed(job) {
  return rank(job) === 0;
}

/** Failed first; then what needs a look; what does not run last. Running changes no order: rows stay where they are. */
function rank(job) {
  if (job.state === "gone") return 5;
  if (job.state === "disabled") return 4;
  if (job.last_ok === false) return 0;
  if (job.problems > 0) return 1;
  return job.missed > 0 || job.overlap ? 2 : 3;
}

export function overviewView(app) {
  const asked = new URLSearchParams(location.search);
  let choice = CHOICES.some(([key]) => key === asked.get("show")) ? asked.get("show") : "all";
  let rows = ROWS;
  let runRows = RUNS_FIRST;
  let allProblems = false;

  const problems = h("section", { "aria-labelledby": "problems-title", class: "problems", hidden: true });
  const problemsTitle = h("h2", { id: "problems-title" });
  const problemsList = h("ul");
  const problemsMore = h("button", { on: { click: () => { allProblems = true; changed(); } } });
  problems.append(problemsTitle, problemsList, problemsMore);

  const runs = h("tbody");
  const runsMore = h("p", { class: "quiet", hidden: true });
  const runsTable = h(
    "table",
    { class: "runs" },
    head("Run", "Job", "Started", "For", "Machines"),
    runs,
  );
  const runsAll = h("button", { on: { click: () => { runRows = RUNS; changed(); } } });
  const noRuns = h("p", { class: "quiet" }, "Nothing runs at the moment.");

  const search = h("input", {
    type: "search", placeholder: "Name, group or description", "aria-label": "Search jobs", value: asked.get("q") ?? "",
    autocomplete: "off", spellcheck: "false",
    on: { input: () => { rows = ROWS; remember(); changed(); } },
  });
  const chips = h("div", { class: "chips", role: "group", "aria-label": "Which jobs" });
  const buttons = CHOICES.map(([key, text]) => {
    const count = h("span", { class: "count" });
    const button = h(
      "button",
      { on: { click: () => { choice = key; rows = ROWS; remember(); changed(); } } },
      `${text} `,
      count,
    );
    chips.append(button);
    return { key, button, count };
  });
  const columns = () => head("State", "Job", "Last run", "Next run", "Notes");
  const failed = h("tbody");
  const failedPart = h(
    "section",
    { "aria-labelledby": "failed-title" },
    h("h2", { id: "failed-title" }, "Failed"),
    h("table", { class: "jobs" }, columns(), failed),
  );
  const jobs = h("tbody");
  const jobsTable = h("table", { class: "jobs" }, columns(), jobs);
  const jobsTitle = h("h2", { id: "jobs-title" });
  const noJobs = h("p", { class: "quiet" });
  const jobsMore = h("button", { hidden: true, on: { click: () => { rows += 5 * ROWS; changed(); } } });

  const node = h(
    "div",
    {},
    h("h1", { class: "hidden" }, "Overview"),
    h("div", { class: "tools" }, search, chips),
    failedPart,
    problems,
    h("section", { "aria-labelledby": "runs-title" }, h("h2", { id: "runs-title" }, "Running"), noRuns, runsTable, runsMore, runsAll),
    h(
      "section",
      { "aria-labelledby": "jobs-title" },
      jobsTitle,
      noJobs,
      jobsTable,
      jobsMore,
    ),
  );

  function remember() {
    const query = new URLSearchParams();
    if (search.value) query.set("q", search.value);
    if (choice !== "all") query.set("show", choice);
    const text = query.toString();
    history.replaceState(null, "", text ? `/?${text}` : "/");
  }

  function changed() {
    showProblems();
    showRuns();
    showJobs();
  }

  function showProblems() {
    const found = [...app.state.problems].sort((a, b) => (a.severity === b.severity ? 0 : a.severity === "error" ? -1 : 1));
    show(problems, found.length > 0);
    setText(problemsTitle, `${counted(found.length, "problem")} in the job files`);
    const shown = allProblems ? found : found.slice(0, PROBLEMS);
    list(problemsList, shown, (problem) => JSON.stringify(problem), makeProblem, () => {});
    show(problemsMore, shown.length < found.length);
    setText(problemsMore, `Show all ${found.length}`);
  }

  function showRuns() {
    const found = [...app.state.running].sort((a, b) => (a.started < b.started ? 1 : -1));
    show(noRuns, found.length === 0);
    show(runsTable, found.length > 0);
    list(runs, found.slice(0, runRows), (run) => run.instance, makeRun, updateRun);
    show(runsAll, runRows < RUNS && found.length > runRows);
    setText(runsAll, `Show all ${found.length.toLocaleString("en")} runs`);
    show(runsMore, runRows === RUNS && found.length > RUNS);
    setText(runsMore, `and ${found.length - RUNS} more: see the jobs that are running, below`);
  }

  function showJobs() {
    const all = [...app.state.jobs.values()];
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const found = words.length === 0 ? all : all.filter((job) => {
      const text = `${job.name}\n${job.group ?? ""}\n${job.description ?? ""}`.toLowerCase();
      return words.every((word) => text.includes(word));
    });
    for (const { key, button, count } of buttons) {
      const is = CHOICES.find(([known]) => known === key)[2];
      setText(count, found.filter(is).length.toLocaleString("en"));
      setAttr(button, "aria-pressed", String(key === choice));
    }
    const is = CHOICES.find(([key]) => key === choice)[2];
    const chosen = found.filter(is).map((job) => [rank(job), job.name, job]);
    chosen.sort((a, b) => a[0] - b[0] || (a[1] < b[1] ? -1 : 1));
    // what failed comes before what runs; a choice of jobs is one table
    const first = choice === "all" ? chosen.filter(([ranked]) => ranked === 0).map(([, , job]) => job) : [];
    const rest = chosen.slice(first.length).map(([, , job]) => job);
    const upper = first.slice(0, rows);
    const lower = rest.slice(0, Math.max(0, rows - first.length));
    list(failed, upper, (job) => job.name, makeJob, updateJob);
    list(jobs, lower, (job) => job.name, makeJob, updateJob);
    show(failedPart, first.length > 0);
    setText(jobsTitle, first.length > 0 ? "Other jobs" : "Jobs");
    show(jobsTable, rest.length > 0);
    show(noJobs, chosen.length === 0);
    setText(noJobs, all.length === 0 ? "No jobs yet. Save a job file; it takes effect within 2 seconds."
      : "No jobs match the filter.");
    show(jobsMore, chosen.length > rows);
    setText(jobsMore, `${chosen.length - rows} more`);
  }

  return {
    node,
    changed,
    title: () => "",
    stop() {},
  };
}

export function head(...names) {
  return h("thead", {}, h("tr", {}, ...names.map((name) => h("th", { scope: "col" }, name))));
}

export function makeProblem(problem) {
  const place = problem.file ? `${problem.file}${problem.line ? `:${problem.line}` : ""}` : "";
  return h(
    "li",
    { class: problem.severity === "error" ? "bad" : "warn" },
    h("span", { class: `badge ${problem.severity === "error" ? "bad" : "warn"}` }, problem.severity),
    " ",
    place ? h("code", {}, place) : null,
    place ? " " : null,
    problem.field ? h("b", {}, problem.field) : null,
    problem.field ? ": " : null,
    problem.reason,
  );
}

function makeRun(run) {
  const row = h(
    "tr",
    {},
    h("th", { scope: "row" }, link(runPath(run.instance), run.instance)),
    h("td", {}, link(jobPath(run.job), run.job)),
    h("td", {}, moment(run.started)),
    h("td", {}, h("time")),
    h("td"),
  );
  return row;
}

function updateRun(row, run) {
  const cells = row.children;
  setLasting(cells[3].firstChild, run.started, null);
  let text = run.machines === 0 ? "looking for machines" : `${run.ended} of ${counted(run.machines, "machine")} ended`;
  if (run.failed > 0) text += `, ${run.failed} failed`;
  if (run.kill_asked) text += ", being killed";
  setText(cells[4], text);
  setAttr(cells[4], "class", run.failed > 0 ? "bad" : null);
}

/** How a job's last run went, and how the job stands otherwise. */
export function updateStates(cell, job) {
  const states = [];
  if (job.last_outcome === "killed") states.push(["warn", "killed"]);
  else if (job.last_ok === false) states.push(["bad", "failed"]);
  else if (job.last_ok === true) states.push(["good", "ok"]);
  if (job.state === "running") states.push(["busy", "running"]);
  else if (job.state === "paused") states.push(["warn", "paused"]);
  else if (job.state === "disabled") states.push(["off", "disabled"]);
  else if (job.state === "gone") states.push(["off", "gone"]);
  else if (states.length === 0) states.push(["off", "never ran"]);
  list(cell, states, ([, text]) => text, () => h("span"), (node, [kind, text]) => setBadge(node, kind, text));
}

function makeJob(job) {
  return h(
    "tr",
    {},
    h("td", { class: "states" }),
    h(
      "th",
      { scope: "row" },
      link(jobPath(job.name), job.name),
      h("span", { class: "group" }),
      h("span", { class: "description" }),
    ),
    h("td", { class: "last" }, h("span"), h("span", { class: "detail" })),
    h("td", { class: "next" }, h("time", { "data-due": true })),
    h("td", { class: "notes" }),
  );
}

function updateJob(row, job) {
  const [states, name, last, next, notes] = row.children;
  updateStates(states, job);
  setText(name.children[1], job.group ?? "");
  setText(name.children[2], job.description ?? "");
  const [run, detail] = last.children;
  if (job.last_run && run.getAttribute("data-run") !== job.last_instance) {
    run.setAttribute("data-run", job.last_instance);
    const at = link(runPath(job.last_instance), "");
    at.append(moment(job.last_run));
    run.replaceChildren(at);
  } else if (!job.last_run) {
    setText(run, "–");
  }
  setText(detail, outcomeText(job));
  setMoment(next.firstChild, job.next_run);
  setText(notes, notesText(job));
}

function outcomeText(job) {
  const has_failures = job.state === "running" ? job.last_failed_count > 0 : job.last_ok === false;
  if (job.last_outcome === "killed" && job.last_killed_by !== null) return `by ${job.last_killed_by}`;
  if (!has_failures) return "";
  if (job.last_total_count === 0) return "no machine";
  return `${job.last_failed_count} of ${job.last_total_count} failed`;
}

export function notesText(job) {
  const notes = [];
  if (job.overlap) notes.push("overlaps");
  if (job.missed > 0) notes.push(`${job.missed} missed`);
  if (job.problems > 0) notes.push(counted(job.problems, "problem"));
  return notes.join(", ");
}
