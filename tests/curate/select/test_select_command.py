"""`beholder select` as a command, with embeddings and pictures: near-duplicates, clusters, lists, files, JSON, exit status."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner, Result

from beholder.cli.select import select as command
from beholder.curate.select.selection import select
from beholder.errors import BeholderError

app = typer.Typer()
app.command()(command)


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=True)


def fails(*arguments: object) -> str:
    result = call(*arguments)
    assert isinstance(result.exception, BeholderError), result.output
    return str(result.exception)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Six small pictures in two folders, their scores in Parquet, their embeddings beside them."""
    samples, scores = [], [6.0, 5.5, 5.0, 4.5, 4.0, 3.5]
    for number in range(6):
        path = tmp_path / "photos" / ("cats" if number % 2 else "dögs") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (number * 40, 0, 0)).save(path)
        samples.append(str(path))
    table = pa.table({
        "sample": samples,
        "aesthetic_score": pa.array(scores, pa.float32()),
        "num_bytes": [Path(name).stat().st_size for name in samples],
    })  # fmt: skip
    vectors = np.eye(6, 8, dtype=np.float32)
    vectors[3] = vectors[0] + 0.01  # near the best
    vectors[5] = 7 * vectors[2]
    record = {"pictures": {"sources": [str(tmp_path / "photos")], "folder": str(tmp_path)}}
    table = table.replace_schema_metadata({b"beholder": json.dumps(record).encode()})
    pq.write_table(table, tmp_path / "scores.parquet")
    rows = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), 8)
    pq.write_table(pa.table({"sample": samples, "embedding": rows}), tmp_path / "embeddings.parquet")
    return tmp_path


def names(rows: Any) -> list[int]:
    return [int(Path(name).stem) for name in rows]


def test_near_duplicates_of_better_pictures_go(pictures: Path) -> None:
    scores, embeddings = pictures / "scores.parquet", pictures / "embeddings.parquet"
    groups, out = pictures / "groups.parquet", pictures / "kept.parquet"
    result = call(scores, "--dedup", 0.95, "--embeddings", embeddings, "--groups-out", groups, "-o", out)
    assert result.exit_code == 0, result.output
    assert "near-duplicates, similarity >= 0.95" in " ".join(result.output.split())
    assert names(pq.read_table(out).column("sample").to_pylist()) == [0, 1, 2, 4]
    found = pq.read_table(groups).to_pylist()
    assert sorted((names([row["sample"]])[0], row["kept"]) for row in found) == [(0, True), (2, True), (3, False), (5, False)]
    with select(scores, dedup=0.95, embeddings=embeddings, top=3) as selection:
        assert names(selection.kept_rows().column("sample").to_pylist()) == [0, 1, 2]
        assert [step.word for step in selection.funnel] == ["duplicate", "top"]
        assert selection.groups.num_rows == 4


def test_marked_near_duplicates_stay_and_push_better_ones_out(pictures: Path) -> None:
    samples = pq.read_table(pictures / "scores.parquet").column("sample").to_pylist()
    marks = pictures / "marks.jsonl"
    marks.write_text("".join(json.dumps({"sample": samples[row], "mark": "keep"}) + "\n" for row in (2, 3, 5)))
    with select(pictures / "scores.parquet", dedup=0.95, embeddings=pictures / "embeddings.parquet", marks=marks) as selection:
        assert names(selection.kept_rows().column("sample").to_pylist()) == [1, 2, 3, 4, 5]


def test_clusters(pictures: Path) -> None:
    rules = {"per": "cluster", "clusters": 4, "embeddings": pictures / "embeddings.parquet", "top": 1}
    with select(pictures / "scores.parquet", **rules) as selection:
        kept = names(selection.kept_rows().column("sample").to_pylist())
        assert 0 in kept
        assert not {3, 5} & set(kept)
        assert 1 <= selection.num_kept <= 4
    kept = []
    for number in (6, 1 << 31, 10**20):  # more than there are rows are as many as those
        with select(pictures / "scores.parquet", **rules | {"clusters": number}) as selection:
            kept.append(selection.kept_rows().column("sample").to_pylist())
    assert kept[0] == kept[1] == kept[2]


