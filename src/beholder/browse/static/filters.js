// Filters: one written SQL condition and any number of clicked ones. They are shown as chips; an error stands under the condition.

import { get } from "./api.js";
import { byId, count, make } from "./dom.js";

export class Filters {
  // onApply({where, filters}) -> Promise; it throws what is wrong
  constructor(columns, onApply) {
    Object.assign(this, { columns, onApply, where: "", filters: [] });
    this.dialog = byId("filters");
    this.text = byId("where");
    this.error = byId("where-error");
    this.list = byId("column-filters");
    const example = columns.find((column) => column.kind === "number" && !["sample"].includes(column.name));
    this.text.placeholder = example ? `${quoted(example.name)} >= 1` : "sample LIKE '%.png'";
    byId("where-columns").replaceChildren(...columns.map((column) => make("button", { type: "button", title: column.type, onclick: () => this.insert(quoted(column.name)) }, column.name)));
    byId("add-filter").replaceChildren(make("option", { value: "" }, "Add a filter on …"), ...columns.filter((column) => column.kind !== "other").map((column) => make("option", { value: column.name }, column.name)));
    byId("add-filter").addEventListener("change", (event) => {
      this.addRow(event.target.value);
      event.target.value = "";
    });
    byId("filters-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.apply();
    });
    byId("clear-filters").addEventListener("click", () => {
      this.text.value = "";
      this.list.replaceChildren();
      this.apply();
    });
    this.text.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) this.apply();
    });
  }

  open() {
    this.text.value = this.where;
    this.say("");
    this.list.replaceChildren();
    for (const filter of this.filters) this.addRow(filter.column, filter);
    this.dialog.showModal();
    this.text.focus();
  }

  insert(name) {
    const { selectionStart: start, selectionEnd: end, value } = this.text;
    const before = start && !/[\s(]$/.test(value.slice(0, start)) ? " " : "";
    this.text.setRangeText(`${before}${name} `, start, end, "end");
    this.text.focus();
  }

  say(text) {
    this.error.textContent = text;
    this.text.setAttribute("aria-invalid", String(text !== ""));
  }

  addRow(name, filter = null) {
    const column = this.columns.find((one) => one.name === name);
    if (!column) return;
    const body = make("div", { class: "stack" });
    const box = make("div", { class: "column-filter", dataset: { column: name, kind: column.kind } }, make("header", {}, make("code", {}, name), make("button", { class: "button icon", type: "button", "aria-label": `Remove the filter on ${name}`, onclick: () => box.remove() }, "✕")), body);
    if (column.kind === "number") this.addRange(body, name, filter);
    else this.addChoices(body, name, column, filter);
    this.list.append(box);
  }

  addRange(body, name, filter) {
    const low = make("input", { type: "number", step: "any", class: "low", "aria-label": `${name} at least`, placeholder: "least", value: filter?.low ?? "" });
    const high = make("input", { type: "number", step: "any", class: "high", "aria-label": `${name} at most`, placeholder: "most", value: filter?.high ?? "" });
    body.append(make("div", { class: "range" }, low, make("span", { class: "muted" }, "to"), high));
    get("/api/range", { column: name })
      .then(({ least, largest }) => Object.assign(low, { placeholder: least ?? "none" }) && Object.assign(high, { placeholder: largest ?? "none" }))
      .catch(() => {}); // the boxes work without hints
  }

  addChoices(body, name, column, filter) {
    if (column.kind === "text") body.append(make("input", { type: "search", class: "contains", "aria-label": `${name} contains`, placeholder: "contains …", value: filter?.kind === "contains" ? filter.text : "" }));
    const choices = make("div", { class: "choices" });
    body.append(choices);
    const chosen = new Set((filter?.kind === "in" ? filter.values : []).map((value) => JSON.stringify(value)));
    get("/api/values", { column: name })
      .then(({ values }) => {
        const isNames = values.length > 20 && values[0].count === 1;
        const shown = isNames ? values.filter(({ value }) => chosen.has(JSON.stringify(value))) : values;
        choices.replaceChildren(
          ...shown.map(({ value, count: number }) =>
            make("label", {}, make("input", { type: "checkbox", value: JSON.stringify(value), checked: chosen.has(JSON.stringify(value)) }), make("span", {}, value === null ? "null" : String(value)), make("small", {}, count(number))),
          ),
        );
      })
      .catch((error) => choices.replaceChildren(make("p", { class: "problem" }, error.message)));
  }

  read() {
    const found = [];
    for (const box of this.list.children) {
      const { column, kind } = box.dataset;
      if (kind === "number") {
        const [low, high] = [".low", ".high"].map((name) => box.querySelector(name).value.trim());
        if (low !== "" || high !== "") found.push({ column, kind: "range", low: low === "" ? null : Number(low), high: high === "" ? null : Number(high) });
        continue;
      }
      const text = box.querySelector(".contains")?.value ?? "";
      const values = [...box.querySelectorAll(".choices input:checked")].map((input) => JSON.parse(input.value));
      if (text) found.push({ column, kind: "contains", text });
      if (values.length) found.push({ column, kind: "in", values });
    }
    return found;
  }

  async apply() {
    const button = byId("apply-filters");
    button.disabled = true;
    const wanted = { where: this.text.value.trim(), filters: this.read() };
    try {
      await this.onApply(wanted);
      Object.assign(this, wanted);
      this.say("");
      this.dialog.close();
    } catch (error) {
      this.say(error.message);
    } finally {
      button.disabled = false;
    }
  }

  // what is in force, each with what is left without it
  chips() {
    const found = [];
    if (this.where) found.push({ text: this.where, without: { where: "", filters: this.filters } });
    this.filters.forEach((filter, at) => found.push({ text: told(filter), without: { where: this.where, filters: this.filters.filter((_, other) => other !== at) } }));
    return found;
  }
}

function told(filter) {
  const { column, kind, low, high, text, values } = filter;
  if (kind === "range") return [low !== null && `${column} ≥ ${low}`, high !== null && `${column} ≤ ${high}`].filter(Boolean).join(", ");
  if (kind === "contains") return `${column} contains “${text}”`;
  return `${column}: ${values.map((value) => (value === null ? "null" : String(value))).join(", ")}`;
}

export const quoted = (name) => (/^[a-z_][a-z0-9_]*$/.test(name) && !RESERVED.has(name) ? name : `"${name.replaceAll('"', '""')}"`);

const RESERVED = new Set("all and any array as asc at between both case cast check collate column constraint create cross default desc distinct do else end except exists false fetch filter for foreign from full group having in inner intersect into is join lateral leading left like limit natural not null offset on only or order outer over primary qualify references returning right select semi some symmetric table then to trailing true union unique using values when where window with".split(" "));
