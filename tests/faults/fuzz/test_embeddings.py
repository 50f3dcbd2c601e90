"""Mutated files of embeddings: each is read, with all its rows counted, or refused in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from oracles import inside_formats as inside
from oracles.fuzzing import Target, check
from oracles.fuzzing_seeds import CSV, JSON, NUMPY, PARQUET, ROWS, ZIP, csv_of, json_lines, npy, npz, parquet, torch_files
from oracles.source_reads import everything
from oracles.tiers import mostly_slow


def _clip_retrieval(path: Path) -> Any:
    """The mutated file is the metadata beside a sound array."""
    folder = path.parent
    table = path.read_bytes()
    home = folder.parent / "set"
    (home / "img_emb").mkdir(parents=True, exist_ok=True)
    (home / "metadata").mkdir(exist_ok=True)
    np.save(home / "img_emb" / "img_emb_0.npy", ROWS)
    (home / "metadata" / path.name).write_bytes(table)
    return everything(home)


ZIPPED = (inside.in_zip_member, inside.in_zip_directory, inside.in_zip_name)
PACKED = (inside.in_parquet_footer, inside.in_parquet_pages)
TARGETS = {
    "npy": Target(
        read=everything,
        seeds=lambda: [npy(ROWS), npy(ROWS.astype(np.float16)), npy(np.asfortranarray(ROWS)), npy(ROWS.astype("<f8"))],
        name="x.npy",
        tokens=NUMPY,
        insides=(inside.in_npy_header,),
        count=25,
    ),
    "npz": Target(read=everything, seeds=lambda: [npz(packed=False)], name="x.npz", tokens=ZIP + NUMPY, insides=ZIPPED),
    "packed npz": Target(read=everything, seeds=lambda: [npz(packed=True)], name="x.npz", tokens=ZIP, insides=ZIPPED),
    "parquet lists": Target(
        read=everything,
        seeds=lambda: [parquet(kind) for kind in ("list", "large list", "half", "gaps")],
        name="x.parquet",
        tokens=PARQUET,
        insides=PACKED,
    ),
    "parquet fixed lists": Target(
        read=everything,
        seeds=lambda: [parquet("fixed", "none", use_dictionary=False), parquet("fixed", "gzip", data_page_version="2.0")],
        name="x.parquet",
        tokens=PARQUET,
        insides=PACKED,
    ),
    "parquet dimensions": Target(
        read=everything, seeds=lambda: [parquet("dimensions", "none")], name="x.parquet", tokens=PARQUET, insides=PACKED
    ),
    "parquet nested": Target(
        read=everything, seeds=lambda: [parquet("nested", "zstd")], name="x.parquet", tokens=PARQUET, insides=PACKED
    ),
    "birder csv": Target(
        read=everything, seeds=lambda: [csv_of(), csv_of(ends="\r\n")], name="logits.csv", tokens=CSV, is_text=True, count=17
    ),
    "csv": Target(
        read=everything,
        seeds=lambda: [
            csv_of(logits=False),
            csv_of(logits=False, delimiter=",", ends="\r\n"),
            b"\xef\xbb\xbf" + csv_of(logits=False),
        ],
        name="x.csv",
        tokens=CSV,
        is_text=True,
        count=17,
    ),
    "json lines": Target(
        read=everything, seeds=json_lines, name="x.jsonl", tokens=JSON, insides=(inside.in_json_value,), is_text=True, count=17
    ),
    "torch": Target(
        read=everything,
        seeds=torch_files,
        name="x.pt",
        tokens=(*ZIP, b"ctorch", b"cbuiltins\neval\n", b"\x80\2"),
        insides=ZIPPED,
    ),
    "clip-retrieval metadata": Target(
        read=_clip_retrieval,
        seeds=lambda: [parquet("list")],
        name="metadata_0.parquet",
        tokens=PARQUET,
        insides=PACKED,
    ),
}


@pytest.mark.parametrize("name", mostly_slow(TARGETS))
def test_mutated_files_are_read_or_refused(name: str, tmp_path: Path) -> None:
    check(__file__, name, tmp_path, count=TARGETS[name].count)


@pytest.mark.soak
@pytest.mark.parametrize("name", TARGETS)
def test_mutated_files_for_a_minute(name: str, tmp_path: Path) -> None:
    check(__file__, name, tmp_path)
