// The page as a whole: what is chosen (score, threshold, filters, tab, order), and what follows from it.

import { readAddress, writeAddress } from "./address.js";
import { get, post } from "./api.js";
import { focusPictures, wireDialogs, wireRing, wireTabs, wireTheme } from "./controls.js";
import { byId, count, digitsOf, make, share, store, stored, toast } from "./dom.js";
import { Export } from "./exporting.js";
import { Filters } from "./filters.js";
import { Gallery } from "./gallery.js";
import { Threshold } from "./histogram.js";
import { Marks } from "./marks.js";
import { RejectList } from "./rejects.js";
import { Taste } from "./taste.js";
import { Viewer } from "./viewer.js";

const state = { info: null, score: null, publicScore: null, thresholds: {}, view: null, counts: null, tab: "all", bucket: null, stack: null, sort: "best", seed: 1, opened: 0 };
const TEXTS = "input:not([type=range], [type=checkbox], [type=radio]), textarea"; // what is typed into
let gallery, viewer, marks, threshold, filters, exporting, rejects, taste;

const remember = () => writeAddress({ score: state.info.scores.length > 1 ? state.publicScore.name : null, isTaste: Boolean(state.score.is_learned), threshold: threshold.value, tab: state.tab, bucket: state.bucket, stack: state.stack, sort: state.sort, filters });

// -- counts: one question at a time, always the newest threshold

let counting = false;
let countAgain = false;

async function refreshCounts() {
  if (counting) {
    countAgain = true;
    return;
  }
  counting = true;
  try {
    do {
      countAgain = false;
      const at = threshold.value;
      const view = state.view.view;
      const counts = await get("/api/count", { view, threshold: at });
      if (view === state.view.view) showCounts(counts, at);
    } while (countAgain);
  } catch (error) {
    await recover(error);
  } finally {
    counting = false;
  }
  if (countAgain) await refreshCounts(); // of the view that was made anew
}

function showCounts(counts, at) {
  state.counts = counts;
  const box = byId("kept");
  box.textContent = count(counts.kept);
  box.dataset.threshold = at;
  byId("share").textContent = share(counts.kept, counts.all) || "–";
  byId("of").textContent = `kept of ${count(counts.all)}`;
  paintOutside();
  taste.setMarks(counts);
  for (const button of document.querySelectorAll(".tab")) {
    const number = button.dataset.at === undefined ? counts[button.dataset.tab] : counts.buckets[Number(button.dataset.at)];
    if (number !== undefined) button.querySelector("small").textContent = count(number);
  }
}

// rows that no filter lets through but a mark keeps: all numbers and the export have them
function paintOutside() {
  const outside = state.counts?.outside ?? 0;
  byId("outside").hidden = !outside || state.tab === "rejects";
  byId("outside").textContent = `with ${count(outside)} marked keep outside the filter`;
}

const isKept = (item) => item.mark === "keep" || (item.mark !== "drop" && typeof item.score === "number" && item.score >= Math.fround(threshold.value));

// -- views: a score and filters

async function openView(wanted, score = state.score) {
  const view = await post("/api/view", { score: score.name, ...wanted });
  if (score !== state.score) setScore(score);
  state.view = view;
  threshold.drawBars(state.view.histogram);
  drawTabs();
  await refreshCounts();
}

async function applyFilters(wanted) {
  await openView(wanted);
  Object.assign(filters, wanted);
  drawChips();
  remember();
  await openTab();
}

function drawChips() {
  const chips = filters.chips();
  byId("filter-count").textContent = String(chips.length);
  byId("filter-count").hidden = !chips.length;
  const fixed = state.info.where.map((text) => make("span", { class: "chip fixed", title: `--where ${text}` }, make("code", {}, text)));
  byId("chips").replaceChildren(
    ...fixed,
    ...chips.map(({ text, sql, without }) =>
      make("button", { class: "chip", type: "button", title: `Take away: ${sql}`, onclick: () => applyFilters(without).catch(recover) }, make("code", {}, text), make("span", { "aria-hidden": "true" }, "✕")),
    ),
  );
}

// -- tabs

