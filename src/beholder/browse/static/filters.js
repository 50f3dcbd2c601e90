// Filters: one written SQL condition, and sliders, chips and boxes for columns. All of it stands as SQL under them; what is in force
// is shown as chips; an error stands under the condition. What columns hold is asked for when they come into sight, one by one.

import { get } from "./api.js";
import { byId, count, digitsOf, make } from "./dom.js";

const MANY_COLUMNS = 8;
const SLIDER_STEPS = 200;

export class Filters {
  // onApply({where, filters}) -> Promise; it sets them here, or throws what is wrong
  constructor(columns, onApply) {
    Object.assign(this, { columns, onApply, where: "", filters: [], draft: new Map(), asked: Promise.resolve() });
    this.dialog = byId("filters");
    this.text = byId("where");
    this.error = byId("where-error");
    this.list = byId("column-filters");
    this.shown = columns.filter((column) => column.kind !== "other");
    const example = columns.find((column) => column.kind === "number" && !["sample"].includes(column.name));
    this.text.placeholder = example ? `${quoted(example.name)} >= 1` : "sample LIKE '%.png'";
    byId("where-columns").replaceChildren(...columns.map((column) => make("button", { type: "button", title: column.type, onclick: () => this.insert(quoted(column.name)) }, column.name)));
    byId("find-column").hidden = this.shown.length <= MANY_COLUMNS;
    byId("find-column").addEventListener("input", (event) => this.find(event.target.value));
    byId("filters-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.apply();
    });
    byId("clear-filters").addEventListener("click", () => {
      this.text.value = "";
      this.draft.clear();
      this.apply();
    });
    this.text.addEventListener("input", () => this.paintSql());
    this.text.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      this.apply();
    });
    this.sight = new IntersectionObserver((seen) => {
      for (const { isIntersecting, target } of seen) if (isIntersecting) this.fill(target);
    }, { root: this.list, rootMargin: "60px" });
  }

  // what is in force, as `onApply` takes it
  get applied() {
    return { where: this.where, filters: this.filters };
  }

  open() {
    this.text.value = this.where;
    this.say("");
    this.draft = new Map();
    for (const filter of this.filters) this.draft.set(filter.column, [...(this.draft.get(filter.column) ?? []), filter]);
    byId("find-column").value = "";
    this.sight.disconnect();
    this.list.replaceChildren(...this.shown.map((column) => this.box(column)));
    for (const box of this.list.children) this.sight.observe(box);
    this.paintSql();
    this.dialog.showModal();
    this.text.focus();
  }

  find(text) {
    for (const box of this.list.children) box.hidden = !box.dataset.column.toLowerCase().includes(text.trim().toLowerCase());
  }

  insert(name) {
    const { selectionStart: start, selectionEnd: end, value } = this.text;
    const before = start && !/[\s(]$/.test(value.slice(0, start)) ? " " : "";
    this.text.setRangeText(`${before}${name} `, start, end, "end");
    this.paintSql();
    this.text.focus();
  }

  say(text) {
    this.error.textContent = text;
    this.text.setAttribute("aria-invalid", String(text !== ""));
  }

  // -- one column

  box(column) {
    const { name, kind } = column;
    const clear = make("button", { class: "button icon", type: "button", "aria-label": `Remove the filter on ${name}`, onclick: () => this.reset(name) }, "✕");
    return make("div", { class: "column-filter", role: "group", "aria-label": name, dataset: { column: name, kind, is: this.draft.has(name) ? "set" : "" } }, make("header", {}, make("code", {}, name), make("small", { class: "muted" }), clear), make("div", { class: "inside" }));
  }

  fill(box) {
    this.sight.unobserve(box);
    const inside = box.querySelector(".inside");
    const column = this.columns.find((one) => one.name === box.dataset.column);
    if (column.kind === "number") this.fillRange(box, inside, column.name);
    else this.fillChoices(box, inside, column);
  }

  reset(name) {
    this.draft.delete(name);
    const old = [...this.list.children].find((box) => box.dataset.column === name);
    const box = this.box(this.columns.find((one) => one.name === name));
    old.replaceWith(box);
    this.fill(box);
    this.paintSql();
    box.querySelector("input")?.focus();
  }

  // the filter of a kind on a column; null: none
  get(name, kind) {
    return this.draft.get(name)?.find((filter) => filter.kind === kind) ?? null;
  }

  put(name, kind, filter) {
    const others = (this.draft.get(name) ?? []).filter((one) => one.kind !== kind);
    const all = filter ? [...others, { column: name, kind, ...filter }] : others;
    if (all.length) this.draft.set(name, all);
    else this.draft.delete(name);
    const box = [...this.list.children].find((one) => one.dataset.column === name);
    box.dataset.is = all.length ? "set" : "";
    this.paintSql();
  }

  // one question at a time: a table may have a thousand columns, and the server takes few at once
  ask(path, name) {
    const answer = this.asked.then(() => (this.dialog.open ? get(path, { column: name }) : null));
    this.asked = answer.catch(() => null);
    return answer;
  }

  fillRange(box, inside, name) {
    const filter = this.get(name, "range");
    const low = make("input", { type: "number", step: "any", class: "low", "aria-label": `${name} at least`, placeholder: "least", value: filter?.low ?? "" });
    const high = make("input", { type: "number", step: "any", class: "high", "aria-label": `${name} at most`, placeholder: "most", value: filter?.high ?? "" });
    const numbers = make("div", { class: "range" }, low, make("span", { class: "muted" }, "to"), high);
    const read = (input) => (input.value.trim() === "" ? null : Number(input.value));
    const write = () => {
      const [least, most] = [read(low), read(high)];
      this.put(name, "range", least === null && most === null ? null : { low: least, high: most });
    };
    inside.replaceChildren(numbers);
    let slider = null;
    for (const input of [low, high]) {
      input.addEventListener("input", () => {
        write();
        slider?.follow(read(low), read(high));
      });
    }
    this.ask("/api/range", name)
      .then((found) => {
        if (!found) return;
        const { least, largest } = found;
        Object.assign(low, { placeholder: tidy(least) ?? "none" });
        Object.assign(high, { placeholder: tidy(largest) ?? "none" });
        box.querySelector("header small").textContent = least === null ? "no numbers" : least === largest ? `all ${least}` : `${tidy(least)} to ${tidy(largest)}`;
        if (typeof least !== "number" || typeof largest !== "number" || least >= largest) return;
        slider = new RangeSlider(name, least, largest, (from, to) => {
          low.value = from ?? "";
          high.value = to ?? "";
          write();
        });
        slider.follow(read(low), read(high));
        inside.prepend(slider.element);
      })
      .catch(() => {}); // the boxes work without a slider
  }

  fillChoices(box, inside, column) {
    const { name, kind } = column;
    const contains = make("input", { type: "search", class: "contains", "aria-label": `${name} contains`, placeholder: "contains …", value: this.get(name, "contains")?.text ?? "" });
    contains.addEventListener("input", () => this.put(name, "contains", contains.value ? { text: contains.value } : null));
    const choices = make("div", { class: "choices" });
    inside.replaceChildren(choices, ...(kind === "text" ? [contains] : []));
    const chosen = new Map((this.get(name, "in")?.values ?? []).map((value) => [JSON.stringify(value), value]));
    const write = () => this.put(name, "in", chosen.size ? { values: [...chosen.values()] } : null);
    const choice = (value, number) => {
      const key = JSON.stringify(value);
      const input = make("input", { type: "checkbox", value: key, checked: chosen.has(key) });
      input.addEventListener("change", () => {
        if (input.checked) chosen.set(key, value);
        else chosen.delete(key);
        write();
      });
      return make("label", { class: "choice" }, input, make("span", {}, value === null ? "null" : value === "" ? "(empty)" : String(value)), number === null ? null : make("small", {}, count(number)));
    };
    this.ask("/api/values", name)
      .then((found) => {
        if (!found) return;
        const counts = new Map(found.values.map(({ value, count: number }) => [JSON.stringify(value), number]));
        const missing = [...chosen].filter(([key]) => !counts.has(key)).map(([, value]) => choice(value, null));
        choices.replaceChildren(...found.values.map(({ value, count: number }) => choice(value, number)), ...missing);
        box.querySelector("header small").textContent = found.are_few ? "" : "many values";
      })
      .catch((error) => choices.replaceChildren(make("p", { class: "problem" }, error.message)));
  }

  // -- all of it

  read() {
    return this.columns.flatMap((column) => this.draft.get(column.name) ?? []);
  }

  paintSql() {
    const where = this.text.value.trim();
    const parts = [where, ...this.read().map(sqlOf)].filter(Boolean);
    byId("filter-sql").textContent = parts.length > 1 && where ? [`(${where})`, ...parts.slice(1)].join("\nAND ") : parts.join("\nAND ") || "all pictures";
  }

  async apply() {
    const button = byId("apply-filters");
    button.disabled = true;
    const wanted = { where: this.text.value.trim(), filters: this.read() };
    try {
      await this.onApply(wanted);
      this.say("");
      this.dialog.close();
    } catch (error) {
      this.say(error.message);
      this.error.scrollIntoView({ block: "nearest" });
    } finally {
      button.disabled = false;
    }
  }

  // what is in force, each with what is left without it
  chips() {
    const found = [];
    if (this.where) found.push({ text: this.where, sql: this.where, without: { where: "", filters: this.filters } });
    this.filters.forEach((filter, at) => found.push({ text: told(filter), sql: sqlOf(filter), without: { where: this.where, filters: this.filters.filter((_, other) => other !== at) } }));
    return found;
  }
}

