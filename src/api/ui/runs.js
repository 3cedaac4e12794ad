// The runs of all jobs as far back as history goes, by filters that the address holds; and the due times that started
// nothing, with the reason.

import { jobPath, runPath } from "./api.js";
import { counted, h, link, list, setAttr, setBadge, setText, show } from "./dom.js";
import { setOutcome } from "./job.js";
import { head } from "./overview.js";
import { PAGE, paged } from "./pages.js";
import { isUtc, moment, now, parts, setLasting } from "./time.js";

/** Due times that started nothing, shown at once. */
const NOT_STARTED = 1_000;
const DAY_MS = 86_400_000;

const OUTCOMES = [
  ["", "Any outcome"], ["failed", "Failed"], ["succeeded", "Succeeded"], ["running", "Running"], ["killed", "Killed"],
  ["skipped", "Skipped: all machines in maintenance"], ["not_started", "Did not start: missed, overlapped, paused"],
];

const WHY = { missed: "bad", overlap: "warn", maintenance: "off", paused: "off" };

const two = (number) => String(number).padStart(2, "0");

/** The day as a date field has it, in the viewer's zone. */
function dateOf(at_ms) {
  const [year, month, day] = parts(at_ms);
  return `${year}-${two(month)}-${two(day)}`;
}

/** A day's first moment and the next day's, in the viewer's zone. */
function bounds(date) {
  const [year, month, day] = date.split("-").map(Number);
  const first = (of) => (isUtc() ? new Date(Date.UTC(year, month - 1, of)) : new Date(year, month - 1, of));
  return [first(day), first(day + 1)].map((at) => at.toISOString());
}

