"""Peak memory of beholder's whole process tree on small files that unpack to far more than they hold.

    python benchmarks/memory_hostile.py [--source SRC] [--most-gb 14] [--most-s 120] [--only NAME ...]

`--source` names the `src` folder of another version, to be measured on the same files. Every command is killed beyond
`--most-gb` of resident memory or `--most-s` seconds, which the table says. Needs 3 GB of disk, in a temporary folder.
"""

from __future__ import annotations

import argparse
import io
import os
import struct
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from beholder import Head, save_head
from beholder.kernels.scoring import Affine
from beholder.models.backbones import TowerShape
from beholder.models.clip import random_tensors
from process_memory import watched
from tower_checkpoints import save_hugging_face

DIM = 768
"""As L/14 gives; the tower itself is tiny, so that what is held is seen, not what is computed."""
_TAR_PICTURES = 100_000


def _jpeg() -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (16, 15), (90, 120, 60)).save(data, "JPEG")
    return data.getvalue()


def _dictionary(value: str | bytes, rows: int) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), pa.array([value]))


def _write(path: Path, **columns: pa.Array) -> None:
    pq.write_table(pa.table(columns), path, compression="zstd", dictionary_pagesize_limit=1 << 30, store_schema=False)


def _vectors(rows: int) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ones(rows * DIM, np.float32)), DIM)


def one_tar(folder: Path) -> list[str]:
    """100,000 small pictures in one tar, which is one shard."""
    with tarfile.open(folder / "all.tar", "w") as tar:
        data = _jpeg()
        for number in range(_TAR_PICTURES):
            member = tarfile.TarInfo(f"{number:06d}.jpg")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return ["score", "all.tar", *TOWER]


def one_cell(folder: Path) -> list[str]:
    """A Parquet file of pictures with one cell of 1.2 GB, which is rejected, among three."""
    cells = pa.array([_jpeg(), bytes(1_200_000_000), _jpeg()], pa.large_binary())
    pq.write_table(pa.table({"image": cells}), folder / "x.parquet", compression="zstd", use_dictionary=False)
    return ["score", "x.parquet", *TOWER]


def npz_names(folder: Path) -> list[str]:
    """An .npz of ten rows whose names unpack to 8 GB."""
    with zipfile.ZipFile(folder / "x.npz", "w", zipfile.ZIP_DEFLATED) as out:
        with out.open("embeddings.npy", "w") as member:
            np.lib.format.write_array(member, np.ones((10, DIM), np.float32))
        with out.open("samples.npy", "w", force_zip64=True) as member:
            np.lib.format.write_array_header_1_0(member, {"descr": "<U200000000", "fortran_order": False, "shape": (10,)})
            for _ in range(8000):
                member.write(bytes(1_000_000))
    return ["score", "x.npz", "--head", "head.safetensors"]


def picture_dictionary(folder: Path) -> list[str]:
    """A picture of 50 MB in a dictionary, named by 1,000 rows."""
    _write(folder / "x.parquet", image=_dictionary(_jpeg() + bytes(50_000_000), 1000))
    return ["score", "x.parquet", *TOWER]


def _captions(folder: Path) -> None:
    rows = 20_000
    names = pa.array([str(number) for number in range(rows)])
    scores = pa.array(np.linspace(1, 9, rows))
    text = _dictionary("x" * 5_000_000, rows)
    _write(folder / "x.parquet", sample=names, score=scores, caption=text, embedding=_vectors(rows))


def captions_score(folder: Path) -> list[str]:
    """A caption of 5 MB in a dictionary, named by 20,000 rows: score with it."""
    _captions(folder)
    return ["score", "x.parquet", "--head", "head.safetensors", "--column", "caption", "--embedding-column", "embedding"]


def captions_select(folder: Path) -> list[str]:
    """The same in `select`."""
    _captions(folder)
    return ["select", "x.parquet", "--top", "100", "--where", "caption <> 'y'", "--out", "list.csv"]


