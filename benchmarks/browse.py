"""How fast `beholder browse` answers: a slider move at a million rows, at the server and on the page; filters; scrolling.

python benchmarks/browse.py [--rows 1000000] [--moves 200] [--only-learning] [--save]

And how long it takes to learn from marks, from the request to the new order's first page, with embeddings of 768 numbers.

Counts are held against numpy before anything is timed. The page is measured in headless Chromium (Playwright), from the
slider's event to the frame that shows the new count.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import machine
import result_files
from beholder import Head, save_head

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip
DIM = 768
MARKED = (30, 100, 300, 1000)
MOST_MARKED = max(MARKED)
REPEATS = 5
WHERE = "width >= 1024 and punsafe < 0.5"
MOVE = """async (values) => {
  const slider = document.getElementById('threshold');
  const kept = document.getElementById('kept');
  const frame = () => new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
  const found = [];
  for (const value of values) {
    const started = performance.now();
    slider.value = value;
    slider.dispatchEvent(new Event('input', { bubbles: true }));
    const at = slider.value;
    await new Promise((done) => {
      const watch = new MutationObserver(() => {
        if (Number(kept.dataset.threshold) === Number(at)) { watch.disconnect(); done(); }
      });
      watch.observe(kept, { attributes: true, attributeFilter: ['data-threshold'] });
      if (Number(kept.dataset.threshold) === Number(at)) { watch.disconnect(); done(); }
    });
    await frame();
    found.push([performance.now() - started, Number(at), Number(kept.textContent.replaceAll(',', ''))]);
    await new Promise((done) => setTimeout(done, 25));
  }
  return found;
}"""
SCROLL = """async (steps) => {
  const gallery = document.getElementById('gallery');
  const frames = [];
  let before = performance.now();
  for (let step = 0; step < steps; step += 1) {
    gallery.scrollTop += 120;
    await new Promise((done) => requestAnimationFrame(done));
    const now = performance.now();
    frames.push(now - before);
    before = now;
  }
  return [frames, document.querySelectorAll('.tile').length];
}"""


def make_set(folder: Path, num_rows: int) -> tuple[Path, np.ndarray, np.ndarray]:
    """A score set of generated rows; its scores, and which rows satisfy WHERE."""
    rng = np.random.default_rng(0)
    scores = rng.normal(4.8, 0.6, num_rows).astype(np.float32)
    width, punsafe = rng.integers(200, 2000, num_rows).astype(np.int32), rng.random(num_rows)
    names = pa.array([f"images/{number // 10_000:05d}/{number:09d}.jpg" for number in range(num_rows)])
    labels = pa.array(np.array(["cat", "dog", "bird", "tree"])[rng.integers(0, 4, num_rows)])
    table = pa.table({"sample": names, "aesthetic_score": scores, "width": width, "punsafe": punsafe, "label": labels})
    path = folder / "scores.parquet"
    head = folder / "public.safetensors"
    digest = save_head(Head.affine(np.random.default_rng(1).normal(size=DIM), 5.0, name="public"), head)
    known = {"name": "public", "source": str(head), "sha256": digest, "sha256_of": "file"}
    record = {"format": "beholder-score-set", "version": 1, "score_columns": ["aesthetic_score"], "heads": [known]}
    table = table.replace_schema_metadata({b"beholder": json.dumps(record).encode()})
    pq.write_table(table, path, row_group_size=1 << 17)
    return path, scores, (width >= 1024) & (punsafe < 0.5)


def make_embeddings(path: Path, num_rows: int) -> np.ndarray:
    """Embeddings of the rows where `score --keep-embeddings` puts them; what somebody likes, of the first rows.

    They have a common direction and a spectrum that falls, as those of pictures do.
    """
    kept = Path(f"{path}.embeddings")
    (kept / "img_emb").mkdir(parents=True)
    (kept / "metadata").mkdir()
    rng, deviations = np.random.default_rng(3), np.arange(1, DIM + 1, dtype=np.float32) ** -0.5
    rows = np.lib.format.open_memmap(kept / "img_emb" / "img_emb_0.npy", "w+", np.float16, (num_rows, DIM))
    for start in range(0, num_rows, 1 << 16):
        some = rng.standard_normal((min(1 << 16, num_rows - start), DIM), np.float32) * deviations + np.float32(0.1)
        rows[start : start + len(some)] = some
    rows.flush()
    pq.write_table(pq.read_table(path, columns=["sample"]), kept / "metadata" / "metadata_0.parquet")
    first = rows[:MOST_MARKED].astype(np.float64)
    first /= np.linalg.norm(first, axis=1, keepdims=True)
    liked: np.ndarray = first @ np.random.default_rng(4).normal(size=DIM)
    return liked


def told(times: list[float]) -> str:
    """Median, 95 % and largest of seconds, in milliseconds."""
    median, most = np.percentile(times, [50, 95]) * 1e3
    return f"{median:.1f} | {most:.1f} | {max(times) * 1e3:.1f}"


def timed(work: Callable[[Any], object], cases: list[Any]) -> list[float]:
    """Seconds of each call; the first one is left out."""
    found = []
    for case in cases:
        started = time.perf_counter()
        work(case)
        found.append(time.perf_counter() - started)
    return found[1:]


def peak_mib(pid: int) -> float:
    """Largest resident size of a process so far."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def cpu_s(pid: int) -> float:
    """Seconds of a core that a process has used: on a shared machine they say more than those of the clock."""
    used = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()[11:13]
    return sum(map(int, used)) / os.sysconf("SC_CLK_TCK")


