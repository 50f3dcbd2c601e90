// Small helpers: elements by id, elements made, numbers in words, a line at the bottom for a moment.
// Texts of the data go into textContent only, never into HTML.

export const byId = (id) => document.getElementById(id);

export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "class") element.className = value;
    else if (name === "dataset") Object.assign(element.dataset, value);
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name in element) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

const whole = new Intl.NumberFormat("en-US");
export const count = (number) => whole.format(number);

export function share(part, all) {
  if (!all) return "";
  const percent = (100 * part) / all;
  if (percent > 0 && percent < 0.01) return "< 0.01 %";
  return `${percent.toFixed(percent < 1 ? 2 : 1)} %`;
}

export const score = (value) => (typeof value === "number" ? value.toFixed(Math.abs(value) >= 100 ? 1 : 2) : value ?? "–");

// how many digits after the point numbers in such steps have, at most so many
export const digitsOf = (step, most = 20) => Math.max(0, Math.min(most, -Math.floor(Math.log10(step) + 1e-9)));

// a text, or its beginning and end: names have any length
export const cut = (text, most = 600) => (text.length <= most ? text : `${text.slice(0, most / 2)} … ${text.slice(-most / 2)}`);

let toastTimer = 0;
export function toast(text, isBad = false) {
  const box = byId("toast");
  box.textContent = text;
  if (box.matches(":popover-open")) box.hidePopover();
  box.showPopover(); // above a dialog that was opened since
  box.classList.toggle("bad", isBad);
  box.classList.add("shown");
  clearTimeout(toastTimer);
  toastTimer = setTimeout(() => box.classList.remove("shown"), isBad ? 6000 : Math.max(2200, 60 * text.length));
}

export function stored(name, fallback) {
  try {
    return JSON.parse(localStorage.getItem(`beholder.${name}`)) ?? fallback;
  } catch {
    return fallback;
  }
}

export function store(name, value) {
  try {
    localStorage.setItem(`beholder.${name}`, JSON.stringify(value));
  } catch {
    // private windows keep nothing: the choice then lasts as long as the page
  }
}
