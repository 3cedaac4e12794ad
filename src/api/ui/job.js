// One job: what it is, when it runs, how its runs ended; and what may be done with it.

import { Refused, get, part, post, runPath } from "./api.js";
import { counted, h, link, list, setBadge, setText, show } from "./dom.js";
import { question } from "./dialog.js";
import { gridSection } from "./grid.js";
import { head, notesText, updateStates } from "./overview.js";
import { clock, moment, setLasting } from "./time.js";

/** Runs shown. */
const RECENT = 30;
const FIELDS = ["sec", "min", "hour", "dom", "mon", "dow", "year"];
/** Shown elsewhere on this page. */
const ELSEWHERE = [...FIELDS, "description", "group", "command", "timezone", "utc", "parameters"];

const OUTCOMES = { succeeded: ["good", "succeeded"], failed: ["bad", "failed"], killed: ["warn", "killed"], running: ["busy", "running"], skipped: ["off", "skipped"] };

/** In a question, the field for machines: no name of a parameter. */
const ONLY = "only on";

export function setOutcome(node, outcome, killedBy = null) {
  const [kind, text] = OUTCOMES[outcome] ?? ["off", outcome];
  setBadge(node, kind, outcome === "killed" && killedBy !== null ? `killed by ${killedBy}` : text);
}

