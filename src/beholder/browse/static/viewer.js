// One picture as large as the window, with everything the set says about it. Arrows, Esc, K, D, U; swipes on a phone.

import { get, refusal } from "./api.js";
import { byId, count, cut, make, score, store, stored } from "./dom.js";

export class Viewer {
  // hooks: onMark(items, mark), onLeave(index); preset: which pixels were scored, null where that is not known
  constructor(gallery, run, hooks, preset) {
    Object.assign(this, { gallery, run, hooks, index: 0, item: null, turn: 0, ahead: [] });
    this.dialog = byId("viewer");
    this.small = byId("view-small");
    this.large = byId("view-large");
    this.problem = byId("view-problem");
    this.advance = byId("view-advance");
    this.advance.checked = stored("advance", false);
    this.advance.addEventListener("change", () => store("advance", this.advance.checked));
    this.seen = byId("view-seen");
    this.seen.addEventListener("change", () => this.item && this.showPicture(this.item, this.turn));
    byId("view-seen-line").hidden = !preset;
    byId("view-preset").textContent = preset ? `(${preset})` : "";
    byId("view-back").addEventListener("click", () => this.go(-1));
    byId("view-next").addEventListener("click", () => this.go(1));
    byId("view-close").addEventListener("click", () => this.dialog.close());
    for (const [id, mark] of [["view-keep", "keep"], ["view-drop", "drop"], ["view-none", ""]]) byId(id).addEventListener("click", () => this.mark(mark));
    this.dialog.addEventListener("keydown", (event) => this.onKey(event));
    this.dialog.addEventListener("close", () => this.leave());
    this.addSwipes(this.dialog.querySelector(".view-main"));
  }

  open(index) {
    this.gallery.thumbnails.hold("viewer", true);
    this.dialog.showModal();
    this.dialog.focus();
    this.show(index);
  }

  async show(index) {
    const turn = ++this.turn;
    this.index = index;
    let item = null;
    try {
      item = await this.gallery.listing.load(index);
    } catch (error) {
      this.say(error.message);
      return;
    }
    if (turn !== this.turn || item === null) return;
    this.item = item;
    byId("view-score").textContent = score(item.score);
    byId("view-place").textContent = `${count(index + 1)} of ${count(this.gallery.grid.count)}`;
    byId("view-back").disabled = index <= 0;
    byId("view-next").disabled = index >= this.gallery.grid.count - 1;
    this.paintMark();
    this.showPicture(item, turn);
    this.showValues(item, turn);
    this.stopAhead();
    for (const near of [index + 1, index - 1]) {
      const neighbour = this.gallery.listing.item(near);
      if (neighbour) this.preload(neighbour, turn);
    }
  }

  address(item) {
    return `/${this.seen.checked ? "seen" : "picture"}/${this.run}/${item.row}`;
  }

  showPicture(item, turn) {
    this.problem.hidden = true;
    this.large.classList.remove("here");
    this.small.hidden = this.seen.checked; // a thumbnail is upright and whole, which the square need not be
    this.small.src = this.gallery.thumbnails.address(item.row);
    this.large.onload = () => turn === this.turn && this.large.classList.add("here");
    this.large.onerror = async () => {
      if (turn !== this.turn) return;
      const addresses = [this.address(item), this.gallery.thumbnails.address(item.row)];
      const text = (await refusal(addresses[0])) ?? (await refusal(addresses[1])) ?? "this browser cannot show the picture: it may be damaged";
      if (turn === this.turn) this.say(text);
    };
    this.large.alt = item.sample;
    this.large.src = this.address(item);
  }

  say(text) {
    this.small.hidden = true;
    this.large.classList.remove("here");
    this.problem.textContent = cut(text);
    this.problem.hidden = false;
  }

  preload(item, turn) {
    setTimeout(() => {
      if (turn === this.turn) this.ahead.push(make("img", { src: this.address(item) }));
    }, 250);
  }

  stopAhead() {
    for (const image of this.ahead) image.removeAttribute("src"); // ends the request, unless it is the one that is shown now
    this.ahead = [];
  }

  async showValues(item, turn) {
    let values = { sample: item.sample };
    try {
      const found = await get(`/api/row/${item.row}`);
      values = found.values;
    } catch {
      // the name is better than nothing
    }
    if (turn !== this.turn) return;
    const rows = Object.entries(values).map(([name, value]) =>
      make("div", {}, make("dt", {}, name), make("dd", value === null ? { class: "null" } : {}, value === null ? "null" : String(value))),
    );
    byId("view-values").replaceChildren(...rows);
  }

  paintMark() {
    byId("view-keep").setAttribute("aria-pressed", String(this.item?.mark === "keep"));
    byId("view-drop").setAttribute("aria-pressed", String(this.item?.mark === "drop"));
  }

  setMark(row, mark) {
    if (this.item?.row !== row) return;
    this.item.mark = mark;
    this.paintMark();
  }

  mark(mark) {
    if (!this.item) return;
    this.hooks.onMark([this.item], mark);
    if (mark && this.advance.checked) this.go(1);
  }

  go(step) {
    const next = this.index + step;
    if (next >= 0 && next < this.gallery.grid.count) this.show(next);
  }

  leave() {
    this.turn += 1;
    this.stopAhead();
    this.small.removeAttribute("src");
    this.large.removeAttribute("src");
    this.large.classList.remove("here");
    this.item = null;
    this.gallery.thumbnails.hold("viewer", false);
    this.hooks.onLeave(this.index);
  }

  onKey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const actions = {
      ArrowLeft: () => this.go(-1),
      ArrowRight: () => this.go(1),
      ArrowUp: () => this.go(-1),
      ArrowDown: () => this.go(1),
      Home: () => this.show(0),
      End: () => this.show(this.gallery.grid.count - 1),
      k: () => this.mark("keep"),
      d: () => this.mark("drop"),
      u: () => this.mark(""),
      s: () => byId("view-seen-line").hidden || this.seen.click(),
    };
    const action = actions[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!action) return;
    event.preventDefault();
    event.stopPropagation();
    action();
  }

  addSwipes(area) {
    let start = null;
    area.addEventListener("touchstart", (event) => {
      start = event.touches.length === 1 ? [event.touches[0].clientX, event.touches[0].clientY] : null;
    }, { passive: true });
    area.addEventListener("touchend", (event) => {
      if (!start) return;
      const [x, y] = [event.changedTouches[0].clientX - start[0], event.changedTouches[0].clientY - start[1]];
      if (Math.abs(x) > 50 && Math.abs(x) > 2 * Math.abs(y)) this.go(x < 0 ? 1 : -1);
      start = null;
    }, { passive: true });
  }
}
