// Keep and drop: shown at once, written by the server one after the other, taken back with a message where that fails.
// What was marked in this page can be undone, step by step. Other tabs of this browser hear of it at once, everyone else within
// two seconds.

import { get, post } from "./api.js";
import { count, toast } from "./dom.js";

const POLL_MS = 1500;
const MOST_STEPS = 500;
const MOST_STEP_ROWS = 500_000;
const AT_ONCE = 5000;

export class Marks {
  // onChange(marks): these rows (row -> mark) are now marked so; onReset(): anything may have changed; onCount(): totals may have changed
  constructor(run, version, { onChange, onReset, onCount }) {
    Object.assign(this, { version, onReset, onCount, steps: [], undone: [] });
    this.known = new Map(); // marks of rows that a step is about, as they are now
    this.onChange = (marks) => {
      for (const [row, mark] of marks) if (this.known.has(row)) this.known.set(row, mark);
      onChange(marks);
    };
    this.last = Promise.resolve();
    this.waiting = 0;
    this.channel = "BroadcastChannel" in window ? new BroadcastChannel(`beholder-${run}`) : null;
    this.channel?.addEventListener("message", ({ data }) => {
      this.onChange(new Map(data));
      onCount();
    });
    setInterval(() => this.poll(), POLL_MS);
    document.addEventListener("visibilitychange", () => this.poll());
  }

  // items: {row, mark}, their marks as they are now; the number that is changed
  set(items, mark) {
    const step = items.filter((item) => item.mark !== mark).map((item) => [item.row, item.mark, mark]);
    if (!step.length) return 0;
    this.steps.push(step);
    this.undone = [];
    for (const [row, before] of step) this.known.set(row, before);
    this.trim();
    this.write(step, (rows) => without(this.steps, step, rows));
    return step.length;
  }

  undo() {
    this.again(this.steps, this.undone, "undo", (step) => step.map(([row, before, after]) => [row, after, before]));
  }

  redo() {
    this.again(this.undone, this.steps, "do again", (step) => step);
  }

  // take the last step of one list to the other; rows that somebody else marked meanwhile keep their marks
  again(from, to, what, changesOf) {
    const step = from.pop();
    if (!step) {
      toast(`There is no mark to ${what}`);
      return;
    }
    to.push(step);
    const changes = changesOf(step);
    const mine = changes.filter(([row, now]) => this.known.get(row) === now);
    this.write(mine, (rows) => {
      from.push(step.filter(([row]) => rows.has(row)));
      without(to, step, rows);
    });
    const others = changes.length - mine.length;
    const done = `${what === "undo" ? "Undone" : "Done again"}: ${count(mine.length)} ${mine.length === 1 ? "mark" : "marks"}`;
    toast(others ? `${done}; ${count(others)} changed elsewhere since, and stay` : done);
  }

  trim() {
    let rows = this.steps.reduce((sum, step) => sum + step.length, 0);
    while (this.steps.length > 1 && (this.steps.length > MOST_STEPS || rows > MOST_STEP_ROWS)) rows -= this.steps.shift().length;
    if (this.known.size > 2 * MOST_STEP_ROWS) this.known = new Map(this.steps.flat().map(([row]) => [row, this.known.get(row)]));
  }

  // changes: [row, mark before, mark after]; onFailed(rows): these could not be saved
  write(changes, onFailed) {
    const byMark = new Map();
    for (const change of changes) {
      if (!byMark.has(change[2])) byMark.set(change[2], []);
      byMark.get(change[2]).push(change);
    }
    this.onChange(new Map(changes.map(([row, , after]) => [row, after])));
    for (const [mark, all] of byMark) for (let at = 0; at < all.length; at += AT_ONCE) this.send(mark, all.slice(at, at + AT_ONCE), onFailed);
  }

  send(mark, changes, onFailed) {
    this.waiting += 1;
    this.last = this.last.then(async () => {
      try {
        await post("/api/marks", { rows: changes.map(([row]) => row), mark: mark || null });
        this.channel?.postMessage(changes.map(([row]) => [row, mark]));
      } catch (error) {
        this.onChange(new Map(changes.map(([row, before]) => [row, before])));
        onFailed(new Set(changes.map(([row]) => row)));
        toast(`Not saved: ${error.message}`, true);
      } finally {
        this.waiting -= 1;
        if (!this.waiting) this.onCount();
      }
    });
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
    if (found.changes === null) {
      Object.assign(this, { steps: [], undone: [], known: new Map() });
      this.onReset();
    } else {
      this.onChange(new Map(found.changes));
    }
    if (found.version !== this.version) this.onCount();
    this.version = found.version;
  }
}

// take rows out of a step, and the step out of the list where nothing is left of it
function without(steps, step, rows) {
  step.splice(0, step.length, ...step.filter(([row]) => !rows.has(row)));
  if (!step.length && steps.includes(step)) steps.splice(steps.indexOf(step), 1);
}
