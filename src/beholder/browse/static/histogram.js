// The threshold: a slider under a histogram, a number box, and marks where others cut. Calls `onMove` as it moves, `onRest` after.

import { byId, digitsOf, make, share } from "./dom.js";

const REST_MS = 140;

export class Threshold {
  constructor({ onMove, onRest }) {
    Object.assign(this, { onMove, onRest, value: 5, low: 0, high: 10, step: 0.01, timer: 0 });
    this.slider = byId("threshold");
    this.number = byId("threshold-number");
    this.slider.addEventListener("input", () => this.set(Number(this.slider.value)));
    this.number.addEventListener("change", () => {
      const value = Number(this.number.value);
      this.set(this.number.value.trim() !== "" && Number.isFinite(value) ? value : this.value);
    });
  }

  // info: the score as /api/set tells it
  setScale(info, value) {
    Object.assign(this, { low: info.low, high: info.high, step: info.step });
    this.digits = digitsOf(info.step, 6);
    const down = Math.floor(info.low / info.step) * info.step;
    const up = Math.ceil(info.high / info.step + 1) * info.step;
    this.slider.min = down.toFixed(this.digits);
    this.slider.max = up.toFixed(this.digits);
    this.slider.step = this.number.step = String(info.step);
    this.drawLandmarks(info.landmarks);
    this.set(value ?? info.start, true);
  }

  set(value, isQuiet = false) {
    const rounded = Number(value.toFixed(Math.max(this.digits ?? 2, 6)));
    const isNew = rounded !== this.value;
    this.value = rounded;
    const text = rounded.toFixed(this.digits);
    this.slider.value = text;
    if (Number(this.number.value) !== rounded || document.activeElement !== this.number) this.number.value = Number(text) === rounded ? text : rounded;
    this.slider.setAttribute("aria-valuetext", text);
    this.paint();
    if (isQuiet || !isNew) return;
    this.onMove(rounded);
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.onRest(rounded), REST_MS);
  }

  nudge(steps) {
    const at = this.value / this.step;
    this.set((steps > 0 ? Math.floor(at + 1e-6) + steps : Math.ceil(at - 1e-6) + steps) * this.step);
  }

  fraction(value) {
    const [low, high] = [Number(this.slider.min), Number(this.slider.max)];
    return (value - low) / (high - low || 1);
  }

  paint() {
    byId("above-box").setAttribute("x", String(Math.max(0, Math.min(140, 140 * this.fraction(this.value)))));
  }

  drawBars({ low, high, counts }) {
    const most = Math.max(1, ...counts);
    const from = 140 * this.fraction(low);
    const width = (140 * (this.fraction(high) - this.fraction(low))) / counts.length;
    const tops = counts.map((count, at) => {
      const height = count ? Math.max(1.5, (98 * count) / most) : 0;
      return `V${(100 - height).toFixed(2)}H${(from + (at + 1) * width).toFixed(3)}`;
    });
    const outline = `M${from.toFixed(3)} 100${tops.join("")}V100z`;
    for (const id of ["bars", "bars-kept"]) byId(id).setAttribute("d", outline);
  }

  drawLandmarks(landmarks) {
    let lastEnd = -Infinity;
    const room = 38 / Math.max(200, byId("landmarks").clientWidth);
    const shown = [];
    for (const mark of landmarks) {
      const place = this.fraction(mark.at);
      if (place < 0 || place > 1 || place - lastEnd < room) continue;
      lastEnd = place;
      const published = mark.share === null ? "" : `${share(mark.share, 1)} of LAION-2B-en score this or more. `;
      const title = `${mark.at}: ${published}${mark.names.length ? `Cut here: ${mark.names.join("; ")}` : ""}`;
      const button = make("button", { class: "landmark", type: "button", title, "aria-label": `Threshold ${title}`, onclick: () => this.set(mark.at) }, String(mark.at));
      button.style.left = `${100 * place}%`;
      shown.push(button);
    }
    byId("landmarks").replaceChildren(...shown);
  }
}
