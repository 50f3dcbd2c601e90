// Thumbnails for tiles: a few at a time, those in sight first; what is scrolled past is taken back before or while it loads.
// A browser has six connections for a server, for all its tabs: counts, rows, marks and the large view need some of them.

const AT_ONCE = 4;
const PAUSE_MS = 50;
const SIDES = [160, 240, 320, 480, 640];

export class Thumbnails {
  // onHere(row): the thumbnail of a row is shown
  constructor(run, onHere) {
    Object.assign(this, { run, onHere });
    this.waiting = new Map();
    this.loading = new Map();
    this.holders = new Set();
    this.timer = 0;
    this.side = 240;
    const follow = () => this.hold("hidden", document.hidden);
    document.addEventListener("visibilitychange", follow);
    follow();
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

  // while anybody holds them nothing loads; what was loading waits again, before the others
  hold(holder, isHeld) {
    if (isHeld) this.holders.add(holder);
    else this.holders.delete(holder);
    if (!isHeld) {
      this.next();
      return;
    }
    for (const image of this.loading.keys()) {
      image.onload = image.onerror = null;
      image.removeAttribute("src");
    }
    this.waiting = new Map([...this.loading, ...this.waiting]);
    this.loading.clear();
  }

  next() {
    this.timer = 0;
    if (this.holders.size) return;
    for (const [image, row] of this.waiting) {
      if (this.loading.size >= AT_ONCE) return;
      this.waiting.delete(image);
      this.loading.set(image, row);
      const done = (isHere) => {
        image.onload = image.onerror = null;
        this.loading.delete(image);
        image.classList.toggle("here", isHere);
        image.parentElement.classList.toggle("failed", !isHere);
        if (isHere) this.onHere(row);
        this.next();
      };
      image.onload = () => done(true);
      image.onerror = () => done(false);
      image.src = this.address(row);
    }
  }
}