export function jobView(app, name) {
  const api = `/api/v1/jobs/${part(name)}`;
  const gone = new AbortController();
  let job = null;
  let seen = null;
  let isAsking = false;
  let isStale = false;

  const states = h("span", { class: "states" });
  const notes = h("span", { class: "notes" });
  const group = h("span", { class: "group" });
  const description = h("p", { class: "description" });
  const pausedText = h("p", { class: "bar warn", hidden: true });
  const run = h("button", { class: "main", on: { click: start } }, "Run now …");
  const pause = h("button", { on: { click: pauseJob } }, "Pause …");
  const resume = h("button", {
    on: { click: () => app.act(() => post(`${api}/resume`), `${name} starts by itself again`) },
  }, "Resume");
  const kill = h("button", { class: "danger", on: { click: killJob } }, "Kill …");
  const markSeen = h("button", {
    on: { click: () => app.act(() => post(`${api}/seen`), "The missed due times are marked as seen") },
  }, "Mark missed as seen");
  const actions = h("p", { class: "actions" }, run, pause, resume, kill, markSeen);
  const problems = h("ul", { class: "problems" });
  const nextRuns = h("ol", { class: "times" });
  const noNext = h("p", { class: "quiet" });
  const schedule = h("table", { class: "schedule" });
  const zone = h("p", { class: "quiet" });
  const command = h("pre", { tabindex: "0", "aria-label": "Command" });
  const config = h("dl");
  const runs = h("tbody");
  const runsTable = h("table", { class: "recent" }, head("Started", "Run", "For", "Outcome", "Machines"), runs);
  const noRuns = h("p", { class: "quiet" });
  const grid = gridSection(app, name, gone.signal);
  const whole = h(
    "div",
    { hidden: true },
    description,
    pausedText,
    actions,
    problems,
    grid.node,
    h("section", { "aria-labelledby": "recent-title" }, h("h2", { id: "recent-title" }, "Recent runs"), noRuns, runsTable,
      h("p", {}, h("a", { href: `/runs?job=${part(name)}` }, "All runs of this job"), " · ",
        h("a", { href: `/runs?job=${part(name)}&outcome=not_started` }, "Due times that did not start"))),
    h(
      "div",
      { class: "columns" },
      h(
        "section",
        { "aria-labelledby": "schedule-title" },
        h("h2", { id: "schedule-title" }, "Schedule"),
        schedule,
        zone,
        h("h3", {}, "Next runs"),
        nextRuns,
        noNext,
      ),
      h(
        "section",
        { "aria-labelledby": "config-title" },
        h("h2", { id: "config-title" }, "Command and settings"),
        command,
        config,
      ),
    ),
  );
  const missing = h("p", { class: "quiet" }, "Loading …");
  const node = h(
    "div",
    {},
    h("p", { class: "path" }, h("a", { href: "/" }, "All jobs")),
    h("h1", {}, h("span", { class: "name" }, name), " ", states, " ", notes, " ", group),
    missing,
    whole,
  );

  async function load() {
    if (isAsking) {
      isStale = true;
      return;
    }
    isStale = false;
    isAsking = true;
    try {
      job = await get(`${api}?recent=${RECENT}&machines=1`, gone.signal);
      update();
      grid.load();
    } catch (problem) {
      if (gone.signal.aborted) return;
      seen = null;
      if (problem instanceof Refused) {
        job = null;
        setText(missing, problem.status === 404 ? "There is no such job (any more)." : problem.message);
        update();
      } else {
        app.trouble(problem);
      }
    } finally {
      isAsking = false;
      if (isStale && !gone.signal.aborted) load();
    }
  }

  function changed() {
    const line = app.state.jobs.get(name);
    const now = JSON.stringify([line ?? null, app.state.problems]);
    if (line) {
      updateStates(states, line);
      setText(notes, notesText(line));
    }
    rights();
    if (now === seen) return;
    seen = now;
    load();
  }

  function rights() {
    const line = app.state.jobs.get(name);
    const may = app.may("operate") && line !== undefined;
    show(actions, may);
    const isThere = line !== undefined && line.state !== "gone";
    // a disabled job does not run by hand either
    show(run, isThere && line.state !== "disabled");
    show(pause, isThere && !job?.paused);
    show(resume, Boolean(job?.paused));
    show(kill, line?.state === "running");
    show(markSeen, line?.missed > 0);
  }

  function update() {
    show(missing, job === null);
    show(whole, job !== null);
    if (job === null) return;
    rights();
    setText(group, job.group ?? "");
    setText(description, job.description ?? "");
    show(description, Boolean(job.description));
    const { paused } = job;
    show(pausedText, paused !== null);
    if (paused) {
      const until = paused.until ? `until ${clock(Date.parse(paused.until))}` : "until it is resumed";
      setText(pausedText, `Paused ${until}: ${paused.reason} (${paused.by}, ${clock(Date.parse(paused.since))})`);
    }
    list(problems, job.problems, (problem) => JSON.stringify(problem), (problem) => h(
      "li",
      { class: problem.severity === "error" ? "bad" : "warn" },
      `${problem.file}${problem.line ? `:${problem.line}` : ""}: ${problem.field}: ${problem.reason}`,
    ), () => {});
    show(problems, job.problems.length > 0);
    updateSchedule();
    updateConfig();
    list(runs, job.recent, (recent) => recent.instance, makeRecent, updateRecent);
    show(runsTable, job.recent.length > 0);
    show(noRuns, job.recent.length === 0);
    setText(noRuns, "It has never run.");
  }

  function updateSchedule() {
    const values = job.config ?? {};
    const fields = FIELDS.filter((field) => field in values);
    list(schedule, [fields], () => "fields", () => h("tbody", {}, h("tr"), h("tr")), (body) => {
      const [names, texts] = body.children;
      list(names, fields, (field) => field, (field) => h("th", { scope: "col" }, field), () => {});
      list(texts, fields, (field) => field, () => h("td"), (cell, field) => setText(cell, shown(values[field])));
    });
    setText(zone, `Time zone ${values.utc === true ? "UTC" : values.timezone ?? "as the settings say (UTC unless set)"}`);
    list(nextRuns, job.next_runs, (at) => at, (at) => h("li", {}, moment(at)), () => {});
    show(nextRuns, job.next_runs.length > 0);
    show(noNext, job.next_runs.length === 0);
    setText(noNext, !job.config ? "It is in no job file any more." : !job.enabled ? "It is disabled."
      : job.paused ? "None while it is paused." : "Never: the schedule has no future date.");
  }

  function updateConfig() {
    const values = job.config ?? {};
    show(command, typeof values.command === "string");
    setText(command, shown(values.command ?? ""));
    const rest = Object.entries(values).filter(([field]) => !ELSEWHERE.includes(field));
    // where it runs comes first
    rest.sort(([a], [b]) => b.startsWith("target") - a.startsWith("target"));
    for (const [field, value] of Object.entries(values.parameters ?? {})) {
      rest.push([`parameter ${field}`, value]);
    }
    list(config, rest, ([field]) => field, ([field]) => h("div", {}, h("dt", {}, field), h("dd")), (pair, [, value]) => {
      setText(pair.children[1], shown(value));
    });
  }

  async function start() {
    const defaults = job?.config?.parameters ?? {};
    const names = job?.parameters ?? [];
    const values = await question({
      title: `Run ${name} now?`,
      text: `It runs on: ${shown(job?.config?.targets ?? "")}.${names.length > 0 ? " With these values, this time." : ""}`,
      fields: [
        ...names.map((field) => ({ name: field, label: field, value: shown(defaults[field] ?? "") })),
        { name: ONLY, label: "Only on these of its machines (names, with commas; empty: on all)" },
      ],
      button: "Run now",
    });
    if (values === null) return;
    const { [ONLY]: only, ...parameters } = values;
    const targets = only.split(/[\s,]+/).filter(Boolean);
    const body = targets.length > 0 ? { parameters, targets } : { parameters };
    const started = await app.act(() => post(`${api}/run`, body), `${name} was started`);
    if (started) app.go(runPath(started.instance));
  }

  async function pauseJob() {
    const values = await question({
      title: `Pause ${name}`,
      text: "Its due times start nothing. A run that is under way goes on.",
      fields: [
        { name: "reason", label: "Reason", required: true, max: 1000 },
        {
          name: "until", label: "For",
          options: [["now+1h", "an hour"], ["now+8h", "8 hours"], ["now+1d", "a day"], ["now+1w", "a week"], ["", "until it is resumed"]],
        },
      ],
      button: "Pause",
    });
    if (values === null) return;
    const body = values.until ? { reason: values.reason, until: values.until } : { reason: values.reason };
    await app.act(() => post(`${api}/pause`, body), `${name} is paused`);
  }

  async function killJob() {
    const count = app.state.running.filter((line) => line.job === name).length;
    const values = await question({
      title: `Kill ${name}?`,
      text: `${counted(count, "run")} under way ${count === 1 ? "is" : "are"} ended on every machine: SIGTERM, and SIGKILL 5 seconds later.`,
      button: "Kill",
      isDangerous: true,
    });
    if (values !== null) await app.act(() => post(`${api}/kill`));
  }

  load();

  return {
    node,
    changed,
    title: () => name,
    stop: () => gone.abort(),
  };
}