class Page:
    """Asks the running server."""

    def __init__(self, url: str) -> None:
        self.client = httpx.Client(base_url=url, headers={"origin": url.rstrip("/")}, timeout=60)

    def get(self, path: str, **parameters: Any) -> Any:
        """Answer of a GET."""
        answer = self.client.get(path, params=parameters)
        answer.raise_for_status()
        return answer.json()

    def post(self, path: str, body: Any) -> Any:
        """Answer of a POST."""
        answer = self.client.post(path, json=body)
        answer.raise_for_status()
        return answer.json()


def server_lines(page: Page, path: Path, scores: np.ndarray, inside: np.ndarray, moves: int) -> list[str]:
    """Check counts, then time the server's answers."""
    rng = np.random.default_rng(1)
    values = [round(float(value), 2) for value in rng.uniform(3.5, 6.5, moves + 1)]
    view = page.post("/api/view", {"score": "aesthetic_score"})["view"]
    body = {"score": "aesthetic_score", "where": WHERE}
    started = time.perf_counter()
    filtered = page.post("/api/view", body)["view"]
    first = time.perf_counter() - started
    for value in values[:20]:
        for key, mask in ((view, slice(None)), (filtered, inside)):
            kept = page.get("/api/count", view=key, threshold=value)["kept"]
            assert kept == int((scores[mask] >= np.float32(value)).sum()), (kept, value)
    rows: list[tuple[str, list[float]]] = []
    for name, key in (("slider move", view), (f"slider move, with the filter `{WHERE}`", filtered)):
        rows.append((name, timed(lambda value, key=key: page.get("/api/count", view=key, threshold=value), values)))
    conditions = [f"width >= {600 + 7 * number} and punsafe < 0.5" for number in range(12)]
    rows.append(("a new filter", timed(lambda text: page.post("/api/view", {**body, "where": text}), conditions)))
    tab = {"view": view, "tab": "kept", "sort": "best"}
    rows.append(
        ("tab `Kept` at a new threshold", timed(lambda at: page.post("/api/listing", {**tab, "threshold": at}), values))
    )
    shuffled = {"view": view, "tab": "all", "sort": "random", "threshold": 5}
    rows.append(
        ("all rows in a new random order", timed(lambda n: page.post("/api/listing", {**shuffled, "seed": n}), list(range(12))))
    )
    listing = page.post("/api/listing", {"view": view, "tab": "all", "threshold": 5})["listing"]
    places = rng.integers(0, max(1, len(scores) - 120), moves + 1).tolist()
    ask = {"listing": listing, "score": "aesthetic_score", "count": 120}
    rows.append(("120 rows of the gallery anywhere", timed(lambda at: page.get("/api/rows", start=at, **ask), places)))
    numbers = rng.integers(0, len(scores), moves + 1).tolist()
    mark = {"mark": "keep"}
    rows.append(("a mark, on the disk", timed(lambda row: page.post("/api/marks", {"rows": [row], **mark}), numbers)))
    rows.append(
        (f"slider move, {moves + 1} rows marked", timed(lambda at: page.get("/api/count", view=view, threshold=at), values))
    )
    with duckdb.connect() as connection:
        query = f"SELECT count(*) FROM '{path}' WHERE aesthetic_score >= "
        scans = timed(lambda at: connection.execute(query + str(at)).fetchone(), values[:40])
    rows.append(("for comparison: DuckDB counts in the Parquet file at every move", scans))
    return [f"| {name} | {told(times)} |" for name, times in rows] + [f"| the first filter | {first * 1e3:.0f} | | |"]


