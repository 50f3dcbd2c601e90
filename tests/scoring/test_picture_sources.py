"""The same pictures from every kind of source, local, on S3 and on the web (both on this machine): the same scores."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beholder import InputError, preprocess
from beholder.io.storage import PIECE_BYTES
from beholder.models.heads import load_head
from beholder.models.towers import load_tower
from beholder.scoring.options import ScoreOptions
from beholder.scoring.score import score
from beholder.scoring.summary import RunSummary
from oracles.made_pictures import encoded, noise
from oracles.s3 import BUCKET, fill_bucket
from oracles.slow_scores import affine_scores
from oracles.tar_making import tar
from oracles.tiers import mostly_slow
from oracles.web import FileServer, serving

NUM, SIDE, BAD = 14, 56, 4
NAMES = [f"{number:03d}" for number in range(NUM)]
DATA = [
    b"<html>" if number == BAD else encoded(noise("RGB", 60 + number, 80 - number, number), "JPEG") for number in range(NUM)
]
MEMBERS = [
    member
    for name, data in zip(NAMES, DATA, strict=True)
    for member in ((f"{name}.jpg", data), (f"{name}.json", json.dumps({"caption": f"c{name}"}).encode()))
]


def zipped() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in zip(NAMES, DATA, strict=True):
            archive.writestr(f"{name}.jpg", data)
    return stream.getvalue()


def parquet(*, struct: bool) -> bytes:
    """With a struct as Hugging Face's datasets have it, else as img2dataset writes it."""
    if struct:
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        pictures = [{"bytes": data, "path": f"{name}.jpg"} for name, data in zip(NAMES, DATA, strict=True)]
        table = pa.table({"image": pa.array(pictures, kind), "label": list(range(NUM))})
    else:
        table = pa.table({"jpg": pa.array(DATA, pa.binary()), "key": NAMES})
    stream = io.BytesIO()
    pq.write_table(table, stream, row_group_size=5)
    return stream.getvalue()


FILES = {
    "x.tar": tar(MEMBERS), "x.zip": zipped(), "hf.parquet": parquet(struct=True), "i2d.parquet": parquet(struct=False),
    **{f"folder/{name}.jpg": data for name, data in zip(NAMES, DATA, strict=True)},
}  # fmt: skip


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("local")
    for name, data in FILES.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(data)
    return root


@pytest.fixture
def web() -> Iterator[FileServer]:
    with serving(FILES) as server:
        yield server


@pytest.fixture
def s3(s3: Any) -> str:
    """The URL of the bucket with FILES."""
    fill_bucket(s3, FILES)
    return f"s3://{BUCKET}"


@pytest.fixture
def run(small_tower: Path, plain_head: Path, tmp_path: Path) -> Callable[..., RunSummary]:
    """Scores a source into a file or folder of `tmp_path`."""

    def job(source: str, out: str = "s.parquet", *, told: Callable[[int], None] = lambda rows: None, **more: Any) -> RunSummary:
        values: dict[str, Any] = {"device": "cpu", "precision": "fp32", "workers": 0, "num_threads": 1, **more}
        options = ScoreOptions(
            sources=source, out=str(tmp_path / out), backbone=str(small_tower), heads=(str(plain_head),), **values
        )
        return score(options, on_progress=lambda rows, num_bytes: told(rows))

    return job


@pytest.fixture(scope="module")
def expected(small_tower: Path, plain_head: Path) -> np.ndarray:
    """Scores of the good pictures, one at a time by the plain tower."""
    import torch

    module, head = load_tower(str(small_tower)).module, load_head(str(plain_head))
    with torch.inference_mode():
        rows = [
            module(torch.from_numpy(preprocess(data, size_px=SIDE))[None]).numpy()
            for number, data in enumerate(DATA)
            if number != BAD
        ]
    return np.asarray(affine_scores(np.concatenate(rows), head.weight, head.bias))


GOOD = [name for number, name in enumerate(NAMES) if number != BAD]


def check(summary: RunSummary, folder: Path, expected: np.ndarray, samples: list[str]) -> pl.DataFrame:
    """All good pictures in order under these names (of all, the bad one included), the bad one among the rejects."""
    assert (summary.num_read, summary.num_scored, summary.num_rejected) == (NUM, NUM - 1, 1)
    found = pl.read_parquet(folder / "s.parquet")
    assert found["sample"].to_list() == [sample for number, sample in enumerate(samples) if number != BAD]
    assert np.abs(found["aesthetic_score"].to_numpy() - expected).max() < 2e-4
    assert found["width"].to_list() == [60 + number for number in range(NUM) if number != BAD]
    rejects = pl.read_parquet(folder / "s.parquet.rejects.parquet")
    assert rejects.rows()[0][:3] == (samples[BAD], "decode", "not_an_image")
    return found


