"""Runs whose results stand in a bucket, what is there afterwards, and the same as a local run has it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from oracles.picture_jobs import picture_bytes
from oracles.s3 import BUCKET

SEGMENT = re.compile(r"done/index-[0-9a-f-]+\.jsonl\.zst")
"""Names of the index, which are other ones in each run."""


def url(name: str) -> str:
    return f"s3://{BUCKET}/{name}"


def stored(client: Any, prefix: str = "") -> dict[str, bytes]:
    """Everything in the bucket below a prefix: key -> bytes."""
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
    keys = [entry["Key"] for page in pages for entry in page.get("Contents", ())]
    return {key: client.get_object(Bucket=BUCKET, Key=key)["Body"].read() for key in keys}


def put_folder(client: Any, folder: Path, prefix: str) -> None:
    """Have a local folder's files in the bucket."""
    for path in folder.rglob("*"):
        if path.is_file():
            client.put_object(Bucket=BUCKET, Key=f"{prefix}/{path.relative_to(folder)}", Body=path.read_bytes())


_TIMES = re.compile(r"run(\.part-\d+-of-\d+)?\.json")


def local_files(folder: Path, start: str = "") -> dict[str, bytes]:
    """Every file whose path below the folder begins with `start`: path -> bytes."""
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {name: data for name, data in sorted(found.items()) if name.startswith(start)}


def without_index(files: dict[str, bytes], start: str) -> dict[str, bytes]:
    """The same without segments of the index of the run at `start`, and without the times that it took."""
    own = {name: name.removeprefix(start) for name in files}
    return {name: data for name, data in files.items() if not (SEGMENT.fullmatch(own[name]) or _TIMES.fullmatch(own[name]))}


def make_arrays(folder: Path, num_rows: int = 90) -> Path:
    """Three arrays of embeddings; three rows are rejected."""
    folder.mkdir()
    rows = np.random.default_rng(5).standard_normal((num_rows, 24)).astype(np.float32)
    rows[[0, 40, 41]] = 0
    for number, some in enumerate(np.array_split(rows, 3)):
        np.save(folder / f"e{number}.npy", some)
    return folder


def make_photos(folder: Path, num: int = 7) -> Path:
    """Small pictures; the last one is none."""
    folder.mkdir()
    for number in range(num - 1):
        (folder / f"p{number}.png").write_bytes(picture_bytes(number, "PNG"))
    (folder / f"p{num - 1}.png").write_bytes(b"no picture")
    return folder
