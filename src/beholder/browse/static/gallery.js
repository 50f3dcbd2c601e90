// The gallery: tiles of one size in a grid, a listing behind it, an active tile for the keyboard.

import { count, make, score } from "./dom.js";
import { Grid } from "./grid.js";
import { Listing } from "./listing.js";
import { Thumbnails } from "./thumbnails.js";

// how many a stack holds; of a picture of an opened one how similar it is to the one that stays, and its size
function stackText(item) {
  if (item.stack) return `${count(item.stack)} alike`;
  if (item.stays === undefined) return "";
  const alike = item.stays ? "stays" : typeof item.similarity === "number" ? `≈ ${item.similarity.toFixed(3)}` : "";
  return [alike, item.width && item.height ? `${item.width}×${item.height}` : ""].filter(Boolean).join(" · ");
}

export class Gallery {
  // hooks: isKept(item), onOpen(index, item), onMark(item, mark), onGone(error)
  constructor(viewport, run, hooks) {
    Object.assign(this, { viewport, hooks, listing: null, active: 0 });
    this.thumbnails = new Thumbnails(run);
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
    this.listing = new Listing(listing, scoreName, count, (first, last) => this.onRows(first, last), (error) => this.hooks.onGone(error));
    this.active = Math.min(anchor, Math.max(0, count - 1));
    this.grid.setCount(count, anchor);
    this.viewport.setAttribute("aria-activedescendant", "");
  }

  onRows(first, last) {
    for (let index = first; index < last; index += 1) this.grid.refill(index);
  }

  makeTile() {
    const image = make("img", { alt: "", decoding: "async", draggable: false });
    return make(
      "div",
      { class: "tile", role: "option" },
      image,
      make("span", { class: "leaves", "aria-hidden": "true" }),
      make("span", { class: "why" }, "no picture"),
      make("span", { class: "score" }),
      make("span", { class: "count" }),
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
    if (item === null) return;
    if (tile.dataset.row !== String(item.row)) {
      this.free(tile);
      tile.dataset.row = item.row;
      this.thumbnails.want(image, item.row);
    }
    tile.classList.toggle("active", index === this.active);
    tile.querySelector(".score").textContent = score(item.score);
    tile.classList.toggle("stacked", Boolean(item.stack));
    tile.classList.toggle("stays", item.stays === true);
    tile.querySelector(".count").textContent = stackText(item);
    this.paint(tile, item);
  }

  paint(tile, item) {
    tile.dataset.mark = item.mark;
    const isKept = this.hooks.isKept(item);
    tile.classList.toggle("below", !isKept);
    const stack = item.stack ? `, ${count(item.stack)} that are alike: opens them` : item.stays ? ", stays of those that are alike" : "";
    tile.setAttribute("aria-label", `${item.sample}, ${score(item.score)}${item.mark ? `, marked ${item.mark}` : ""}${isKept ? "" : ", not kept"}${stack}`);
    tile.setAttribute("aria-selected", String(isKept));
  }

  free(tile) {
    this.thumbnails.free(tile.firstElementChild);
    tile.classList.remove("failed", "below", "active", "stacked", "stays");
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

  setMark(row, mark) {
    if (!this.listing) return;
    for (const [index, item] of this.listing.items()) {
      if (item.row !== row) continue;
      item.mark = mark;
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

  onClick(event) {
    const index = this.grid.at(event);
    if (index === null) return;
    this.setActive(index, { isScrolling: false });
    const item = this.listing?.item(index);
    const wanted = event.target.closest(".quick button")?.dataset.mark;
    if (wanted && item) this.hooks.onMark(item, item.mark === wanted ? "" : wanted);
    else if (item) this.hooks.onOpen(index, item);
  }

  onKey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const columns = this.grid.sizes.columns;
    const moves = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns, PageUp: -this.grid.perScreen, PageDown: this.grid.perScreen, Home: -this.grid.count, End: this.grid.count };
    const [first, last] = this.grid.visible();
    const item = this.listing?.item(this.active);
    const marks = { k: "keep", d: "drop", u: "" };
    if (event.key in moves) {
      const from = this.active >= first && this.active < last ? this.active : first;
      const to = from + moves[event.key];
      const isOut = to < 0 || to >= this.grid.count;
      if (isOut && (event.key === "ArrowUp" || event.key === "ArrowDown")) this.setActive(from);
      else this.setActive(to);
    } else if (event.key === "Enter" || event.key === " ") {
      if (item) this.hooks.onOpen(this.active, item);
    } else if (event.key.toLowerCase() in marks && item) {
      this.hooks.onMark(item, marks[event.key.toLowerCase()]);
    } else {
      return;
    }
    event.preventDefault();
  }
}
