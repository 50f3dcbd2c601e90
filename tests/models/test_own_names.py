"""Heads of one's own under a name: added, found from anywhere, listed, replaced, removed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from beholder import Head, HeadError, load_head, save_head
from oracles.program import beholder


@pytest.fixture
def file(tmp_path: Path) -> Path:
    save_head(Head.affine(np.arange(1.0, 9.0), 5.0, name="mine"), tmp_path / "mine.safetensors")
    return tmp_path / "mine.safetensors"


def test_a_head_is_added_and_found_by_its_name(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = beholder("models", "add", str(file), "--name", "taste")
    assert done.returncode == 0, done.stderr
    name, path = done.stdout.split()
    assert (name, Path(path).name) == ("taste", "taste.safetensors")
    file.unlink()
    monkeypatch.chdir(tmp_path)
    head = load_head("taste")
    assert (head.name, head.bias) == ("taste", 5.0)
    assert json.loads(beholder("models", "list", "--json").stdout)["own"] == [{"name": "taste", "path": path}]
    assert beholder("models", "list").stdout.startswith(f"Yours\n  taste  {path}\n")
    np.save(tmp_path / "rows.npy", np.ones((3, 8), np.float32))
    scored = beholder("score", "rows.npy", "--head", "taste", "-o", "out.csv", cwd=tmp_path)
    assert scored.returncode == 0, scored.stderr
    removed = beholder("models", "remove", "taste")
    assert removed.stdout == f"removed {path}\n"
    with pytest.raises(HeadError, match="there is no head taste"):
        load_head("taste")
    assert "Yours" not in beholder("models", "list").stdout


def test_its_own_name_is_taken_and_given_once(file: Path) -> None:
    assert beholder("models", "add", str(file)).stdout.startswith("mine  ")
    again = beholder("models", "add", str(file))
    assert (again.returncode, again.stderr.count("\n")) == (1, 1)
    assert "there is a head mine already" in again.stderr
    save_head(Head.affine(np.ones(8), 2.0), file)
    assert beholder("models", "add", str(file), "--name", "mine", "--overwrite").returncode == 0
    assert load_head("mine").bias == 2.0


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("laion-v2", "laion-v2 is the name of a published model; choose another"),
        ("ViT-L-14", "published model"),
        ("a b", "'a b' cannot be a name: use letters, digits"),
        ("../x", "cannot be a name"),
        (" ", "cannot be a name"),
    ],
)
def test_names_that_cannot_be_given(file: Path, name: str, words: str) -> None:
    refused = (
        beholder("models", "add", str(file), f"--name={name}") if name else beholder("models", "add", str(file), "--name", " ")
    )
    assert (refused.returncode, refused.stdout, refused.stderr.count("\n")) == (1, "", 1)
    assert words in refused.stderr
