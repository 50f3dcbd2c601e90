// The rejected pictures and why: a list of any length, by reason.

import { get } from "./api.js";
import { byId, count, make, toast } from "./dom.js";
import { Grid } from "./grid.js";
import { Listing } from "./listing.js";

export class RejectList {
  constructor(info, onGone) {
    Object.assign(this, { info, onGone, reason: "", listing: null });
    this.viewport = byId("rejects");
    this.grid = new Grid(this.viewport, {
      make: () => make("div", { class: "reject", role: "listitem" }, make("b"), make("span"), make("span", { class: "message" })),
      fill: (element, index) => this.fill(element, index),
      onRange: (first, last) => this.listing?.want(first, last),
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
    this.drawReasons();
    this.layout();
    const ask = (start, number, signal) => get("/api/rejects", { reason, start, count: number }, signal);
    const listing = new Listing(reason, ask, (first, last) => this.grid.refill(first, last), this.onGone);
    await listing.fetchPage(0); // which says how many there are, or tells what is wrong
    if (reason !== this.reason || !listing.pages.has(0)) return;
    this.listing?.close();
    this.listing = listing;
    this.grid.setCount(listing.total);
  }

  fill(element, index) {
    const row = this.listing?.item(index);
    const [reason, sample, message] = element.children;
    reason.textContent = row?.reason ?? "";
    sample.textContent = sample.title = row?.sample ?? "";
    message.textContent = message.title = row?.message ?? "";
  }
}
