// Asks people: a question before something that cannot be taken back, or the values of something.

import { h } from "./dom.js";

/**
 * Shows a dialog. `fields`: `{name, label, value, options, required, max}`. Gives the values by name, or null when it
 * was left.
 */
export function question({ title, text, fields = [], button, isDangerous = false }) {
  return new Promise((resolve) => {
    const inputs = fields.map(field);
    const go = h("button", { class: isDangerous ? "danger" : "main", value: "go" }, button);
    const form = h(
      "form",
      { method: "dialog" },
      h("h2", { id: "question" }, title),
      text ? h("p", {}, text) : null,
      ...inputs.map(({ label }) => label),
      h(
        "p",
        { class: "buttons" },
        h("button", { type: "button", on: { click: () => dialog.close() } }, "Cancel"),
        go,
      ),
    );
    const dialog = h("dialog", { "aria-labelledby": "question" }, form);
    dialog.addEventListener("close", () => {
      dialog.remove();
      const values = Object.create(null);
      for (const { input, name } of inputs) values[name] = input.value;
      resolve(dialog.returnValue === "go" ? values : null);
    });
    document.body.append(dialog);
    dialog.showModal();
    (inputs[0]?.input ?? (isDangerous ? form.querySelector("button[type=button]") : go)).focus();
  });
}

function field({ name, label, value = "", options, required = false, max }) {
  const input = options
    ? h("select", {}, ...options.map(([word, shown]) => h("option", { value: word }, shown)))
    : h("input", { value, required, maxlength: max, autocomplete: "off", spellcheck: "false" });
  return { name, input, label: h("label", {}, h("span", { text: label }), input) };
}
