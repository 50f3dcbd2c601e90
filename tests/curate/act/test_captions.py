"""Captions of a column in new tars and Parquet files: read back by webdataset's rule, by pyarrow and by our own readers."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer
from click.testing import Result
from typer.testing import CliRunner

from beholder import InputError
from beholder.cli.select import select
from beholder.curate.act.messages import ActionSummary
from beholder.sources.find import find_pictures
from beholder.sources.reader import SourceOptions, picture_reader
from oracles.acting import act, contents, score_table, take_back
from oracles.journals import lines_of, write_journal
from oracles.tar_making import base_plus_ext, png, tar

PROMPTS = ["a cat, \u732b \U0001f408", None, "line one\nline two", "", "  \n", "the last one"]
FILES = {
    "0.png": png(0), "0.txt": b"old words", "0.json": b'{"n": 0}',  # replaced
    "1.png": png(1), "1.txt": b"own words\n",  # kept
    "2.png": png(2),  # written where there was none
    "3.png": png(3),  # none
    "4.png": png(4), "4.caption": b"own caption",  # kept
    "5.png": png(5), "5.TXT": b"OLD", "5.caption": b"old, too", "5.cls": b"3",  # both replaced
}  # fmt: skip
NEW = {
    "0": {"png": png(0), "json": b'{"n": 0}', "txt": PROMPTS[0].encode()},
    "1": {"png": png(1), "txt": b"own words\n"},
    "2": {"png": png(2), "txt": b"line one\nline two"},
    "3": {"png": png(3)},
    "4": {"png": png(4), "caption": b"own caption"},
    "5": {"png": png(5), "cls": b"3", "txt": b"the last one"},
}
TEXTS = [PROMPTS[0], "own words", PROMPTS[2], None, "own caption", PROMPTS[5]]
COUNTS = {"written": 3, "replaced": 2, "kept": 2, "without": 1}


@pytest.fixture(params=["files", "tar", "tar.gz"])
def table(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pa.Table:
    """Scores of six pictures with members beside them, in a folder or a tar, and the column `prompt`."""
    import gzip

    monkeypatch.chdir(tmp_path)
    if request.param == "files":
        (tmp_path / "t").mkdir()
        for name, data in FILES.items():
            (tmp_path / "t" / name).write_bytes(data)
        return score_table([f"t/{i}.png" for i in range(6)], ["t"], prompt=PROMPTS)
    data = tar(FILES.items())
    source = f"t.{request.param}"
    (tmp_path / source).write_bytes(gzip.compress(data) if request.param == "tar.gz" else data)
    return score_table([f"{source}/{i}" for i in range(6)], [source], prompt=PROMPTS)


def read(path: Path) -> dict[str, dict[str, bytes]]:
    """Key -> extension -> bytes by webdataset's rule, transcribed; it stops where one comes twice."""
    found: dict[str, dict[str, bytes]] = {}
    last = None
    with tarfile.open(path) as archive:
        for info in archive:
            key, extension = base_plus_ext(info.name)
            assert key is not None
            assert extension is not None
            assert key == last or key not in found, "the members of a picture stand apart"
            last = key
            assert extension.lower() not in found.setdefault(key, {})
            found[key][extension.lower()] = archive.extractfile(info).read()  # type: ignore[union-attr]
    return found


def captions_scored(source: str) -> list[str | None]:
    """What `beholder score --column caption` passes through."""
    options = SourceOptions(columns=("caption",))
    found = []
    for part in find_pictures([source], options):
        for block in picture_reader(part.kind).blocks(part, 0, None, options):
            found += block.labels.column("caption").to_pylist()
    return found


def without_sizes(summary: ActionSummary) -> dict[str, Any]:
    return {name: getattr(summary, name) for name in ("num_done", "num_files", "num_bytes", "num_shards", "captions")}


