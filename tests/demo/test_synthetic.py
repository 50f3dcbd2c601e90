"""The synthetic set: layout, statistics, the hidden truth, repeatability, and going on after an interruption."""

from __future__ import annotations

import hashlib
import json
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from beholder.demo.synthetic import SyntheticOptions, read_rated, write_synthetic
from beholder.errors import InputError
from beholder.sources.find import find_parts
from beholder.sources.reader import ReadOptions
from beholder.sources.stamp import find_stamps

OPTIONS = SyntheticOptions(num_rows=30_000, dim=64, num_rated=7_001, seed=5, part_rows=12_000)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("synthetic") / "set"
    assert write_synthetic(path, OPTIONS) == 3
    return path


def rows_of(folder: Path, pattern: str = "img_emb/*.npy") -> np.ndarray:  # type: ignore[type-arg]
    return np.concatenate([np.load(path) for path in sorted(folder.glob(pattern))])


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def fitted_preference(folder: Path) -> tuple[np.ndarray, np.ndarray]:  # type: ignore[type-arg]
    """The affine function of the rows that is nearest to their truth, by least squares: weight and bias, residuals."""
    rows = rows_of(folder).astype(np.float64)
    truth = pq.read_table(folder / "metadata").column("truth").to_numpy().astype(np.float64)
    known = np.column_stack([rows / np.linalg.norm(rows, axis=1)[:, None], np.ones(len(rows))])
    found = np.linalg.lstsq(known, truth, rcond=None)[0]
    return found, truth - known @ found


def test_layout_is_clip_retrievals(folder: Path) -> None:
    assert sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()) == [
        "beholder.json",
        "img_emb/img_emb_0.npy",
        "img_emb/img_emb_1.npy",
        "img_emb/img_emb_2.npy",
        "metadata/metadata_0.parquet",
        "metadata/metadata_1.parquet",
        "metadata/metadata_2.parquet",
    ]
    assert [np.load(path, mmap_mode="r").shape for path in sorted(folder.glob("img_emb/*.npy"))] == [
        (12_000, 64),
        (12_000, 64),
        (6_000, 64),
    ]
    table = pq.read_table(folder / "metadata")
    assert [(field.name, str(field.type)) for field in table.schema] == [
        ("sample", "string"),
        ("rating", "float"),
        ("truth", "float"),
    ]
    assert table.column("sample").to_pylist() == [f"synthetic/{row:07d}.jpg" for row in range(30_000)]
    stamp = json.loads((folder / "beholder.json").read_text())
    assert stamp["backbone"] == "synthetic/clip-like-64"
    assert stamp["format"] == "beholder-embeddings"
    assert stamp["normalised"] is True
    assert "synthetic" in stamp["note"]


def test_ten_parts_take_two_digits(tmp_path: Path) -> None:
    write_synthetic(tmp_path, SyntheticOptions(num_rows=10, dim=4, num_rated=3, part_rows=1))
    assert [path.name for path in sorted(tmp_path.glob("img_emb/*"))] == [f"img_emb_{part:02d}.npy" for part in range(10)]
    assert [path.name for path in sorted(tmp_path.glob("metadata/*"))] == [f"metadata_{part:02d}.parquet" for part in range(10)]
    ratings = pq.read_table(tmp_path / "metadata").column("rating")
    assert len(ratings) - ratings.null_count == 3


def test_beholders_reader_takes_it(folder: Path) -> None:
    parts = find_parts((str(folder),), ReadOptions(columns=("truth",)))
    assert [(part.num_rows, part.dim, part.dtype) for part in parts] == [
        (12_000, 64, "float16"),
        (12_000, 64, "float16"),
        (6_000, 64, "float16"),
    ]
    assert [Path(part.metadata_path or "").name for part in parts] == [f"metadata_{part}.parquet" for part in range(3)]
    stamps, num_without = find_stamps(parts)
    assert [stamp.backbone for stamp in stamps] == ["synthetic/clip-like-64"]
    assert num_without == 0


def test_rows_look_like_clips(folder: Path) -> None:
    rows = rows_of(folder).astype(np.float64)
    assert np.isfinite(rows).all()
    lengths = np.linalg.norm(rows, axis=1)
    assert abs(lengths - 1).max() < 2e-3
    some = rows[:2000]
    cosines = (some @ some.T)[np.triu_indices(2000, 1)]
    assert 0.4 < cosines.mean() < 0.6
    variances = np.linalg.eigvalsh(np.cov(rows.T))[::-1]
    assert variances[0] > 5 * variances[8] > 5 * 3 * variances[-1]
    assert len(np.unique(rows, axis=0)) == len(rows)


def test_truth_is_an_affine_function_of_the_stored_rows(folder: Path) -> None:
    assert np.abs(fitted_preference(folder)[1]).max() < 2e-5
    truth = pq.read_table(folder / "metadata").column("truth").to_numpy()
    assert truth.mean() == pytest.approx(4.8, abs=0.05)
    assert truth.std() == pytest.approx(0.9, abs=0.05)


