// Thumbnails for tiles: a few at a time, those in sight first; what is scrolled past is taken back before or while it loads.

const AT_ONCE = 6;
const PAUSE_MS = 50;
const SIDES = [160, 240, 320, 480, 640];

export class Thumbnails {
  constructor(run) {
    this.run = run;
    this.waiting = new Map();
    this.loading = new Set();
    this.timer = 0;
    this.side = 240;
  }

  setSize(cssPx) {
    const wanted = cssPx * Math.min(2, window.devicePixelRatio || 1);
    this.side = SIDES.find((side) => side >= wanted * 0.9) ?? SIDES.at(-1);
  }

  address(row, side = this.side) {
    return `/thumb/${this.run}/${side}/${row}`;
  }

  want(image, row) {
    this.waiting.set(image, row);
    if (!this.timer) this.timer = setTimeout(() => this.next(), PAUSE_MS);
  }

  free(image) {
    this.waiting.delete(image);
    image.onload = image.onerror = null;
    image.classList.remove("here");
    if (image.hasAttribute("src")) image.removeAttribute("src"); // ends the request
    if (this.loading.delete(image)) this.next();
  }

  next() {
    this.timer = 0;
    for (const [image, row] of this.waiting) {
      if (this.loading.size >= AT_ONCE) return;
      this.waiting.delete(image);
      this.loading.add(image);
      const done = (isHere) => {
        image.onload = image.onerror = null;
        this.loading.delete(image);
        image.classList.toggle("here", isHere);
        image.parentElement.classList.toggle("failed", !isHere);
        this.next();
      };
      image.onload = () => done(true);
      image.onerror = () => done(false);
      image.src = this.address(row);
    }
  }
}
