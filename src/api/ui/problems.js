// What keeps Saltpeter or a job from doing what it should, and where to mend it.

import { jobPath, part } from "./api.js";
import { counted, h, link, list, setText, show } from "./dom.js";
import { head, makeProblem, notesText } from "./overview.js";
import { moment } from "./time.js";

export function problemsView(app) {
  const troubles = h("ul", { class: "problems" });
  const troublePart = h("section", { "aria-labelledby": "troubles-title" }, h("h2", { id: "troubles-title" }, "The daemon"), troubles);
  const files = h("ul", { class: "problems" });
  const filesTitle = h("h2", { id: "files-title" });
  const filePart = h("section", { "aria-labelledby": "files-title" }, filesTitle, files);
  const jobs = h("tbody");
  const jobsTitle = h("h2", { id: "late-title" });
  const jobPart = h(
    "section",
    { "aria-labelledby": "late-title" },
    jobsTitle,
    h("table", { class: "history" }, head("Job", "What", "Last run", "Next run", ""), jobs),
  );
  const none = h("p", { class: "quiet" }, "No problems.");
  const node = h("div", {}, h("h1", {}, "Problems"), none, troublePart, filePart, jobPart);

  function changed() {
    const { state } = app;
    list(troubles, state.troubles, (text) => text, (text) => h("li", { class: "bad" }, text), () => {});
    show(troublePart, state.troubles.length > 0);
    const found = [...state.problems].sort((a, b) => (a.severity > b.severity) - (a.severity < b.severity));
    list(files, found, (problem) => JSON.stringify(problem), makeProblem, () => {});
    setText(filesTitle, `Job files: ${counted(found.length, "problem")}`);
    show(filePart, found.length > 0);
    const late = [...state.jobs.values()].filter((job) => job.missed > 0 || job.overlap).sort((a, b) => (a.name < b.name ? -1 : 1));
    list(jobs, late, (job) => job.name, makeJob, updateJob);
    setText(jobsTitle, `Due times that did not start: ${counted(late.length, "job")}`);
    show(jobPart, late.length > 0);
    show(none, state.troubles.length + found.length + late.length === 0);
  }

  return { node, changed, title: () => "Problems", stop() {} };
}

function makeJob(job) {
  return h(
    "tr",
    {},
    h("th", { scope: "row" }, link(jobPath(job.name), job.name)),
    h("td"),
    h("td", {}, h("span")),
    h("td", {}, h("span")),
    h("td", {}, h("a", { href: `/runs?job=${part(job.name)}&outcome=not_started` }, "Which, and why")),
  );
}

function updateJob(row, job) {
  const [, what, last, next] = row.children;
  setText(what, notesText({ ...job, problems: 0 }));
  list(last.firstChild, [job.last_run], (at) => at ?? "", (at) => moment(at), () => {});
  list(next.firstChild, [job.next_run], (at) => at ?? "", (at) => moment(at), () => {});
}
