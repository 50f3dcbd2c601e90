// A scrolling grid of any length of which only what is visible is in the page.
//
// Browsers lay out nothing above some 17 million pixels. Longer grids get a shorter scroll bar: small movements are one to one,
// and `offset` is what lies between the place in the grid and the place in the canvas; it changes in steps (pages), as in SlickGrid.

const MOST_PX = 8_000_000;
const PAGES = 100;

export class Grid {
  // options: fill(element, index), make() -> element, free(element, index), onRange(first, last)
  constructor(viewport, options) {
    this.viewport = viewport;
    this.canvas = viewport.firstElementChild;
    this.options = options;
    this.count = 0;
    this.shown = new Map();
    this.spare = [];
    this.offset = this.page = this.lastTop = 0;
    this.pending = false;
    this.layout({ columns: 1, width: 100, height: 100, gap: 8, margin: 8 });
    viewport.addEventListener("scroll", () => this.onScroll(), { passive: true });
  }

  // where only the height of the window has changed (a bar came or went), everything stays where it is
  layout(sizes) {
    if (this.sizes && Object.keys(sizes).every((name) => sizes[name] === this.sizes[name])) {
      this.measure();
      this.scrollTo(this.top);
      return;
    }
    const anchor = this.sizes ? this.firstVisible() : 0;
    this.sizes = sizes;
    this.measure();
    this.clear();
    this.goTo(anchor, "start");
  }

  setCount(count, anchor = 0) {
    this.count = count;
    this.measure();
    this.clear();
    this.goTo(Math.min(anchor, Math.max(0, count - 1)), "start");
  }

  measure() {
    const { columns, height, gap, margin } = this.sizes;
    this.rowPx = height + gap;
    this.length = Math.max(0, Math.ceil(this.count / columns) * this.rowPx - gap) + 2 * margin;
    this.height = this.viewport.clientHeight;
    this.real = Math.min(this.length, MOST_PX);
    this.pagePx = this.real / PAGES;
    this.pages = Math.max(1, Math.floor(this.length / Math.max(1, this.pagePx)));
    this.step = this.length > this.real ? (this.length - this.real) / (this.pages - 1) : 0;
    this.canvas.style.height = `${this.real}px`;
  }

  get top() {
    return this.viewport.scrollTop + this.offset;
  }

  onScroll() {
    const top = this.viewport.scrollTop;
    const moved = Math.abs(top - this.lastTop);
    if (this.step && moved) {
      if (moved < this.height) {
        this.scrollTo(top + this.offset);
      } else {
        const place = (top * (this.length - this.height)) / (this.real - this.height);
        this.page = Math.min(this.pages - 1, Math.floor(place / this.pagePx));
        this.setOffset(Math.round(this.page * this.step));
      }
    }
    this.lastTop = this.viewport.scrollTop;
    this.draw();
  }

  setOffset(offset) {
    if (offset === this.offset) return;
    this.offset = offset;
    for (const [index, element] of this.shown) this.place(element, index);
  }

  scrollTo(place) {
    const bounded = Math.max(0, Math.min(place, this.length - this.height));
    if (this.step) {
      this.page = Math.min(this.pages - 1, Math.floor(bounded / this.pagePx));
      this.setOffset(Math.round(this.page * this.step));
    } else {
      this.setOffset(0);
    }
    const top = Math.round(bounded - this.offset);
    if (Math.round(this.viewport.scrollTop) !== top) this.viewport.scrollTop = top;
    this.lastTop = this.viewport.scrollTop;
    this.draw();
  }

  // the window has moved by so many pixels: what it shows stays where it was on the screen
  keepInPlace(movedPx) {
    if (!movedPx) return;
    this.measure();
    this.scrollTo(this.top + movedPx);
  }

  // where: "start", "middle", or "near": move as little as needed to see it
  goTo(index, where = "near") {
    const { columns, height, margin } = this.sizes;
    const start = Math.floor(index / columns) * this.rowPx + margin;
    if (where === "start") this.scrollTo(start - margin);
    else if (where === "middle") this.scrollTo(start - (this.height - height) / 2);
    else if (start < this.top) this.scrollTo(start - margin);
    else if (start + height > this.top + this.height) this.scrollTo(start + height + margin - this.height);
  }

  firstVisible() {
    return Math.max(0, Math.floor((this.top - this.sizes.margin + this.sizes.gap) / this.rowPx)) * this.sizes.columns;
  }

  visible() {
    const { columns, margin } = this.sizes;
    const first = Math.max(0, Math.floor((this.top - margin) / this.rowPx)) * columns;
    const last = Math.min(this.count, (Math.floor((this.top + this.height - margin) / this.rowPx) + 1) * columns);
    return [first, Math.max(first, last)];
  }

  get perScreen() {
    return Math.max(1, Math.floor(this.height / this.rowPx)) * this.sizes.columns;
  }

  draw() {
    if (this.pending) return;
    this.pending = true;
    requestAnimationFrame(() => {
      this.pending = false;
      this.drawNow();
    });
  }

  drawNow() {
    const [seenFirst, seenLast] = this.visible();
    const around = this.sizes.columns * 2;
    const first = Math.max(0, seenFirst - around);
    const last = Math.min(this.count, seenLast + around);
    for (const [index, element] of this.shown) {
      if (index < first || index >= last) this.remove(index, element);
    }
    for (let index = first; index < last; index += 1) {
      if (!this.shown.has(index)) this.add(index);
    }
    this.options.onRange?.(first, last, seenFirst, seenLast);
  }

  add(index) {
    const element = this.spare.pop() ?? this.options.make();
    element.style.width = `${this.sizes.width}px`;
    element.style.height = `${this.sizes.height}px`;
    this.place(element, index);
    this.shown.set(index, element);
    element.dataset.index = index;
    element.hidden = false;
    if (!element.isConnected) this.canvas.append(element);
    this.options.fill(element, index);
  }

  remove(index, element) {
    this.options.free?.(element, index);
    this.shown.delete(index);
    element.hidden = true;
    element.removeAttribute("id");
    delete element.dataset.index;
    this.spare.push(element);
  }

  clear() {
    for (const [index, element] of this.shown) this.remove(index, element);
    this.draw();
  }

  // rows first to last, without this one, are other ones now
  refill(first, last) {
    for (const [index, element] of this.shown) if (index >= first && index < last) this.options.fill(element, index);
  }

  place(element, index) {
    const { columns, width, gap, margin } = this.sizes;
    const x = margin + (index % columns) * (width + gap);
    const y = margin + Math.floor(index / columns) * this.rowPx - this.offset;
    element.style.transform = `translate(${x}px, ${y}px)`;
  }

  at(event) {
    const element = event.target.closest("[data-index]");
    return element && this.canvas.contains(element) ? Number(element.dataset.index) : null;
  }
}
