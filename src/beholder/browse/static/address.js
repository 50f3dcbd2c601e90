// What is chosen stands in the address behind the #, so that a reload and a bookmark show the same.

export function writeAddress({ score, isTaste, threshold, tab, bucket, stack, sort, filters }) {
  const chosen = new URLSearchParams();
  if (score) chosen.set("score", score);
  if (isTaste) chosen.set("by", "taste");
  chosen.set("t", String(threshold));
  if (tab !== "all") chosen.set("tab", tab);
  if (tab === "bucket") chosen.set("from", String(bucket.from));
  if (tab === "stack") chosen.set("stack", String(stack));
  if (sort !== "best") chosen.set("sort", sort);
  if (filters.where) chosen.set("where", filters.where);
  if (filters.filters.length) chosen.set("filters", JSON.stringify(filters.filters));
  history.replaceState(null, "", `${location.pathname}#${chosen}`);
}

export function readAddress() {
  const chosen = new URLSearchParams(location.hash.slice(1));
  let clicked = [];
  try {
    clicked = JSON.parse(chosen.get("filters") ?? "[]");
  } catch {
    clicked = [];
  }
  const at = Number(chosen.get("t"));
  return {
    score: chosen.get("score"),
    isTaste: chosen.get("by") === "taste",
    threshold: chosen.has("t") && Number.isFinite(at) ? at : null,
    tab: chosen.get("tab") ?? "all",
    from: Number(chosen.get("from")),
    stack: Number(chosen.get("stack")),
    sort: ["best", "worst", "random"].includes(chosen.get("sort")) ? chosen.get("sort") : "best",
    filters: { where: chosen.get("where") ?? "", filters: Array.isArray(clicked) ? clicked : [] },
  };
}