def test_captions_in_tars(table: pa.Table) -> None:
    planned, said = act(table, tars="out", caption_column="prompt")
    assert planned.captions == COUNTS
    assert "3 captions of column 'prompt', 2 in place of one beside the picture" in said
    assert "3 pictures without a caption in that column: 2 keep those beside, 1 has none" in said
    assert not Path("out").exists()
    done, _ = act(table, tars="out", caption_column="prompt", apply=True)
    assert without_sizes(done) == without_sizes(planned)
    assert read(Path("out/00000.tar")) == NEW
    beside = pq.read_table("out/00000.parquet")
    assert beside.column("caption").to_pylist() == TEXTS
    assert beside.column("prompt").to_pylist() == PROMPTS
    assert captions_scored("out/00000.tar") == TEXTS
    Path("out/00000.parquet").unlink()
    assert captions_scored("out/00000.tar") == TEXTS
    again, said = act(table, tars="out", caption_column="prompt")
    assert again.captions == COUNTS
    with pytest.raises(InputError, match="is the journal of another act"):
        act(table, tars="out")
    changed = table.set_column(table.column_names.index("prompt"), "prompt", pa.array([*PROMPTS[:5], "the last two"]))
    with pytest.raises(InputError, match="is the journal of another act"):
        act(changed, tars="out", caption_column="prompt")


def test_captions_in_shards_that_a_killed_run_left(table: pa.Table) -> None:
    options: dict[str, Any] = {"tars": "out", "caption_column": "prompt", "shard_count": 2}
    act(table, **options, apply=True)
    whole = {path.name: read(path) for path in Path("out").glob("*.tar")}
    journal = Path("out.journal.jsonl")
    lines = lines_of(journal)
    write_journal(journal, lines[: 1 + next(i for i, line in enumerate(lines) if line.get("shard") == "00000.tar")])
    for path in sorted(Path("out").iterdir())[2:]:
        path.unlink()
    for apply in (False, True):
        summary, _ = act(table, **options, apply=apply)
        assert (summary.captions, summary.num_before, summary.num_done) == (COUNTS, 2, 6)
    assert {path.name: read(path) for path in Path("out").glob("*.tar")} == whole
    assert take_back(str(journal))[0].exit_status == 0
    assert not Path("out").exists()


def test_captions_without_sidecars_and_over_a_caption_of_the_scores(table: pa.Table) -> None:
    table = table.append_column("caption", pa.array([f"scored {i}" for i in range(6)]))
    done, _ = act(table, tars="out", caption_column="prompt", sidecars=False, apply=True)
    assert done.captions == {"written": 3, "without": 3}
    alone = {key: {name: data for name, data in one.items() if name == "png"} for key, one in NEW.items()}
    for key in ("0", "2", "5"):
        alone[key]["txt"] = NEW[key]["txt"]
    assert read(Path("out/00000.tar")) == alone
    beside = pq.read_table("out/00000.parquet")
    assert beside.column("source_caption").to_pylist() == [f"scored {i}" for i in range(6)]
    assert captions_scored("out/00000.tar") == [PROMPTS[0], None, PROMPTS[2], None, None, PROMPTS[5]]
    act(table, tars="same", caption_column="caption", apply=True)
    assert captions_scored("same/00000.tar") == [f"scored {i}" for i in range(6)]
    assert "source_caption" not in pq.read_schema("same/00000.parquet").names


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_captions_in_parquet(table: pa.Table, kind: pa.DataType) -> None:
    table = table.set_column(table.column_names.index("prompt"), "prompt", pa.array(PROMPTS, pa.string()).cast(kind))
    table = table.append_column("text", pa.array([f"other {i}" for i in range(6)]))
    texts = [PROMPTS[0], None, PROMPTS[2], None, None, PROMPTS[5]]
    planned, said = act(table, hf_parquet="out", caption_column="prompt")
    assert "3 captions of column 'prompt'" in said
    done, _ = act(table, hf_parquet="out", caption_column="prompt", apply=True)
    assert planned.captions == done.captions == {"written": 3, "without": 3}
    found = pq.read_table("out/train-00000.parquet")
    assert found.schema.names[:3] == ["image", "text", "sample"]
    assert found.schema.field("text").type == pa.string()
    assert found.column("text").to_pylist() == texts
    assert found.column("prompt").to_pylist() == PROMPTS
    assert found.column("source_text").to_pylist() == [f"other {i}" for i in range(6)]
    assert [one["bytes"] for one in found.column("image").to_pylist()] == [png(i) for i in range(6)]
    features = json.loads(found.schema.metadata[b"huggingface"])["info"]["features"]
    assert features["text"] == {"dtype": "string", "_type": "Value"}
    act(table, hf_parquet="same", caption_column="text", apply=True)
    same = pq.read_table("same/train-00000.parquet")
    assert same.column("text").to_pylist() == [f"other {i}" for i in range(6)]
    assert "source_text" not in same.schema.names