function drawTabs() {
  const { info, view } = state;
  const digits = digitsOf(state.score.bucket, 4);
  const edge = (value) => value.toFixed(digits);
  const buckets = view.buckets.map((bucket, at) => ({
    tab: "bucket",
    bucket,
    at,
    text: bucket.high === null ? `${edge(bucket.from)} +` : bucket.low === null ? `< ${edge(bucket.to)}` : `${edge(bucket.low)} – ${edge(bucket.high)}`,
  })).reverse();
  if (view.buckets.length === 1) buckets.length = 0;
  const tabs = [
    { tab: "all", text: "All" },
    { tab: "kept", text: "Kept" },
    { tab: "dropped", text: "Dropped" },
    ...buckets.map((one, place) => ({ ...one, gap: place === 0 })),
    { tab: "marked_keep", text: "✓ Keep", gap: true },
    { tab: "marked_drop", text: "✕ Drop" },
  ];
  if (state.score.num_without) tabs.push({ tab: "no_score", text: "No score" });
  if (state.score.is_learned) tabs.push({ tab: "undecided", text: "Undecided", gap: true });
  if (info.stacks) tabs.push({ tab: "stacks", text: "Duplicates", gap: true });
  if (info.rejects.count) tabs.push({ tab: "rejects", text: "Rejects", number: info.rejects.count, gap: true });
  if (!tabs.some((one) => isCurrent(one))) Object.assign(state, { tab: "all", bucket: null, stack: null });
  byId("tabs").replaceChildren(
    ...tabs.map((one) => {
      const isHere = isCurrent(one);
      const data = { tab: one.tab, ...(one.bucket ? { from: String(one.bucket.from), at: String(one.at) } : {}) };
      return make(
        "button",
        { class: one.gap ? "tab gap" : "tab", type: "button", role: "tab", "aria-selected": String(isHere), tabIndex: isHere ? 0 : -1, dataset: data, onclick: () => chooseTab(one) },
        make("span", {}, one.text),
        make("small", {}, one.number === undefined ? "" : count(one.number)),
      );
    }),
  );
}

const isCurrent = (one) => one.tab === (state.tab === "stack" ? "stacks" : state.tab) && (one.tab !== "bucket" || one.bucket.from === state.bucket?.from);

function chooseTab(one) {
  Object.assign(state, { tab: one.tab, bucket: one.bucket ?? null, stack: null });
  for (const button of document.querySelectorAll(".tab")) {
    const isHere = button.dataset.tab === one.tab && (one.tab !== "bucket" || Number(button.dataset.from) === one.bucket.from);
    button.setAttribute("aria-selected", String(isHere));
    button.tabIndex = isHere ? 0 : -1;
    if (isHere) button.scrollIntoView({ block: "nearest", inline: "nearest" });
  }
  remember();
  openTab().catch(recover);
}

async function openTab(anchor = 0) {
  const turn = ++state.opened;
  const isRejects = state.tab === "rejects";
  byId("gallery").hidden = isRejects;
  byId("rejects").hidden = !isRejects;
  byId("gallery-tools").hidden = isRejects;
  byId("chips").hidden = isRejects;
  paintOutside();
  byId("reasons").hidden = !isRejects;
  byId("shown").hidden = isRejects;
  byId("stack-back").hidden = state.tab !== "stack";
  byId("to-cut").disabled = !(state.tab === "all" || state.tab === "bucket") || state.sort === "random";
  if (isRejects) {
    byId("nothing").hidden = true;
    await rejects.open();
    return;
  }
  const bucket = state.bucket ?? {};
  const isStack = state.tab === "stack";
  const isOrdered = isStack || state.tab === "undecided"; // by something else than the score
  byId("sort-box").hidden = byId("to-cut").hidden = isOrdered;
  byId("shuffle").hidden = isOrdered || state.sort !== "random";
  const found = await post("/api/listing", { view: state.view.view, tab: state.tab, sort: state.sort, threshold: threshold.value, low: bucket.low ?? null, high: bucket.high ?? null, seed: state.seed, stack: isStack ? state.stack : null });
  if (turn !== state.opened) return;
  gallery.open(found, state.score.name, anchor);
  byId("shown").textContent = shownText(found.count);
  byId("nothing").hidden = found.count > 0;
  byId("nothing").textContent = emptyText();
}

function shownText(number) {
  if (state.tab === "stacks") return `${count(number)} ${number === 1 ? "group" : "groups"} of pictures that are alike`;
  const what = { stack: " that are alike", undecided: " to mark next" }[state.tab] ?? "";
  return `${count(number)} ${number === 1 ? "picture" : "pictures"}${what}`;
}

// a stack opens to its pictures; back to where it was among the others
function openStack(index, item) {
  Object.assign(state, { tab: "stack", stack: item.row, stackPlace: index });
  remember();
  openTab().catch(recover);
}

async function closeStack() {
  const place = state.stackPlace ?? 0;
  Object.assign(state, { tab: "stacks", stack: null });
  remember();
  await openTab(place).catch(recover);
  gallery.setActive(place);
  focusPictures();
}

