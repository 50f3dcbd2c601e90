// The gallery: tiles of one size in a grid, a listing behind it, an active tile for the keyboard.

import { get } from "./api.js";
import { count, cut, make, score, toast } from "./dom.js";
import { Grid } from "./grid.js";
import { Listing } from "./listing.js";
import { Thumbnails } from "./thumbnails.js";

// how many a stack holds; of a picture of an opened one how similar it is to the one that stays or to a reference, and its size
function stackText(item) {
  if (item.stack && item.reference !== undefined) return `${count(item.stack)} near reference ${item.reference}`;
  if (item.stack) return `${count(item.stack)} alike`;
  if (item.stays === undefined) return "";
  const alike = item.stays ? "stays" : typeof item.similarity === "number" ? `≈ ${item.similarity.toFixed(3)}` : "";
  if (item.reference !== undefined) return [alike, item.reference].filter(Boolean).join(" to reference ");
  return [alike, item.width && item.height ? `${item.width}×${item.height}` : ""].filter(Boolean).join(" · ");
}

const MOST_CHOSEN = 10_000; // rows of which the server takes marks at once
const TURNED_PAUSE_MS = 120;
const MOST_TURNED_ASKED = 200;

const sayMost = () => toast(`${count(MOST_CHOSEN)} pictures are the most that can be selected at once`, true);

export class Gallery {
  // hooks: isKept(item), onOpen(index, item), onMark(items, mark), onChosen(number), onGone(error)
  constructor(viewport, run, hooks) {
    Object.assign(this, { viewport, hooks, listing: null, active: 0, chosen: new Set(), anchor: 0, isChoosing: false });
    Object.assign(this, { turned: new Map(), unsure: new Set(), turnedTimer: 0 });
    this.thumbnails = new Thumbnails(run, (row) => this.askTurned(row));
    this.grid = new Grid(viewport, {
      make: () => this.makeTile(),
      fill: (tile, index) => this.fill(tile, index),
      free: (tile) => this.free(tile),
      onRange: (first, last) => this.listing?.want(first, last),
    });
    this.tilePx = 190;
    new ResizeObserver(() => this.layout()).observe(viewport);
    viewport.addEventListener("click", (event) => this.onClick(event));
    viewport.addEventListener("keydown", (event) => this.onKey(event));
  }

  setTile(px) {
    this.tilePx = px;
    this.layout();
  }

  layout() {
    const room = this.viewport.clientWidth;
    if (!room) return;
    const isNarrow = room < 720;
    const gap = isNarrow ? 4 : 8;
    const margin = isNarrow ? 6 : 20;
    const inside = room - 2 * margin;
    const wanted = isNarrow ? 120 : this.tilePx;
    const columns = Math.max(2, Math.round((inside + gap) / (wanted + gap)));
    const width = Math.floor((inside - (columns - 1) * gap) / columns);
    const key = `${room}/${this.viewport.clientHeight}/${columns}`;
    if (key === this.lastLayout) return;
    this.lastLayout = key;
    this.thumbnails.setSize(width);
    this.grid.layout({ columns, width, height: width, gap, margin });
  }

  open({ listing, count }, scoreName, anchor = 0) {
    this.listing?.close();
    const ask = (start, number, signal) => get("/api/rows", { listing, score: scoreName, start, count: number }, signal);
    this.listing = new Listing(listing, ask, (first, last) => this.grid.refill(first, last), (error) => this.hooks.onGone(error));
    this.active = this.anchor = Math.min(anchor, Math.max(0, count - 1));
    this.choose([]);
    this.grid.setCount(count, anchor);
    this.viewport.setAttribute("aria-activedescendant", "");
  }

  makeTile() {
    const image = make("img", { alt: "", decoding: "async", draggable: false });
    return make(
      "div",
      { class: "tile", role: "option" },
      image,
      make("span", { class: "leaves", "aria-hidden": "true" }),
      make("span", { class: "why" }, make("b"), make("span"), make("i", {}, "no picture")),
      make("span", { class: "told", "aria-hidden": "true" }, make("span"), make("b")),
      make("span", { class: "foot" }, make("span", { class: "score" }), make("span", { class: "turned", title: "EXIF turns this picture", hidden: true }, "↻")),
      make("span", { class: "count" }),
      make("span", { class: "tick", "aria-hidden": "true" }),
      make("span", { class: "mark" }),
      make(
        "span",
        { class: "quick" },
        make("button", { type: "button", tabIndex: -1, title: "Keep (K)", dataset: { mark: "keep" } }, "✓"),
        make("button", { type: "button", tabIndex: -1, title: "Drop (D)", dataset: { mark: "drop" } }, "✕"),
      ),
    );
  }

