// The machines that are known: what each runs and ran last, and whether it is left out of runs.

import { Refused, get, jobPath, part, put, remove, runPath } from "./api.js";
import { h, link, list, setBadge, setText, show } from "./dom.js";
import { question } from "./dialog.js";
import { head } from "./overview.js";
import { clock, moment } from "./time.js";

/** Rows shown at once; more on request. */
const ROWS = 300;
/** Asked for again after a poll, this long after the last time. */
const AGAIN_MS = 7_500;
const LENGTHS = [["3600", "an hour"], ["28800", "8 hours"], ["86400", "a day"], ["604800", "a week"]];

const byName = new Intl.Collator("en", { numeric: true }).compare;

export function machinesView(app) {
  const gone = new AbortController();
  let machines = null;
  let rows = ROWS;
  let askedAt = performance.now();
  let isAsking = false;

  const search = h("input", {
    type: "search", placeholder: "Machine or job", "aria-label": "Search machines", autocomplete: "off", spellcheck: "false",
    value: new URLSearchParams(location.search).get("q") ?? "",
    on: { input: () => { rows = ROWS; remember(); update(); } },
  });
  const all = h("button", { class: "danger", on: { click: () => maintain(null) } }, "Maintenance of all machines …");
  const allEnd = h("button", { on: { click: () => end(null) } }, "End maintenance of all machines");
  const tools = h("div", { class: "tools" }, search, h("span", { class: "grow" }), all, allEnd);
  const body = h("tbody");
  const table = h("table", { class: "history" }, head("Machine", "Running", "Last run that ended", "Ended", "Maintenance", ""), body);
  const none = h("p", { class: "quiet" }, "Loading …");
  const more = h("button", { on: { click: () => { rows += 5 * ROWS; update(); } } });
  const node = h("div", {}, h("h1", {}, "Machines"), tools, none, table, more);

  function remember() {
    history.replaceState(null, "", search.value ? `/machines?${new URLSearchParams({ q: search.value })}` : "/machines");
  }

  async function load() {
    if (isAsking) return;
    isAsking = true;
    try {
      ({ machines } = await get("/api/v1/machines", gone.signal));
      machines.sort((a, b) => byName(a.machine, b.machine));
      update();
    } catch (problem) {
      if (gone.signal.aborted) return;
      if (problem instanceof Refused) setText(none, problem.message);
      else app.trouble(problem);
    } finally {
      isAsking = false;
    }
  }

  function switchOf(machine) {
    return app.state.maintenance.switches.find((entry) => entry.on && entry.machine === machine) ?? null;
  }

  function update() {
    const mayAll = app.may("admin");
    const isGlobal = app.state.maintenance.global;
    show(all, mayAll && !isGlobal);
    show(allEnd, mayAll && switchOf(null) !== null);
    if (machines === null) return;
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const found = machines.filter((entry) => {
      const text = [entry.machine, entry.last?.job ?? "", ...entry.running].join("\n").toLowerCase();
      return words.every((word) => text.includes(word));
    });
    list(body, found.slice(0, rows), (entry) => entry.machine, makeMachine, updateMachine);
    show(table, found.length > 0);
    show(none, found.length === 0);
    setText(none, machines.length === 0 ? "No machine has run anything yet." : "No machines match the search.");
    show(more, found.length > rows);
    setText(more, `${found.length - rows} more`);
  }

  function makeMachine(entry) {
    return h(
      "tr",
      {},
      h("th", { scope: "row" }, h("a", { href: `/runs?machine=${part(entry.machine)}` }, entry.machine)),
      h("td"),
      h("td", {}, h("span"), " ", h("span")),
      h("td", {}, h("span")),
      h("td", {}, h("span"), " ", h("span", { class: "quiet" })),
      h(
        "td",
        {},
        h("button", { on: { click: () => maintain(entry.machine) } }, "Maintenance …"),
        h("button", { on: { click: () => end(entry.machine) } }, "End maintenance"),
      ),
    );
  }

  function updateMachine(row, entry) {
    const [, running, last, ended, maintenance, actions] = row.children;
    list(running, entry.running, (instance) => instance, (instance) => h("span", { class: "entry" }, link(runPath(instance), instance)), () => {});
    const [outcome, what] = last.children;
    list(what, entry.last ? [entry.last] : [], (run) => run.instance, (run) => h(
      "span", {}, link(jobPath(run.job), run.job), " ", link(runPath(run.instance), run.instance, { class: "quiet" }),
    ), () => {});
    show(outcome, entry.last !== null);
    if (entry.last) setBadge(outcome, entry.last.retcode === 0 ? "good" : "bad", `${entry.last.retcode ?? "?"}`);
    list(ended, [entry.last?.ended ?? null], (at) => at ?? "", (at) => moment(at), () => {});
    const [word, why] = maintenance.children;
    show(word, entry.maintenance);
    setBadge(word, "warn", "left out");
    const known = switchOf(entry.machine);
    setText(why, known ? `${known.reason} (${known.by}, until ${clock(Date.parse(known.until))})` : entry.maintenance ? "set in the configuration files" : "");
    const [start, stop] = actions.children;
    show(start, app.may("admin") && !entry.maintenance);
    show(stop, app.may("admin") && known !== null);
  }

  async function maintain(machine) {
    const values = await question({
      title: machine === null ? "Maintenance of all machines?" : `Maintenance of ${machine}`,
      text: machine === null ? "No run starts until it ends. Runs that have started go on."
        : "New runs leave this machine out. What runs there now goes on.",
      fields: [
        { name: "reason", label: "Reason", required: true, max: 1000 },
        { name: "seconds", label: "For", options: LENGTHS },
      ],
      button: "Start maintenance",
      isDangerous: machine === null,
    });
    if (values === null) return;
    const body = { on: true, reason: values.reason, seconds: Number(values.seconds) };
    if (machine !== null) body.machine = machine;
    await app.act(() => put("/api/v1/maintenance", body));
    load();
  }

  async function end(machine) {
    const query = machine === null ? "" : `?machine=${part(machine)}`;
    await app.act(() => remove(`/api/v1/maintenance${query}`));
    load();
  }

  load();

  return {
    node,
    changed() {
      if (performance.now() - askedAt < AGAIN_MS) {
        update();
        return;
      }
      askedAt = performance.now();
      load();
    },
    title: () => "Machines",
    stop: () => gone.abort(),
  };
}