function emptyText() {
  if (state.tab === "stacks") return state.view.conditions.length ? "No group of pictures that are alike has one that satisfies the filters." : "There are no groups of pictures that are alike.";
  if (state.tab === "stack") return "This picture is in no group.";
  if (state.tab === "undecided") return "No picture here is left to ask about: all that have an embedding are marked.";
  if (state.tab === "marked_keep") return "Nothing is marked keep yet: press K on a picture.";
  if (state.tab === "marked_drop") return "Nothing is marked drop yet: press D on a picture.";
  if (state.view.conditions.length) return "No picture satisfies the filters.";
  return "No picture here at this threshold.";
}

function goToCut() {
  if (byId("to-cut").disabled) return;
  const items = gallery.grid.count;
  const { all, no_score: without } = state.counts;
  let above = all > without ? countAbove() : 0;
  if (state.sort === "worst") above = items - (state.tab === "all" ? without : 0) - above;
  gallery.grid.goTo(Math.max(0, Math.min(above, items - 1)), "middle");
  gallery.setActive(Math.max(0, Math.min(above, items - 1)), { isScrolling: false });
  gallery.viewport.focus();
}

function countAbove() {
  const above = state.counts?.above ?? 0;
  if (state.tab !== "bucket") return above;
  const higher = state.view.buckets.reduce((sum, bucket, at) => (bucket.from > state.bucket.from ? sum + state.counts.buckets[at] : sum), 0);
  return Math.max(0, above - higher);
}

// -- the server was started anew or let go of a view: make it again; else say what is wrong

let recovering = null;

async function recover(error) {
  if (error.name === "AbortError") return;
  if (error.status !== 410) {
    toast(error.message, true);
    return;
  }
  recovering ??= (async () => {
    try {
      if (state.score.is_learned) {
        await taste.refresh();
        setScore(taste.learned?.score ?? state.publicScore);
      }
      state.view = await post("/api/view", { score: state.score.name, ...filters.applied });
      threshold.drawBars(state.view.histogram);
      drawTabs();
      await openTab(gallery.grid.firstVisible());
      if (counting) countAgain = true;
      else refreshCounts(); // not waited for: where it fails, it waits for this
    } catch (again) {
      toast(again.message, true);
    } finally {
      setTimeout(() => (recovering = null), 500);
    }
  })();
  await recovering;
}

// -- start

function onMark(items, mark) {
  const number = marks.set(items, mark);
  if (number > 1) toast(`${count(number)} pictures ${mark ? `marked ${mark}` : "unmarked"}; Ctrl+Z undoes it`);
}

// Ctrl+Z and Ctrl+Shift+Z (or Ctrl+Y), but in texts, which have their own, and in dialogs other than the large view
function wireUndo() {
  document.addEventListener("keydown", (event) => {
    const key = event.key.toLowerCase();
    if (!(event.ctrlKey || event.metaKey) || event.altKey || (key !== "z" && key !== "y")) return;
    if (event.target.closest(TEXTS)) return;
    if (document.querySelector("dialog[open]:not(#viewer)")) return;
    event.preventDefault();
    if (key === "y" || event.shiftKey) marks.redo();
    else marks.undo();
  });
  byId("undo").addEventListener("click", () => marks.undo());
}

function wireChoosing() {
  const button = byId("choose");
  button.addEventListener("click", () => {
    gallery.isChoosing = !gallery.isChoosing;
    button.setAttribute("aria-pressed", String(gallery.isChoosing));
    if (!gallery.isChoosing) gallery.choose([]);
  });
  for (const [id, mark] of [["chosen-keep", "keep"], ["chosen-drop", "drop"], ["chosen-none", ""]]) byId(id).addEventListener("click", () => gallery.markChosen(mark));
  byId("chosen-clear").addEventListener("click", () => gallery.choose([]));
}

function showChosen(number) {
  byId("chosen").hidden = !number;
  byId("chosen-count").textContent = `${count(number)} selected`;
}

