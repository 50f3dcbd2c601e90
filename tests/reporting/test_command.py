"""`beholder report`: its flags, its summary, and one line for what goes wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from beholder.cli.views import report
from beholder.errors import BeholderError, InputError
from beholder.reporting.options import ReportOptions
from oracles.html_page import Page
from oracles.report_page import MakeSet

app = typer.Typer()
app.command()(report)


def test_a_page_is_written_and_told(make_set: MakeSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["beholder", "report", "scores.parquet", "--min-score", "sd-v1"])
    path, out = make_set({"aesthetic_score": [4.0, 5.0, 6.0]}, rejects=[("x", "missing", "gone")]), tmp_path / "page.html"
    flags = [
        str(path),
        "-o",
        str(out),
        "--min-score",
        "sd-v1",
        "--per-bucket",
        "3",
        "--no-thumbnails",
        "--max-size",
        "1MB",
        "--title",
        "Mine",
    ]
    result = CliRunner().invoke(app, flags)
    assert result.exit_code == 0, result.output
    assert "3 rows, scored 3 by aesthetic_score; rejected 1" in result.output
    assert f"report: {out}" in result.output
    page = Page(out.read_text())
    assert page.root.one("h1").text == "Mine"
    assert "beholder report scores.parquet --min-score sd-v1" in page.root.one("section", id="provenance").text


@pytest.mark.slow
def test_the_summary_as_json(make_set: MakeSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = make_set({"aesthetic_score": [4.0, 5.0, 6.0]})
    result = CliRunner().invoke(app, [path.name, "--json"])
    assert result.exit_code == 0, result.output
    summary = json.loads(result.output)
    assert summary["output"] == "scores.report.html"
    assert summary["num_scored"] == 3
    assert summary["num_scored_by_column"] == {"aesthetic_score": 3}
    assert summary["missing"] == {"missing": 3}
    assert summary["num_bytes"] == (tmp_path / "scores.report.html").stat().st_size
    again = CliRunner().invoke(app, [path.name])
    assert isinstance(again.exception, BeholderError)
    assert "--overwrite" in str(again.exception)
    told = CliRunner().invoke(app, [path.name, "--overwrite"])
    assert "3 not shown, missing" in told.output
    assert "--pictures or --root say where the pictures are now" in told.output
    assert CliRunner().invoke(app, [path.name, "--overwrite", "-q"]).output == ""


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"min_score": "nowhere"}, "no number and no landmark"),
        ({"min_score": "nan"}, "--min-score"),
        ({"no_thumbnails": True, "root": "/x"}, "no effect"),
        ({"max_size": 1000}, "too small"),
        ({"timeout": 0.0}, "--timeout"),
        ({"per_bucket": -1}, "--per-bucket"),
        ({"group_by": ("nothing",)}, "nothing"),
        ({"pictures": ("/does/not/exist",)}, "/does/not/exist"),
    ],
)
def test_wrong_options_are_one_clear_line(make_set: MakeSet, tmp_path: Path, flags: dict[str, object], words: str) -> None:
    from beholder.reporting.report import write_report

    path = make_set({"aesthetic_score": [4.0, 5.0, 6.0]})
    with pytest.raises(InputError, match=words) as failure:
        write_report(ReportOptions(scores=str(path), out=str(tmp_path / "x.html"), **flags))  # type: ignore[arg-type]
    assert "\n" not in str(failure.value)
    assert not (tmp_path / "x.html").exists()