def learn_lines(page: Page, liked: np.ndarray, pid: int) -> list[str]:
    """Mark more and more rows; learn, open the new view and tab, and fetch its first pictures, and those that are undecided."""
    view = page.post("/api/view", {"score": "aesthetic_score"})["view"]
    listing = page.post("/api/listing", {"view": view, "tab": "marked_keep", "threshold": 0})
    if listing["count"]:  # of what was measured before
        rows = page.get("/api/selection", listing=listing["listing"], start=0, count=listing["count"])["rows"]
        page.post("/api/marks", {"rows": [row for row, _ in rows], "mark": None})
    started = time.perf_counter()
    page.post("/api/taste/read", {})
    while (state := page.get("/api/taste"))["embeddings"] is None:
        assert state["why"] is None, state["why"]
        time.sleep(0.05)
    lines = [f"| embeddings read into memory, once | {(time.perf_counter() - started) * 1e3:.0f} | | |"]

    def learn(_: int) -> None:
        score = page.post("/api/taste/learn", {"score": "aesthetic_score"})["learned"]["score"]["name"]
        view = page.post("/api/view", {"score": score})["view"]
        listing = page.post("/api/listing", {"view": view, "tab": "all", "threshold": 0})["listing"]
        rows = page.get("/api/rows", listing=listing, score=score, start=0, count=120)["rows"]
        assert [row["score"] for row in rows] == sorted((row["score"] for row in rows), reverse=True)

    def ask(_: int) -> None:
        score = page.get("/api/taste")["learned"]["score"]["name"]
        view = page.post("/api/view", {"score": score})["view"]
        page.post("/api/listing", {"view": view, "tab": "undecided", "threshold": 0})

    for number in MARKED:
        for mark, which in (("keep", liked[:number] > np.median(liked)), ("drop", liked[:number] <= np.median(liked))):
            page.post("/api/marks", {"rows": np.flatnonzero(which).tolist(), "mark": mark})
        before = cpu_s(pid)
        times = timed(learn, list(range(REPEATS + 1)))
        used = (cpu_s(pid) - before) / (REPEATS + 1)
        lines.append(
            f"| learn from {number} marks, to the first page of the new order ({used:.2f} s of a core) | {told(times)} |"
        )
    lines.append(f"| the undecided ones | {told(timed(ask, list(range(REPEATS + 1))))} |")
    return lines


def page_lines(url: str, scores: np.ndarray, moves: int) -> list[str]:
    """Move the slider on the page, scroll the gallery; a line that says so where there is no browser."""
    path = shutil.which("chromium")
    if path is None:
        return ["| the page was not measured: no Chromium here | | | |"]
    from playwright.sync_api import sync_playwright

    values = [f"{value:.2f}" for value in np.random.default_rng(2).uniform(3.5, 6.5, moves)]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        started = time.perf_counter()
        page.goto(url)
        page.wait_for_selector("body[data-ready]")
        opened = time.perf_counter() - started
        marked = page.evaluate("() => Number(document.querySelector('.tab[data-tab=marked_keep] small').textContent)")
        found = page.evaluate(MOVE, values)
        for _, at, kept in found:
            assert abs(kept - int((scores >= np.float32(at)).sum())) <= marked, (at, kept)
        page.wait_for_timeout(500)
        frames, num_tiles = page.evaluate(SCROLL, 240)
        browser.close()
    times = [milliseconds / 1e3 for milliseconds, _, _ in found]
    return [
        f"| page: slider event to the frame with the count | {told(times)} |",
        f"| page: frames while scrolling 120 px a frame, {num_tiles} tiles in the page | {told([f / 1e3 for f in frames])} |",
        f"| page: opened and ready | {opened * 1e3:.0f} | | |",
    ]


def main() -> None:
    """Make the set, start the server, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--moves", type=int, default=200, help="slider moves, pages and marks that are timed")
    parser.add_argument("--only-learning", action="store_true", help="leave out all but learning from marks")
    parser.add_argument("--save", action="store_true", help="keep the result in benchmarks/results")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path, scores, inside = make_set(Path(folder), options.rows)
        liked = make_embeddings(path, options.rows)
        line = [sys.executable, "-m", "beholder", "browse", str(path), "--no-open", "--json"]
        started = time.perf_counter()
        with subprocess.Popen(line, stdout=subprocess.PIPE, text=True, cwd=folder) as process:
            assert process.stdout is not None
            url = json.loads(process.stdout.readline())["url"]
            start = time.perf_counter() - started
            lines: list[str] = []
            if not options.only_learning:
                lines += server_lines(Page(url), path, scores, inside, options.moves)
                lines += page_lines(url, scores, options.moves)
            lines += learn_lines(Page(url), liked, process.pid)
            peak = peak_mib(process.pid)
            process.terminate()
    report = [
        f"# `beholder browse` at {options.rows:,} rows, {result_files.month()}",
        "",
        *machine.lines("duckdb", "fastapi", "uvicorn", "numpy", "pyarrow", "playwright"),
        f"- {options.rows:,} generated rows with 3 more columns, one Parquet file; embeddings of {DIM} float16; "
        "server and client on the same machine",
        f"- start of the command until it answers: {start:.1f} s; largest memory of the server: {peak:,.0f} MiB",
        "- counts were first held against numpy",
        "",
        "| answer | median ms | 95 % ms | most ms |",
        "|---|---|---|---|",
        *lines,
    ]
    print("\n".join(report))
    if options.save:
        result_files.save("browse", report)


if __name__ == "__main__":
    main()
