"use strict";
const page = (() => {
  const root = document.documentElement;
  root.classList.add("js");
  const all = (selector, inside = document) => [...inside.querySelectorAll(selector)];
  const stored = (id) => JSON.parse(document.getElementById(id).textContent);

  // Light and dark.
  const themeButton = document.getElementById("theme");
  const isDark = () => root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  const showTheme = () => { themeButton.textContent = isDark() ? "Light" : "Dark"; themeButton.setAttribute("aria-label", `Change to ${isDark() ? "light" : "dark"} colours`); };
  try { const kept = localStorage.getItem("beholder-theme"); if (kept === "dark" || kept === "light") root.dataset.theme = kept; } catch { /* no storage for this page */ }
  themeButton.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    try { localStorage.setItem("beholder-theme", root.dataset.theme); } catch { /* no storage for this page */ }
    showTheme();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", showTheme);
  showTheme();

  // One head at a time, where there are several.
  const tabs = all("[role=tab]");
  const showTab = (tab) => {
    for (const other of tabs) {
      const isShown = other === tab;
      other.setAttribute("aria-selected", String(isShown));
      other.tabIndex = isShown ? 0 : -1;
      document.getElementById(other.getAttribute("aria-controls")).hidden = !isShown;
    }
  };
  tabs.forEach((tab, place) => {
    tab.addEventListener("click", () => showTab(tab));
    tab.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      event.preventDefault();
      const next = tabs[(place + step + tabs.length) % tabs.length];
      showTab(next);
      next.focus();
    });
  });
  if (tabs.length) showTab(tabs[0]);
  const reveal = () => {
    const target = location.hash.length > 1 && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    const panel = target && target.closest(".head-section[hidden]");
    if (panel) { showTab(tabs.find((tab) => tab.getAttribute("aria-controls") === panel.id)); target.scrollIntoView(); }
  };
  addEventListener("hashchange", reveal);
  reveal();

  // The section that is read is marked in the menu.
  const links = all(".bar a");
  const mark = () => {
    const edge = document.querySelector(".bar").getBoundingClientRect().bottom + innerHeight / 4;
    const isEnd = scrollY > 0 && scrollY + innerHeight >= root.scrollHeight - 2;
    const passed = links.filter((link) => {
      const target = document.getElementById(link.hash.slice(1));
      return target.checkVisibility() && target.getBoundingClientRect().top <= edge;
    });
    const current = isEnd ? links[links.length - 1] : passed[passed.length - 1] || links[0];
    if (!current || current.hasAttribute("aria-current")) return;
    for (const link of links) link.removeAttribute("aria-current");
    current.setAttribute("aria-current", "true");
    const row = current.parentElement;
    row.scrollLeft = current.offsetLeft - (row.clientWidth - current.offsetWidth) / 2;
  };
  let isMarking = false;
  const markSoon = () => { if (!isMarking) { isMarking = true; requestAnimationFrame(() => { isMarking = false; mark(); }); } };
  for (const what of ["scroll", "resize", "load"]) addEventListener(what, markSoon);
  mark();

  // Charts tell their numbers to a pointer and to arrow keys.
  for (const svg of all(".chart > svg")) {
    const reads = stored(`${svg.id}-reads`);
    const cross = svg.querySelector(".cross");
    const out = document.getElementById(`${svg.id}-read`);
    let at = -1;
    const tell = (place) => {
      if (!reads.length) return;
      at = Math.max(0, Math.min(reads.length - 1, place));
      cross.setAttribute("x1", reads[at][0]);
      cross.setAttribute("x2", reads[at][0]);
      cross.classList.add("on");
      out.textContent = reads[at][1];
      svg.setAttribute("aria-valuenow", String(at));
      svg.setAttribute("aria-valuetext", reads[at][1]);
    };
    const quiet = () => { cross.classList.remove("on"); out.textContent = ""; };
    svg.addEventListener("pointermove", (event) => {
      const box = svg.getBoundingClientRect();
      const x = (event.clientX - box.left) / box.width * svg.viewBox.baseVal.width;
      let nearest = 0;
      reads.forEach((read, place) => { if (Math.abs(read[0] - x) < Math.abs(reads[nearest][0] - x)) nearest = place; });
      tell(nearest);
    });
    svg.addEventListener("pointerleave", quiet);
    svg.addEventListener("blur", quiet);
    svg.addEventListener("keydown", (event) => {
      const to = { ArrowLeft: at - 1, ArrowDown: at - 1, ArrowRight: at + 1, ArrowUp: at + 1, Home: 0, End: reads.length - 1 }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      tell(at < 0 && to < 0 ? 0 : to);
    });
  }

  return { all, stored };
})();
