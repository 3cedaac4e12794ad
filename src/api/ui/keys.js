// The keyboard: shortcuts for pages, search and rows, and the list of them. Must not know: what the pages show.

import { h } from "./dom.js";

/** A second key counts as the rest of a shortcut for so long, in milliseconds. */
const PAIR_MS = 1_500;

/** `pages`: letter, path and name of what `g` leads to. */
export function shortcuts(pages, go) {
  let pairUntil = 0;

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
    if (document.querySelector("dialog[open]")) return;
    const { target, key } = event;
    if (target.closest("input, select, textarea, [contenteditable]")) {
      // back to the page, where the shortcuts work again
      if (key === "Escape") target.blur();
      return;
    }
    const isPair = performance.now() < pairUntil;
    pairUntil = 0;
    const page = pages.find(([letter]) => letter === key);
    if (isPair && page) go(page[1]);
    else if (key === "g") pairUntil = performance.now() + PAIR_MS;
    else if (key === "/") toSearch();
    else if (key === "j") move(1);
    else if (key === "k") move(-1);
    else if (key === "?") help(pages);
    else return;
    event.preventDefault();
  });
}

/** The first search field of the page, or else its content. */
export function toSearch() {
  const main = document.getElementById("main");
  const field = [...main.querySelectorAll("input[type=search]")].find((node) => node.checkVisibility());
  (field ?? main).focus();
  field?.select();
}

/** From one row's link to the next one's. */
function move(by) {
  const links = [...document.querySelectorAll("main tbody th a:not(.cell)")].filter((node) => node.checkVisibility());
  const rows = links.filter((node, at) => at === 0 || node.closest("tr") !== links[at - 1].closest("tr"));
  const row = document.activeElement?.closest?.("tr");
  const at = rows.findIndex((node) => node.closest("tr") === row);
  const next = rows[at < 0 ? 0 : Math.min(rows.length - 1, Math.max(0, at + by))];
  next?.focus();
  next?.scrollIntoView({ block: "nearest" });
}

function help(pages) {
  const keys = [
    ["/", "search"], ["j", "next row"], ["k", "previous row"], ["Enter", "open the row"], ["Esc", "leave the search"],
    ...pages.map(([letter, , name]) => [`g ${letter}`, name]), ["?", "this list"],
  ];
  const close = h("button", { class: "main", value: "go" }, "Close");
  const dialog = h(
    "dialog",
    { "aria-labelledby": "keys-title" },
    h(
      "form",
      { method: "dialog" },
      h("h2", { id: "keys-title" }, "Keyboard"),
      h("dl", { class: "keys" }, ...keys.map(([key, what]) => h("div", {}, h("dt", {}, h("kbd", {}, key)), h("dd", {}, what)))),
      h("p", { class: "buttons" }, close),
    ),
  );
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
  close.focus();
}
