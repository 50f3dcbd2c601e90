"""Wrong input of `beholder plan` and `beholder bench`: one clear line each, those of docs/bad-input.md word for word."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from beholder.__main__ import main
from beholder.errors import InputError
from beholder.planning.rates import load
from planning.conftest import TYPED

PAGE = Path(__file__).resolve().parents[2] / "docs" / "bad-input.md"
CASES = {
    "no rates of this machine": "plan --count 10",
    "nothing to plan": "plan --rates typed.json",
    "a source and a count": "plan photos --count 5 --rates typed.json",
    "pictures without pixels": "plan --count 10 --pixels 0x5 --rates typed.json",
    "pixels that are none": "plan --count 10 --pixels large --rates typed.json",
    "a source without pictures": "plan empty --rates typed.json",
    "a file of rates that is not there": "plan --count 10 --rates lost.json",
    "a damaged file of rates": "plan --count 10 --rates damaged.json",
    "another file as rates": "plan --count 10 --rates other.json",
    "rates that cannot be": "plan --count 10 --rates negative.json",
    "rates that lack something": "plan --count 10 --rates lacking.json",
    "rates without a stage": "plan --count 10 --rates stages.json",
    "a tower that was not measured": "plan --count 10 --rates typed.json --backbone ViT-B/32",
    "a device that was not measured": "plan --count 10 --rates typed.json --devices mps",
    "a precision that was not measured": "plan --count 10 --rates typed.json --precision bf16",
    "embeddings whose rows nothing tells": "plan rows.csv --rates typed.json",
    "no time to measure": "bench --max-time 0",
    "nothing to measure with": "bench empty",
}


def make_files() -> None:
    """Everything that the cases name, in the current folder."""
    Path("empty").mkdir()
    np.savetxt("rows.csv", np.ones((3, 8)), delimiter=",", header=",".join(f"e_{at}" for at in range(8)), comments="")
    changed = {
        "typed": {},
        "other": {"format": "beholder-embeddings"},
        "negative": {"num_cores": -2},
        "lacking": {"run": {"core_s": 0.1, "start_s": 1}},
        "stages": {"storage": None},
    }
    for name, fields in changed.items():
        Path(f"{name}.json").write_text(json.dumps({**TYPED, **fields}), encoding="utf-8")
    Path("damaged.json").write_text(json.dumps(TYPED)[:-10], encoding="utf-8")


def documented() -> dict[str, tuple[str, str]]:
    """Situation -> (line, exit status)."""
    text = PAGE.read_text(encoding="utf-8").split("\n## Plans\n")[1].split("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    return {row[0]: (row[1].strip("`"), row[3]) for row in rows[2:]}


@pytest.mark.parametrize("case", CASES)
def test_wrong_input_is_one_clear_line(
    case: str, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_files()
    monkeypatch.setattr("sys.argv", ["beholder", *CASES[case].split()])
    with pytest.raises(SystemExit) as stop:
        main()
    seen = capsys.readouterr()
    (told,) = seen.err.splitlines()
    assert seen.out == ""
    line, status = documented()[case]
    assert re.fullmatch(".*".join(re.escape(piece) for piece in line.split("...")), told), told
    assert str(stop.value.code) == status
    assert not (here / "rates.json").exists()


def test_every_row_of_the_documentation_is_tested() -> None:
    assert list(documented()) == list(CASES)


def test_rates_beyond_all_numbers(tmp_path: Path) -> None:
    """Whole numbers of JSON have no bound; those that no float64 holds are no rates."""
    path = tmp_path / "r.json"
    for number in (10**400, -(10**400), 1 << 1024):
        path.write_text(json.dumps({**TYPED, "busy": number}), encoding="utf-8")
        with pytest.raises(InputError, match="r.json cannot be used: busy is no number"):
            load(str(path))


@pytest.mark.parametrize(
    ("version", "told"),
    [
        (1, "r.json was measured by an older version; run beholder bench again (beholder bench -o "),
        (3, "r.json cannot be used: it is of version 3, and 2 is understood here"),
        (True, "r.json cannot be used: it is of version True, and 2"),
        ("1", "r.json cannot be used: it is of version '1', and 2"),
    ],
)
def test_rates_of_another_version(tmp_path: Path, version: object, told: str) -> None:
    path = tmp_path / "r.json"
    path.write_text(json.dumps({**TYPED, "version": version}), encoding="utf-8")
    with pytest.raises(InputError, match=re.escape(told)):
        load(str(path))
