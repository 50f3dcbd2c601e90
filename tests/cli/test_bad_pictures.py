"""Bad pictures, towers and sources, end to end: one clear line, the right exit status, no output left behind.

The table "Pictures" of docs/bad-input.md is checked against what is seen here: every row, its line, its exit status.
"""

from __future__ import annotations

import contextlib
import io
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beholder import Head, save_head
from beholder.kernels.scoring import Affine
from oracles.checkpoints import hf_config, hf_state, write_json, write_safetensors
from oracles.library_models import saved, siglip
from oracles.made_pictures import encoded, noise
from oracles.web import FileServer, serving

PAGE = Path(__file__).resolve().parents[2] / "docs" / "bad-input.md"
OPENAI = "openai/clip-vit-large-patch14"
QUICK = ("--device", "cpu", "--precision", "fp32", "-j", "0", "--threads", "1")


@dataclass(frozen=True)
class Case:
    """A situation.

    Attributes:
        arguments: behind `beholder`; tower, head, output and the quick options are added where they are not given.
        make: writes further input files.
        status: exit status.
        environment: variables to set.
    """

    arguments: tuple[str, ...]
    make: Callable[[], object] = lambda: None
    status: int = 1
    environment: dict[str, str] = field(default_factory=dict)


def _picture(seed: int = 0) -> bytes:
    return encoded(noise("RGB", 70, 60, seed), "JPEG")


def _head(name: str, dim: int = 24, backbone: str | None = None) -> None:
    save_head(Head(name=name, math=Affine(np.linspace(-1, 1, dim), 5.0), backbone=backbone), f"{name}.safetensors")


def _tar(name: str, count: int, cut: int = 0) -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for number in range(count):
            member = tarfile.TarInfo(f"{number}.jpg")
            member.size = len(_picture(number))
            archive.addfile(member, io.BytesIO(_picture(number)))
        stop = stream.tell()
    Path(name).parent.mkdir(exist_ok=True)
    Path(name).write_bytes(stream.getvalue() if not cut else stream.getvalue()[: stop - cut])


def _write(name: str, data: bytes | str) -> Callable[[], None]:
    def make() -> None:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(data.encode() if isinstance(data, str) else data)

    return make


def _embeddings() -> None:
    np.save("embeddings.npy", np.ones((3, 24), np.float32))


def _embedded() -> None:
    """A set that this tower really made, and a head for another."""
    from beholder.scoring.options import EmbedOptions
    from beholder.scoring.score import embed

    embed(EmbedOptions(sources=("photos",), out="set", backbone="tower", device="cpu", precision="fp32", workers=0))
    _head("openai-head", backbone=OPENAI)


def _siglip() -> None:
    """A small tower of transformers."""
    saved(Path("siglip"), siglip)
    np.savez("length48.npz", weight=np.ones(48), bias=0.0)


def _without_config() -> None:
    Path("bare").mkdir()
    shutil.copy("tower/model.safetensors", "bare/")


def _two_tars() -> None:
    _tar("shards/0.tar", 1)
    _tar("shards/2.tar", 1)


def _both_kinds() -> None:
    _write("mixed/a.jpg", _picture())()
    _tar("mixed/b.tar", 2)


def _nulls() -> None:
    pq.write_table(pa.table({"jpg": [_picture(), None], "key": ["a", "b"]}), "pictures.parquet")


def _larger() -> None:
    Path("photos/large.jpg").write_bytes(encoded(noise("RGB", 200, 100, 9), "JPEG"))