function wireKeys() {
  const actions = {
    ",": () => threshold.nudge(-1),
    ".": () => threshold.nudge(1),
    "<": () => threshold.nudge(-10),
    ">": () => threshold.nudge(10),
    ";": () => threshold.nudge(-10),
    ":": () => threshold.nudge(10),
    c: goToCut,
    f: () => filters.open(),
    e: () => exporting.open(),
    l: () => taste.learn(),
    t: () => taste.learned && showTaste(!state.score.is_learned),
    n: () => taste.isPossible && showUndecided().catch(recover),
    "?": () => byId("help").showModal(),
  };
  document.addEventListener("keydown", (event) => {
    if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "a" && !event.defaultPrevented && isOutside(event.target)) {
      focusPictures();
      gallery.onKey(event);
      return;
    }
    if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
    if (event.target.closest(`${TEXTS}, select`)) return;
    if (event.key === "Escape" && gallery.chosen.size) {
      event.preventDefault();
      gallery.choose([]);
      return;
    }
    if (event.key === "Escape" && state.tab === "stack") {
      event.preventDefault();
      closeStack();
      return;
    }
    const action = actions[event.key.toLowerCase()];
    if (!action) {
      if (!isForGallery(event)) return;
      focusPictures();
      gallery.onKey(event);
      return;
    }
    event.preventDefault();
    action();
  });
}

// whether Ctrl+A, pressed here, means the pictures
function isOutside(target) {
  if (byId("gallery").hidden || byId("gallery").contains(target) || document.querySelector("dialog[open]")) return false;
  return !target.closest(`${TEXTS}, select`);
}

// wherever the focus is, keys go to the gallery, but for those that the focused element needs itself
function isForGallery({ key, target }) {
  if (byId("gallery").hidden || byId("gallery").contains(target) || target.closest("input[type=range], input[type=radio]")) return false;
  if (key === "Enter") return target === document.body;
  if (key === "ArrowLeft" || key === "ArrowRight") return !target.closest(".tab");
  return ["ArrowUp", "ArrowDown", "PageUp", "PageDown", "Home", "End", "k", "d", "u", "x", "K", "D", "U", "X"].includes(key);
}

function wireGalleryTools() {
  const whole = byId("whole");
  const size = byId("size");
  whole.checked = stored("whole", false);
  size.value = stored("size", 190);
  const paintWhole = () => byId("gallery").classList.toggle("whole", whole.checked);
  whole.addEventListener("change", () => {
    store("whole", whole.checked);
    paintWhole();
  });
  size.addEventListener("input", () => {
    store("size", Number(size.value));
    gallery.setTile(Number(size.value));
  });
  paintWhole();
  gallery.setTile(Number(size.value));
  const sort = byId("sort");
  sort.value = state.sort;
  sort.addEventListener("change", () => {
    state.sort = sort.value;
    remember();
    openTab().catch(recover);
  });
  byId("shuffle").addEventListener("click", () => {
    state.seed = crypto.getRandomValues(new Uint32Array(1))[0];
    openTab().catch(recover);
  });
  byId("to-cut").addEventListener("click", goToCut);
}

function wireScore() {
  const select = byId("score");
  const names = state.info.scores.map((one) => one.name);
  select.replaceChildren(...names.map((name) => make("option", { value: name }, name)));
  select.value = state.publicScore.name;
  byId("score-box").hidden = names.length < 2;
  select.addEventListener("change", () => chooseScore(select.value).catch(recover));
}

async function chooseScore(name) {
  state.publicScore = state.info.scores.find((one) => one.name === name);
  await showScore(state.publicScore);
}

// the threshold of each score is as it was left; what was learned keeps one whatever is learned next
const placeOf = (score) => (score.is_learned ? "" : score.name);

function setScore(score) {
  state.thresholds[placeOf(state.score)] = threshold.value;
  state.score = score;
  byId("about").textContent = aboutText();
  byId("view-by").hidden = !score.is_learned;
  byId("view-by").textContent = score.title ?? "";
  threshold.setScale(score, state.thresholds[placeOf(score)] ?? null);
  taste.paint();
}

async function showScore(score) {
  await openView(filters.applied, score);
  remember();
  await openTab();
}

// -- my taste

// what the score of the view is called, where it is none of the set's
const shownTitle = () => (state.info.scores.some((one) => one.name === state.view.score) ? null : taste.learned?.score.title ?? "my taste");

const showTaste = (isTaste) => showScore(isTaste && taste.learned ? taste.learned.score : state.publicScore).catch(recover).finally(() => taste.paint());

async function showUndecided() {
  if (!taste.learned) {
    toast("Learn from some marks first", true);
    return;
  }
  if (state.score.name !== taste.learned.score.name) {
    await openView(filters.applied, taste.learned.score);
  }
  chooseTab({ tab: "undecided" });
  focusPictures();
}

// another page may have learned something since
async function followTaste() {
  if (document.hidden || !taste.isPossible) return;
  const before = taste.learned?.score.name;
  await taste.refresh();
  if (state.score.is_learned && taste.learned?.score.name !== before) await showTaste(true);
}

