"""What sources are, and what is found behind them: tables with pictures, vectors or both, in every form people have."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beholder import InputError
from beholder.columns import RowStatus
from beholder.errors import ChoiceNeededError
from beholder.locate.locate import PictureFinder
from beholder.sources.fetch import ReadLimits
from beholder.sources.find import find, find_only_pictures
from beholder.sources.reader import ReadOptions, SourceOptions, embedding_reader, picture_reader
from oracles.picture_sources import read
from oracles.tar_making import png

STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
PICTURES = [png(number) for number in range(4)]
BASE64 = [base64.b64encode(data).decode() for data in PICTURES]
DATA = [f"data:image/png;base64,{text}" for text in BASE64]
ROWS = np.random.default_rng(7).standard_normal((4, 96)).astype(np.float32)


def hf(**features: Any) -> dict[bytes, bytes]:
    return {b"huggingface": json.dumps({"info": {"features": features}}).encode()}


def structs(names: str = "abcd") -> pa.Array:
    return pa.array([{"bytes": data, "path": f"{name}.png"} for data, name in zip(PICTURES, names, strict=True)], STRUCT)


def vectors(dim: int = 96, kind: pa.DataType | None = None) -> pa.Array:
    return pa.array(ROWS[:, :dim].tolist(), pa.list_(pa.float32()) if kind is None else kind)


def numbers(kind: pa.DataType) -> pa.Array:
    is_signed = pa.types.is_int8(kind)
    return pa.array([[b - 256 if is_signed and b > 127 else b for b in data] for data in PICTURES], pa.list_(kind))


def tensors(shape: list[int]) -> pa.Array:
    size = int(np.prod(shape))
    return pa.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(ROWS[:, :size].reshape(4, *shape)))


def table(columns: dict[str, Any], metadata: dict[bytes, bytes] | None = None) -> pa.Table:
    return pa.table(columns).replace_schema_metadata(metadata)


def found(path: Path, picture: str | None = None, embedding: str | None = None) -> Any:
    return find([str(path)], SourceOptions(picture_column=picture), ReadOptions(embedding_column=embedding))


def pictures(path: Path, picture: str | None = None) -> tuple[list[str], list[Any]]:
    """Samples and bytes (or the reason why there are none)."""
    (part,) = found(path, picture).pictures
    names, refs = read(part)
    return names, [ref.data if ref.error is None else ref.error[0].value for ref in refs]


def embeddings(path: Path, column: str | None = None) -> np.ndarray:
    (part,) = found(path, None, column).embeddings
    options = ReadOptions(embedding_column=column)
    blocks = list(embedding_reader(part.kind).blocks(part, 0, part.num_rows, options))
    wide = [getattr(block.embeddings, "columns", None) for block in blocks]
    return np.concatenate([
        np.array(block.embeddings) if columns is None else np.stack(columns, axis=1)
        for block, columns in zip(blocks, wide, strict=True)
    ])  # fmt: skip


KEYS = ["k0", "k1", "k2", "k3"]

PICTURE_TABLES: dict[str, tuple[pa.Table, list[str]]] = {
    "struct beside a box": (table({"image": structs(), "bbox": vectors(4)}), [f"{n}.png" for n in "abcd"]),
    "metadata beside points": (
        table({"picture_of_it": structs(), "points": vectors(34)}, hf(picture_of_it={"_type": "Image"})),
        [f"{n}.png" for n in "abcd"],
    ),
    "struct beside vectors of its text": (
        table({"image": structs(), "text_embedding": vectors()}),
        [f"{n}.png" for n in "abcd"],
    ),
    "struct beside many attributes": (
        table({"image": structs(), **{f"is_{i}": pa.array([0.5] * 4) for i in "abcdefghijklmnopqrstuvwxyz"}}),
        [f"{n}.png" for n in "abcd"],
    ),
    "bytes": (table({"key": KEYS, "jpg": PICTURES}), KEYS),
    "bytes, encoded as a dictionary": (table({"key": KEYS, "jpg": pa.array(PICTURES).dictionary_encode()}), KEYS),
    "bytes as uint8": (table({"key": KEYS, "image": numbers(pa.uint8())}), KEYS),
    "bytes as int8": (table({"key": KEYS, "image": numbers(pa.int8())}), KEYS),
    "bytes as int64": (table({"key": KEYS, "raw": numbers(pa.int64())}), KEYS),
    "base64": (table({"key": KEYS, "image": BASE64}), KEYS),
    "base64 of any name": (table({"key": KEYS, "b": BASE64, "caption": ["x"] * 4}), KEYS),
    "base64 in lines": (table({"key": KEYS, "image": ["\n".join([t[:60], t[60:]]) for t in BASE64]}), KEYS),
    "base64 for addresses": (table({"key": KEYS, "image": [t.replace("+", "-").replace("/", "_") for t in BASE64]}), KEYS),
    "data addresses": (table({"key": KEYS, "image": DATA}), KEYS),
    "data addresses without names": (table({"url": DATA}), [f"t.parquet:{row}" for row in range(4)]),
    "dictionary of base64": (table({"key": KEYS, "image": pa.array(BASE64).dictionary_encode()}), KEYS),
    "struct with base64": (
        table({"image": [{"bytes": text, "path": key} for text, key in zip(BASE64, KEYS, strict=True)]}), KEYS,
    ),
    "lists of structs": (
        table({"id": KEYS, "images": pa.array([structs()[:2].to_pylist(), structs()[2:3].to_pylist(), [], None])}),
        ["k0/0", "k0/1", "k1/0", "k2/0", "k3/0"],
    ),
    "lists of bytes": (
        table({"id": KEYS, "images": pa.array([PICTURES[:2], PICTURES[2:3], PICTURES[3:], []])}),
        ["k0/0", "k0/1", "k1/0", "k2/0", "k3/0"],
    ),
    "lists of structs without names": (
        table({"images": pa.array([structs()[:3].to_pylist(), structs()[3:].to_pylist()], pa.list_(STRUCT))}),
        [f"{n}.png" for n in "abcd"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PICTURE_TABLES)
def test_tables_with_pictures(tmp_path: Path, name: str) -> None:
    content, wanted = PICTURE_TABLES[name]
    path = tmp_path / "t.parquet"
    pq.write_table(content, path, row_group_size=3)
    names, data = pictures(path)
    assert names == wanted
    whole = PICTURES if name != "lists of structs" else PICTURES[:3]
    assert data == whole + ["missing"] * (len(wanted) - len(whole))
    (part,) = found(path).pictures
    for low, high in ((0, 1), (1, 3), (2, None), (3, 4)):
        stop = len(wanted) if high is None else high
        again, refs = read(part, low, high, block_rows=2)
        assert again == wanted[low:stop]
        assert [ref.data for ref in refs] == [item if isinstance(item, bytes) else None for item in data[low:stop]]


@pytest.mark.parametrize("name", PICTURE_TABLES)
def test_each_is_found_again_by_its_sample(tmp_path: Path, name: str) -> None:
    content, wanted = PICTURE_TABLES[name]
    pq.write_table(content, tmp_path / "t.parquet", row_group_size=3)
    record = {"sources": [str(tmp_path / "t.parquet")], "folder": str(tmp_path)}
    with PictureFinder({"pictures": record}) as finder:
        for sample, data in zip(wanted, pictures(tmp_path / "t.parquet")[1], strict=True):
            if data != "missing":
                assert finder.read(sample, ReadLimits()) == data


TEXT_TABLES = {
    "t.csv": "key,image\n" + "".join(f'{key},"{text}"\n' for key, text in zip(KEYS, DATA, strict=True)),
    "b.csv": "key,image\n" + "".join(f"{key},{text}\n" for key, text in zip(KEYS, BASE64, strict=True)),
    "t.jsonl": "".join(json.dumps({"key": key, "image": text}) + "\n" for key, text in zip(KEYS, BASE64, strict=True)),
    "t.json": json.dumps([{"key": key, "data": text} for key, text in zip(KEYS, DATA, strict=True)]),
}


@pytest.mark.parametrize("name", TEXT_TABLES)
def test_pictures_as_text_in_text(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(TEXT_TABLES[name])
    assert pictures(tmp_path / name) == (KEYS, PICTURES)
    (part,) = found(tmp_path / name).pictures
    assert "image" not in part.detail["columns"]


def test_a_list_of_addresses_that_are_pictures(tmp_path: Path) -> None:
    (tmp_path / "l.txt").write_text("\n".join(DATA))
    assert pictures(tmp_path / "l.txt") == ([f"l.txt:{row}" for row in range(4)], PICTURES)


def test_pictures_as_text_among_places(tmp_path: Path) -> None:
    """A table of URLs in which some rows are pictures themselves, and what is wrong with some, in words without the text."""
    cut = DATA[3][:-8] + "!!!!"
    places = ["https://x/1.png", DATA[1], BASE64[2], cut, "data:image/svg+xml,%3Csvg/%3E", "data:,"]
    (tmp_path / "t.csv").write_text("url,n\n" + "".join(f'"{place}",{i}\n' for i, place in enumerate(places)))
    (part,) = found(tmp_path / "t.csv").pictures
    names, refs = read(part)
    assert names == ["https://x/1.png", *(f"t.csv:{row}" for row in range(1, 6))]
    assert [ref.data for ref in refs] == [None, PICTURES[1], PICTURES[2], None, b"<svg/>", b""]
    reason, text = refs[3].error or ("", "")
    assert reason == "damaged"
    assert "a data: address of" in text
    assert cut[:30] not in text


def test_long_base64_of_anything_is_never_repeated(tmp_path: Path) -> None:
    """Some rows are base64 of no picture, or broken: told with their row, never with their text."""
    words = base64.b64encode(b"words " * 400).decode()
    texts = ["a.png", words, words[:1500] + "A", words[:1500] + "*" + words[1501:]]
    for name in ("t.csv", "l.txt"):
        (tmp_path / name).write_text("\n".join([*(["image"] if name == "t.csv" else []), *texts]) + "\n")
        (part,) = found(tmp_path / name).pictures
        names, refs = read(part)
        assert names == ["a.png", *(f"{name}:{row}" for row in range(1, 4))]
        assert refs[1].data == b"words " * 400
        for ref in refs[2:]:
            assert ref.error is not None
            assert ref.error[0] == "damaged"
            assert "base64 text of" in ref.error[1]
            assert words[:20] not in ref.error[1]


def test_long_words_are_no_pictures(tmp_path: Path) -> None:
    """Sequences of genes, stories without stops, and what begins with "data:" in plain words."""
    rows = [["ACGT" * 400, "once upon a time " * 80, "data: 5, 6", 0.5, 1.5]] * 2
    columns = dict(zip(("genes", "story", "note", "0", "1"), map(list, zip(*rows, strict=True)), strict=True))
    pq.write_table(table(columns), tmp_path / "t.parquet")
    assert np.array_equal(embeddings(tmp_path / "t.parquet"), [[0.5, 1.5]] * 2)
    text = "genes,story,note,e_0,e_1\n" + "".join(f'{a},{b},"{c}",{d},{e}\n' for a, b, c, d, e in rows)
    (tmp_path / "t.csv").write_text(text)
    assert np.array_equal(embeddings(tmp_path / "t.csv"), [[0.5, 1.5]] * 2)


def test_places_that_metadata_call_pictures(tmp_path: Path) -> None:
    content = table({"photo": ["a", "b"], "path": ["x.png", "y.png"]}, hf(photo={"_type": "Image"}, path={"_type": "Value"}))
    pq.write_table(content, tmp_path / "t.parquet")
    (part,) = found(tmp_path / "t.parquet").pictures
    assert part.detail["picture"] == "path"  # its values look like pictures' places, and the other's do not
    pq.write_table(content.set_column(0, "photo", pa.array(["a.png", "b.png"])), tmp_path / "t.parquet")
    (part,) = found(tmp_path / "t.parquet").pictures
    assert part.detail["picture"] == "photo"


def test_numbers_that_are_no_bytes_are_told(tmp_path: Path) -> None:
    values = numbers(pa.int64()).to_pylist()
    values[1][50], values[2] = 256, None
    pq.write_table(table({"key": KEYS, "image": pa.array(values, pa.list_(pa.int64()))}), tmp_path / "t.parquet")
    assert pictures(tmp_path / "t.parquet") == (KEYS, [PICTURES[0], "not_an_image", "missing", PICTURES[3]])


VECTOR_TABLES: dict[str, tuple[pa.Table, str | None]] = {
    "lists": (table({"key": KEYS, "emb": vectors()}), None),
    "lists beside places": (table({"url": ["https://x/1.png"] * 4, "v": vectors()}), None),
    "lists beside bytes, by their name": (table({"jpg": PICTURES, "clip_embedding": vectors()}), None),
    "tensors": (table({"key": KEYS, "emb": tensors([96])}), None),
    "tensors of one row": (table({"key": KEYS, "emb": tensors([1, 96])}), None),
    "tensors of one column": (table({"key": KEYS, "emb": tensors([96, 1])}), None),
    "the one that was named": (table({"image": structs(), "v": vectors()}), "v"),
}


@pytest.mark.parametrize("name", VECTOR_TABLES)
def test_tables_with_vectors(tmp_path: Path, name: str) -> None:
    content, column = VECTOR_TABLES[name]
    pq.write_table(content, tmp_path / "t.parquet", row_group_size=3)
    assert np.array_equal(embeddings(tmp_path / "t.parquet", column), ROWS)


def test_whole_numbers_are_taken_when_they_are_named(tmp_path: Path) -> None:
    whole = (ROWS * 40).astype(np.int64)
    for kind in (pa.int8(), pa.int32(), pa.int64()):
        column = pa.array(np.clip(whole, -128, 127).tolist(), pa.list_(kind))
        pq.write_table(table({"key": KEYS, "v": column}), tmp_path / "t.parquet")
        with pytest.raises(InputError, match=r"column 'v' is list<.*int.*no list of floats: .*--embedding-column v"):
            found(tmp_path / "t.parquet")
        assert np.array_equal(embeddings(tmp_path / "t.parquet", "v"), np.clip(whole, -128, 127))


ASKED: dict[str, tuple[pa.Table, str]] = {
    "two structs": (table({"original": structs(), "edited": structs()}), "--picture-column: original, edited"),
    "two of bytes": (table({"jpg_0": PICTURES, "jpg_1": PICTURES}), "--picture-column: jpg_0, jpg_1"),
    "two of base64": (table({"one": BASE64, "two": BASE64}), "--picture-column: one, two"),
    "two in metadata": (
        table({"a": structs(), "b": structs()}, hf(a={"_type": "Image"}, b={"_type": "Image"})),
        "--picture-column: a, b",
    ),
    "pictures and long vectors": (
        table({"image": structs(), "v": vectors()}),
        "--picture-column image or --embedding-column v",
    ),
}
TOLD: dict[str, tuple[pa.Table, str]] = {
    "addresses in structs": (
        table({"image": [{"src": "https://x/1.png"}] * 4}),
        "column 'image' is struct<src: string>, which is not read as pictures",
    ),
    "pixels": (table({"image": tensors([3, 4, 8])}), "column 'image' holds a tensor of shape [3, 4, 8] a row"),
    "lists of lists": (
        table({"key": KEYS, "v": pa.array([[[0.5]]] * 4)}),
        "column 'v' is list<element: list<element: double>>",
    ),
}


@pytest.mark.parametrize("name", ASKED | TOLD)
def test_what_is_not_clear_is_said_in_one_line(tmp_path: Path, name: str) -> None:
    content, words = (ASKED | TOLD)[name]
    (tmp_path / "folder").mkdir()
    pq.write_table(content, tmp_path / "folder" / "t.parquet")
    for source in (tmp_path / "folder" / "t.parquet", tmp_path / "folder", tmp_path / "folder" / "*.parquet"):
        with pytest.raises(InputError) as caught:
            found(source)
        assert words in str(caught.value), source
        assert "\n" not in str(caught.value)
    if name in ASKED:
        assert isinstance(caught.value, ChoiceNeededError)
        first = content.column_names[0]
        assert pictures(tmp_path / "folder" / "t.parquet", first)[1] == PICTURES


def test_json_lines(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"id": KEYS[i], "emb": ROWS[i].tolist(), "n": i} for i in range(4)]
    path = tmp_path / "t.jsonl"

    def write(*items: dict[str, Any]) -> None:
        path.write_text("".join(json.dumps(item) + "\n" for item in items))

    write(*rows)
    assert np.array_equal(embeddings(path), ROWS)
    write(*rows, {"id": "x", "emb": None, "n": None}, {"id": "y", "emb": [1.0]}, {"id": "z", "emb": ["a"] * 96})
    (part,) = found(path).embeddings
    (block,) = embedding_reader("json").blocks(part, 0, None, ReadOptions(columns=("n",)))
    assert block.statuses is not None
    assert block.statuses.tolist() == [0] * 4 + [RowStatus.MISSING, RowStatus.WRONG_DIMENSION, RowStatus.MISSING]
    assert block.labels is not None
    assert block.labels.to_pydict() == {"sample": [*KEYS, "x", "y", "z"], "n": ["0", "1", "2", "3", None, None, None]}
    write(*({"url": "https://x/1.png", **row} for row in rows))
    assert np.array_equal(embeddings(path), ROWS)
    write(*({"file_name": f"{key}.png", "bbox": [1, 2, 3, 4], "text": key} for key in KEYS))
    assert [ref.path for ref in read(found(path).pictures[0])[1]] == [f"{key}.png" for key in KEYS]
    write(*({"0": 0.5, "1": row["n"], "sample": row["id"]} for row in rows))
    assert np.array_equal(embeddings(path), [[0.5, n] for n in range(4)])
    write({"a": "x"})
    with pytest.raises(InputError, match="found no embedding among the columns 'a'"):
        found(path)
    path.write_text('{"a": 1}\n[1]\n')
    with pytest.raises(InputError, match=r"line 2 is a JSON list; expected JSON lines"):
        found(path)
    path.write_text('{"file_name": "a.png"}\n{"file_name": \n')
    with pytest.raises(InputError, match=r"line 2 is not JSON \(.*\); expected JSON lines: one object a line"):
        found(path)


def test_notes_beside_pictures_are_no_tables(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(png(1))
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png"}\n')
    (tmp_path / "a.json").write_text("{}")
    for source in (tmp_path, tmp_path / "*"):
        (part,) = found(source).pictures
        assert [Path(name).name for name in read(part)[0]] == ["a.png", "b.png"]
    (part,) = found(tmp_path / "*.jsonl").pictures
    assert part.kind == "table"


def save(path: Path, value: Any, **options: Any) -> None:
    import torch

    torch.save(value, path, **options)


def test_torch_files(tmp_path: Path) -> None:
    import torch

    rows = torch.from_numpy(ROWS)
    path = tmp_path / "e.pt"
    for value in (rows, {"embeddings": rows, "labels": [1]}, {"x": rows}, list(rows), rows.T.contiguous().T):
        save(path, value)
        assert np.array_equal(embeddings(path), ROWS)
    save(tmp_path / "old.pth", rows, _use_new_zipfile_serialization=False)
    assert np.array_equal(embeddings(tmp_path / "old.pth"), ROWS)
    assert [part.name for part in found(tmp_path).embeddings] == ["e.pt", "old.pth"]
    save(path, {"a": rows, "b": rows * 2})
    with pytest.raises(InputError, match=r"which tensor .*--embedding-column; it has: a \(4, 96\) float32, b"):
        found(path)
    assert np.array_equal(embeddings(path, "b"), ROWS * 2)
    save(path, rows.to(torch.bfloat16))
    assert np.array_equal(embeddings(path), rows.to(torch.bfloat16).float().numpy())
    save(path, dict(zip(KEYS, rows, strict=True)))
    (part,) = found(path).embeddings
    (block,) = embedding_reader("torch").blocks(part, 1, 3, ReadOptions())
    assert np.array_equal(block.embeddings, ROWS[1:3])
    assert block.labels is not None
    assert block.labels["sample"].to_pylist() == ["k1", "k2"]
    save(path, {"embeddings": rows, "paths": [f"{key}.jpg" for key in KEYS], "n": torch.arange(4)})
    (part,) = found(path).embeddings
    (block,) = embedding_reader("torch").blocks(part, 0, 4, ReadOptions(columns=("n",)))
    assert block.labels is not None
    assert block.labels.to_pydict() == {"sample": [f"{key}.jpg" for key in KEYS], "n": [0, 1, 2, 3]}


def test_torch_files_that_are_refused(tmp_path: Path) -> None:
    import torch

    rows = torch.from_numpy(ROWS)
    path = tmp_path / "e.pt"
    for value, words in (
        ({"weight": rows, "bias": rows[0]}, "holds the weights of a model, not embeddings"),
        (rows[0], "is 1-D with 96 values"),
        (rows[0].expand(100_000_000, 96), "more numbers than the file holds"),
        (rows.to(torch.int8), "integer embeddings are quantised"),
        ([rows[0], rows[1][:5]], "tensors of different shapes"),
        ("words", "holds a str, not a tensor of embeddings"),
        (pytest.raises, "is refused: it is a pickle that asks to run"),
    ):
        save(path, value)
        with pytest.raises(InputError) as caught:
            found(path)
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(InputError, match="damaged"):
        found(path)
    path.write_bytes(b"")
    with pytest.raises(InputError, match="is empty"):
        found(path)


def test_an_npz_is_no_torch_file(tmp_path: Path) -> None:
    stream = io.BytesIO()
    np.savez(stream, embeddings=ROWS)
    (tmp_path / "e.npz").write_bytes(stream.getvalue())
    assert np.array_equal(embeddings(tmp_path / "e.npz"), ROWS)


def test_what_takes_pictures_alone_refuses_embeddings_and_says_where_they_go(tmp_path: Path) -> None:
    def only(path: Path, picture: str | None = None) -> Any:
        return find_only_pictures([str(path)], SourceOptions(picture_column=picture))

    np.save(tmp_path / "e.npy", ROWS)
    np.savez(tmp_path / "e.npz", emb=ROWS)
    places = {"path": [f"{name}.png" for name in "abcd"], "emb": vectors()}
    pq.write_table(pa.table(places), tmp_path / "places.parquet")
    (tmp_path / "e.csv").write_text(",".join(map(str, range(96))) + "\n" + ",".join(map(str, ROWS[0])) + "\n")
    (tmp_path / "e.jsonl").write_text("".join(json.dumps({"id": 1, "emb": row}) + "\n" for row in ROWS.tolist()))
    (tmp_path / "list.txt").write_text(f"{tmp_path}/e.npy\n")
    for name in ("e.npy", "e.npz", "places.parquet", "e.csv", "e.jsonl", "list.txt"):
        with pytest.raises(
            InputError, match=f"holds embeddings, and pictures are needed here; .* beholder score {tmp_path}/{name}"
        ):
            only(tmp_path / name)
    assert only(tmp_path / "places.parquet", "path")[0].num_rows == 4
    both = tmp_path / "both.parquet"
    pq.write_table(pa.table({"image": structs(), "emb": vectors()}), both)
    assert only(both)[0].kind == "parquet"
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty holds no pictures"):
        only(tmp_path / "empty")
    with pytest.raises(InputError, match="does not exist"):
        only(tmp_path / "gone")


@pytest.mark.parametrize("form", ["lines", "list"])
def test_halves_of_letters_in_keys_and_values_of_json_are_escapes(tmp_path: Path, form: str) -> None:
    """No column and no text of UTF-8 can be so called; of embeddings they ended the run."""
    rows = ['{"image": "a.png", "\\ud800x": "b\\udfff", "n": 1}', '{"image": "b.png", "\\ud800x": null}']
    (tmp_path / "t.jsonl").write_text("\n".join(rows) if form == "lines" else f"[{', '.join(rows)}]")
    (part,) = found(tmp_path / "t.jsonl").pictures
    blocks = list(picture_reader(part.kind).blocks(part, 0, None, SourceOptions()))
    assert [text for block in blocks for text in block.labels.column("\\ud800x").to_pylist()] == ["b\\udfff", None]
    (tmp_path / "e.jsonl").write_text("".join(json.dumps({"\ud800": "\udfff", "emb": row}) + "\n" for row in ROWS.tolist()))
    (part_of_vectors,) = found(tmp_path / "e.jsonl").embeddings
    (rows_of,) = embedding_reader("json").blocks(part_of_vectors, 0, None, ReadOptions(columns=("*",)))
    assert rows_of.labels is not None
    assert set(rows_of.labels.column("\\ud800").to_pylist()) == {"\\udfff"}


@pytest.mark.parametrize("text", ["data:n\u00a3", "data:im\u00e0ge/png;base64,AAAA", "data:" + "\u65e5" * 100, "DATA: \u00ff"])
@pytest.mark.parametrize("form", ["csv", "tsv", "txt", "jsonl", "parquet"])
def test_what_begins_as_a_data_address_may_hold_any_letters(tmp_path: Path, text: str, form: str) -> None:
    """It is a place, where no picture is; looking at it as base64 ended the run."""
    path = tmp_path / f"t.{form}"
    if form == "parquet":
        pq.write_table(pa.table({"path": [text, "a.png"]}), path)
    else:
        lines = {"jsonl": f'{{"path": "{text}"}}\n{{"path": "a.png"}}', "txt": f"a.png\n{text}"}
        path.write_text(lines.get(form, f'path\n"{text}"\na.png\n'), "utf-8")
    (part,) = found(path, None if form == "txt" else "path").pictures
    assert part.num_rows == 2
    assert len(read(part)[1]) == 2
