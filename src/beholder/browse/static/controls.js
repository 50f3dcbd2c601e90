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

// tabs that have no room scroll; buttons at the ends show that there are more
export function wireTabs() {
  const tabs = byId("tabs");
  const paint = () => {
    byId("tabs-back").hidden = tabs.scrollLeft < 2;
    byId("tabs-on").hidden = tabs.scrollLeft + tabs.clientWidth > tabs.scrollWidth - 2;
  };
  for (const [id, way] of [["tabs-back", -1], ["tabs-on", 1]]) byId(id).addEventListener("click", () => tabs.scrollBy({ left: way * 0.75 * tabs.clientWidth }));
  tabs.addEventListener("scroll", paint, { passive: true });
  new ResizeObserver(paint).observe(tabs);
  new MutationObserver(paint).observe(tabs, { childList: true, subtree: true, characterData: true });
  paint();
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
