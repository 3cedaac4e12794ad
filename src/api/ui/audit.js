// Who did what, newest first.

import { h, list, setText, show } from "./dom.js";
import { head } from "./overview.js";
import { PAGE, paged } from "./pages.js";
import { moment } from "./time.js";

export function auditView(app) {
  const asked = new URLSearchParams(location.search);
  const field = (name) => h("input", {
    type: "search", autocomplete: "off", spellcheck: "false", value: asked.get(name) ?? "", on: { change: filtered },
  });
  const action = field("action");
  const object = field("object");
  const form = h(
    "form",
    { class: "filters", "aria-label": "Filters", on: { submit: (event) => { event.preventDefault(); filtered(); } } },
    h("label", {}, h("span", {}, "Action"), action),
    h("label", {}, h("span", {}, "Object"), object),
  );
  const rows = h("tbody");
  const table = h("table", { class: "history" }, head("When", "Who", "Action", "Object", "Detail", "Result"), rows);
  const none = h("p", { class: "quiet" });
  const older = h("button", { on: { click: () => pages.older() } }, "Older entries");
  const node = h("div", {}, h("h1", {}, "Audit"), form, none, table, older);

  function query(before) {
    const text = new URLSearchParams();
    if (action.value) text.set("action", action.value);
    if (object.value) text.set("object", object.value);
    if (before !== null) text.set("before", before);
    return text;
  }

  const pages = paged(
    app,
    (before) => {
      const text = query(before);
      text.set("limit", PAGE);
      return `/api/v1/audit?${text}`;
    },
    (answer) => ({ entries: answer.audit, next: answer.next }),
    ({ entries, next, message }) => {
      list(rows, entries, (entry) => String(entry.id), makeEntry, () => {});
      show(table, entries.length > 0);
      show(older, next !== null);
      show(none, entries.length === 0);
      setText(none, message || "No entries.");
    },
  );

  function filtered() {
    const text = query(null).toString();
    history.replaceState(null, "", text ? `/audit?${text}` : "/audit");
    pages.restart();
  }

  filtered();

  return { node, changed: () => pages.changed(), title: () => "Audit", stop: () => pages.stop() };
}

function makeEntry(entry) {
  return h(
    "tr",
    {},
    h("td", {}, moment(entry.at)),
    h("td", {}, entry.by),
    h("th", { scope: "row" }, entry.action),
    h("td", {}, entry.object ?? ""),
    h("td", {}, entry.detail ?? ""),
    h("td", {}, entry.outcome ?? ""),
  );
}