  fill(tile, index) {
    const item = this.listing?.item(index) ?? null;
    const image = tile.firstElementChild;
    tile.id = `tile-${index}`;
    tile.setAttribute("aria-posinset", String(index + 1));
    tile.setAttribute("aria-setsize", String(this.grid.count));
    this.showChosen(tile, index);
    if (item === null) return;
    if (tile.dataset.row !== String(item.row)) {
      this.free(tile);
      tile.dataset.row = item.row;
      this.thumbnails.want(image, item.row);
    }
    tile.classList.toggle("active", index === this.active);
    this.tell(tile, item);
    if (item.turned) this.turned.set(item.row, true);
    tile.querySelector(".turned").hidden = !this.turned.get(item.row);
    tile.querySelector(".score").textContent = score(item.score);
    tile.classList.toggle("stacked", Boolean(item.stack));
    tile.classList.toggle("stays", item.stays === true);
    tile.querySelector(".count").textContent = stackText(item);
    this.paint(tile, item);
  }

  // the name and the caption: over the tile for who points at it or comes by keyboard, in it where there is no picture
  tell(tile, item) {
    const [name, caption] = [cut(item.sample, 240), item.caption ?? ""];
    const [why, told] = [tile.querySelector(".why"), tile.querySelector(".told")];
    why.children[0].textContent = told.children[1].textContent = name;
    why.children[1].textContent = told.children[0].textContent = caption;
  }

  paint(tile, item) {
    tile.dataset.mark = item.mark;
    const isKept = this.hooks.isKept(item);
    tile.classList.toggle("below", !isKept);
    const stack = item.reference !== undefined ? `, ${stackText(item)}${item.stack ? ": opens them" : ""}` : item.stack ? `, ${count(item.stack)} that are alike: opens them` : item.stays ? ", stays of those that are alike" : "";
    const more = `${this.turned.get(item.row) ? ", turned by EXIF" : ""}${item.caption ? `, ${item.caption}` : ""}`;
    tile.setAttribute("aria-label", `${item.sample}, ${score(item.score)}${item.mark ? `, marked ${item.mark}` : ""}${isKept ? "" : ", not kept"}${stack}${more}`);
  }

  showChosen(tile, index) {
    const isChosen = this.chosen.has(index);
    tile.classList.toggle("chosen", isChosen);
    tile.setAttribute("aria-selected", String(isChosen));
  }

  free(tile) {
    this.thumbnails.free(tile.firstElementChild);
    tile.classList.remove("failed", "below", "active", "stacked", "stays");
    this.tell(tile, { sample: "" });
    tile.querySelector(".turned").hidden = true;
    delete tile.dataset.row;
    tile.dataset.mark = "";
    tile.querySelector(".score").textContent = "";
    tile.querySelector(".count").textContent = "";
  }

  // the threshold moved
  repaint() {
    for (const [index, tile] of this.grid.shown) {
      const item = this.listing?.item(index);
      if (item && tile.dataset.row === String(item.row)) this.paint(tile, item);
    }
  }

  // marks: row -> mark
  setMarks(marks) {
    if (!this.listing || !marks.size) return;
    for (const [index, item] of this.listing.items()) {
      if (!marks.has(item.row)) continue;
      item.mark = marks.get(item.row);
      const tile = this.grid.shown.get(index);
      if (tile) this.paint(tile, item);
    }
  }

  setActive(index, { isScrolling = true } = {}) {
    if (!this.grid.count) return;
    const before = this.grid.shown.get(this.active);
    this.active = Math.max(0, Math.min(index, this.grid.count - 1));
    before?.classList.remove("active");
    if (isScrolling) this.grid.goTo(this.active);
    this.grid.shown.get(this.active)?.classList.add("active");
    this.viewport.setAttribute("aria-activedescendant", `tile-${this.active}`);
  }

  // -- pictures that EXIF turns: the server knows when it has made their thumbnails

  askTurned(row) {
    if (this.turned.has(row)) return;
    this.unsure.add(row);
    this.turnedTimer ||= setTimeout(() => this.fetchTurned(), TURNED_PAUSE_MS);
  }

  async fetchTurned() {
    this.turnedTimer = 0;
    const rows = [...this.unsure].slice(0, MOST_TURNED_ASKED);
    for (const row of rows) this.unsure.delete(row);
    try {
      const found = new Set((await get("/api/turned", { rows: rows.join(",") })).rows);
      if (this.turned.size > 50_000) this.turned.clear();
      for (const row of rows) this.turned.set(row, found.has(row));
      for (const [index, tile] of this.grid.shown) if (found.has(Number(tile.dataset.row))) this.fill(tile, index);
    } catch {
      // a badge less; the next action says what is wrong
    }
    if (this.unsure.size) this.turnedTimer ||= setTimeout(() => this.fetchTurned(), TURNED_PAUSE_MS);
  }

  // -- chosen tiles: keys and buttons mark all of them at once