def test_two_pictures_of_one_key_have_a_caption_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    members = {"foo.left.png": png(0), "foo.right.png": png(1), "foo.json": b"{}", "foo.txt": b"both"}
    Path("t.tar").write_bytes(tar(members.items()))
    table = score_table(["t.tar/foo", "t.tar/foo.right.png"], ["t.tar"], words=["left", "right"])
    planned, _ = act(table, tars="out", caption_column="words")
    done, _ = act(table, tars="out", caption_column="words", apply=True)
    assert read(Path("out/00000.tar")) == {
        "foo": {"left.png": png(0), "json": b"{}", "txt": b"left"},
        "foo_2": {"right.png": png(1), "json": b"{}", "txt": b"right"},
    }
    assert without_sizes(done) == without_sizes(planned)
    assert done.captions == {"written": 2, "replaced": 2}
    assert captions_scored("out/00000.tar") == ["left", "right"]


@pytest.mark.parametrize("table", ["files"], indirect=True)
@pytest.mark.parametrize(
    ("column", "why"),
    [
        ("captoin", "the scores have no such column; columns of text: 'prompt' (--join brings more)"),
        ("rank", "the scores have no such column"),
        ("aesthetic_score", "holds float, not text"),
        ("tags", "holds list<item: string>, not text"),
        ("", "the scores have no such column"),
    ],
)
def test_columns_that_hold_no_captions(table: pa.Table, column: str, why: str) -> None:
    table = table.append_column("tags", pa.array([["a"]] * 6))
    before = contents(Path())
    for action in ("tars", "hf_parquet"):
        with pytest.raises(InputError) as raised:
            act(table, **{action: "out"}, caption_column=column, apply=True)
        assert why in str(raised.value)
        assert "\n" not in str(raised.value)
    assert contents(Path()) == before


@pytest.mark.parametrize("table", ["files"], indirect=True)
def test_the_command(table: pa.Table) -> None:
    """Captions of a joined CSV; nothing is written where the column is not there."""
    pq.write_table(table, "scores.parquet")
    samples = table.column("sample").to_pylist()
    Path("more.csv").write_text(
        "sample,words\n" + "".join(f'{name},"{i:02d}, ""quoted"""\n' for i, name in enumerate(samples[:5]))
    )
    app = typer.Typer()
    app.command("select")(select)
    line = ["scores.parquet", "--top", "6", "--join", "more.csv", "-o", "kept.csv"]

    def run(*flags: str) -> Result:
        return CliRunner().invoke(app, [*line, *flags])

    wrong = run("--tars", "out", "--caption-column", "word", "--apply")
    assert "columns of text: 'prompt', 'words'" in str(wrong.exception)
    assert not Path("kept.csv").exists()
    other = run("--copy", "out", "--caption-column", "words")
    assert "--caption-column is for --tars and --hf-parquet" in str(other.exception)
    done = run("--tars", "out", "--caption-column", "words", "--apply")
    assert done.exit_code == 0, done.output
    assert "5 captions of column 'words'" in done.stdout
    assert [one.get("txt") for one in read(Path("out/00000.tar")).values()][:2] == [b'00, "quoted"', b'01, "quoted"']
