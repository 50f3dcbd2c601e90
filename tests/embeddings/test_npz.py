"""`.npz` parts: which array, labels, streaming, damage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from beholder.embeddings.block import ReadOptions
from beholder.embeddings.npz import NpzReader
from beholder.errors import InputError

ROWS = np.random.default_rng(0).standard_normal((1000, 32)).astype(np.float16)


def read(path: Path, start: int = 0, stop: int | None = None, **options: Any) -> tuple[np.ndarray, list[str]]:
    reader, wanted = NpzReader(), ReadOptions(**options)
    part = reader.inspect(str(path), path.name, wanted)
    blocks = list(reader.blocks(part, start, stop, wanted))
    names = [name for block in blocks for name in block.labels["sample"].to_pylist()]  # type: ignore[index]
    return np.concatenate([np.array(block.embeddings) for block in blocks]), names


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_rows_and_labels_come_back(tmp_path: Path, save: Any) -> None:
    save(tmp_path / "x.npz", embeddings=ROWS, paths=np.array([f"p/{i}.jpg" for i in range(1000)]))
    found, names = read(tmp_path / "x.npz", block_bytes=4096)
    assert np.array_equal(found, ROWS)
    assert names == [f"p/{i}.jpg" for i in range(1000)]
    found, names = read(tmp_path / "x.npz", 10, 20)
    assert np.array_equal(found, ROWS[10:20])
    assert names[0] == "p/10.jpg"


def test_without_labels_rows_are_numbered(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", ROWS)
    assert read(tmp_path / "x.npz")[1][:2] == ["x.npz#0", "x.npz#1"]


def test_the_array_is_found_or_asked_for(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", a=ROWS, b=ROWS * 2)
    with pytest.raises(InputError, match="which array holds the embeddings.*a .1000, 32. float16"):
        read(tmp_path / "x.npz")
    assert np.array_equal(read(tmp_path / "x.npz", embedding_column="b")[0], ROWS * 2)
    with pytest.raises(InputError, match="no array 'c'"):
        read(tmp_path / "x.npz", embedding_column="c")


def test_wrong_archives_are_one_clear_line(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, embeddings=np.array([{}], object))
    with pytest.raises(InputError, match="never unpickled"):
        read(path)
    np.savez(path, embeddings=ROWS)
    whole = path.read_bytes()
    path.write_bytes(whole[:-30])
    with pytest.raises(InputError, match="not a whole .npz archive"):
        read(path)
    path.write_bytes(whole[:5000] + bytes(200) + whole[5200:])
    with pytest.raises(InputError, match="damaged"):
        read(path)
    path.write_bytes(b"")
    with pytest.raises(InputError, match="empty .0 bytes."):
        read(path)
