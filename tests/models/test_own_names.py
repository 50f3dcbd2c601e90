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


def with_record(file: Path, **more: object) -> dict[str, object]:
    """The record of a trained head beside its file."""
    record = {"beholder": "0", "name": "mine", "sha256": load_head(file).sha256, "trained_on": {"num_pictures": 3}, **more}
    file.with_suffix(".json").write_text(json.dumps(record))
    return record


def test_the_record_of_its_training_goes_along(file: Path, tmp_path: Path) -> None:
    record = with_record(file)
    path = Path(beholder("models", "add", str(file), "--name", "taste").stdout.split()[1])
    kept = path.with_suffix(".json")
    assert json.loads(kept.read_text()) == {**record, "name": "taste", "sha256": load_head("taste").sha256}
    assert beholder("models", "save", str(file), str(tmp_path / "copy.safetensors"), "--name", "c").returncode == 0
    copied = json.loads((tmp_path / "copy.json").read_text())
    assert copied == {**record, "name": "c", "sha256": load_head(tmp_path / "copy.safetensors").sha256}
    assert beholder("models", "save", "taste", str(tmp_path / "again.safetensors")).returncode == 0
    assert (tmp_path / "again.json").exists()
    assert beholder("models", "export", str(tmp_path / "usb"), str(file)).returncode == 0
    exported = json.loads((tmp_path / "usb" / "mine.json").read_text())
    assert exported["sha256"] == load_head(tmp_path / "usb" / "mine.safetensors").sha256
    assert beholder("models", "remove", "taste").returncode == 0
    assert not kept.exists()


def test_a_record_of_another_head_does_not_go_along_and_none_stays(file: Path, tmp_path: Path) -> None:
    with_record(file)
    path = Path(beholder("models", "add", str(file)).stdout.split()[1])
    save_head(Head.affine(np.ones(8), 2.0, name="mine"), file)  # the record beside it is of the head that was there
    assert beholder("models", "add", str(file), "--overwrite").returncode == 0
    assert not path.with_suffix(".json").exists()
    assert beholder("models", "save", str(file), str(tmp_path / "copy.safetensors")).returncode == 0
    assert not (tmp_path / "copy.json").exists()


def test_no_record_is_replaced_by_one_that_goes_along(file: Path, tmp_path: Path) -> None:
    with_record(file)
    (tmp_path / "copy.json").write_text("{}")
    done = beholder("models", "save", str(file), str(tmp_path / "copy.safetensors"))
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "copy.json is there already" in done.stderr
    assert not (tmp_path / "copy.safetensors").exists()
    assert (tmp_path / "copy.json").read_text() == "{}"