SOURCES: dict[str, Callable[[str], list[str]]] = {
    "folder": lambda base: [f"{base}/folder/{name}.jpg" for name in NAMES],
    "folder/*.jpg": lambda base: [f"{base}/folder/{name}.jpg" for name in NAMES],
    "x.tar": lambda base: [f"{base}/x.tar/{name}" for name in NAMES],
    "x.zip": lambda base: [f"{base}/x.zip/{name}.jpg" for name in NAMES],
    "hf.parquet": lambda base: [f"{name}.jpg" for name in NAMES],
    "i2d.parquet": lambda base: NAMES,
}


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("place", ["local", pytest.param("s3", marks=pytest.mark.slow)])
def test_every_source_gives_the_scores_of_the_pictures_alone(
    request: pytest.FixtureRequest,
    run: Callable[..., RunSummary],
    tmp_path: Path,
    expected: np.ndarray,
    place: str,
    source: str,
) -> None:
    base = str(request.getfixturevalue(place))
    found = check(run(f"{base}/{source}"), tmp_path, expected, SOURCES[source](base))
    if source == "x.tar":
        assert found["caption"].to_list() == [f"c{name}" for name in GOOD]
    if source == "hf.parquet":
        assert found["label"].to_list() == [int(name) for name in GOOD]


@pytest.mark.parametrize(
    "source",
    ["x.tar", "x.zip", pytest.param("hf.parquet", marks=pytest.mark.slow), pytest.param("i2d.parquet", marks=pytest.mark.slow)],
)
def test_a_web_server_gives_them_too(
    web: FileServer, run: Callable[..., RunSummary], tmp_path: Path, expected: np.ndarray, source: str
) -> None:
    check(run(f"{web.url}/{source}"), tmp_path, expected, SOURCES[source](web.url))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_list_of_urls_and_paths(
    web: FileServer, local: Path, run: Callable[..., RunSummary], tmp_path: Path, expected: np.ndarray, workers: int
) -> None:
    places = [f"{web.url if number % 2 else local}/folder/{name}.jpg" for number, name in enumerate(NAMES)]
    lines = [*places[:3], "# a comment", "", *places[3:], f"{web.url}/folder/gone.jpg", f"{local}/gone.jpg"]
    (tmp_path / "list.txt").write_text("\n".join(lines))
    summary = run(str(tmp_path / "list.txt"), workers=workers)
    assert summary.reasons == {"not_an_image": 1, "missing": 2}
    found = pl.read_parquet(tmp_path / "s.parquet")
    assert found["sample"].to_list() == [place for number, place in enumerate(places) if number != BAD]
    assert np.abs(found["aesthetic_score"].to_numpy() - expected).max() < 2e-4


def contents(folder: Path) -> dict[str, bytes]:
    """Every result file, but for the times and places in the records."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and path.name not in ("beholder.json", "run.json")
        and not path.name.endswith((".beholder.json", ".zst"))
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "out"),
    mostly_slow(
        [("folder", "out"), ("x.tar", "out.parquet"), ("x.zip", "out.csv"), ("hf.parquet", "out.csv"), ("x.tar", "out")],
        quick=3,
        slow=0,
    ),
)
def test_two_runs_give_the_same_files(
    local: Path, run: Callable[..., RunSummary], tmp_path: Path, source: str, out: str
) -> None:
    for place in ("one", "two"):
        run(f"{local}/{source}", f"{place}/{out}", shard_rows=5, keep_embeddings=True, workers=0 if place == "one" else 1)
    one, two = contents(tmp_path / "one"), contents(tmp_path / "two")
    assert one
    assert one == two


def test_a_server_that_fails_in_the_middle_of_a_tar_is_asked_again_later(
    web: FileServer, run: Callable[..., RunSummary], tmp_path: Path
) -> None:
    """The tar before it is kept and not fetched again; nothing is rejected for the server's sake."""
    many = [(f"{number:03d}.jpg", DATA[number % BAD]) for number in range(60)]
    filling = [(f"{number:03d}.bin", bytes(PIECE_BYTES)) for number in range(5)]  # so that each tar comes in pieces
    web.files |= {"0.tar": tar(many[:6] + filling), "1.tar": tar(many[:30] + filling + many[30:])}
    source = f"{web.url}/{{0..1}}.tar"
    web.fails_from = len(web.files["0.tar"]) + 10_000
    assert web.fails_from < len(web.files["1.tar"]) - 10_000
    with pytest.raises(InputError, match="cannot read .*1.tar: .*503") as failed:
        run(source, "out")
    assert "\n" not in str(failed.value)
    assert [path.stem for path in (tmp_path / "out" / "done").glob("*.json")] == ["0"]
    web.fails_from = None
    web.asked.clear()
    told: list[int] = []
    summary = run(source, "out", told=told.append)
    assert (summary.num_read, summary.num_rejected, sum(told)) == (66, 0, 60)
    assert len(web.files["0.tar"]) > 5 * PIECE_BYTES
    end = len(web.files["0.tar"]) - (1 << 18)  # what comes then is looked at to know the tar again
    asked = {start for name, start in web.asked if name == "0.tar" and start < end}
    assert asked <= {0, PIECE_BYTES}, "the finished tar was fetched again"
    run(source, "whole")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_list_whose_server_fails_gives_rejects_and_the_rest(
    web: FileServer, run: Callable[..., RunSummary], tmp_path: Path
) -> None:
    """Of single pictures a server that stays broken costs those pictures."""
    (tmp_path / "list.txt").write_text("\n".join(f"{web.url}/folder/{name}.jpg" for name in NAMES[:3]))
    sizes = sorted(len(data) for data in DATA[:3])
    web.fails_from = sizes[1]
    summary = run(str(tmp_path / "list.txt"))
    assert summary.reasons == {"unreadable": 1}
    assert summary.num_scored == 2
    messages = pl.read_parquet(tmp_path / "s.parquet.rejects.parquet")["message"].to_list()
    assert "503" in messages[0]
    assert "3 tries" in messages[0]


