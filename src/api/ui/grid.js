// A job's latest runs, one column each: how long they took, and how each machine ended.

import { get, part, runPath } from "./api.js";
import { h, s, setText, show } from "./dom.js";
import { clock, precise } from "./time.js";

/** Width of one run and height of the chart, in pixels. */
const RUN = 15;
const HEIGHT = 64;

/** Colour, symbol and words of an outcome. */
const OUTCOMES = {
  success: ["good", "✓", "succeeded"], succeeded: ["good", "✓", "succeeded"], failed: ["bad", "✕", "failed"],
  timeout: ["bad", "T", "timed out"], lost: ["bad", "?", "lost"], not_started: ["bad", "–", "not started"],
  error: ["bad", "!", "error"], killed: ["warn", "■", "killed"], running: ["busy", "▸", "running"],
  maintenance: ["off", "m", "in maintenance"], skipped: ["off", "m", "skipped"],
};

/** The value below which that share of the sorted values is. */
function quantile(sorted, share) {
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))];
}

export function gridSection(app, name, signal) {
  const table = h("table", { class: "grid" }, h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Run"))));
  const scroll = h("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": "Grid of runs and machines" }, table);
  const legend = h("p", { class: "quiet" });
  const node = h(
    "section",
    { "aria-labelledby": "grid-title", hidden: true },
    h("h2", { id: "grid-title" }, "Runs and machines"),
    scroll,
    legend,
  );
  let seen = "";

  async function load() {
    try {
      const grid = await get(`/api/v1/jobs/${part(name)}/grid`, signal);
      const text = JSON.stringify(grid);
      if (text === seen) return;
      const isFirst = seen === "";
      seen = text;
      update(grid);
      if (isFirst) scroll.scrollLeft = scroll.scrollWidth;
    } catch (problem) {
      if (!signal.aborted) app.trouble(problem);
    }
  }

  function update({ machines, machine_count: count, runs: newest }) {
    const runs = [...newest].reverse();
    show(node, runs.length > 0);
    const took = runs.filter((run) => run.outcome === "succeeded" && run.duration_ms !== null).map((run) => run.duration_ms);
    took.sort((a, b) => a - b);
    const [p50, p90] = [quantile(took, 0.5), quantile(took, 0.9)];
    const top = h("tr", {}, h("th", { scope: "col" }, "Run"), ...runs.map((run) => (
      h("th", { scope: "col" }, cell(run.instance, "all machines", run.outcome, run.duration_ms, run.started))
    )));
    const words = took.length > 0 ? `p50 ${precise(p50)}, p90 ${precise(p90)}` : "";
    const times = h(
      "tr",
      { class: "durations" },
      h("th", { scope: "row" }, "Duration", h("span", { class: "detail" }, words)),
      h("td", { colspan: runs.length }, chart(runs, p50, p90, words)),
    );
    const rows = runs.length > 0 && (machines.length > 1 || count > 1) ? machines.map((machine, at) => h(
      "tr",
      {},
      h("th", { scope: "row", title: machine }, machine),
      ...runs.map((run) => h("td", {}, run.outcomes[at] === null ? null
        : cell(run.instance, machine, run.outcomes[at], run.durations_ms[at], run.started))),
    )) : [];
    table.replaceChildren(h("thead", {}, top), h("tbody", {}, times, ...rows));
    const shown = new Set(runs.flatMap((run) => [run.outcome, ...(rows.length > 0 ? run.outcomes : [])]));
    const known = new Map(Object.entries(OUTCOMES).filter(([word]) => shown.has(word)).map(([, [, mark, text]]) => [text, mark]));
    const more = count > machines.length ? ` The ${machines.length} of ${count.toLocaleString("en")} machines with the most failures are shown.` : "";
    setText(legend, `The newest run is on the right. ${[...known].map(([text, mark]) => `${mark} ${text}`).join(", ")}.${more}`);
  }

  return { node, load };
}

/** One outcome that leads to its run, and on a machine to its output. */
function cell(instance, machine, outcome, took, started) {
  const [kind, mark, words] = OUTCOMES[outcome] ?? ["off", "·", outcome];
  const long = took === null || took === undefined ? "" : `, ${precise(took)}`;
  const path = machine === "all machines" ? runPath(instance) : `${runPath(instance)}?machine=${part(machine)}`;
  const text = `${machine}: ${words}${long}, ${clock(Date.parse(started))}`;
  return h("a", { href: path, class: `cell ${kind}`, title: text, "aria-label": text, tabindex: "-1" }, mark);
}

/** Bars of the durations, with lines at p50 and p90. */
function chart(runs, p50, p90, words) {
  const width = RUN * runs.length;
  const most = Math.max(1, ...runs.map((run) => run.duration_ms ?? 0));
  const y = (ms) => HEIGHT - Math.round((ms / most) * (HEIGHT - 4));
  const bars = runs.map((run, at) => {
    if (run.duration_ms === null) return null;
    const [kind] = OUTCOMES[run.outcome] ?? ["off"];
    const top = Math.min(y(run.duration_ms), HEIGHT - 1);
    const bar = s("rect", { class: kind, x: at * RUN + 2, y: top, width: RUN - 4, height: HEIGHT - top });
    bar.append(s("title", {}, `${clock(Date.parse(run.started))}: ${precise(run.duration_ms)}`));
    return bar;
  }).filter(Boolean);
  const lines = p50 === undefined ? [] : [[p50, "p50"], [p90, "p90"]].map(([ms, kind]) => (
    s("line", { class: kind, x1: 0, x2: width, y1: y(ms), y2: y(ms) })
  ));
  return s("svg", { width, height: HEIGHT, role: "img", "aria-label": `Durations of ${runs.length} runs. ${words}` }, ...bars, ...lines);
}
