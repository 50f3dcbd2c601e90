// Parts of the page that know nothing of scores: colours, the ring of the keyboard, dialogs that close, tabs by arrow keys.

import { byId, store, stored } from "./dom.js";

export function wireTheme() {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const names = { system: "as the system", light: "light", dark: "dark" };
  let chosen = stored("theme", "system");
  const paint = () => {
    const isDark = chosen === "dark" || (chosen === "system" && dark.matches);
    document.documentElement.dataset.theme = isDark ? "dark" : "light";
    byId("theme").setAttribute("aria-label", `Colours: ${names[chosen]}`);
    byId("theme").title = `Colours: ${names[chosen]}`;
  };
  dark.addEventListener("change", paint);
  byId("theme").addEventListener("click", () => {
    chosen = { system: dark.matches ? "light" : "dark", light: "dark", dark: "light" }[chosen];
    store("theme", chosen);
    paint();
  });
  paint();
}

// the ring around the active tile is for those who use the keyboard
export function wireRing() {
  document.addEventListener("keydown", () => document.body.classList.add("ring"), true);
  document.addEventListener("pointerdown", () => document.body.classList.remove("ring"), true);
}

export const focusPictures = () => byId(byId("gallery").hidden ? "rejects" : "gallery").focus({ preventScroll: true });

export function wireDialogs() {
  for (const dialog of document.querySelectorAll("dialog")) {
    dialog.addEventListener("click", (event) => {
      if (event.target === dialog || event.target.closest("[data-close]")) dialog.close();
    });
    dialog.addEventListener("close", focusPictures);
  }
  byId("open-help").addEventListener("click", () => byId("help").showModal());
}

export function wireTabs() {
  byId("tabs").addEventListener("keydown", (event) => {
    const step = { ArrowRight: "nextElementSibling", ArrowLeft: "previousElementSibling" }[event.key];
    const next = step && event.target.closest(".tab")?.[step];
    if (next) {
      event.preventDefault();
      next.focus();
      next.click();
    }
  });
}
