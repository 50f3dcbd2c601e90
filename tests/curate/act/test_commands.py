"""`beholder select ... --move` and `beholder undo` from the command line, over what `beholder score` wrote."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import typer
from typer.testing import CliRunner

from beholder.cli.select import select, undo
from beholder.scoring.options import ScoreOptions
from beholder.scoring.score import score
from oracles.acting import contents
from oracles.tar_making import png, tar

app = typer.Typer()
app.command("select")(select)
app.command("undo")(undo)


@pytest.fixture
def here(tmp_path: Path, small_tower: Path, plain_head: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Scores of a folder and a tar."""
    monkeypatch.chdir(tmp_path)
    for i in range(8):
        path = tmp_path / "photos" / f"{i % 2}" / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(37 * i, 20 + i))
    members = [member for i in range(4) for member in ((f"k{i}.png", png(91 * i, 30)), (f"k{i}.json", b'{"n": %d}' % i))]
    (tmp_path / "t.tar").write_bytes(tar(members))
    sources, heads = ("photos", "t.tar"), (str(plain_head),)
    score(ScoreOptions(sources=sources, out="s.parquet", heads=heads, backbone=str(small_tower), device="cpu", workers=0))
    return tmp_path


def best(count: int) -> list[str]:
    table = pq.read_table("s.parquet").sort_by([("aesthetic_score", "descending"), ("sample", "ascending")])
    names: list[str] = table.column("sample").to_pylist()
    return names[:count]


def test_the_best_are_moved_and_brought_back(here: Path) -> None:
    before = contents(here / "photos")
    wanted = [name.removeprefix("photos/") for name in best(12) if name.startswith("photos/")][:3]
    line = ["select", "s.parquet", "--where", "sample like 'photos/%'", "--top", "3", "--move", "best"]
    shown = CliRunner().invoke(app, line)
    assert shown.exit_code == 0, shown.output
    assert "would move 3 pictures" in shown.output
    assert "nothing has been touched; add --apply to do it" in shown.output
    assert not (here / "best").exists()
    done = CliRunner().invoke(app, [*line, "--apply", "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["action"]["num_done"] == 3
    assert contents(here / "best") == {name: before[name] for name in wanted}
    assert contents(here / "photos") == {name: data for name, data in before.items() if name not in wanted}
    again = CliRunner().invoke(app, [*line, "--apply"])
    assert again.exit_code == 0
    assert "done already" in again.output
    for former in ([], ["--dry-run"]):  # which is what it does anyway
        looked = CliRunner().invoke(app, ["undo", "best.journal.jsonl", *former])
        assert "nothing has been touched; add --apply to do it" in looked.output
    assert CliRunner().invoke(app, ["undo", "best.journal.jsonl", "--dry-run", "--apply"]).exit_code == 2
    assert not contents(here / "photos").keys() & set(wanted)
    assert looked.exit_code == 0
    assert "3 pictures" in looked.output
    assert "would be moved back" in looked.output
    back = CliRunner().invoke(app, ["undo", "best.journal.jsonl", "--apply", "--json"])
    assert back.exit_code == 0
    assert json.loads(back.stdout)["num_done"] == 3
    assert contents(here / "photos") == before
    twice = CliRunner().invoke(app, ["undo", "best.journal.jsonl", "--apply"])
    assert (twice.exit_code, twice.output) == (0, "best.journal.jsonl was taken back before; nothing is left to do\n")
    assert contents(here / "photos") == before


def test_files_that_are_left_out_make_the_exit_status_3(here: Path) -> None:
    gone = next(name for name in best(12) if name.startswith("photos/"))
    Path(gone).unlink()
    result = CliRunner().invoke(app, ["select", "s.parquet", "--top", "12", "--copy", "out", "--apply"])
    assert result.exit_code == 3, result.output
    assert "left out: 1 picture" in result.output
    assert f"{gone} does not exist (any more)" in result.output
    assert len([name for name in contents(here / "out") if name.endswith(".png")]) == 11
    (here / "out" / "t" / "k1.png").write_bytes(b"mine")
    undone = CliRunner().invoke(app, ["undo", "out.journal.jsonl", "--apply"])
    assert undone.exit_code == 3
    assert set(contents(here / "out")) == {"t/k1.png"}


def test_the_best_become_tars(here: Path) -> None:
    result = CliRunner().invoke(app, ["select", "s.parquet", "--top", "6", "--tars", "out", "--shard-count", "4", "--apply"])
    assert result.exit_code == 0, result.output
    tables = [pq.read_table(path) for path in sorted((here / "out").glob("*.parquet"))]
    assert [table.num_rows for table in tables] == [4, 2]
    assert sorted(name for table in tables for name in table.column("sample").to_pylist()) == sorted(best(6))
    assert {"key", "sample", "aesthetic_score", "rank"} <= set(tables[0].column_names)
