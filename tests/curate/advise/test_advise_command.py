"""`beholder advise`: what it prints, as JSON and in 80 columns."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer
from typer.testing import CliRunner, Result

from beholder.cli.advise import advise
from beholder.curate.advise.advice import advise as find
from beholder.curate.advise.wording import percent
from beholder.errors import InputError

app = typer.Typer()
app.command()(advise)


@pytest.fixture(scope="module")
def scores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """5,000 pictures of two folders; those in the first score lower, and the longest of names are there."""
    rng = np.random.default_rng(0)
    folder = rng.integers(0, 2, 5000)
    long = "a folder with a very long name, as they are found [on] disks/and one below it"
    table = pa.table(
        {
            "sample": [f"{('b', long)[f]}/{i}.jpg" for i, f in enumerate(folder)],
            "aesthetic_score": pa.array(rng.normal(4.8, 0.6, 5000) - 0.3 * folder, pa.float32()),
            "language": pa.array(rng.choice(["de", "en"], 5000)),
            "stars": pa.array(rng.integers(0, 40, 5000), mask=rng.random(5000) < 0.1),
            "code": [f"{i:x}" for i in range(5000)],
        }
    )
    path = tmp_path_factory.mktemp("advise") / "scores.parquet"
    pq.write_table(table, path)
    return path


def run(*arguments: object) -> Result:
    return CliRunner(env={"COLUMNS": "80", "TERM": "dumb"}).invoke(app, [str(argument) for argument in arguments])


def test_tables_fit_80_columns(scores: Path) -> None:
    result = run(scores, "--min-score", "5", "--head", "laion-v2")
    assert result.exit_code == 0, result.output
    lines = [line for line in result.stdout.splitlines() if "https://" not in line and str(scores) not in line]
    assert max(map(len, lines)) <= 80
    text = result.stdout
    for share in ("51 %", "40 %", "25 %", "0.51 %", "0.13 %", "0.026 %"):
        assert f" {share}" in text
    assert "COYO-700M: mean 4.769, min 1.172, max 8.083 of 746,972,269; no shares were" in text
    assert "Stable Diffusion v1-2 to v1-5 (sd-v1)" in text
    assert "https://huggingface.co/CompVis/stable-diffusion-v1-2" in text
    assert "The price of 5:" in text
    assert "sample, by folder: of 2 groups 1 shrinks and 1 grows" in text
    assert re.search(r"↓ …\S* ?disks/and one below it ", text)
    assert "no group clearly differs: language (by value), stars (by bin)" in " ".join(text.split())
    assert "code is left out: about" in text


def test_what_is_printed_is_what_was_found(scores: Path) -> None:
    advice = find(scores, at=5)
    text = run(scores, "--min-score", "5").stdout
    for row in advice.grid:
        assert f"{row.num_kept:,}" in text
    for group in advice.tables[0].groups:
        shown = rf"{group.num_rows:,} +{group.num_kept:,} +{percent(group.share_kept)} \("
        assert re.search(shown, text), shown
        assert f"{group.ratio:.2f} ({group.ratio_low:.2f}-{group.ratio_high:.2f})" in text


def test_it_opens_with_two_plain_sentences(scores: Path, tmp_path: Path) -> None:
    table = pq.read_table(scores).to_pandas()
    kept = table.aesthetic_score >= np.float32(5)
    disks = table["sample"].str.startswith("a folder")
    opening = run(scores, "--min-score", "5", "--head", "laion-v2").stdout.split("\n\n")[0]
    first, second, *_ = " ".join(opening.split()).split(". ")
    assert first == (
        f"At 5.0, {kept.sum():,} of 5,000 pictures stay: the best {100 * kept.mean():.1f} %; of LAION-2B-en, 25 % score as high"
    )
    assert second == (
        "Pictures in the folder …ry long name, as they are found [on] disks/and one below it are dropped most: "
        f"{100 * kept[disks].mean():.1f} % of these {disks.sum():,} stay, against {100 * kept.mean():.1f} % of all."
    )
    example = run(scores, "--no-price").stdout
    assert re.match(r"At 4\.75|At 5\.0|At 5\.25", example)
    assert ", for example, " in example.splitlines()[0]
    meta = tmp_path / "meta.csv"
    meta.write_text("sample,hue\n" + "".join(f'"{name}",{row % 2}\n' for row, name in enumerate(table["sample"][:4000])))
    joined = run(scores, "--min-score", "5", "--group-by", "language", "--group-by", "hue", "--join", meta)
    assert "No group of pictures is clearly dropped more, or less, than the others." in joined.stdout
    assert f"--join {meta} lacks 1,000 of 5,000 rows" in joined.stderr
    assert "stay: all of them" in run(scores, "--min-score", "-9").stdout
    assert "no score is that high" in " ".join(run(scores, "--min-score", "9").stdout.split())


def test_json_has_the_facts_of_the_sentences(scores: Path) -> None:
    table = pq.read_table(scores).to_pandas()
    kept = table.aesthetic_score >= np.float32(5)
    found = json.loads(run(scores, "--min-score", "5", "--json").stdout)
    assert (found["num_kept"], found["share_kept"]) == (int(kept.sum()), kept.mean())
    hit = found["hardest_hit"]
    disks = table["sample"].str.startswith("a folder")
    assert (hit["column"], hit["kind"], hit["num_rows"], hit["num_kept"]) == (
        "sample",
        "folder",
        disks.sum(),
        kept[disks].sum(),
    )
    assert len(found["sentences"]) == 2
    assert json.loads(run(scores, "--min-score", "5", "--json", "--group-by", "language").stdout)["hardest_hit"] is None


def test_json_is_all_of_it(scores: Path) -> None:
    result = run(scores, "--min-score", "5", "--json", "--group-by", "sample", "--where", "stars > 3")
    found = json.loads(result.stdout)
    expected = json.loads(json.dumps(find(scores, at=5, columns=["sample"], where="stars > 3").to_json()))
    assert {**found, "seconds": 0} == {**expected, "seconds": 0}
    assert "warning" in result.stderr
    assert "warning:" not in result.stdout


def test_quiet_says_only_warnings(scores: Path) -> None:
    result = run(scores, "-q", "--no-price")
    assert result.stdout == ""
    assert "warning: nobody says which head" in result.stderr


def test_flags_reach_the_advice(scores: Path) -> None:
    result = run(scores, "--grid", "4", "--grid", "4.6", "--no-price", "--score", "aesthetic_score")
    assert "The price" not in result.stdout
    assert [line.split()[0] for line in result.stdout.splitlines() if line.endswith("%")][:2] == ["4", "4.6"]
    many = run(scores, "--min-score", "5", "--group-by", "code", "--groups-shown", "2", "--memory", "500MB", "--threads", "1")
    assert many.exit_code == 0, many.output


def test_nothing_kept_is_said(scores: Path) -> None:
    assert "so there is nothing to compare" in run(scores, "--min-score", "9").stdout
    assert "so there is nothing to compare" in run(scores, "--min-score", "-9").stdout


def test_mistakes_are_input_errors(scores: Path, tmp_path: Path) -> None:
    for arguments in (
        (tmp_path / "none.parquet",),
        (scores, "--min-score", "five"),
        (scores, "--where", "1 +"),
        (scores, "--group-by", "x"),
    ):
        result = run(*arguments)
        assert isinstance(result.exception, InputError)
        assert "\n" not in str(result.exception)


def test_help_tells_examples() -> None:
    text = run("--help").stdout
    assert "beholder advise scores.parquet --min-score 5.0" in text
    assert "--no-price" in text


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (1, "100 %"),
        (0, "0 %"),
        (0.5063, "50.6 %"),
        (0.0999, "10.0 %"),
        (0.0432, "4.3 %"),
        (0.003, "0.30 %"),
        (0.00026371, "0.026 %"),
    ],
)
def test_shares_for_people(share: float, text: str) -> None:
    assert percent(share) == text
