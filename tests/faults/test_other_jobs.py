"""Lists, acts on files, undos and training, killed at random moments and started again: nothing half-made, lost or doubled."""

from __future__ import annotations

import csv
import json
import signal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from oracles.disturbing import FileJob, disturb_files
from oracles.fault_table import FaultTable
from oracles.tiers import sized, sizes

SIGNALS = [signal.SIGKILL, signal.SIGTERM]
JOURNAL = "best.journal.jsonl"


def named(kind: str, sent: signal.Signals) -> str:
    return f"{'kill -9' if sent == signal.SIGKILL else sent.name}: {kind}"


def make_scores(folder: Path) -> None:
    """Twenty thousand scores."""
    names = [f"photos/{number:05}.jpg" for number in range(20_000)]
    scores = np.random.default_rng(3).normal(5, 1, len(names)).astype(np.float32)
    pq.write_table(pa.table({"sample": names, "aesthetic_score": scores}), folder / "s.parquet")


def make_photos(folder: Path) -> None:
    """Four hundred files with scores, three of four of which are good; every fourth has words beside it."""
    (folder / "photos").mkdir()
    lines = []
    for number in range(400):
        name = f"photos/{number:03}.jpg"
        (folder / name).write_bytes(b"%d " % number * (number % 50 + 1))
        if number % 4 == 1:
            (folder / name).with_suffix(".txt").write_text(f"words of {number}")
        lines.append(f"{name},{3 if number % 4 == 3 else 7}")
    (folder / "s.csv").write_text("sample,aesthetic_score\n" + "\n".join(lines) + "\n")


def without_journal(path: Path) -> bytes | None:
    """All of a file; of a journal nothing, which has times in it and stays after an undo."""
    return None if path.name.endswith(".journal.jsonl") else path.read_bytes()


def make_ratings(folder: Path) -> None:
    """Embeddings, and ratings of them."""
    rng = np.random.default_rng(5)
    rows = rng.standard_normal((300, 16)).astype(np.float32)
    np.save(folder / "e.npy", rows)
    with (folder / "r.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "rating"])
        writer.writerows([f"e.npy#{row}", f"{5 + rows[row, 0] + 0.2 * rng.standard_normal():.4f}"] for row in range(300))


def without_seconds(path: Path) -> bytes:
    """All of a file; of a head's record, not how long it took."""
    if path.name == "head.json":
        return json.dumps({key: value for key, value in json.loads(path.read_text()).items() if key != "seconds"}).encode()
    return path.read_bytes()


@pytest.mark.parametrize(("sent", "size"), sized(zip(SIGNALS), [(SIGNALS[0],)]))
def test_lists_of_select(
    tmp_path: Path, fault_table: FaultTable, job_env: dict[str, str], num_faults: int, sent: signal.Signals
) -> None:
    words = ("select", "s.parquet", "--min-score", "5", "-o", "kept.parquet", "--dropped-out", "dropped.csv", "--overwrite")
    job = FileJob(words, make_scores, job_env)
    disturb_files(named("select -o", sent), job, fault_table, tmp_path, num_faults, sent, is_whole=True)


@pytest.mark.parametrize(
    ("how", "sent", "size"),
    sized([(how, sent) for how in ("--copy", "--move") for sent in SIGNALS], [("--move", SIGNALS[1])]),
)
def test_acts_on_files(
    tmp_path: Path, fault_table: FaultTable, job_env: dict[str, str], num_faults: int, how: str, sent: signal.Signals
) -> None:
    """And they are undone at the end."""
    words = ("select", "s.csv", "--min-score", "5", how, "best", "--apply")
    job = FileJob(words, make_photos, job_env, without_journal, ("undo", JOURNAL, "--apply"))
    disturb_files(named(f"select {how} --apply", sent), job, fault_table, tmp_path, num_faults, sent, is_whole=True)


@sizes("slow", "soak")
@pytest.mark.parametrize("sent", SIGNALS)
def test_undoing(
    tmp_path: Path, fault_table: FaultTable, job_env: dict[str, str], num_faults: int, sent: signal.Signals
) -> None:
    act = ("select", "s.csv", "--min-score", "5", "--move", "best", "--apply")

    def moved(folder: Path) -> None:
        make_photos(folder)
        FileJob(act, make_photos, job_env).finish(folder)

    job = FileJob(("undo", JOURNAL, "--apply"), moved, job_env, without_journal)
    disturb_files(named("undo --apply", sent), job, fault_table, tmp_path, num_faults, sent, is_whole=True)


@pytest.mark.parametrize(("sent", "size"), sized(zip(SIGNALS), [(SIGNALS[0],)]))
def test_training(
    tmp_path: Path, fault_table: FaultTable, job_env: dict[str, str], num_faults: int, sent: signal.Signals
) -> None:
    words = ("train", "e.npy", "--ratings", "r.csv", "-o", "head.safetensors", "--overwrite", "-q")
    job = FileJob(words, make_ratings, job_env, without_seconds)
    disturb_files(named("train", sent), job, fault_table, tmp_path, num_faults, sent, is_whole=True)