CASES: dict[str, Case] = {
    "a folder that does not exist": Case(("score", "fotos")),
    "a folder without pictures": Case(("embed", "notes"), _write("notes/notes.md", "hello")),
    "a folder with pictures and tars": Case(("score", "mixed"), _both_kinds),
    "pictures and embeddings together": Case(("score", "photos", "embeddings.npy"), _embeddings),
    "the same picture twice": Case(("score", "photos/0.jpg", "photos/0.jpg")),
    "a picture that cannot be decoded": Case(("score", "photos"), _write("photos/x.jpg", "<html>not found</html>"), status=3),
    "a picture of too many pixels": Case(("score", "photos", "--max-pixels", "10000"), _larger, status=3),
    "a list with a lost file": Case(("score", "list.txt"), _write("list.txt", "photos/0.jpg\nphotos/gone.jpg\n"), status=3),
    "a list with a URL that the server does not have": Case(("score", "urls.txt"), status=3),
    "a null in a Parquet file": Case(("score", "pictures.parquet"), _nulls, status=3),
    "a tar that breaks off": Case(("score", "cut.tar"), lambda: _tar("cut.tar", 3, 1500), status=3),
    "a tar that is none": Case(("score", "x.tar"), _write("x.tar", "<html>not found</html>" * 99)),
    "a tar without pictures": Case(("score", "none.tar"), lambda: _tar("none.tar", 0)),
    "a range of tars of which one is missing": Case(("score", "shards/{0..2}.tar"), _two_tars),
    "a list that names nothing": Case(("score", "list.txt"), _write("list.txt", "# no line yet\n\n")),
    "a table without paths": Case(("embed", "table.csv"), _write("table.csv", "caption,stars\ncat,5\n")),
    "a --picture-column that is not there": Case(
        ("score", "table.csv", "--picture-column", "url"), _write("table.csv", "path,caption\nphotos/0.jpg,cat\n")
    ),
    "a tower nobody knows": Case(("score", "photos", "--backbone", "vit_l14_pn_quick_gelu_openai-clp")),
    "offline, and the tower was never fetched": Case(
        ("score", "photos", "--offline", "--backbone", "openai/clip-vit-base-patch32"),
    ),
    "a tower that does not tell its activation": Case(("score", "photos", "--backbone", "bare"), _without_config),
    "a tower of a library that is not installed": Case(("score", "photos", "--backbone", "timm:vit_base_patch16_siglip_224")),
    "a folder without an image tower of transformers": Case(("score", "photos", "--backbone", "transformers:./photos")),
    "a preset that another library's tower cannot have": Case(
        ("score", "photos", "--backbone", "transformers:./siglip", "--preset", "squash", "--head", "length48.npz"), _siglip
    ),
    "a head given as the tower": Case(("score", "photos", "--backbone", "my-head.safetensors")),
    "a tower given as the head": Case(("score", "photos", "--head", "tower/model.safetensors")),
    "a tower of another length than the head's": Case(
        ("score", "photos", "--head", "long.safetensors"), lambda: _head("long", 768)
    ),
    "a tower that is not the head's": Case(
        ("score", "photos", "--head", "openai-head.safetensors"), lambda: _head("openai-head", backbone=OPENAI)
    ),
    "embeddings of a tower that is not the head's": Case(("score", "set", "--head", "openai-head.safetensors"), _embedded),
    "a GPU that is not there": Case(("score", "photos", "--device", "cuda")),
    "a device of no kind": Case(("score", "photos", "--device", "gpu")),
    "a precision that the device does not have": Case(("score", "photos", "--precision", "tf32")),
    "--keep-embeddings of embeddings": Case(("score", "embeddings.npy", "--keep-embeddings"), _embeddings),
    "the output is the input": Case(("score", "photos", "-o", "photos")),
    "the output is a folder around the input": Case(("score", "photos/0.jpg", "-o", "photos")),
    "a --format that is no single file": Case(("embed", "photos", "-o", "out.csv", "--format", "npy")),
}


@pytest.fixture(scope="module")
def web() -> Iterator[FileServer]:
    with serving({"0.jpg": _picture()}) as server:
        yield server


