// The overview for a screen on the wall: large, what failed first. `/?view=wall`.

import { jobPath, runPath } from "./api.js";
import { counted, h, link, list, setText, show } from "./dom.js";
import { hasFailed, updateStates } from "./overview.js";
import { moment, setMoment } from "./time.js";

/** Failed jobs shown: more do not fit on a screen. */
const TILES = 24;

export function wallView(app) {
  const sum = h("p", { class: "sum" });
  const tiles = h("ul", { class: "tiles" });
  const more = h("p", { class: "sum" });
  const node = h(
    "div",
    {},
    h("h1", { class: "hidden" }, "Wall"),
    sum,
    tiles,
    more,
    h("p", { class: "quiet" }, h("a", { href: "/" }, "Leave the wall view")),
  );

  function changed() {
    const jobs = [...app.state.jobs.values()];
    const failed = jobs.filter(hasFailed);
    failed.sort((a, b) => (a.last_ended < b.last_ended ? 1 : -1));
    const missed = jobs.filter((job) => job.missed > 0).length;
    const parts = [
      failed.length > 0 ? `${counted(failed.length, "job")} of ${jobs.length.toLocaleString("en")} failed` : `No job of ${jobs.length.toLocaleString("en")} has failed`,
      `${app.state.running.length.toLocaleString("en")} running`,
    ];
    if (missed > 0) parts.push(`${counted(missed, "job")} missed due times`);
    setText(sum, parts.join(" · "));
    sum.className = failed.length > 0 ? "sum bad" : "sum good";
    list(tiles, failed.slice(0, TILES), (job) => job.name, makeTile, updateTile);
    show(more, failed.length > TILES);
    setText(more, `and ${failed.length - TILES} more`);
  }

  return {
    node,
    changed,
    title: () => "Wall",
    stop() {},
  };
}

function makeTile(job) {
  return h("li", {}, h("b", {}, link(jobPath(job.name), job.name)), h("span", { class: "states" }), h("span"), h("span", { class: "when" }));
}

function updateTile(tile, job) {
  const [, states, count, when] = tile.children;
  updateStates(states, job);
  setText(count, job.last_total_count === 0 ? "no machine" : `${job.last_failed_count} of ${counted(job.last_total_count, "machine")} failed`);
  if (!when.firstChild || when.getAttribute("data-run") !== job.last_instance) {
    when.setAttribute("data-run", job.last_instance);
    const at = link(runPath(job.last_instance ?? ""), "");
    at.append(moment(job.last_ended));
    when.replaceChildren(at);
  }
  setMoment(when.querySelector("time"), job.last_ended);
}
