"""What the writers write: bit-exact for our readers, and as their own for polars, embedding-reader and VDC."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beholder.errors import InputError, OutputError
from beholder.kernels import ColumnBlock
from beholder.scoring.files import ShardFile, WriteOptions, join_shards, ready_rows, write_embeddings
from beholder.scoring.options import EmbedOptions, FolderLabels
from beholder.sources.find import find_parts
from beholder.sources.labels import ConsecutiveLabels
from beholder.sources.reader import ReadOptions, embedding_reader
from oracles.peers import PEERS, needs_peers
from oracles.tiers import mostly_slow

STAMP = {"format": "beholder-embeddings", "backbone": "test/tower", "pixels": {"preset": "rgb"}}
LIST = WriteOptions(format="parquet", dtype="float32", normalise=False)
CSV = WriteOptions(format="birder-csv", dtype="float32", normalise=False)
WIDE = WriteOptions(format="birder-parquet", dtype="float32", normalise=False)


def as_parts(paths: list[Path]) -> list[ShardFile]:
    return [ShardFile(str(path), path.stat().st_size) for path in paths]


def rows_of(num_rows: int, dim: int = 6, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal((num_rows, dim)) * 3).astype(np.float32)


def labels_of(num_rows: int, start: int = 0, **more: object) -> pa.Table:
    samples = [f"Bilder/ä, „{i:06d}“.jpg" for i in range(start, start + num_rows)]
    return pa.table({"sample": samples, "width": pa.array(range(num_rows), pa.int32()), **more})


def write_shard(
    folder: Path, index: int, stem: str, rows: np.ndarray, labels: pa.Table, options: WriteOptions, stamp: dict[str, object]
) -> dict[str, int]:
    return write_embeddings(folder, index, stem, ready_rows(rows, options), labels, options, stamp)


def read(source: Path) -> tuple[np.ndarray, pa.Table]:
    """Everything below `source`, through beholder's own readers."""
    options = ReadOptions(columns=("*",), block_bytes=1 << 16)
    values, labels = [], []
    for part in find_parts([str(source)], options):
        at = 0
        for block in embedding_reader(part.kind).blocks(part, 0, part.num_rows, options):
            assert block.statuses is None or not block.statuses.any()
            rows = (
                np.stack(block.embeddings.columns, 1) if isinstance(block.embeddings, ColumnBlock) else block.embeddings.copy()
            )
            values.append(rows)
            read = ConsecutiveLabels(part, at, at + len(rows), options).table if block.labels is None else None
            labels.append(block.labels if read is None else read(len(rows)))
            at += len(rows)
    return np.concatenate(values), pa.concat_tables(labels)


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("layout", ["npy", "parquet"])
@pytest.mark.parametrize("num_rows", [1, 5, 9001])
def test_our_readers_give_back_the_very_bits(tmp_path: Path, layout: str, dtype: str, normalise: bool, num_rows: int) -> None:
    rows = rows_of(num_rows)
    rows[num_rows // 2] = 0
    options = WriteOptions(format=layout, dtype=dtype, normalise=normalise)  # type: ignore[arg-type]
    written = write_shard(tmp_path, 0, "a", rows, labels_of(num_rows), options, STAMP)
    assert written == {str(p.relative_to(tmp_path)): p.stat().st_size for p in tmp_path.rglob("*") if p.is_file()}
    found, labels = read(tmp_path)
    wide = rows.astype(np.float64)
    lengths = np.array([np.sqrt(sum(float(x) ** 2 for x in row)) or 1.0 for row in wide])
    expected = (wide / lengths[:, None] if normalise else wide).astype(dtype)
    if normalise:  # the sum's last bit depends on its order, which decides between two neighbours now and then
        assert found.dtype == expected.dtype
        np.testing.assert_array_max_ulp(found, expected, maxulp=1)
        assert np.mean(found == expected) > 0.999
    else:
        assert np.array_equal(found.view(f"u{found.itemsize}"), expected.view(f"u{found.itemsize}"))
    assert not found[num_rows // 2].any()
    assert labels.column("sample").to_pylist() == labels_of(num_rows).column("sample").to_pylist()
    assert labels.column("width").to_pylist() == list(range(num_rows))


@pytest.mark.parametrize("options", [WIDE, CSV], ids=lambda options: options.format)
@pytest.mark.parametrize("num_rows", [1, 20_000])
def test_birders_layouts_hold_the_very_float32(tmp_path: Path, options: WriteOptions, num_rows: int) -> None:
    rows = np.random.default_rng(1).integers(0, 2**32, (num_rows, 4), dtype=np.uint32).view(np.float32)
    rows = np.where(np.isfinite(rows), rows, np.float32(0.1))
    write_shard(tmp_path, 0, "a", rows, labels_of(num_rows), options, STAMP)
    found, labels = read(tmp_path / "embeddings")
    assert np.array_equal(found.view(np.uint32), rows.view(np.uint32))
    assert labels.column_names == ["sample"]  # anything else would be a feature to birder's and VDC's readers
    assert labels.column("sample").to_pylist() == labels_of(num_rows).column("sample").to_pylist()


def test_polars_reads_the_csv_as_it_reads_its_own(tmp_path: Path) -> None:
    rows = rows_of(3000, 33) * np.logspace(-12, 12, 33, dtype=np.float32)
    names = ["plain", "a,b", 'quo"te', "line\nbreak", "", "é ✓", "#", " x "] + [str(i) for i in range(2992)]
    labels = pa.table({"sample": pa.chunked_array([names[:7], names[7:]]), "cls": [-1, 0, 5] * 1000})
    for with_label in (False, True):
        options = WriteOptions(
            format="birder-csv", dtype="float32", normalise=False, folders=FolderLabels() if with_label else None
        )
        (name,) = write_shard(tmp_path, 0, f"p{with_label}", rows, labels, options, STAMP)
        frame = {"sample": names, **({"label": [-1, 0, 5] * 1000} if with_label else {})}
        expected = pl.DataFrame({**frame, **{str(i): rows[:, i] for i in range(33)}})
        types = {"sample": pl.String, "label": pl.Int64, **{str(i): pl.Float32 for i in range(33)}}
        found = pl.read_csv(tmp_path / name, schema={n: types[n] for n in expected.columns})
        found = found.with_columns(pl.col("sample").fill_null(""))
        assert found.equals(expected)


def test_birders_parquet_has_birders_schema(tmp_path: Path) -> None:
    labels = pa.table({"sample": ["x/dog/1.jpg", "x/cat/dog.jpg", "dog.jpg"], "width": [1, 2, 3], "label": ["a", "b", "c"]})
    folders = FolderLabels({"cat": 0, "dog": 7})
    options = WriteOptions(format="birder-parquet", dtype="float32", normalise=False, folders=folders)
    write_shard(tmp_path, 0, "a", rows_of(3), labels, options, STAMP)
    schema = pq.read_schema(tmp_path / "embeddings" / "a.parquet")
    assert schema.names == ["sample", "label", "0", "1", "2", "3", "4", "5"]
    assert pq.read_table(tmp_path / "embeddings" / "a.parquet").column("label").to_pylist() == [7, 0, -1]
    assert schema.types == [pa.string(), pa.int64(), *[pa.float32()] * 6]
    assert json.loads(schema.metadata[b"beholder"]) == STAMP
    bare = WriteOptions(format="parquet", dtype="float32", normalise=False, is_bare=True, folders=folders)
    write_shard(tmp_path, 0, "b", rows_of(3), labels, bare, STAMP)
    schema = pq.read_schema(tmp_path / "embeddings" / "b.parquet")
    assert schema.names == ["sample", "label", "embedding"]
    assert schema.types == [pa.string(), pa.int64(), pa.list_(pa.float32(), 6)]


@pytest.mark.parametrize(
    ("folders", "expected"),
    [
        (FolderLabels({"dog": 3, "a_dog": 4, "b_dog": 5}), [3, 3, 3, -1, -1]),
        (FolderLabels({"dog": 3, "a_dog": 4, "b_dog": 5}, is_hierarchical=True, roots=("in", "in/b")), [4, 3, 3, -1, -1]),
        (FolderLabels(), [-1] * 5),
    ],
)
def test_labels_are_those_of_birder(folders: FolderLabels, expected: list[int]) -> None:
    samples = ["in/a/dog/1.jpg", "in/b/dog/2.jpg", "in/dog/3.jpg", "dog.jpg", "other/cat/4.jpg"]
    assert folders.of(pa.table({"sample": samples})).to_pylist() == expected
    numbered = pa.table({"sample": samples, "cls": pa.array([9, None, 9, 9, None], pa.int32())})
    assert folders.of(numbered).to_pylist() == [9, expected[1], 9, 9, expected[4]]


def test_clip_retrievals_metadata_starts_with_sample_and_image_path(tmp_path: Path) -> None:
    write_shard(tmp_path, 7, "ignored", rows_of(2), labels_of(2, caption=["x", None]), WriteOptions(), STAMP)
    table = pq.read_table(tmp_path / "metadata" / "metadata_00007.parquet")
    assert table.column_names == ["sample", "image_path", "width", "caption"]
    assert table.column("sample").equals(table.column("image_path"))
    assert json.loads(table.schema.metadata[b"beholder"]) == STAMP
    own = pa.table({"sample": ["t.tar/1"], "caption": ["x"], "image_path": ["1"]})
    write_shard(tmp_path, 8, "ignored", rows_of(1), own, WriteOptions(), STAMP)
    table = pq.read_table(tmp_path / "metadata" / "metadata_00008.parquet")
    assert table.to_pylist() == [{"sample": "t.tar/1", "image_path": "1", "caption": "x"}]


def test_columns_of_any_type_pass(tmp_path: Path) -> None:
    more = {"exif": [{"a": 1, "b": {"c": "x"}}, None], "tags": [["x"], []], "similarity": pa.array([0.5, None], pa.float32())}
    for options in (WriteOptions(), LIST):
        labels = labels_of(2, **more)
        write_shard(tmp_path / options.format, 0, "a", rows_of(2), labels, options, STAMP)
        found = read(tmp_path / options.format)[1]
        for name in ("exif", "tags", "similarity"):
            assert found.column(name).to_pylist() == labels.column(name).to_pylist()


def test_list_columns_come_in_groups_that_vdc_reads_right(tmp_path: Path) -> None:
    write_shard(tmp_path, 0, "a", rows_of(10_000), labels_of(10_000), LIST, STAMP)
    metadata = pq.read_metadata(tmp_path / "embeddings" / "a.parquet")
    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == [4096, 4096, 1808]
    field = pq.read_schema(tmp_path / "embeddings" / "a.parquet").field("embedding")
    assert field.type == pa.list_(pa.float32(), 6)


def test_no_rows_write_no_npy_file(tmp_path: Path) -> None:
    empty = pa.table({"sample": pa.array([], pa.string())})
    assert write_shard(tmp_path, 0, "a", np.empty((0, 4), np.float32), empty, WriteOptions(), STAMP) == {}
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("options", [LIST, CSV, WIDE], ids=lambda options: options.format)
def test_no_rows_write_a_file_with_its_columns(tmp_path: Path, options: WriteOptions) -> None:
    empty = pa.table({"sample": pa.array([], pa.string())})
    (name,) = write_shard(tmp_path, 0, "a", np.empty((0, 4), np.float32), empty, options, STAMP)
    if options == CSV:
        assert (tmp_path / name).read_text() == "sample,0,1,2,3\n"
        return
    schema = pq.read_table(tmp_path / name).schema
    assert schema.names == (["sample", "embedding"] if options == LIST else ["sample", "0", "1", "2", "3"])


@pytest.mark.parametrize("options", [LIST, CSV, WIDE], ids=lambda options: options.format)
def test_shards_of_any_size_join_to_what_one_would_have_been(tmp_path: Path, options: WriteOptions) -> None:
    sizes = [1, 4096, 3, 20_000, 5]
    rows, parts, at = rows_of(sum(sizes)), [], 0
    for index, num_rows in enumerate(sizes):
        some = labels_of(num_rows, at)
        (name,) = write_shard(tmp_path, index, f"p{index}", rows[at : at + num_rows], some, options, STAMP)
        parts.append(tmp_path / name)
        at += num_rows
    target = tmp_path / f"whole{parts[0].suffix}"
    join_shards(str(target), as_parts(parts), STAMP, tmp_path)
    found, labels = read(target)
    assert np.array_equal(found, rows)
    assert labels.column("sample").to_pylist() == labels_of(sum(sizes)).column("sample").to_pylist()
    if target.suffix == ".parquet":
        metadata = pq.read_metadata(target)
        groups = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
        most = 4096 if options is LIST else 16384
        assert groups == [most] * (sum(sizes) // most) + [sum(sizes) % most]
        assert json.loads(pq.read_schema(target).metadata[b"beholder"]) == STAMP
    else:
        (name,) = write_shard(tmp_path, 0, "all", rows, labels_of(sum(sizes)), options, STAMP)
        assert target.read_bytes() == (tmp_path / name).read_bytes()


def test_metadata_of_other_columns_joins(tmp_path: Path) -> None:
    rows, parts = rows_of(11), []
    more = [{}, {"caption": [1, 2, 3]}, {"caption": ["x"]}]
    for index, (low, high) in enumerate([(0, 7), (7, 10), (10, 11)]):
        some = labels_of(high - low, low, **more[index])
        names = sorted(write_shard(tmp_path, index, "", rows[low:high], some, WriteOptions(normalise=False), STAMP))
        parts.append(tmp_path / names[1])
    join_shards(str(tmp_path / "all.parquet"), as_parts(parts), STAMP, tmp_path)
    joined = pq.read_table(tmp_path / "all.parquet")
    assert joined.column("sample").to_pylist() == labels_of(11).column("sample").to_pylist()
    assert joined.column("caption").to_pylist() == [None] * 7 + ["1", "2", "3", "x"]


def test_one_shard_is_copied_unless_it_has_another_stamp(tmp_path: Path) -> None:
    for options in (LIST, WIDE):
        (name,) = write_shard(tmp_path, 0, "a", rows_of(5), labels_of(5), options, STAMP)
        for stamp in (STAMP, {**STAMP, "backbone": "another"}):
            join_shards(str(tmp_path / "one.parquet"), as_parts([tmp_path / name]), stamp, tmp_path)
            assert json.loads(pq.read_schema(tmp_path / "one.parquet").metadata[b"beholder"]) == stamp
            assert pq.read_table(tmp_path / "one.parquet").equals(pq.read_table(tmp_path / name))


@pytest.mark.soak
def test_joining_takes_memory_of_a_few_groups_and_not_of_all_rows(tmp_path: Path) -> None:
    parts = []
    for index in range(16):
        (name,) = write_shard(tmp_path, index, f"p{index}", rows_of(4000, 512, index), labels_of(4000), LIST, STAMP)
        parts.append(tmp_path / name)
    whole = sum(part.stat().st_size for part in parts)
    script = (
        "import sys, pathlib, pyarrow as pa\nfrom beholder.scoring.files import ShardFile, WriteOptions, join_shards\n"
        "options = WriteOptions(format='parquet', dtype='float32', normalise=False)\n"
        "parts = [ShardFile(p, pathlib.Path(p).stat().st_size) for p in sys.argv[2:]]\n"
        "join_shards(sys.argv[1], parts, {}, pathlib.Path('.'))\n"
        "print(pa.default_memory_pool().max_memory())"
    )
    line = [sys.executable, "-c", script, str(tmp_path / "whole.parquet"), *map(str, parts)]
    result = subprocess.run(line, capture_output=True, text=True, check=True)
    assert whole > 120_000_000
    assert int(result.stdout) < whole / 2
    assert pq.read_metadata(tmp_path / "whole.parquet").num_rows == 64_000


def test_what_cannot_be_written_is_refused_in_one_line(tmp_path: Path) -> None:
    for wrong in ({"format": "x"}, {"dtype": "float64"}):
        with pytest.raises(InputError, match="--"):
            EmbedOptions(sources=("x",), **wrong)  # type: ignore[arg-type]
    big = np.full((5000, 2), 1e5, np.float32)
    big[:4999] = 1
    with pytest.raises(InputError, match="row 4999 .*--dtype float32"):
        write_shard(tmp_path, 0, "a", big, labels_of(5000), WriteOptions(normalise=False), STAMP)
    assert not list(tmp_path.rglob("*.npy"))
    with pytest.raises(InputError, match="'embedding'"):
        write_shard(tmp_path, 0, "a", rows_of(1), labels_of(1, embedding=["x"]), LIST, STAMP)
    (tmp_path / "a.csv").write_text("sample,0\n")
    (tmp_path / "b.csv").write_text("sample,0,1\n")
    with pytest.raises(OutputError, match="different columns"):
        join_shards(str(tmp_path / "x.csv"), as_parts([tmp_path / "a.csv", tmp_path / "b.csv"]), STAMP, tmp_path)
    assert not (tmp_path / "x.csv").exists()


def test_infinite_values_are_written_as_they_are(tmp_path: Path) -> None:
    rows = np.array([[np.inf, 1], [np.nan, 2]], np.float32)
    write_shard(tmp_path, 0, "a", rows, labels_of(2), WriteOptions(normalise=False), STAMP)
    found = np.load(tmp_path / "img_emb" / "img_emb_00000.npy")
    assert np.isinf(found[0, 0])
    assert np.isnan(found[1, 0])


EMBEDDING_READER = """
import sys, numpy as np
from embedding_reader import EmbeddingReader
folder = sys.argv[1]
reader = EmbeddingReader(folder + "/img_emb", metadata_folder=folder + "/metadata", meta_columns=["image_path", "width"],
                         file_format="parquet_npy")
assert (reader.count, reader.dimension) == (9, 6), (reader.count, reader.dimension)
rows, paths = zip(*[(rows, list(meta["image_path"])) for rows, meta in reader(batch_size=4, show_progress=False)])
np.save(folder + "/read.npy", np.concatenate(rows))
print(*sum(paths, []), sep="\\n")
"""


@needs_peers("embedding-reader and VDC are")
def test_embedding_reader_pairs_rows_and_metadata(tmp_path: Path) -> None:
    rows, index = rows_of(9), 0
    for low, high in [(0, 4), (4, 4), (4, 8), (8, 9)]:  # an empty part in between leaves no gap in the pairing
        written = write_shard(tmp_path, index, "", rows[low:high], labels_of(high - low, low), WriteOptions(), STAMP)
        index += bool(written)
    result = subprocess.run(
        [str(PEERS), "-c", EMBEDDING_READER, str(tmp_path)], capture_output=True, text=True, check=False, timeout=120
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.split("\n")[:-1] == labels_of(9).column("sample").to_pylist()
    ours = np.concatenate([np.load(path) for path in sorted((tmp_path / "img_emb").iterdir())])
    assert np.array_equal(np.load(tmp_path / "read.npy"), ours.astype(np.float32))


VDC = """
import sys, numpy as np
from vdc.utils import InferenceDataset
samples, rows = [], []
for row, sample in InferenceDataset(sys.argv[1], sys.argv[1].rsplit(".")[-1], metadata_columns=["sample"]):
    samples.append(sample)
    rows.append(np.asarray(row))
np.save(sys.argv[2], np.stack(rows))
print(*samples, sep="\\n")
"""


@needs_peers("embedding-reader and VDC are")
@pytest.mark.parametrize("options", mostly_slow([LIST, CSV, WIDE], slow=0), ids=lambda options: options.format)
def test_vdc_reads_every_row_as_it_is(tmp_path: Path, options: WriteOptions) -> None:
    rows = rows_of(10_000)
    (name,) = write_shard(tmp_path, 0, "a", rows, pa.table({"sample": labels_of(10_000).column("sample")}), options, STAMP)
    line = [str(PEERS), "-c", VDC, str(tmp_path / name), str(tmp_path / "read.npy")]
    result = subprocess.run(line, capture_output=True, text=True, check=False, timeout=120)
    assert result.returncode == 0, result.stderr
    assert np.array_equal(np.load(tmp_path / "read.npy"), rows)
    assert result.stdout.split("\n")[:-1] == labels_of(10_000).column("sample").to_pylist()