  choose(indices) {
    const before = this.chosen;
    this.chosen = new Set(indices);
    for (const [index, tile] of this.grid.shown) {
      if (before.has(index) === this.chosen.has(index)) continue;
      this.showChosen(tile, index);
    }
    const { top } = this.viewport.getBoundingClientRect();
    this.hooks.onChosen(this.chosen.size);
    this.grid.keepInPlace(this.viewport.getBoundingClientRect().top - top); // a bar comes or goes above
  }

  // all between the anchor and here; others stay chosen where they are `kept`
  chooseTo(index, kept = []) {
    const [first, last] = [Math.min(this.anchor, index), Math.max(this.anchor, index)];
    const added = Math.min(last - first + 1, MOST_CHOSEN);
    const start = this.anchor <= index ? first : last - added + 1;
    const found = new Set(kept);
    for (let at = start; at < start + added && found.size < MOST_CHOSEN; at += 1) found.add(at);
    if (last - first + 1 > MOST_CHOSEN) sayMost();
    this.choose(found);
  }

  toggle(index) {
    const found = new Set(this.chosen);
    if (!found.delete(index)) found.add(index);
    if (found.size > MOST_CHOSEN) {
      sayMost();
      return;
    }
    this.anchor = index;
    this.choose(found);
  }

  // the chosen rows and their marks; those that are not here yet are asked for. null: another listing was opened meanwhile
  async chosenItems() {
    const listing = this.listing;
    const [indices, found] = [[...this.chosen].sort((one, other) => one - other), []];
    for (let at = 0; at < indices.length; ) {
      let stop = at + 1;
      while (stop < indices.length && indices[stop] === indices[stop - 1] + 1) stop += 1;
      const items = indices.slice(at, stop).map((index) => listing.item(index));
      if (items.every((item) => item !== null)) found.push(...items);
      else {
        const { rows } = await get("/api/selection", { listing: listing.id, start: indices[at], count: stop - at });
        if (this.listing !== listing) return null;
        found.push(...rows.map(([row, mark]) => ({ row, mark })));
      }
      at = stop;
    }
    return found;
  }

  async markChosen(mark) {
    try {
      const items = await this.chosenItems();
      if (items === null) {
        toast("Nothing was marked: other pictures are shown since; select them again", true);
        return;
      }
      this.hooks.onMark(items, mark);
      this.choose([]);
    } catch (error) {
      this.hooks.onGone(error);
    }
  }

  mark(item, index, mark) {
    if (this.chosen.size && this.chosen.has(index)) this.markChosen(mark);
    else this.hooks.onMark([item], mark);
  }

  onClick(event) {
    const index = this.grid.at(event);
    if (index === null) return;
    this.setActive(index, { isScrolling: false });
    const item = this.listing?.item(index);
    const wanted = event.target.closest(".quick button")?.dataset.mark;
    if (wanted) {
      if (item) this.mark(item, index, item.mark === wanted ? "" : wanted);
    } else if (event.shiftKey) {
      this.chooseTo(index, event.ctrlKey || event.metaKey ? this.chosen : []);
    } else if (event.ctrlKey || event.metaKey || this.isChoosing) {
      this.toggle(index);
    } else {
      this.anchor = index;
      if (item) this.hooks.onOpen(index, item);
    }
  }

  onKey(event) {
    if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "a" && this.grid.count) {
      event.preventDefault();
      this.anchor = 0;
      this.chooseTo(this.grid.count - 1);
      return;
    }
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Escape" && this.chosen.size) {
      event.preventDefault();
      this.choose([]);
      return;
    }
    const columns = this.grid.sizes.columns;
    const moves = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns, PageUp: -this.grid.perScreen, PageDown: this.grid.perScreen, Home: -this.grid.count, End: this.grid.count };
    const [first, last] = this.grid.visible();
    const item = this.listing?.item(this.active);
    const marks = { k: "keep", d: "drop", u: "" };
    if (event.key in moves) {
      const from = this.active >= first && this.active < last ? this.active : first;
      const to = from + moves[event.key];
      const isOut = to < 0 || to >= this.grid.count;
      if (event.shiftKey && !this.chosen.size) this.anchor = from;
      if (isOut && (event.key === "ArrowUp" || event.key === "ArrowDown")) this.setActive(from);
      else this.setActive(to);
      if (event.shiftKey) this.chooseTo(this.active);
      else if (!this.chosen.size) this.anchor = this.active;
    } else if (event.key.toLowerCase() === "x") {
      this.toggle(this.active);
    } else if (event.key === "Enter" || event.key === " ") {
      if (item) this.hooks.onOpen(this.active, item);
    } else if (event.key.toLowerCase() in marks && this.chosen.size) {
      this.markChosen(marks[event.key.toLowerCase()]);
    } else if (event.key.toLowerCase() in marks && item) {
      this.hooks.onMark([item], marks[event.key.toLowerCase()]);
    } else {
      return;
    }
    event.preventDefault();
  }
}
