// One run: how each machine ended, and the output of one of them while it comes.

import { Refused, get, jobPath, outputPath, part, post, runPath } from "./api.js";
import { bytes, counted, h, link, list, setAttr, setBadge, setText, show } from "./dom.js";
import { question } from "./dialog.js";
import { setOutcome } from "./job.js";
import { outputPanel } from "./output.js";
import { head } from "./overview.js";
import { clock, moment, setLasting, setMoment } from "./time.js";

/** Rows shown at once; more on request. */
const ROWS = 200;
/** From so many machines on there is a search. */
const SEARCH_FROM = 10;
/** An outcome may still be revised: an ended run is looked at this often, in milliseconds. */
const ENDED_MS = 28_000;
/** A run on more machines is a long answer, asked for this often while it runs. */
const MANY_MACHINES = 1_000;
const MANY_MS = 8_000;
/** The same of any other, in milliseconds. */
const LIVE_MS = 800;

const KINDS = { success: "good", killed: "warn", maintenance: "off" };

export function runView(app, instance) {
  const api = `/api/v1/runs/${part(instance)}`;
  const gone = new AbortController();
  let run = null;
  let isAsking = false;
  let isStale = false;
  let later = null;
  let askedAt = 0;
  let lastGood = null;
  let isLooking = false;
  let rows = ROWS;
  let machine = new URLSearchParams(location.search).get("machine");

  const outcome = h("span", { class: "badge off" });
  const facts = h("dl", { class: "facts" });
  const kill = h("button", { class: "danger", on: { click: killRun } }, "Kill run …");
  const retry = h("button", { on: { click: retryRun } }, "Retry failed");
  const actions = h("p", { class: "actions" }, retry, kill);
  const jobLink = h("span");
  const search = h("input", {
    type: "search", placeholder: "Machine or outcome", "aria-label": "Search machines", autocomplete: "off", spellcheck: "false",
    on: { input: () => { rows = ROWS; update(); } },
  });
  const tally = h("span", { class: "chips", role: "group", "aria-label": "Filter by outcome" });
  const machines = h("tbody");
  const table = h("table", { class: "machines" }, head("Machine", "Outcome", "For", "Output", "Started"), machines);
  const more = h("button", { hidden: true, on: { click: () => { rows += 5 * ROWS; update(); } } });
  const noMachines = h("p", { class: "quiet", hidden: true });
  const panel = outputPanel(app);
  const machineTitle = h("h2", { id: "output-title" });
  const machineNotes = h("p", { class: "quiet" });
  const download = h("a", {}, "Download");
  const killMachine = h("button", { class: "danger", on: { click: killOne } }, "Kill on this machine …");
  const outputSection = h(
    "section",
    { "aria-labelledby": "output-title", class: "one" },
    h("div", { class: "tools" }, machineTitle, panel.tools, h("span", { class: "grow" }), download, killMachine),
    machineNotes,
    panel.node,
  );
  const whole = h(
    "div",
    { hidden: true },
    facts,
    actions,
    h(
      "div",
      { class: "columns wide" },
      h(
        "section",
        { "aria-labelledby": "machines-title" },
        h("div", { class: "tools" }, h("h2", { id: "machines-title" }, "Machines"), tally, search),
        noMachines,
        table,
        more,
      ),
      outputSection,
    ),
  );
  const titleJob = h("span", { class: "name" });
  const titleTime = h("span");
  const reason = h("p", { class: "bad", hidden: true });
  const missing = h("p", { class: "quiet" }, "Loading …");
  const node = h(
    "div",
    {},
    h("p", { class: "path" }, h("a", { href: "/" }, "All jobs"), jobLink),
    h("h1", {}, titleJob, " ", titleTime, " ", outcome, " ", h("span", { class: "name group" }, instance)),
    reason,
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
    askedAt = performance.now();
    try {
      run = await get(api, gone.signal);
      update();
    } catch (problem) {
      if (gone.signal.aborted) return;
      if (problem instanceof Refused) {
        setText(missing, problem.status === 404 ? "There is no such run (any more)." : problem.message);
        if (run === null) show(outcome, false);
      } else {
        app.trouble(problem);
      }
    } finally {
      isAsking = false;
      if (isStale && !gone.signal.aborted) load();
    }
  }

  /** When the job succeeded before this run, if it did. */
  async function findLastGood() {
    if (run.outcome !== "failed" || isLooking) return;
    isLooking = true;
    try {
      const { runs } = await get(`/api/v1/runs?job=${part(run.job)}&outcome=succeeded&before=${run.id}&limit=1`, gone.signal);
      lastGood = runs.length > 0 ? `last succeeded ${clock(Date.parse(runs[0].started))}` : "no earlier success is kept";
      update();
    } catch (problem) {
      if (!gone.signal.aborted) app.trouble(problem);
    }
  }

  function changed() {
    // what has ended seldom changes
    let each = LIVE_MS;
    if (run?.machines.length > MANY_MACHINES) each = MANY_MS;
    if (run?.ended) each = ENDED_MS;
    const wait = askedAt + each - performance.now();
    if (wait <= 0) {
      load();
      return;
    }
    rights();
    // what is seen last must not be older than the change
    if (each === LIVE_MS) later ??= setTimeout(() => { later = null; load(); }, wait);
  }

  function chosen() {
    return run?.machines.find((entry) => entry.machine === machine) ?? null;
  }

  function rights() {
    if (run === null) return;
    const may = app.may("operate");
    const isOpen = run.ended === null;
    show(kill, may && isOpen);
    show(retry, may && !isOpen && run.machines.some(hasFailed) && app.state.jobs.has(run.job));
    show(actions, !kill.hidden || !retry.hidden);
    const one = chosen();
    show(killMachine, may && isOpen && one !== null && one.ended === null);
  }

  function update() {
    if (run === null) return;
    show(missing, false);
    show(whole, true);
    show(outcome, true);
    setOutcome(outcome, run.outcome, run.killed_by);
    list(jobLink, [run.job], (job) => job, (job) => h("span", {}, " / ", link(jobPath(job), job)), () => {});
    setText(titleJob, run.job);
    setText(titleTime, clock(Date.parse(run.started)));
    setText(reason, `${reasonOf(run)}${lastGood === null ? "" : `; ${lastGood}`}`);
    if (lastGood === null && !reason.hidden) findLastGood();
    show(reason, run.outcome === "failed" || run.outcome === "killed");
    updateFacts();
    const order = [...run.machines].sort((a, b) => rank(a) - rank(b) || byName(a.machine, b.machine));
    if (machine === null && order.length > 0) ({ machine } = order[0]);
    updateMachines(order);
    updateOutput();
    rights();
  }

  function updateFacts() {
    const found = [
      ["Started", (cell) => timeIn(cell, run.started)],
      ["Took", (cell) => setLasting(timeOf(cell), run.started, run.ended, run.duration_ms)],
      ["Why", (cell) => setText(cell, run.asked_by ? `asked for by ${run.asked_by}` : "it was due")],
    ];
    if (run.kill_asked) found.push(["Kill asked", (cell) => timeIn(cell, run.kill_asked)]);
    if (run.note) found.push(["Note", (cell) => setText(cell, run.note)]);
    const values = Object.entries(run.parameters).map(([name, value]) => `${name}=${value}`);
    if (values.length > 0) found.push(["Values", (cell) => setText(cell, values.join("  "))]);
    if (run.only.length > 0) found.push(["Only on", (cell) => setText(cell, run.only.join(", "))]);
    found.push(["Command", (cell) => setText(cell, run.spec.command)]);
    list(facts, found, ([name]) => name, ([name]) => h("div", {}, h("dt", {}, name), h("dd")), (pair, [, fill]) => {
      fill(pair.children[1]);
    });
  }

  function updateMachines(order) {
    show(noMachines, order.length === 0);
    setText(noMachines, run.ended === null ? "Looking for machines …" : "No machines were matched.");
    show(table, order.length > 0);
    show(outputSection, order.length > 0);
    show(search, order.length >= SEARCH_FROM);
    const counts = new Map();
    for (const entry of order) {
      const [, text] = stateOf(entry);
      const word = text.replace(/ \d+$/, "");
      counts.set(word, (counts.get(word) ?? 0) + 1);
    }
    // one state needs no filter
    const words = counts.size > 1 || search.value ? [...counts] : [];
    list(tally, words, ([word]) => word, ([word]) => h("button", { on: { click: () => { search.value = search.value === word ? "" : word; rows = ROWS; update(); } } }), (button, [word, count]) => {
      setText(button, `${count} ${word}`);
      setAttr(button, "aria-pressed", String(search.value === word));
    });
    const wanted = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const found = wanted.length === 0 ? order : order.filter((entry) => {
      const text = `${entry.machine} ${stateOf(entry)[1]}`.toLowerCase();
      return wanted.every((word) => text.includes(word));
    });
    list(machines, found.slice(0, rows), (entry) => entry.machine, makeMachine, (row, entry) => updateMachine(row, entry));
    show(more, found.length > rows);
    setText(more, `${found.length - rows} more`);
  }

  function makeMachine(entry) {
    const path = `${runPath(instance)}?machine=${part(entry.machine)}`;
    return h(
      "tr",
      {},
      h("th", { scope: "row" }, h("a", { href: path }, entry.machine)),
      h("td", {}, h("span")),
      h("td", {}, h("time")),
      h("td", { class: "number" }),
      h("td", {}, moment(null)),
    );
  }

  function updateMachine(row, entry) {
    const cells = row.children;
    setAttr(row, "class", entry.machine === machine ? "chosen" : null);
    setAttr(cells[0].firstChild, "aria-current", entry.machine === machine ? "true" : null);
    setBadge(cells[1].firstChild, ...stateOf(entry));
    setLasting(cells[2].firstChild, entry.started, entry.ended, entry.duration_ms);
    setText(cells[3], bytes(entry.output_bytes));
    setMoment(cells[4].firstChild, entry.started ?? entry.dispatched);
  }

  function updateOutput() {
    const one = chosen();
    setText(machineTitle, machine ?? "");
    show(download, one !== null);
    show(panel.node, one !== null);
    show(panel.tools, one !== null);
    if (one === null) {
      setText(machineNotes, "This machine is not in this run.");
      return;
    }
    setAttr(download, "href", outputPath(instance, machine));
    setAttr(download, "download", `${instance}.${machine}.txt`);
    setText(machineNotes, notesOf(one).join(" "));
    show(machineNotes, machineNotes.textContent !== "");
    panel.show({
      instance, machine, length: one.output_bytes, isEnded: one.ended !== null, limit: run.spec.output_limit,
    });
  }

  async function killRun() {
    const open = run.machines.filter((entry) => entry.ended === null).length;
    const values = await question({
      title: `Kill ${instance}?`,
      text: `It is ended on ${counted(open, "machine")}: SIGTERM, and SIGKILL 5 seconds later.`,
      button: "Kill",
      isDangerous: true,
    });
    if (values !== null) await app.act(() => post(`${api}/kill`));
    load();
  }

  async function killOne() {
    const name = machine;
    const values = await question({
      title: `Kill it on ${name}?`,
      text: `${instance} goes on on the other machines.`,
      button: "Kill",
      isDangerous: true,
    });
    if (values !== null) await app.act(() => post(`${api}/machines/${part(name)}/kill`));
    load();
  }

  async function retryRun() {
    const failed = run.machines.filter(hasFailed).length;
    const started = await app.act(() => post(`${api}/retry`), `${run.job} was started on ${counted(failed, "machine")}`);
    if (started) app.go(runPath(started.instance));
  }

  load();

  return {
    node,
    changed,
    title: () => (run === null ? instance : `${run.job} ${clock(Date.parse(run.started))}: ${run.outcome}`),
    stop() {
      gone.abort();
      clearTimeout(later);
      panel.stop();
    },
    looked: (isLooking) => panel.looked(isLooking),
    /** Another machine of the same run. */
    stays: (url) => url.pathname === location.pathname,
    moved() {
      machine = new URLSearchParams(location.search).get("machine");
      update();
    },
  };
}