def captions_report(folder: Path) -> list[str]:
    """The same in `report`."""
    _captions(folder)
    return ["report", "x.parquet", "-o", "page.html"]


def lying_head(folder: Path) -> list[str]:
    """A .pth of 2 kB whose directory claims 4 GB."""
    data = io.BytesIO()
    torch.save({"weight": torch.ones(1, DIM), "bias": torch.zeros(1)}, data)
    lying = bytearray(data.getvalue())
    at = lying.index(b"PK\1\2")
    while b"data/0" not in lying[at : at + 80]:
        at = lying.index(b"PK\1\2", at + 4)
    lying[at + 20 : at + 28] = struct.pack("<II", 4_000_000_000, 4_000_000_000)
    (folder / "lying.pth").write_bytes(lying)
    _write(folder / "rows.parquet", embedding=_vectors(10))
    return ["score", "rows.parquet", "--head", "lying.pth"]


def nested_json(folder: Path) -> list[str]:
    """A packed tar of 65 kB whose JSON members unpack to 60 MB of empty objects."""
    said = b'{"a":[' + b",".join([b"{}"] * 349_000) + b"]}"
    with tarfile.open(folder / "x.tar.gz", "w:gz") as tar:
        for name, data in (("p.jpg", _jpeg()), *((f"j{number}.json", said) for number in range(60))):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return ["score", "x.tar.gz", *TOWER]


def webp(folder: Path) -> list[str]:
    """A lossless WebP of 28 bytes that states 16,000 x 11,000 pixels."""
    size = (15_999 | (10_999 << 14)).to_bytes(4, "little")
    body = b"\x2f" + size + bytes(3)
    chunk = b"VP8L" + struct.pack("<I", len(body)) + body
    (folder / "pictures").mkdir()
    (folder / "pictures" / "x.webp").write_bytes(b"RIFF" + struct.pack("<I", 4 + len(chunk)) + b"WEBP" + chunk)
    (folder / "pictures" / "y.jpg").write_bytes(_jpeg())
    return ["score", "pictures", *TOWER]


TOWER = ["--backbone", "tower", "--head", "head.safetensors", "--precision", "fp32"]
CASES: tuple[Callable[[Path], list[str]], ...] = (
    one_tar, one_cell, npz_names, picture_dictionary, captions_score, captions_select, captions_report, lying_head, nested_json,
    webp,
)  # fmt: skip


def main() -> None:
    """Print one line for each case."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--source", type=Path, default=None, help="the src folder of another version")
    parser.add_argument("--most-gb", type=float, default=14)
    parser.add_argument("--most-s", type=float, default=120)
    parser.add_argument("--only", nargs="+", default=None, help="names of cases")
    options = parser.parse_args()
    env = dict(os.environ)
    if options.source is not None:
        env["PYTHONPATH"] = str(options.source.resolve())
    shape = TowerShape(image_px=14, patch_px=14, width=64, num_layers=1, num_heads=1, mlp_width=64, dim=DIM)
    for case in CASES:
        if options.only and case.__name__ not in options.only:
            continue
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            save_hugging_face(folder / "tower", shape, random_tensors(shape))
            save_head(Head(name="head", math=Affine(np.linspace(-1, 1, DIM), 5.0)), folder / "head.safetensors")
            words = case(folder)
            line = [sys.executable, "-m", "beholder", *words]
            os.chdir(folder)
            ended = watched(line, most_mib=int(options.most_gb * 1024), most_s=options.most_s, env=env)
            os.chdir("/")
            status = "killed" if ended.status is None else f"exit {ended.status}"
            said = [text for text in ended.stderr.splitlines() if text.strip()]
            memory = f"RssAnon {ended.anon_mib:>6,} MiB, Rss {ended.rss_mib:>6,} MiB"
            print(f"{case.__name__:<18} {memory}, {ended.seconds:5.1f} s, {status}", flush=True)
            print(f"    {said[-1][:150] if said else ''}", flush=True)


if __name__ == "__main__":
    main()
