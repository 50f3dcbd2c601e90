"""Drift between settings: numbers by hand, and the sample that is taken."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from beholder.errors import InputError
from beholder.models.published import Threshold, read_threshold
from beholder.sources.parquet import PackedReader
from beholder.verification import measure_drift, picture_bytes, sample_pictures


def test_the_numbers_are_those_of_the_differences() -> None:
    exact = np.array([4.0, 5.0, 5.02, 6.0, np.nan, 3.0], np.float32)
    other = np.array([4.1, 4.98, 5.0, 6.04, 5.0, np.nan], np.float32)
    found = measure_drift(exact, other, [read_threshold(given) for given in (5.0, 5.01, "4.05", 9)])
    assert found.num_pictures == 4
    sizes = np.array([0.1, 0.02, 0.02, 0.04])
    assert found.bias == pytest.approx((0.1 - 0.02 - 0.02 + 0.04) / 4, abs=1e-6)
    assert found.mean == pytest.approx(sizes.mean(), abs=1e-6)
    assert found.largest == pytest.approx(0.1, abs=1e-6)
    assert found.p95 == pytest.approx(0.04 + 0.85 * 0.06, abs=1e-6)  # between the two largest of four
    assert found.moved == {"5": 1, "5.01": 1, "4.05": 1, "9": 0}
    assert found.to_json()["moved"] == {"5": 1, "5.01": 1, "4.05": 1, "9": 0}


def test_a_landmark_and_its_number_are_counted_apart() -> None:
    """Of two pictures at 5 exactly one leaves it downwards and one upwards: the first moves at 5, the second above 5."""
    exact = np.array([5.0, 5.0, 5.0, 5.1, 6.0], np.float32)
    other = np.array([4.9, 5.2, 5.3, 5.1, 6.0], np.float32)
    found = measure_drift(
        exact, other, [read_threshold(given) for given in ("sd-v1", 5, "5.0", "laion-5plus", 5.0000002, "5.1")]
    )
    wanted = {"> 5 (sd-v1)": 2, "5": 1, ">= 5 (laion-5plus)": 1, "5.0000002": 1, "5.1": 2}
    assert found.to_json()["moved"] == wanted


def test_nothing_in_common_is_refused() -> None:
    with pytest.raises(InputError, match="none of these pictures"):
        measure_drift(np.array([np.nan], np.float32), np.array([1], np.float32), [Threshold(5)])
    with pytest.raises(InputError, match="none of these pictures"):
        measure_drift(np.empty(0, np.float32), np.empty(0, np.float32), [Threshold(5)])


def data_of(number: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (number, 0, 0)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def album(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    for number in range(30):
        (tmp_path / "in" / f"{number:02}.png").write_bytes(data_of(number))
    return tmp_path / "in"


def test_the_sample_is_spread_evenly_and_always_the_same(album: Path) -> None:
    refs = sample_pictures([str(album)], 6)
    assert list(picture_bytes(refs)) == [data_of(number) for number in (0, 5, 10, 15, 20, 25)]
    assert len(sample_pictures([str(album)], 1)) == 1
    assert list(picture_bytes(sample_pictures([str(album)], 500))) == [data_of(number) for number in range(30)]


def test_tars_give_their_first_pictures(tmp_path: Path, album: Path) -> None:
    for name, low in (("a.tar", 0), ("b.tar", 10)):
        with tarfile.open(tmp_path / name, "w") as tar:
            for path in sorted(album.iterdir())[low : low + 10]:
                tar.add(path, path.name)
    refs = sample_pictures([str(tmp_path / "a.tar"), str(tmp_path / "b.tar")], 5)
    assert list(picture_bytes(refs)) == [data_of(number) for number in (0, 1, 2, 10, 11)]


def test_a_vanished_picture_is_no_bytes(album: Path) -> None:
    refs = sample_pictures([str(album)], 3)
    (album / "10.png").unlink()
    assert list(picture_bytes(refs)) == [data_of(0), b"", data_of(20)]


@pytest.mark.parametrize("group", [7, 30])
def test_a_stretch_of_a_source_is_read_once(tmp_path: Path, group: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Parquet file is opened once for a row group, a table once for all; what is sampled is the same as ever."""
    table = pa.table({"image": [data_of(number) for number in range(30)]})
    pq.write_table(table, tmp_path / "p.parquet", row_group_size=group)
    opened: list[tuple[int, int | None]] = []
    original = PackedReader.blocks

    def counted(self: PackedReader, part: Any, start: int, stop: int | None, options: Any) -> Any:
        opened.append((start, stop))
        return original(self, part, start, stop, options)

    monkeypatch.setattr(PackedReader, "blocks", counted)
    for most in (1, 6, 30):
        opened.clear()
        refs = sample_pictures([str(tmp_path / "p.parquet")], most)
        assert list(picture_bytes(refs)) == [data_of(place * 30 // most) for place in range(most)]
        assert len(opened) == len({place * 30 // most // group for place in range(most)})


def test_zips_and_tables_are_sampled_evenly(tmp_path: Path, album: Path) -> None:
    with zipfile.ZipFile(tmp_path / "z.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(album.iterdir()):
            archive.write(path, path.name)
    (tmp_path / "t.csv").write_text("path\n" + "".join(f"{path}\n" for path in sorted(album.iterdir())))
    for source in ("z.zip", "t.csv"):
        refs = sample_pictures([str(tmp_path / source)], 6)
        assert list(picture_bytes(refs)) == [data_of(number) for number in (0, 5, 10, 15, 20, 25)]