// Two thumbs on one line; at its ends a thumb sets no bound.
class RangeSlider {
  constructor(name, least, largest, onMove) {
    const isWhole = Number.isInteger(least) && Number.isInteger(largest);
    this.step = isWhole ? Math.max(1, Math.round(nice((largest - least) / SLIDER_STEPS))) : nice((largest - least) / SLIDER_STEPS);
    if (isWhole && largest - least <= 1000) this.step = 1;
    this.digits = digitsOf(this.step);
    this.min = Math.floor(least / this.step + 1e-9) * this.step;
    this.max = Math.ceil(largest / this.step - 1e-9) * this.step;
    const thumb = (end, text, value) => make("input", { type: "range", class: end, min: this.min, max: this.max, step: this.step, "aria-label": `${name} ${text}`, value });
    this.low = thumb("from", "from", this.min);
    this.high = thumb("to", "up to", this.max);
    this.line = make("span", { class: "line", "aria-hidden": "true" });
    this.element = make("div", { class: "two-thumbs" }, this.line, this.low, this.high);
    this.low.value = this.min; // set again: a value is cut to the bounds that hold when it is set
    this.high.value = this.max;
    for (const one of [this.low, this.high]) {
      one.addEventListener("input", () => {
        const [low, high] = [Number(this.low.value), Number(this.high.value)];
        if (low > high) one.value = one === this.low ? high : low;
        this.paint();
        onMove(this.bound(this.low, this.min), this.bound(this.high, this.max));
      });
    }
    this.paint();
  }