/** `web2` before `web10`. */
const byName = new Intl.Collator("en", { numeric: true }).compare;

function timeOf(cell) {
  if (!cell.firstChild) cell.append(h("time"));
  return cell.firstChild;
}

function timeIn(cell, iso) {
  setMoment(timeOf(cell), iso);
}

function hasFailed(entry) {
  return entry.counted && entry.retcode !== null && entry.retcode !== 0;
}

/** Why a run has failed, in one line. */
function reasonOf(run) {
  const counting = run.machines.filter((entry) => entry.counted);
  const failed = counting.filter(hasFailed);
  if (run.machines.length === 0) return run.note ?? "No machines were matched.";
  const words = new Map();
  for (const entry of failed) {
    const text = entry.outcome === "failed" ? `exit code ${entry.retcode}` : entry.outcome.replace("_", " ");
    words.set(text, (words.get(text) ?? 0) + 1);
  }
  const parts = [...words].sort(([, a], [, b]) => b - a).map(([text, count]) => (words.size === 1 ? text : `${count} ${text}`));
  const all = `${failed.length} of ${counted(counting.length, "machine")}`;
  if (words.size === 1 && words.has("timeout")) return `${all} timed out after ${run.spec.timeout} s`;
  if (words.size === 1 && words.has("not started")) return `${all} did not start it`;
  if (words.size === 1 && words.has("lost")) return `${all} lost: the wrapper was silent`;
  return `${all} failed: ${parts.join(", ")}`;
}

/** What failed first, then what runs. */
function rank(entry) {
  if (hasFailed(entry)) return 0;
  return entry.ended === null ? 1 : 2;
}

function stateOf(entry) {
  if (entry.ended === null) return [entry.kill_asked ? "warn" : "busy", entry.kill_asked ? "being killed" : entry.stage];
  if (!entry.counted) return ["off", "not counted"];
  const word = entry.outcome.replace("_", " ");
  return [KINDS[entry.outcome] ?? "bad", entry.retcode === 0 ? word : `${word} ${entry.retcode}`];
}

function notesOf(entry) {
  const notes = [];
  if (entry.presumed) notes.push("The outcome is presumed: the wrapper may still report the true one.");
  if (entry.revised_from !== null) notes.push(`The outcome was ${entry.revised_from} before the wrapper came back.`);
  if (entry.outcome === "killed" && entry.killed_by !== null) notes.push(`Killed by ${entry.killed_by}.`);
  if (entry.left_out_bytes > 0) notes.push(`${bytes(entry.left_out_bytes)} in the middle are left out (output_limit).`);
  if (entry.pid !== null && entry.ended === null) notes.push(`pid ${entry.pid}.`);
  return notes;
}