@pytest.mark.parametrize(
    ("rules", "count"),
    [
        ("--top", 6), ("--per folder --top", 6), ("--balance folder --top", 6), ("--top-share 50% --top", 3), ("--draw", 6),
        ("--per folder --draw", 6), ("--dedup 0.95 --embeddings E --top", 4),
    ],
)  # fmt: skip
@pytest.mark.parametrize("number", [1 << 31, (1 << 63) - 1, 10**20])
def test_more_than_there_are_means_all(pictures: Path, rules: str, number: int, count: int) -> None:
    given = rules.replace("E ", f"{pictures}/embeddings.parquet ").split()
    result = call(pictures / "scores.parquet", *given, number, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["num_kept"] == count


def test_json_and_quiet(pictures: Path) -> None:
    result = call(pictures / "scores.parquet", "--top-share", "50%", "--per", "folder", "--json")
    summary = json.loads(result.stdout)
    assert (summary["num_rows"], summary["num_kept"]) == (6, 4)
    assert summary["rules"] == {"top_share": "50%", "per": "folder"}
    assert summary["funnel"][0]["rule"] == "top_share"
    assert summary["written"] == []
    assert call(pictures / "scores.parquet", "--top", 1, "-q").output == ""


def test_the_funnel_is_shown(pictures: Path) -> None:
    result = call(pictures / "scores.parquet", "--where", "aesthetic_score < 6", "--min-score", 4.5, "--top", 2)
    assert result.exit_code == 0
    for text in (
        "all rows",
        "where aesthetic_score < 6",
        "score >= 4.5",
        "top 2",
        "2 of 6 rows stay (33.3 %)",
        "nothing was written",
    ):
        assert text in result.output


def hundred(folder: Path) -> Path:
    """100 rows of scores 0.00 to 0.99, half of each of two kinds, all of 30 bytes but the best, of 100."""
    path = folder / "hundred.parquet"
    scores = pa.array([row / 100 for row in range(100)], pa.float32())
    kinds, sizes = ["a", "b"] * 50, [30] * 99 + [100]
    names = [f"{row:02d}" for row in range(100)]
    pq.write_table(pa.table({"sample": names, "aesthetic_score": scores, "kind": kinds, "num_bytes": sizes}), path)
    return path


@pytest.mark.parametrize(
    ("flags", "kept", "texts"),
    [
        ("--top 5 --top-share 10%", 5, ["top 5", "top 10 % of the 100 rows before top 5 (10 rows)"]),
        ("--top 5 --top-share 0.1", 5, ["top 5", "top 10 % of the 100 rows before top 5 (10 rows)"]),
        ("--top 20 --top-share 10%", 10, ["top 20", "top 10 % of the 100 rows before top 20 (10 rows)"]),
        ("--min-score 0.495 --top 40 --top-share 1%", 1, ["top 40", "top 1 % of the 50 rows before top 40 (1 row)"]),
        ("--top-share 2.5%", 3, ["top 2.5 % of 100 rows (3 rows)"]),
        ("--per kind --top 7 --top-share 10%", 10, ["top 7 of each kind", "top 10 % of each kind as it was before top 7"]),
        ("--balance kind --top 20 --top-share 10%", 2, ["top 10 % of 20 rows (2 rows)"]),
    ],
)
def test_a_number_and_a_share_count_from_the_same_rows(tmp_path: Path, flags: str, kept: int, texts: list[str]) -> None:
    """Worked out by hand: of 100 rows 10 % are 10 and top 5 are 5, so 5 stay, not 10 % of the 5."""
    source = hundred(tmp_path)
    result = call(source, *flags.split())
    assert f"{kept} of 100 rows stay" in result.output
    summary = json.loads(call(source, *flags.split(), "--json").stdout)
    assert summary["num_kept"] == kept
    told = [f"{step['text']} ({step['note']})" for step in summary["funnel"]]
    for text in texts:
        assert any(line.startswith(text) for line in told), told


@pytest.mark.parametrize(
    ("flags", "kept", "lowest", "told", "used"),
    [
        ("--budget 400", 11, 0.89, "at most 400 bytes (400 bytes used; the next picture, of 30 bytes, would not fit)", 400),
        ("--budget 419", 11, 0.89, "(400 bytes used; the next picture, of 30 bytes, would not fit)", 400),
        ("--budget 4kB", 100, 0.0, "at most 4.0 kB (3.1 kB used; nothing was too much)", 3070),
        ("--budget 99", 0, None, "at most 99 bytes (0 bytes used; the next picture alone is larger than that)", 0),
        ("--where sample<'50' --budget 10", 0, None, "(0 bytes used; the next picture alone is larger than that)", 0),
        ("--top 0 --budget 10", None, None, "", None),
    ],
)
def test_a_budget_says_what_was_used(
    tmp_path: Path, flags: str, kept: int | None, lowest: float | None, told: str, used: int | None
) -> None:
    """The best row has 100 bytes, all others 30: 400 bytes are 1 + 10 rows, 0.99 to 0.89."""
    source = hundred(tmp_path)
    if kept is None:
        assert call(source, *flags.split()).exit_code == 2
        return
    (line,) = [line for line in call(source, *flags.split()).output.splitlines() if line.startswith("at most")]
    assert line.split()[-2 if lowest is not None else -1] == str(kept)
    assert lowest is None or line.split()[-1] == f"{lowest:.4g}"
    step = json.loads(call(source, *flags.split(), "--json").stdout)["funnel"][-1]
    assert told in f"{step['text']} ({step['note']})"
    assert (step["left"], step["used_bytes"]) == (kept, used)
    assert step["lowest_left"] == (None if lowest is None else pytest.approx(lowest))


def test_every_rule_tells_the_lowest_score_it_left(tmp_path: Path) -> None:
    rules = "--where sample>='10' --min-score 0.2 --max-score 0.9 --quantile 0.5 --balance kind --top 20 --draw 20"
    steps = json.loads(call(hundred(tmp_path), *rules.split(), "--json").stdout)["funnel"]
    found = {step["rule"]: round(step["lowest_left"], 6) for step in steps}
    assert found == {"where": 0.1, "min_score": 0.2, "max_score": 0.2, "quantile": 0.55, "balance": 0.71, "sample": 0.71}


def test_pictures_are_copied_when_it_is_asked_for(pictures: Path) -> None:
    target = pictures / "best"
    dry = call(pictures / "scores.parquet", "--min-score", 5, "--copy", target)
    assert dry.exit_code == 0, dry.output
    assert not target.exists()
    done = call(pictures / "scores.parquet", "--min-score", 5, "--copy", target, "--apply")
    assert done.exit_code == 0, done.output
    copied = sorted(str(path.relative_to(target)) for path in target.rglob("*.png"))
    assert copied == ["cats/1.png", "dögs/0.png", "dögs/2.png"]
    assert (target / "cats/1.png").read_bytes() == (pictures / "photos/cats/1.png").read_bytes()


def test_files_that_are_gone_make_exit_status_3(pictures: Path) -> None:
    (pictures / "photos/cats/1.png").unlink()
    done = call(pictures / "scores.parquet", "--min-score", 5, "--copy", pictures / "best", "--apply", "--json")
    assert done.exit_code == 3
    assert json.loads(done.stdout)["action"]["num_skipped"] == 1


def test_wrong_flags_are_refused_before_scores_are_read(tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere.parquet"
    assert "no rule says" in fails(nowhere)
    assert "choose one at a time" in fails(nowhere, "--top", 1, "--copy", "a", "--move", "b")
    assert "--dedup" in fails(nowhere, "--top", 1, "--groups-out", "g.csv")
    assert "a list is written as" in fails(nowhere, "--top", 1, "-o", "x.xlsx")
    assert "does not exist" in fails(nowhere, "--top", 1)
    assert call(nowhere, "--top", "many").exit_code == 2


def test_the_funnel_in_a_pipe_is_not_folded_unless_columns_says_how_wide_it_may_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "s.csv").write_text("sample,aesthetic_score,width,height\na,5,512,512\n")
    rule = "where width >= 256 and height >= 256 and width < 4096"
    for columns, is_whole in ((None, True), ("60", False)):
        monkeypatch.delenv("COLUMNS", raising=False)
        if columns:
            monkeypatch.setenv("COLUMNS", columns)
        shown = call(tmp_path / "s.csv", "--where", rule.removeprefix("where ")).output.splitlines()
        assert any(line.startswith(rule) and line.split()[-4:] == ["1", "0", "1", "5"] for line in shown) == is_whole
        assert max(map(len, shown[:3])) <= int(columns or 120)
