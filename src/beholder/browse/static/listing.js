// Rows of a tab, fetched page by page as they come into sight; far pages are let go of and their requests given up.

const PAGE_ROWS = 120;
const MOST_PAGES = 80;
const PAUSE_MS = 45; // what was scrolled past within this time is never asked for

export class Listing {
  // id: the server's name for it; ask(start, count, signal) -> {rows}; onRows(first, last): these are here; onGone(error)
  constructor(id, ask, onRows, onGone) {
    Object.assign(this, { id, ask, onRows, onGone });
    this.pages = new Map();
    this.wanted = new Set();
    this.running = new Map();
    this.timer = this.total = 0;
    this.isClosed = false;
  }

  item(index) {
    return this.pages.get(Math.floor(index / PAGE_ROWS))?.[index % PAGE_ROWS] ?? null;
  }

  want(first, last) {
    this.wanted.clear();
    if (last <= first) return;
    for (let page = Math.floor(first / PAGE_ROWS); page <= Math.floor((last - 1) / PAGE_ROWS); page += 1) this.wanted.add(page);
    for (const [page, control] of this.running) if (!this.wanted.has(page)) control.abort();
    if ([...this.wanted].every((page) => this.pages.has(page) || this.running.has(page))) return;
    if (!this.timer) this.timer = setTimeout(() => this.fetchWanted(), this.pages.size ? PAUSE_MS : 0);
  }

  fetchWanted() {
    this.timer = 0;
    for (const page of this.wanted) if (!this.pages.has(page) && !this.running.has(page)) this.fetchPage(page);
  }

  async fetchPage(page) {
    const control = new AbortController();
    this.running.set(page, control);
    try {
      const found = await this.ask(page * PAGE_ROWS, PAGE_ROWS, control.signal);
      if (this.isClosed) return;
      this.pages.set(page, found.rows);
      this.total = found.count ?? 0; // of all, where the server says so
      this.trim();
      this.onRows(page * PAGE_ROWS, page * PAGE_ROWS + found.rows.length);
    } catch (error) {
      if (error.name !== "AbortError" && !this.isClosed) this.onGone(error);
    } finally {
      this.running.delete(page);
    }
  }

  trim() {
    for (const page of this.pages.keys()) {
      if (this.pages.size <= MOST_PAGES) break;
      if (!this.wanted.has(page)) this.pages.delete(page);
    }
  }

  // one row, fetched if need be
  async load(index) {
    const known = this.item(index);
    if (known) return known;
    const found = await this.ask(index, 1);
    return found.rows[0] ?? null;
  }

  *items() {
    for (const [page, rows] of this.pages) for (let at = 0; at < rows.length; at += 1) yield [page * PAGE_ROWS + at, rows[at]];
  }

  close() {
    this.isClosed = true;
    clearTimeout(this.timer);
    for (const control of this.running.values()) control.abort();
  }
}