export function runsView(app) {
  const asked = new URLSearchParams(location.search);
  const onChange = { on: { change: filtered } };
  const job = h("input", { type: "search", list: "job-names", autocomplete: "off", spellcheck: "false", value: asked.get("job") ?? "", ...onChange });
  const names = h("datalist", { id: "job-names" });
  const group = h("select", onChange, h("option", { value: "" }, "Any group"));
  const machine = h("input", { type: "search", autocomplete: "off", spellcheck: "false", value: asked.get("machine") ?? "", ...onChange });
  const outcome = h("select", onChange, ...OUTCOMES.map(([value, text]) => h("option", { value }, text)));
  if (OUTCOMES.some(([value]) => value === asked.get("outcome"))) outcome.value = asked.get("outcome");
  const day = h("input", { type: "date", value: asked.get("day") ?? "", ...onChange });
  const dayButton = (text, value) => h("button", { type: "button", on: { click: () => { day.value = value(); filtered(); } } }, text);
  const labelled = (text, input) => h("label", {}, h("span", {}, text), input);
  const form = h(
    "form",
    { class: "filters", "aria-label": "Filters", on: { submit: (event) => { event.preventDefault(); filtered(); } } },
    labelled("Job", job), labelled("Group", group), labelled("Machine", machine), labelled("Outcome", outcome), labelled("Day", day),
    h(
      "span",
      { class: "chips" },
      dayButton("Today", () => dateOf(now())),
      dayButton("Yesterday", () => dateOf(now() - DAY_MS)),
      dayButton("Any day", () => ""),
    ),
    names,
  );
  const wanted = asked.get("group") ?? "";
  const rows = h("tbody");
  const table = h("table", { class: "history" }, head("Started", "Job", "Run", "For", "Outcome", "Machines", "Why"), rows);
  const verdicts = h("tbody");
  const verdictTable = h("table", { class: "history" }, head("Due", "Job", "Why", "Reason"), verdicts);
  const none = h("p", { class: "quiet" });
  const older = h("button", { on: { click: () => pages.older() } }, "Older runs");
  const node = h("div", {}, h("h1", {}, "Runs"), form, none, table, verdictTable, older);

  const isNotStarted = () => outcome.value === "not_started";

  function request(before) {
    const query = new URLSearchParams();
    if (job.value) query.set("job", job.value);
    if (day.value) {
      const [from, until] = bounds(day.value);
      query.set("from", from);
      query.set("until", until);
    }
    if (isNotStarted()) {
      if (!day.value) query.set("from", "1970-01-01");
      query.set("type", "not_started");
      query.set("limit", NOT_STARTED);
      return `/api/v1/events?${query}`;
    }
    if (group.value) query.set("group", group.value);
    if (machine.value) query.set("machine", machine.value);
    if (outcome.value) query.set("outcome", outcome.value);
    if (before !== null) query.set("before", before);
    query.set("limit", PAGE);
    return `/api/v1/runs?${query}`;
  }

  const take = (answer) => (answer.runs ? { entries: answer.runs, next: answer.next }
    : { entries: answer.events.reverse(), next: null });

  const pages = paged(app, request, take, ({ entries, next, message }) => {
    const runs = entries.filter((entry) => entry.started);
    const events = entries.filter((entry) => !entry.started);
    list(rows, runs, (run) => run.instance, makeRun, updateRun);
    list(verdicts, events, (event) => `${event.job} ${event.at} ${event.type}`, makeVerdict, () => {});
    show(table, runs.length > 0);
    show(verdictTable, events.length > 0);
    show(older, next !== null);
    show(none, entries.length === 0);
    setText(none, message || "Nothing in the history matches the filters.");
  });

  function filtered() {
    const query = new URLSearchParams();
    for (const [name, input] of Object.entries({ job, group, machine, outcome, day })) {
      if (input.value) query.set(name, input.value);
    }
    const text = query.toString();
    history.replaceState(null, "", text ? `/runs?${text}` : "/runs");
    // the groups come with the first poll
    show(group.parentNode, !isNotStarted());
    show(machine.parentNode, !isNotStarted());
    pages.restart();
  }

  function changed() {
    const groups = new Set([...app.state.jobs.values()].map((line) => line.group).filter(Boolean));
    if (wanted) groups.add(wanted);
    const known = group.options.length;
    for (const name of [...groups].sort()) {
      if (![...group.options].some((option) => option.value === name)) group.append(h("option", { value: name }, name));
    }
    if (known === 1 && wanted) group.value = wanted;
    list(names, [...app.state.jobs.keys()], (name) => name, (name) => h("option", { value: name }), () => {});
    pages.changed();
  }

  if (wanted) {
    group.append(h("option", { value: wanted }, wanted));
    group.value = wanted;
  }
  filtered();

  return { node, changed, title: () => "Runs", stop: () => pages.stop() };
}

function makeRun(run) {
  return h(
    "tr",
    {},
    h("td", {}, moment(run.started)),
    h("td", {}, link(jobPath(run.job), run.job), " ", h("span", { class: "group" }, run.group ?? "")),
    h("th", { scope: "row" }, link(runPath(run.instance), run.instance)),
    h("td", {}, h("time")),
    h("td", {}, h("span")),
    h("td"),
    h("td", {}, run.asked_by ? `requested by ${run.asked_by}` : "due"),
  );
}

function updateRun(row, run) {
  const cells = row.children;
  setLasting(cells[3].firstChild, run.started, run.ended, run.duration_ms);
  setOutcome(cells[4].firstChild, run.outcome, run.killed_by);
  let text = counted(run.total_count, "machine");
  if (run.failed_count > 0) text = `${run.failed_count} of ${text} failed`;
  else if (run.ended_count < run.total_count) text = `${run.ended_count} of ${text} ended`;
  setText(cells[5], text);
  setAttr(cells[5], "class", run.failed_count > 0 ? "bad" : null);
}

function makeVerdict(event) {
  const why = h("span");
  setBadge(why, WHY[event.type] ?? "off", event.count > 1 ? `${event.type} ${event.count} times` : event.type);
  return h(
    "tr",
    {},
    h("td", {}, moment(event.at)),
    h("th", { scope: "row" }, link(jobPath(event.job), event.job)),
    h("td", {}, why),
    h("td", {}, event.reason ?? ""),
  );
}
