"""What is said of lines that a command does not take: the flag that was meant, the command that has it, what is missing."""

from __future__ import annotations

import pytest
import typer
from typer.testing import CliRunner

from beholder.cli.app import app
from beholder.cli.usage_errors import MEANT


def refusal(*line: str) -> str:
    """What is said, as one line."""
    found = CliRunner().invoke(app, list(line), env={"COLUMNS": "200", "TERM": "dumb"})
    assert found.exit_code == 2, found.output
    return " ".join(found.output.replace("│", " ").split())


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("select x --threshold 5", "No such option: --threshold; did you mean --min-score?"),
        ("report x --threshold=5", "No such option: --threshold; did you mean --min-score?"),
        ("select x --at 5", "--at; did you mean --min-score?"),
        ("verify x --score-min 5", "--score-min; did you mean --min-score?"),
        ("advise x --min 5", "--min; did you mean --min-score?"),
        ("select x --limit 5", "--limit; did you mean --top?"),
        ("select x --n 5", "--n; did you mean --top?"),
        ("select x -n 5", "-n; did you mean --top?"),
        ("verify x --limit 5", "--limit; did you mean --draw?"),
        ("score x --model m", "--model; did you mean --head?"),
        ("embed x --model m", "--model; did you mean --backbone?"),
        ("report x --top 5", "No such option: --top; it is one of select"),
        ("select x --treshold 5", "No such option: --treshold; did you mean --min-score?"),
        ("advise x --treshold 5", "No such option: --treshold; did you mean --min-score?"),
        ("models list --min-score 5", "No such option: --min-score; it is one of select, advise, report, verify"),
        ("select x --min-scor 5", "No such option: --min-scor (Possible options: --max-score, --min-score"),
    ],
)
def test_the_flag_that_was_meant_is_named(line: str, said: str) -> None:
    found = refusal(*line.split())
    assert said in found
    assert "--at," not in found  # former names are not offered


@pytest.mark.parametrize("line", ["select x --top 10%", "select x --top=10%"])
def test_a_share_in_place_of_a_number_of_rows(line: str) -> None:
    assert "10% is a share, not a number of rows; write --top-share 10%" in refusal(*line.split())


def test_other_wrong_numbers_are_told_as_before() -> None:
    assert "valid integer" in refusal("select", "x", "--top", "many")


@pytest.mark.parametrize(
    ("command", "argument"),
    [("score", "SOURCES"), ("embed", "SOURCES"), ("select", "SCORES"), ("report", "SCORES"), ("undo", "JOURNAL")],
)
def test_a_missing_argument_is_named_as_usage_names_it(command: str, argument: str) -> None:
    assert f"Missing argument {argument}." in refusal(command)


def test_every_flag_that_is_meant_is_shown_by_a_command() -> None:
    commands = typer.main.get_command(app).commands.values()  # type: ignore[attr-defined]
    shown = {name for command in commands for param in command.params if not param.hidden for name in param.opts}
    assert {flag for flags in MEANT.values() for flag in flags} <= shown
