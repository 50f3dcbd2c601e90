// The rejected pictures and why: a list of any length, by reason.

import { get } from "./api.js";
import { byId, count, make, toast } from "./dom.js";
import { Grid } from "./grid.js";

const PAGE_ROWS = 200;

export class RejectList {
  constructor(info) {
    Object.assign(this, { info, reason: "", pages: new Map(), wanted: new Set() });
    this.viewport = byId("rejects");
    this.grid = new Grid(this.viewport, {
      make: () => make("div", { class: "reject", role: "listitem" }, make("b"), make("span"), make("span", { class: "message" })),
      fill: (element, index) => this.fill(element, index),
      onRange: (first, last) => this.want(first, last),
    });
    this.viewport.addEventListener("click", (event) => {
      const row = event.target.closest(".reject");
      if (row) toast([...row.children].map((part) => part.textContent).join(": "));
    });
    new ResizeObserver(() => this.layout()).observe(this.viewport);
    this.drawReasons();
  }

  drawReasons() {
    const all = { reason: "", count: this.info.count, text: "all rejected pictures" };
    byId("reasons").replaceChildren(
      ...[all, ...this.info.reasons].map(({ reason, count: number, text }) =>
        make("button", { class: "chip", type: "button", title: text, "aria-pressed": String(reason === this.reason), onclick: () => this.open(reason) }, `${reason || "all"}  ${count(number)}`),
      ),
    );
  }

  layout() {
    const room = this.viewport.clientWidth;
    if (!room || room === this.room) return;
    this.room = room;
    const margin = room < 720 ? 8 : 20;
    this.grid.layout({ columns: 1, width: room - 2 * margin, height: 56, gap: 6, margin });
  }

  async open(reason = this.reason) {
    this.reason = reason;
    this.pages.clear();
    this.drawReasons();
    this.layout();
    const first = await this.page(0);
    this.grid.setCount(first.count);
  }

  async page(number) {
    const { reason } = this;
    const found = await get("/api/rejects", { reason, start: number * PAGE_ROWS, count: PAGE_ROWS });
    if (reason === this.reason) this.pages.set(number, found.rows);
    return found;
  }

  async want(first, last) {
    for (let page = Math.floor(first / PAGE_ROWS); last > first && page <= Math.floor((last - 1) / PAGE_ROWS); page += 1) {
      if (this.pages.has(page) || this.wanted.has(page)) continue;
      this.wanted.add(page);
      try {
        await this.page(page);
        this.grid.refillAll();
      } finally {
        this.wanted.delete(page);
      }
    }
  }

  fill(element, index) {
    const row = this.pages.get(Math.floor(index / PAGE_ROWS))?.[index % PAGE_ROWS];
    const [reason, sample, message] = element.children;
    reason.textContent = row?.reason ?? "";
    sample.textContent = sample.title = row?.sample ?? "";
    message.textContent = message.title = row?.message ?? "";
  }
}
