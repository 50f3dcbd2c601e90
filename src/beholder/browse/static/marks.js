// Keep and drop: shown at once, written by the server one after the other, taken back with a message where that fails.
// Other tabs of this browser hear of it at once, everyone else within two seconds.

import { get, post } from "./api.js";
import { toast } from "./dom.js";

const POLL_MS = 1500;

export class Marks {
  // onChange(row, mark): a row's mark is now this; onReset(): anything may have changed; onCount(): totals may have changed
  constructor(run, version, { onChange, onReset, onCount }) {
    Object.assign(this, { version, onChange, onReset, onCount });
    this.last = Promise.resolve();
    this.waiting = 0;
    this.channel = "BroadcastChannel" in window ? new BroadcastChannel(`beholder-${run}`) : null;
    this.channel?.addEventListener("message", ({ data }) => {
      onChange(data.row, data.mark);
      onCount();
    });
    setInterval(() => this.poll(), POLL_MS);
    document.addEventListener("visibilitychange", () => this.poll());
  }

  set(item, mark) {
    const before = item.mark;
    if (before === mark) return this.last;
    this.onChange(item.row, mark);
    this.waiting += 1;
    this.last = this.last.then(async () => {
      try {
        await post("/api/marks", { rows: [item.row], mark: mark || null });
        this.channel?.postMessage({ row: item.row, mark });
      } catch (error) {
        this.onChange(item.row, before);
        toast(`Not saved: ${error.message}`, true);
      } finally {
        this.waiting -= 1;
        if (!this.waiting) this.onCount();
      }
    });
    return this.last;
  }

  async poll() {
    if (document.hidden || this.waiting) return;
    let found;
    try {
      found = await get("/api/marks", { since: this.version });
    } catch {
      return; // the next action says what is wrong
    }
    if (this.waiting) return;
    if (found.changes === null) this.onReset();
    else for (const [row, mark] of found.changes) this.onChange(row, mark);
    if (found.version !== this.version) this.onCount();
    this.version = found.version;
  }
}