def test_a_named_column_makes_a_table_one_of_pictures(
    local: Path, run: Callable[..., RunSummary], tmp_path: Path, expected: np.ndarray
) -> None:
    """Also one whose column has a name that nobody would look for, and beside numbers that look like an embedding."""
    good = [f"{local}/folder/{name}.jpg" for name in GOOD]
    table = pl.DataFrame({"0": [0.5] * len(good), "1": [0.5] * len(good), "where": good})
    table.write_csv(tmp_path / "table.csv")
    summary = run(str(tmp_path / "table.csv"), picture_column="where")
    assert (summary.unit, summary.num_scored) == ("pictures", NUM - 1)
    found = pl.read_parquet(tmp_path / "s.parquet")
    assert np.abs(found["aesthetic_score"].to_numpy() - expected).max() < 2e-4


@pytest.mark.parametrize("out", ["out", "new/out", "out.parquet", "out.csv"])
def test_a_run_without_pictures_leaves_nothing(run: Callable[..., RunSummary], tmp_path: Path, out: str) -> None:
    (tmp_path / "none.tar").write_bytes(tar([]))
    for _ in range(2):
        with pytest.raises(InputError, match=r"none\.tar: zero pictures, nothing to score"):
            run(str(tmp_path / "none.tar"), out)
        assert [path for path in tmp_path.rglob("*") if path.name not in ("none.tar", "new")] == []
    (tmp_path / "none.tar").write_bytes(tar(MEMBERS[:2]))
    assert run(str(tmp_path / "none.tar"), out).num_scored == 1


def test_an_empty_tar_beside_full_ones_is_no_error(run: Callable[..., RunSummary], tmp_path: Path) -> None:
    for number, members in enumerate(([], MEMBERS[:6], [])):
        (tmp_path / f"{number}.tar").write_bytes(tar(members))
    assert run(f"{tmp_path}/{{0..2}}.tar").num_scored == 3


def test_embeddings_of_an_unknown_tower_are_judged_like_its_pictures(
    local: Path, small_tower: Path, small_head: Path, tmp_path: Path
) -> None:
    """A head for a tower that may be this one: a warning, from pictures and from their embeddings alike."""
    values: dict[str, Any] = {"device": "cpu", "precision": "fp32", "workers": 0}
    direct = score(
        ScoreOptions(
            sources=f"{local}/folder", out=str(tmp_path / "direct.parquet"), backbone=str(small_tower),
            heads=(str(small_head),), keep_embeddings=True, **values,
        )
    )  # fmt: skip
    assert "it is not known whether" in direct.warnings[0]
    assert direct.embeddings is not None
    options: dict[str, Any] = {"sources": direct.embeddings, "heads": (str(small_head),)}
    later = score(ScoreOptions(out=str(tmp_path / "later.parquet"), **options))
    assert later.num_scored == NUM - 1
    (warning,) = later.warnings
    assert "it is not known whether" in warning
    assert "test/clip-24" in warning
    told = score(ScoreOptions(out=str(tmp_path / "told.parquet"), backbone="test/clip-24", **options))
    assert told.warnings == []
    with pytest.raises(InputError, match=r"made with other/tower \(--backbone\)"):
        score(ScoreOptions(out=str(tmp_path / "no.parquet"), backbone="other/tower", **options))
    stamp = Path(direct.embeddings) / "beholder.json"
    record = json.loads(stamp.read_text())
    record["backbone"] = record["tower"]["backbone"] = "openai/clip-vit-base-patch16"
    stamp.write_text(json.dumps(record))
    with pytest.raises(InputError, match="checksum .* does not fit"):  # its checksum is that of what was written
        score(ScoreOptions(out=str(tmp_path / "no.parquet"), **options))
    del record["sha256"]
    stamp.write_text(json.dumps(record))
    with pytest.raises(InputError, match="made with openai/clip-vit-base-patch16"):
        score(ScoreOptions(out=str(tmp_path / "no.parquet"), **options))