/** A value as its file has it. */
function shown(value) {
  return typeof value === "string" ? value : JSON.stringify(value);
}

function makeRecent(run) {
  return h(
    "tr",
    {},
    h("td", {}, moment(run.started)),
    h("th", { scope: "row" }, link(runPath(run.instance), run.instance)),
    h("td", {}, h("time")),
    h("td", {}, h("span")),
    h("td"),
  );
}

function updateRecent(row, run) {
  const cells = row.children;
  setLasting(cells[2].firstChild, run.started, run.ended, run.duration_ms);
  setOutcome(cells[3].firstChild, run.outcome, run.killed_by);
  const { outcomes, failed } = run.machines;
  const words = Object.entries(outcomes).sort(([a], [b]) => (b === "success") - (a === "success"));
  const parts = words.map(([word, count]) => `${count} ${word.replace("_", " ")}`);
  let text = parts.join(", ");
  if (failed.length > 0) {
    const total = Object.entries(outcomes).reduce((sum, [word, count]) => (
      word === "success" || word === "unfinished" ? sum : sum + count
    ), 0);
    const names = failed.map(({ machine, retcode }) => `${machine} (${retcode})`).join(", ");
    text += `: ${names}${total > failed.length ? ", …" : ""}`;
  }
  setText(cells[4], text);
}
