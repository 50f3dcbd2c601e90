"""CSV files that are wrong, are no CSV, or change while they are read: one clear line that names file and row."""

from __future__ import annotations

import gzip
from pathlib import Path

import fsspec
import pytest

from beholder.errors import InputError
from beholder.sources.csv import CsvReader
from beholder.sources.reader import Block, ReadOptions
from oracles.csv_reading import birder_frame, error_of, numbers, read, write


def test_softmax_outputs_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a_output.csv", "sample,prediction,0,1\na.jpg,1,0.25,0.75\n")
    assert "--save-logits" in error_of(path)


def test_columns_that_are_not_there(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "sample,url,0,1\na,u,1,2\n")
    assert "no column 'wdith'; it has: sample, url" in error_of(path, columns=("wdith",))
    assert "no column 'key'" in error_of(path, sample_column="key")
    assert "two columns called 'n'" in error_of(write(tmp_path / "b.csv", "n,n,0,1\na,b,1,2\n"), columns=("n",))


@pytest.mark.parametrize("in_head", [True, False])
@pytest.mark.parametrize(
    ("row", "line", "message"),
    [
        ("x,1,abc", 0, "column '1': 'abc' is not a number"),
        ("x,1,2,3", 0, "more than 3 fields"),
        ("x,1", 0, "only 2 of 3 fields"),
        ('x"y,1,2', 0, "column 'sample': 'x' is followed by a quote"),
        ('"x"y,1,2', 0, "goes on after its closing quote"),
        ('"two\nlines",1,oops', 1, "'oops' is not a number"),
        ('x,1,"2', 0, "quote that opens '\"2"),
        ("x,1," + "y" * 100, 0, "y..."),
    ],
)
def test_wrong_rows_are_named_by_their_line(tmp_path: Path, in_head: bool, row: str, line: int, message: str) -> None:
    before = ["sample,0,1", "a,1,2", '"b\n\nc",1,2', ""]
    before += ["filler,0.5,0.25"] * (3 if in_head else 90_000)
    rows = [*before, row, "d,1,2", "e,3,4"]
    path = write(tmp_path / "a.csv", "\n".join(rows) + "\n")
    text = error_of(path, piece_bytes=None if in_head else 100_000)
    assert f"a.csv: line {len(before) + 2 + line + 1}: " in text
    assert message in text


def test_rows_before_a_wrong_one_are_given_and_it_is_not_met_when_not_asked_for(tmp_path: Path) -> None:
    rows = [f"s{i},{i},0.5" for i in range(90_000)]
    rows[85_000] = "s85000,1"
    path = write(tmp_path / "a.csv", "\n".join(["sample,0,1", *rows]))
    found, _, _ = read(path, 0, 85_000)
    assert found[:, 0].tolist() == list(range(85_000))
    reader = CsvReader()
    blocks = reader.blocks(reader.inspect(path, "a.csv", ReadOptions()), 0, None, ReadOptions())
    seen: list[int] = []
    with pytest.raises(InputError, match="line 85002: only 2 of 3 fields"):
        seen.extend(block.embeddings.shape[0] for block in blocks)
    assert sum(seen) == 85_000


def test_text_that_is_not_utf8(tmp_path: Path) -> None:
    assert "line 2: not UTF-8" in error_of(write(tmp_path / "a.csv", b"sample,0,1\n\xe9t\xe9.jpg,1,2\n"))
    path = write(tmp_path / "b.csv", b"sample,0,1\na,1,2\nb,1,2\n\xe9t\xe9.jpg,1,2\nc,1,2\n")
    assert "line 4: column 'sample': '\ufffdt\ufffd.jpg' is not UTF-8 text" in error_of(path)
    assert "line 1: not UTF-8" in error_of(write(tmp_path / "c.csv", b"s\xffmple,0,1\na,1,2\n"))


def test_files_of_another_kind(tmp_path: Path) -> None:
    text = b"sample,0,1\na,1,2\n"
    assert "0 bytes" in error_of(write(tmp_path / "a.csv", b""))
    assert "gunzip" in error_of(write(tmp_path / "a.csv.gz", gzip.compress(text)))
    assert "UTF-16 text that breaks off" in error_of(write(tmp_path / "b.csv", text.decode().encode("utf-16")[:-1]))
    assert "UTF-32" in error_of(write(tmp_path / "b.csv", text.decode().encode("utf-32")))
    assert "zero bytes" in error_of(write(tmp_path / "c.csv", b"abc\0def"))
    assert "not separated by commas" in error_of(write(tmp_path / "d.csv", text.replace(b",", b";")))
    assert "not the names of the columns" in error_of(write(tmp_path / "e.csv", "0.5,0.25\n1.5,1.25\n"))
    assert "found no embedding" in error_of(write(tmp_path / "f.csv", "\n\n"))
    assert "a quote in the wrong place" in error_of(write(tmp_path / "g.csv", 'sa"mple,0,1\na,1,2\n'))
    assert "a quote in the wrong place" in error_of(write(tmp_path / "h.csv", '"sample,0,1\na,1,2\n'))
    with pytest.raises(InputError, match="does not exist"):
        CsvReader().inspect(str(tmp_path / "none.csv"), "none.csv", ReadOptions())


def test_files_that_change_after_they_were_looked_at(tmp_path: Path) -> None:
    reader, options = CsvReader(piece_bytes=1000), ReadOptions()
    path = tmp_path / "a.csv"
    birder_frame(numbers(200, 4)).write_csv(path)
    whole = path.read_bytes()
    part = reader.inspect(str(path), "a.csv", options)

    def blocks() -> list[Block]:
        return list(reader.blocks(part, 0, None, options))

    for changed in (whole[: len(whole) // 2], whole + b"more.jpg,1,2,3,4\n", b""):
        path.write_bytes(changed)
        with pytest.raises(InputError, match=rf"a\.csv had {len(whole)} bytes when the run was planned and now has"):
            blocks()
    path.write_bytes(whole.replace(b"sample", b"simple"))
    with pytest.raises(InputError, match="other column names"):
        blocks()
    path.unlink()
    with pytest.raises(InputError, match="does not exist"):
        blocks()


def test_a_file_cut_while_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    birder_frame(numbers(4000, 8)).write_csv(path)
    reader, options = CsvReader(piece_bytes=1000), ReadOptions()
    blocks = reader.blocks(reader.inspect(str(path), "a.csv", options), 0, None, options)
    next(blocks)
    with path.open("r+b") as file:
        file.truncate(20_000)
    with pytest.raises(InputError, match="it was changed meanwhile"):
        list(blocks)


@pytest.mark.slow
def test_a_quote_that_is_never_closed_does_not_read_on_for_ever(memory_folder: str) -> None:
    def error_in(text: str, piece_bytes: int | None = None) -> str:
        with fsspec.open(f"{memory_folder}/a.csv", "wb") as file:
            file.write(text.encode())
        return error_of(f"{memory_folder}/a.csv", piece_bytes)

    before, after = "sample,0,1\n" + "s,0.5,0.25\n" * 120_000, "s,0.5,0.25\n" * 6_500_000
    text = error_in(before + '"s,0.5,0.25\n' + after, piece_bytes=5000)
    assert "line 120002: the row is longer than 64 MiB; is a quote not closed?" in text
    text = error_in(before + 's"t,0.5,0.25\n' + after, piece_bytes=5000)
    assert "line 120002: column 'sample': 's' is followed by a quote" in text
    assert "line 1: the row is longer than 64 MiB" in error_in("x" * (65 << 20))
