// Export of what is kept: a file to download, and the command line that gives the same.

import { get } from "./api.js";
import { byId, count, make, toast } from "./dom.js";

const FORMATS = {
  txt: "One sample a line.",
  csv: "Sample and scores first, then the rest; VDC takes it.",
  parquet: "All columns with their types.",
  jsonl: "One JSON object a line, all columns.",
};

export class Export {
  // now() -> {view, by, threshold, kept, all, conditions}; by: what the score is called, null where there is but one kind
  constructor(now) {
    this.now = now;
    this.dialog = byId("export");
    byId("export-formats").replaceChildren(
      ...Object.keys(FORMATS).map((format) => make("label", {}, make("input", { type: "radio", name: "format", value: format, checked: format === "csv", onchange: () => this.show() }), format.toUpperCase())),
    );
    byId("export-copy").addEventListener("click", () => this.copy());
  }

  open() {
    this.show();
    this.dialog.showModal();
  }

  async show() {
    const { view, by, threshold, kept, all, conditions } = this.now();
    const format = this.dialog.querySelector("input[name=format]:checked").value;
    byId("export-what").textContent = `${count(kept)} of ${count(all)}: ${by ?? "score"} at least ${threshold}${conditions.length ? ", filtered" : ""}, marks counted in`;
    byId("export-about").textContent = FORMATS[format];
    const link = byId("export-download");
    link.href = `/api/export?${new URLSearchParams({ view, threshold, format })}`;
    link.download = `selection${by ? "-by-my-taste" : ""}.${format}`;
    link.textContent = `Download ${link.download}`;
    try {
      const { command } = await get("/api/command", { view, threshold, format });
      byId("export-command").textContent = command;
    } catch (error) {
      byId("export-command").textContent = error.message;
    }
  }

  async copy() {
    const box = byId("export-command");
    try {
      await navigator.clipboard.writeText(box.textContent);
      toast("Copied");
    } catch {
      getSelection().selectAllChildren(box); // no clipboard at an address without encryption: it is at least selected
      toast("Selected; copy it with the keyboard");
    }
  }
}
