"""What systems keep for themselves (recycle bins, snapshots, thumbnails) is no source: in folders, globs, zips and tars."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from beholder.sources.find import find_parts
from beholder.sources.reader import ReadOptions
from oracles.picture_sources import put, refused, samples
from oracles.s3 import BUCKET, fill_bucket
from oracles.tar_making import png, tar

FOLDERS = [
    "$RECYCLE.BIN", "System Volume Information", "@eaDir", "#recycle", "#snapshot", ".snapshot", "lost+found", "__MACOSX",
    ".Trash-1000", "@Recycle", "@Recently-Snapshot", "RECYCLER", ".Trashes", "$Recycle.Bin", "~snapshot",
]  # fmt: skip
NAMES = ["a.png", *(f"{folder}/b.png" for folder in FOLDERS), *(f"deep/{folder}/er/c.png" for folder in FOLDERS), "deep/d.png"]
KEPT = ["a.png", "deep/d.png"]


def below(root: str, found: list[str]) -> list[str]:
    return sorted(name.split(f"{root}/", 1)[1] for name in found)


def test_in_folders_and_globs(tmp_path: Path) -> None:
    for name in NAMES:
        put(tmp_path / "photos" / name)
    root = str(tmp_path / "photos")
    for source in (root, f"{root}/**/*.png", f"{root}/*"):
        assert below(root, samples(source)) == KEPT, source
    assert below(root, samples(f"{root}/$RECYCLE.BIN")) == ["$RECYCLE.BIN/b.png"]
    assert below(root, samples(f"{root}/*/@eaDir/**/*.png")) == ["deep/@eaDir/er/c.png"]
    assert "nothing matches" in refused(f"{root}/deep/*/er/*.png")


def test_words_are_no_systems_folders(tmp_path: Path) -> None:
    for name in ("recycled/a.png", "recycler/b.png", "trash/c.png", "snapshot/d.png", "found/e.png"):
        put(tmp_path / name)
    assert len(samples(tmp_path)) == 5


@pytest.mark.slow
def test_on_a_server(s3: Any) -> None:
    fill_bucket(s3, {f"photos/{name}": png(1) for name in NAMES} | {"e/#recycle/x.npy": b"no array"})
    root = f"s3://{BUCKET}/photos"
    for source in (root, f"{root}/**/*.png", f"S3://{BUCKET}/photos/"):
        assert below(root, samples(source)) == KEPT, source
    s3.put_object(Bucket=BUCKET, Key="e/y.npy", Body=npy_bytes())
    assert [part.name for part in find_parts([f"s3://{BUCKET}/e"], ReadOptions())] == ["y.npy"]


def npy_bytes() -> bytes:
    import io

    stream = io.BytesIO()
    np.save(stream, np.ones((2, 4), np.float32))
    return stream.getvalue()


def test_in_zips_and_tars(here: Path) -> None:
    with zipfile.ZipFile("z.zip", "w") as archive:
        for number, name in enumerate(NAMES):
            archive.writestr(name, png(number))
    assert below("z.zip", samples("z.zip")) == KEPT
    Path("t.tar").write_bytes(tar([(name, png(number)) for number, name in enumerate(NAMES)]))
    assert samples("t.tar") == ["t.tar/a", "t.tar/deep/d"]


@pytest.mark.parametrize("folder", FOLDERS)
def test_beside_embeddings(tmp_path: Path, folder: str) -> None:
    for name in ("x.npy", f"{folder}/y.npy", f"in/{folder}/z.npy"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        np.save(tmp_path / name, np.ones((2, 4), np.float32))
    for source in (tmp_path, tmp_path / "**" / "*.npy"):
        assert [Path(part.path).name for part in find_parts([str(source)], ReadOptions())] == ["x.npy"]