function aboutText() {
  const head = state.score.is_learned ? `by ${state.score.title}` : state.score.head && state.score.head !== state.score.name ? `by ${state.score.head}` : "";
  const from = state.info.picture_column ? `pictures from column ${state.info.picture_column}` : "";
  return [`${count(state.info.num_rows)} pictures`, head, from].filter(Boolean).join(" · ");
}

function onThreshold() {
  refreshCounts();
  gallery.repaint();
}

function onThresholdRest() {
  remember();
  if (state.tab === "kept" || state.tab === "dropped") openTab(state.tab === "kept" && state.sort === "best" ? gallery.grid.firstVisible() : 0).catch(recover);
}

async function start() {
  wireTheme();
  if (location.search) history.replaceState(null, "", location.pathname + location.hash); // the token is in a cookie now
  state.info = await get("/api/set");
  const { info } = state;
  const chosen = readAddress();
  state.score = state.publicScore = info.scores.find((one) => one.name === chosen.score) ?? info.scores[0];
  taste = new Taste(info.num_rows, {
    publicName: () => state.publicScore.name,
    isShown: () => Boolean(state.score.is_learned),
    onShow: showTaste,
    onLearned: () => showScore(taste.learned.score),
    onUndecided: () => showUndecided().catch(recover),
  });
  await taste.refresh();
  Object.assign(state, { tab: chosen.tab, sort: chosen.sort });
  if (chosen.tab === "stack") Object.assign(state, Number.isInteger(chosen.stack) && chosen.stack >= 0 ? { stack: chosen.stack } : { tab: "stacks" });
  document.title = `${info.name} – beholder`;
  byId("name").textContent = byId("name").title = info.name;
  byId("about").textContent = aboutText();
  byId("help-marks").textContent = `Marks are saved at once in ${info.marks.file}; beholder select --marks takes them.`;

  byId("about").title = byId("view-source").textContent = info.picture_note ?? "";
  byId("view-source").hidden = !info.picture_note;
  gallery = new Gallery(byId("gallery"), info.run, { isKept, onOpen: (index, item) => (item.stack ? openStack(index, item) : viewer.open(index)), onMark, onChosen: showChosen, onGone: recover });
  viewer = new Viewer(gallery, info.run, {
    onMark,
    onLeave: (index) => gallery.setActive(index),
  }, info.preset);
  threshold = new Threshold({ onMove: onThreshold, onRest: onThresholdRest });
  filters = new Filters(info.columns, applyFilters);
  exporting = new Export(() => ({ view: state.view.view, by: shownTitle(), threshold: threshold.value, kept: state.counts.kept, all: state.counts.all, conditions: state.view.conditions }));
  rejects = new RejectList(info.rejects, recover);
  marks = new Marks(info.run, info.marks.version, {
    onChange: (changed) => {
      gallery.setMarks(changed);
      for (const [row, mark] of changed) viewer.setMark(row, mark);
    },
    onReset: () => openTab(gallery.grid.firstVisible()).catch(recover),
    onCount: refreshCounts,
  });

  threshold.setScale(state.score, chosen.isTaste && !taste.learned ? null : chosen.threshold);
  if (chosen.isTaste && taste.learned) {
    state.thresholds[""] = chosen.threshold;
    setScore(taste.learned.score);
    delete state.thresholds[state.publicScore.name]; // that was not its own
  }
  document.addEventListener("visibilitychange", () => followTaste().catch(recover));
  wireScore();
  wireKeys();
  wireUndo();
  wireChoosing();
  wireDialogs();
  wireTabs();
  wireRing();
  byId("stack-back").addEventListener("click", closeStack);
  byId("open-filters").addEventListener("click", () => filters.open());
  byId("open-export").addEventListener("click", () => exporting.open());
  wireGalleryTools();
  try {
    await openView(chosen.filters);
    Object.assign(filters, chosen.filters);
  } catch (error) {
    toast(error.message, true);
    await openView({ where: "", filters: [] });
  }
  if (chosen.tab === "bucket") {
    const bucket = state.view.buckets.find((one) => one.from === chosen.from);
    Object.assign(state, bucket ? { tab: "bucket", bucket } : { tab: "all" });
    drawTabs();
    showCounts(state.counts, threshold.value);
  }
  drawChips();
  await openTab();
  document.body.dataset.ready = "true";
  if (document.activeElement === document.body) focusPictures();
}

start().catch((error) => {
  toast(error.message, true);
  byId("nothing").textContent = error.message;
  byId("nothing").hidden = false;
});