  bound(thumb, end) {
    const value = Number(thumb.value);
    return Math.abs(value - end) < this.step / 2 ? null : Number(value.toFixed(this.digits));
  }

  follow(low, high) {
    this.low.value = low ?? this.min;
    this.high.value = high ?? this.max;
    this.paint();
  }

  paint() {
    const share = (thumb) => (100 * (Number(thumb.value) - this.min)) / (this.max - this.min || 1);
    this.line.style.setProperty("--from", `${share(this.low)}%`);
    this.line.style.setProperty("--to", `${share(this.high)}%`);
    this.low.style.zIndex = share(this.low) > 50 ? 2 : 1; // so that of two thumbs in one place the one that can move is on top
  }
}

// 1, 2 or 5 times a power of ten, at most so large
function nice(step) {
  const power = 10 ** Math.floor(Math.log10(step));
  const found = [5, 2, 1].find((one) => one * power <= step * (1 + 1e-9)) ?? 1;
  return Number((found * power).toPrecision(1));
}

const tidy = (number) => (typeof number === "number" && !Number.isInteger(number) ? Number(number.toPrecision(4)) : number);

function told(filter) {
  const { column, kind, low, high, text, values } = filter;
  if (kind === "range") return [low !== null && `${column} ≥ ${low}`, high !== null && `${column} ≤ ${high}`].filter(Boolean).join(", ");
  if (kind === "contains") return `${column} contains “${text}”`;
  if (kind === "null" || kind === "not_null") return `${column} is ${kind === "null" ? "" : "not "}null`;
  return `${column}: ${values.map((value) => (value === null ? "null" : String(value))).join(", ")}`;
}

// the condition that a filter means, as the server makes it
export function sqlOf(filter) {
  const { column, kind, low = null, high = null, text, values } = filter;
  const name = `"${column.replaceAll('"', '""')}"`;
  if (kind === "range") return [low !== null && `${name} >= ${literal(low)}`, high !== null && `${name} <= ${literal(high)}`].filter(Boolean).join(" AND ");
  if (kind === "contains") return `contains(lower(${name}::VARCHAR), lower(${literal(text)}))`;
  if (kind === "null" || kind === "not_null") return `${name} IS ${kind === "null" ? "" : "NOT "}NULL`;
  const listed = values.filter((value) => value !== null).map(literal);
  const parts = listed.length ? [`${name} IN (${listed.join(", ")})`] : [];
  if (values.includes(null)) parts.push(`${name} IS NULL`);
  return parts.length > 1 ? `(${parts.join(" OR ")})` : parts[0];
}

const literal = (value) => (typeof value === "string" ? `'${value.replaceAll("'", "''")}'` : String(value));

export const quoted = (name) => (/^[a-z_][a-z0-9_]*$/.test(name) && !RESERVED.has(name) ? name : `"${name.replaceAll('"', '""')}"`);

const RESERVED = new Set("all and any array as asc at between both case cast check collate column constraint create cross default desc distinct do else end except exists false fetch filter for foreign from full group having in inner intersect into is join lateral leading left like limit natural not null offset on only or order outer over primary qualify references returning right select semi some symmetric table then to trailing true union unique using values when where window with".split(" "));