@pytest.fixture
def case(request: pytest.FixtureRequest, web: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Case:
    """The case named by the test's parameter, with its files made in a current folder of their own."""
    from beholder.models.backbones import TowerShape
    from beholder.models.clip import random_tensors

    found = CASES[request.param]
    monkeypatch.chdir(tmp_path)
    for name, value in found.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("COLUMNS", "200")
    shape = TowerShape.small(image_px=28, patch_px=14, width=64, dim=24)
    Path("tower").mkdir()
    write_json(Path("tower/config.json"), hf_config(shape))
    write_safetensors(Path("tower/model.safetensors"), hf_state(random_tensors(shape)))
    _head("my-head")
    Path("photos").mkdir()
    for number in range(2):
        Path(f"photos/{number}.jpg").write_bytes(_picture(number))
    Path("urls.txt").write_text(f"{web.url}/0.jpg\n{web.url}/gone.jpg\n")
    found.make()
    return found


def command_line(case: Case) -> list[str]:
    line = list(case.arguments)
    defaults = [("-o", "out.parquet")]
    if line[1] not in ("set", "embeddings.npy"):
        defaults += [("--backbone", "tower"), *zip(QUICK[::2], QUICK[1::2], strict=True)]
    if line[0] == "score":
        defaults.append(("--head", "my-head.safetensors"))
    for name, value in defaults:
        if name not in line:
            line += [name, value]
    return line


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def check(case: Case, status: object, out: str, err: str, before: dict[str, bytes], folder: Path) -> str:
    """What every failure owes its user; returns the line that tells."""
    assert status == case.status, out + err
    assert "Traceback" not in out + err
    after = files_below(folder)
    notes = ("warning: ", "tower on cpu, fp32")
    lines = [line for line in err.splitlines() if not line.startswith(notes)]
    if case.status == 3:
        assert lines == []
        (at,) = [number for number, line in enumerate(out.splitlines()) if line.startswith("rejected ")]
        told = " ".join(line.strip() for line in out.splitlines()[at : at + 2])
        beside = {"out.parquet.beholder.json", "out.parquet.rejects.parquet", "out.parquet.inputs"}
        assert set(after) - set(before) == {"out.parquet", *beside}
        rejects = pl.read_parquet(folder / "out.parquet.rejects.parquet")
        assert rejects["message"].str.len_chars().min() > 10  # type: ignore[operator]
        assert pl.read_parquet(folder / "out.parquet").height >= 1
    else:
        assert out == ""
        (told,) = lines
        assert told.startswith("beholder: ")
        assert "internal error" not in told
        assert after == before
        assert not list(folder.rglob("*.partial"))
    assert len(told) < 400
    return told


@pytest.mark.parametrize("case", CASES, indirect=True)
def test_bad_pictures_are_one_clear_line(
    case: Case,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import torch

    from beholder.__main__ import main

    name = request.node.callspec.params["case"]
    if name == "a GPU that is not there" and torch.cuda.is_available():
        pytest.skip("there is one")
    before = files_below(tmp_path)
    capsys.readouterr()
    monkeypatch.setattr(sys, "argv", ["beholder", *command_line(case)])
    status: object = 0
    try:
        main()
    except SystemExit as stop:
        status = stop.code or 0
    seen = capsys.readouterr()
    told = check(case, status, seen.out, seen.err, before, tmp_path)
    compare_with_the_documentation(name, told, case.status)


@pytest.mark.slow
@pytest.mark.parametrize(
    "case",
    [
        "a list with a lost file",
        *(
            pytest.param(name, marks=pytest.mark.soak)
            for name in ("offline, and the tower was never fetched", "a tar without pictures")
        ),
    ],
    indirect=True,
)
def test_the_installed_program_says_the_same(case: Case, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    before = files_below(tmp_path)
    line = [sys.executable, "-m", "beholder", *command_line(case)]
    done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=60)
    told = check(case, done.returncode, done.stdout, done.stderr, before, tmp_path)
    compare_with_the_documentation(request.node.callspec.params["case"], told, done.returncode)


def documented() -> dict[str, tuple[str, str]]:
    """Situation -> (line, exit status) of every row of the table about pictures."""
    text = PAGE.read_text(encoding="utf-8").split("\n## Pictures\n", 1)[1].split("\n## ")[0]
    rows = [line for line in text.splitlines() if line.startswith("|")]
    found = {}
    for row in rows[2:]:
        situation, line, todo, status = (cell.strip() for cell in row.strip("|").split("|"))
        assert todo, situation
        assert situation not in found
        found[situation] = (line.strip("`").strip(), status)
    return found


def compare_with_the_documentation(situation: str, told: str, status: int) -> None:
    """The documented line is the real one, word for word; `...` stands for what depends on the system."""
    line, documented_status = documented()[situation]
    assert re.fullmatch(".*".join(re.escape(piece) for piece in line.split("...")), told), told
    assert documented_status == str(status)


def test_every_row_of_the_documentation_is_tested() -> None:
    assert list(documented()) == list(CASES)


def test_the_output_may_lie_inside_the_folder_of_pictures(
    tmp_path: Path, small_tower: Path, plain_head: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not taken for more pictures when the same command runs again, nor when all is done anew."""
    from beholder.__main__ import main

    (tmp_path / "photos").mkdir()
    for number in range(3):
        (tmp_path / "photos" / f"{number}.jpg").write_bytes(_picture(number))
    for out in ("out", "out.parquet", "out.csv"):
        for more in ([], [], ["--overwrite"]):
            line = ["score", str(tmp_path / "photos"), "-o", str(tmp_path / "photos" / out), "--backbone", str(small_tower)]
            line += ["--head", str(plain_head), "--keep-embeddings", "--shard-rows", "2", *QUICK, *more]
            monkeypatch.setattr(sys, "argv", ["beholder", *line])
            with contextlib.suppress(SystemExit):
                main()
            seen = capsys.readouterr()
            assert "read 3 = scored 3 + rejected 0" in seen.out, seen.err