def test_ratings_are_the_truth_plus_noise_for_as_many_rows_as_asked(folder: Path) -> None:
    table = pq.read_table(folder / "metadata")
    ratings, truth = table.column("rating"), table.column("truth").to_numpy()
    rated = ratings.is_valid().to_numpy()
    assert rated.sum() == 7_001
    assert rated[:12_000].sum() == 2_800  # 7001 * 12000 // 30000
    noise = ratings.to_numpy()[rated] - truth[rated]
    assert abs(noise.mean()) < 5 * 0.7 / np.sqrt(7_001)
    assert noise.std() == pytest.approx(0.7, rel=0.05)
    assert abs(np.corrcoef(noise, truth[rated])[0, 1]) < 0.06
    assert abs(truth[rated].mean() - truth.mean()) < 0.06


def test_read_rated_gives_those_rows(folder: Path) -> None:
    table = pq.read_table(folder / "metadata")
    rated = table.column("rating").is_valid().to_numpy()
    found = read_rated(folder, OPTIONS)
    np.testing.assert_array_equal(found.embeddings, rows_of(folder)[rated])
    np.testing.assert_array_equal(found.ratings, table.column("rating").to_numpy()[rated])
    np.testing.assert_array_equal(found.truth, table.column("truth").to_numpy()[rated])
    assert (found.embeddings.dtype, found.ratings.dtype) == (np.float16, np.float32)


@pytest.mark.parametrize("num_threads", [1, 5])
def test_same_bytes_from_any_number_of_threads(folder: Path, tmp_path: Path, num_threads: int) -> None:
    write_synthetic(tmp_path / "set", OPTIONS, num_threads=num_threads)
    assert digests(tmp_path / "set") == digests(folder)


def test_another_seed_is_another_world(folder: Path, tmp_path: Path) -> None:
    other = SyntheticOptions(num_rows=30_000, dim=64, num_rated=7_001, seed=6, part_rows=12_000)
    write_synthetic(tmp_path, other)
    assert not np.array_equal(rows_of(tmp_path)[:100], rows_of(folder)[:100])
    a, b = fitted_preference(folder)[0][:-1], fitted_preference(tmp_path)[0][:-1]
    assert abs(a @ b) < 0.6 * np.linalg.norm(a) * np.linalg.norm(b)


def test_no_two_parts_repeat_each_other(folder: Path) -> None:
    parts = [np.load(path)[:3000] for path in sorted(folder.glob("img_emb/*.npy"))]
    assert not np.array_equal(parts[0], parts[1])
    assert not np.array_equal(parts[1], parts[2])


@pytest.mark.parametrize("damage", ["rows gone", "metadata gone", "rows cut short", "metadata cut short", "stamp gone"])
def test_complete_parts_are_kept_and_others_made_again_alike(tmp_path: Path, damage: str) -> None:
    options = SyntheticOptions(num_rows=500, dim=8, num_rated=50, part_rows=200)
    write_synthetic(tmp_path, options)
    before = digests(tmp_path)
    rows, metadata = tmp_path / "img_emb" / "img_emb_1.npy", tmp_path / "metadata" / "metadata_1.parquet"
    kept = tmp_path / "img_emb" / "img_emb_0.npy"
    written_at = kept.stat().st_mtime_ns
    if damage == "stamp gone":
        (tmp_path / "beholder.json").unlink()
    elif damage.endswith("gone"):
        (rows if damage == "rows gone" else metadata).unlink()
    else:
        file = rows if damage == "rows cut short" else metadata
        file.write_bytes(file.read_bytes()[:-10])
    assert write_synthetic(tmp_path, options) == (0 if damage == "stamp gone" else 1)
    assert digests(tmp_path) == before
    assert kept.stat().st_mtime_ns == written_at


def test_one_row_and_no_ratings(tmp_path: Path) -> None:
    options = SyntheticOptions(num_rows=1, dim=2, num_rated=0)
    assert write_synthetic(tmp_path, options) == 1
    assert rows_of(tmp_path).shape == (1, 2)
    assert read_rated(tmp_path, options).embeddings.shape == (0, 2)


@pytest.mark.parametrize(
    "wrong",
    [{"num_rows": 0}, {"dim": 1}, {"seed": -1}, {"part_rows": 0}, {"num_rated": -1}, {"num_rows": 10, "num_rated": 11}],
)
def test_impossible_sets_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(InputError):
        SyntheticOptions(**wrong)


def test_a_disk_that_takes_no_more_is_one_line_and_leaves_no_half_file(tmp_path: Path) -> None:
    script = (
        "import sys\nfrom pathlib import Path\n"
        "from beholder.demo.synthetic import SyntheticOptions, write_synthetic\n"
        "from beholder.errors import OutputError\n"
        "try:\n"
        "    write_synthetic(Path(sys.argv[1]), SyntheticOptions(num_rows=20_000, dim=64, num_rated=10, part_rows=10_000))\n"
        "except OutputError as error:\n    print(error)\n"
    )

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))

    result = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True, preexec_fn=limit
    )
    assert len(result.stdout.splitlines()) == 1
    assert "cannot write" in result.stdout
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
