"""What the world may read of a head tells of nobody's folders, pictures and people: its card, and all that is uploaded."""

from __future__ import annotations

import csv
import json
import os
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from huggingface_hub import ModelCard

from beholder.models.upload import push_head
from beholder.train.job import train
from beholder.train.options import TrainJobOptions
from beholder.train.ratings.options import RatingsOptions
from beholder.train.ratings.ratings import Ratings
from beholder.train.ratings.read import read_ratings
from oracles.picture_jobs import picture_bytes

SECRET = "s3cret"
NUM = 60
NAMES = [f"{SECRET}/{SECRET}{row}.jpg" for row in range(NUM)]
VALUES = np.random.default_rng(0).integers(1, 6, NUM)

Made = tuple[Path, dict[str, Any]]


def table(path: Path, header: list[str], lines: list[list[Any]]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *lines])
    return path


def means(folder: Path) -> Made:
    return table(folder / "r.csv", ["image", "rating"], [[name, v] for name, v in zip(NAMES, VALUES, strict=True)]), {}


def votes(folder: Path) -> Made:
    lines = [[n, f"{SECRET}-{at}", v + at % 2] for n, v in zip(NAMES, VALUES, strict=True) for at in range(3)]
    lines += [lines[0], [NAMES[0], f"{SECRET}-silent", ""]]
    return table(folder / "r.csv", ["image", "user", "rating"], lines), {}


def several(folder: Path) -> Made:
    (folder / SECRET).mkdir()
    for part in range(2):
        pl.DataFrame({"image": NAMES[part::2], "rating": VALUES[part::2]}).write_parquet(folder / SECRET / f"p{part}.parquet")
    return folder / SECRET, {}


def histogram(folder: Path) -> Made:
    rng = np.random.default_rng(1)
    lines = [[name, *rng.integers(0, 9, 5)] for name in NAMES]
    return table(folder / "r.csv", ["image", *(f"score{at}" for at in range(1, 6))], lines), {}


def pairs(folder: Path) -> Made:
    lines = [[NAMES[at], NAMES[(at + step) % NUM]] for at in range(NUM) for step in (1, 5)]
    lines += [lines[0][::-1], [NAMES[0], NAMES[0]], [f"{SECRET}-unknown", NAMES[1]]]
    return table(folder / "r.csv", ["better", "worse"], lines), {}


def label_studio(folder: Path) -> Made:
    tasks = [
        {
            "data": {"image": name},
            "annotations": [
                {
                    "completed_by": f"{SECRET}-rater",
                    "result": [{"type": "rating", "from_name": "rating", "value": {"rating": int(value)}}],
                }
            ],
        }
        for name, value in zip(NAMES, VALUES, strict=True)
    ]
    (folder / "r.json").write_text(json.dumps(tasks))
    return folder / "r.json", {}


def simulacra(folder: Path) -> Made:
    with sqlite3.connect(folder / "r.sqlite") as data:
        data.execute("CREATE TABLE images (id INTEGER, gid INTEGER, idx INTEGER)")
        data.execute("CREATE TABLE paths (iid INTEGER, path TEXT)")
        data.execute("CREATE TABLE ratings (sid INTEGER, iid INTEGER, rating INTEGER, verified INTEGER)")
        data.executemany("INSERT INTO images VALUES (?, ?, 0)", [(at, at) for at in range(NUM)])
        data.executemany("INSERT INTO paths VALUES (?, ?)", list(enumerate(NAMES)))
        data.executemany("INSERT INTO ratings VALUES (1, ?, ?, 1)", [(at, int(v)) for at, v in enumerate(VALUES)])
    return folder / "r.sqlite", {}


def by_place(folder: Path) -> Made:
    np.save(folder / "r.npy", VALUES.astype(np.float64))
    return folder / "r.npy", {}


def marks(folder: Path) -> Made:
    path = folder / f"{SECRET}.scores.marks.jsonl"
    lines = [{"sample": n, "mark": "keep" if v > 2 else "drop"} for n, v in zip(NAMES, VALUES, strict=True)]
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return path, {}


def folders(folder: Path) -> Made:
    for name, value in zip(NAMES, VALUES, strict=True):
        at = folder / SECRET / ("liked" if value > 2 else "disliked") / name.split("/")[1]
        at.parent.mkdir(parents=True, exist_ok=True)
        at.write_bytes(b"")
        at.with_suffix(".txt").write_text("")
    return folder / SECRET, {}


def two_folders(folder: Path) -> Made:
    folders(folder)
    os.renames(folder / SECRET / "liked", folder / f"{SECRET}-good")
    os.renames(folder / SECRET / "disliked", folder / f"{SECRET}-bad.json")
    return folder / f"{SECRET}-good", {"disliked": str(folder / f"{SECRET}-bad.json")}


def stars(folder: Path) -> Made:
    for name, value in zip(NAMES, VALUES, strict=True):
        at = folder / SECRET / name
        at.parent.mkdir(parents=True, exist_ok=True)
        at.write_bytes(picture_bytes(0))
        at.with_suffix(".jpg.xmp").write_text(
            '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
            f'<rdf:Description xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmp:Rating="{value}"/></rdf:RDF></x:xmpmeta>'
        )
    return folder / SECRET, {}


READERS: list[Callable[[Path], Made]] = [
    means, votes, several, histogram, pairs, label_studio, simulacra, by_place, marks, folders, two_folders, stars,
]  # fmt: skip


def embedded(folder: Path, ratings: Ratings) -> str:
    """Embeddings of the rated pictures, and of one that nobody rated."""
    names = ratings.samples.to_pylist() + ([] if ratings.is_by_row else [f"{SECRET}-unrated"])
    rows = np.random.default_rng(3).standard_normal((len(names), 8)).astype(np.float32)
    path = folder / f"{SECRET}.parquet"
    pl.DataFrame({"sample": names, "embedding": rows}).write_parquet(path)
    return str(path)


@pytest.mark.parametrize("made_by", READERS, ids=lambda reader: reader.__name__)
def test_nothing_that_is_published_tells_of_folders_pictures_and_people(
    tmp_path: Path, made_by: Callable[[Path], Made]
) -> None:
    folder = tmp_path / SECRET
    folder.mkdir()
    path, more = made_by(folder)
    ratings = read_ratings(str(path), RatingsOptions(**more))
    head = str(folder / "mine.safetensors")
    train(
        TrainJobOptions(
            sources=(embedded(folder, ratings),), ratings=str(path), out=head, compare_with=(), near_duplicates=0, **more
        )
    )
    assert SECRET in (folder / "mine.json").read_text()
    card = (folder / "mine.md").read_text()
    assert SECRET not in card
    result = ModelCard(card).data.eval_results[0]
    assert result.dataset_name in (path.name, "p0.parquet and 1 other file", ratings.kind)
    for name, data in push_head(head, str(folder / "mine.md"), "me/taste", dry_run=True).files.items():
        assert SECRET.encode() not in data, name


def test_what_an_address_asks_for_is_not_public(tmp_path: Path) -> None:
    path, _ = means(tmp_path)
    found = replace(read_ratings(str(path)), source=f"https://example.org/{SECRET}/r.csv?token={SECRET}#{SECRET}")
    assert found.public_name == "r.csv"
    assert found.lines(with_names=False)[0].startswith("r.csv holds 60 pictures: ")
