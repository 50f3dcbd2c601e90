// My taste: a score learned from the marks, beside the scores of the set. What was learned lies on the server, so a reload has it.

import { get, post } from "./api.js";
import { byId, count, make, toast } from "./dom.js";

const PAUSE_MS = 300;
const MOST_ROWS_AHEAD = 2_000_000; // of larger sets embeddings are read when they are needed, and not before

const bytes = (number) => (number < 1e8 ? `${(number / 1e6).toFixed(1)} MB` : `${(number / 1e9).toFixed(2)} GB`);
const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

export class Taste {
  // hooks: publicName() -> the score to start from; isShown() -> whether pictures are in the order of what was learned;
  // onShow(isTaste): show that order, or the public one; onLearned(): it is another one; onUndecided()
  constructor(numRows, hooks) {
    Object.assign(this, { numRows, hooks, state: null, isBusy: false, marks: { keep: 0, drop: 0, version: 0 }, isAsked: false });
    byId("learn").addEventListener("click", () => this.learn());
    byId("undecided").addEventListener("click", () => hooks.onUndecided());
    byId("taste-more").addEventListener("click", () => this.open());
    byId("save-taste").addEventListener("click", () => this.save());
    for (const input of document.querySelectorAll("#taste-switch input")) input.addEventListener("change", () => hooks.onShow(input.value === "taste"));
  }

  get learned() {
    return this.state?.learned ?? null;
  }

  get isPossible() {
    return this.state?.is_possible ?? false;
  }

  async refresh() {
    this.state = await get("/api/taste");
    this.paint();
  }

  // the newest numbers of marks; the embeddings are read while people mark
  setMarks({ marked_keep: keep, marked_drop: drop, version }) {
    this.marks = { keep, drop, version };
    if (keep + drop && this.isPossible && !this.isAsked && this.numRows <= MOST_ROWS_AHEAD) {
      this.isAsked = true;
      post("/api/taste/read", {}).catch(() => {}); // learning says what is wrong
    }
    this.paint();
  }

  async learn() {
    if (this.isBusy || !this.isPossible) return;
    this.isBusy = true;
    this.paint();
    try {
      this.state = await this.asked();
      this.paint();
      await this.hooks.onLearned();
      toast(`Learned in ${this.learned.seconds.toFixed(2)} s from ${count(this.learned.num_keep)} keep and ${count(this.learned.num_drop)} drop`);
    } catch (error) {
      toast(error.message, true);
    } finally {
      this.isBusy = false;
      this.paint();
    }
  }

  // what the server answers to a wish to learn, once the embeddings are there
  async asked() {
    for (let isFirst = true; ; isFirst = false) {
      const had = Boolean(this.state.embeddings);
      try {
        return await post("/api/taste/learn", { score: this.hooks.publicName() });
      } catch (error) {
        if (error.status !== 503) {
          if (isFirst && this.state.why) return await this.readAgain();
          throw error;
        }
        await this.refresh();
        if (this.state.why) throw new Error(this.state.why);
        if (had || !(this.state.reading || this.state.embeddings)) throw error;
      }
      await sleep(PAUSE_MS);
    }
  }

  // embeddings that could not be read: what was wrong may be mended by now
  async readAgain() {
    this.state = await post("/api/taste/read", {});
    return this.asked();
  }

  async save() {
    const button = byId("save-taste");
    button.disabled = true;
    try {
      this.state = await post("/api/taste/save", {});
      toast(`Saved in ${this.learned.saved}`);
    } catch (error) {
      toast(error.message, true);
    } finally {
      button.disabled = false;
      this.paint();
    }
  }

  open() {
    this.paint();
    byId("taste-about").showModal();
  }

  said() {
    const { state, marks, learned } = this;
    if (this.isBusy && state.reading) return `Reading the embeddings${state.reading.total ? ` … ${Math.floor((100 * state.reading.done) / state.reading.total)} %` : " …"}`;
    if (this.isBusy) return "Learning …";
    if (learned) return learned.summary;
    if (state.why) return state.why;
    return marks.keep + marks.drop ? `${count(marks.keep)} marked keep, ${count(marks.drop)} drop: learn from them when there are a dozen or more` : "Mark some pictures keep (K) and some drop (D), and all are put in your order";
  }

  paint() {
    const { state, learned, marks } = this;
    if (!state) return;
    byId("taste").hidden = !state.is_possible;
    byId("help-taste").textContent = state.is_possible ? "Learning from marks happens on this machine; nothing leaves it." : `Learning from marks: ${state.why}.`;
    for (const line of document.querySelectorAll(".taste-key")) line.hidden = !state.is_possible;
    const fresh = learned ? marks.version - learned.version : marks.keep + marks.drop;
    byId("learn-count").hidden = fresh <= 0;
    byId("learn-count").textContent = fresh > 999 ? "999+" : String(fresh);
    byId("learn-count").title = learned ? `${count(fresh)} marks set or taken away since` : `${count(fresh)} marks`;
    byId("learn").disabled = this.isBusy;
    byId("learn").setAttribute("aria-busy", String(this.isBusy));
    byId("taste-switch").hidden = byId("undecided").hidden = !learned;
    const shown = this.hooks.isShown() ? "taste" : "public";
    for (const input of document.querySelectorAll("#taste-switch input")) input.checked = input.value === shown;
    byId("taste-said").textContent = this.said();
    this.paintAbout();
  }

  paintAbout() {
    const { state, learned } = this;
    const { embeddings } = state;
    const lines = learned ? [learned.summary, ...learned.told] : ["Nothing was learned yet."];
    byId("taste-told").replaceChildren(...lines.map((line) => make("li", {}, line)));
    byId("taste-embeddings").textContent = embeddings
      ? `Embeddings in memory: ${count(embeddings.rows)} of ${embeddings.dim} ${embeddings.dtype}, ${bytes(embeddings.num_bytes)}, from ${state.place}.${embeddings.without ? ` ${count(embeddings.without)} pictures have none: they come last.` : ""}`
      : `Embeddings: ${state.place ?? "none"}${state.why ? `; ${state.why}` : ""}`;
    byId("taste-file").textContent = learned?.saved ? `Saved in ${learned.saved}: beholder score … --head takes it.` : `Saving writes ${state.file}, its card and its record.`;
    byId("save-taste").hidden = !learned;
  }
}
