"""Pictures to embeddings and scores: whole jobs on real files, compared with the plain way of doing each step."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from PIL import Image

from beholder import preprocess
from beholder.models.towers import load_tower
from beholder.scoring.options import ScoreOptions
from beholder.scoring.score import embed, score
from oracles.picture_jobs import SIDE, check_counts, embed_options, picture_bytes, plain_scores, score_options
from oracles.tiers import mostly_slow


def test_a_folder_of_pictures_is_scored_like_one_picture_at_a_time(
    tmp_path: Path, photos: Path, small_tower: Path, plain_head: Path
) -> None:
    summary = score(score_options(str(photos), tmp_path / "s.parquet", small_tower, plain_head, shard_rows=5))
    check_counts(summary, 22, 1)
    assert summary.num_ignored == 1
    assert summary.unit == "pictures"
    found = pl.read_parquet(tmp_path / "s.parquet")
    assert found.columns == ["sample", "aesthetic_score", "width", "height", "traits", "num_bytes"]
    assert all(sample.startswith(str(photos)) for sample in found["sample"])
    expected = plain_scores(found["sample"].to_list(), small_tower, plain_head)
    assert np.abs(found["aesthetic_score"].to_numpy() - expected).max() < 2e-4
    sizes = [Image.open(path).size for path in found["sample"]]
    assert list(zip(found["width"], found["height"], strict=True)) == sizes
    assert found["num_bytes"].to_list() == [Path(path).stat().st_size for path in found["sample"]]
    rejects = pl.read_parquet(str(tmp_path / "s.parquet.rejects.parquet"))
    assert rejects.rows()[0][:3] == (f"{photos}/a/broken.jpg", "decode", "not_an_image")
    assert "写真 é" in "".join(found["sample"])


def test_csv_has_every_picture_in_place(tmp_path: Path, photos: Path, small_tower: Path, plain_head: Path) -> None:
    score(score_options(str(photos), tmp_path / "s.csv", small_tower, plain_head))
    found = pl.read_csv(tmp_path / "s.csv")
    assert found.columns[:3] == ["sample", "aesthetic_score", "status"]
    assert found.height == 23
    bad = found.filter(pl.col("status") != "ok")
    assert bad["status"].to_list() == ["not_an_image"]
    assert bad["aesthetic_score"].null_count() == 1


@pytest.mark.parametrize("out", mostly_slow(["s.parquet", "folder"]))
def test_kept_embeddings_are_scored_again_without_pictures(
    tmp_path: Path, photos: Path, small_tower: Path, plain_head: Path, out: str
) -> None:
    copy = tmp_path / "photos"
    shutil.copytree(photos, copy)
    options = score_options(str(copy), tmp_path / out, small_tower, plain_head, keep_embeddings=True, shard_rows=6)
    summary = score(options)
    assert summary.embeddings is not None
    shutil.rmtree(copy)
    stamp = json.loads((Path(summary.embeddings) / "beholder.json").read_text())
    assert (stamp["format"], stamp["normalised"], stamp["dtype"]) == ("beholder-embeddings", True, "float16")
    assert stamp["pixels"]["preset"] == "reference"
    assert stamp["pictures"]["folder"] == str(Path.cwd())
    assert stamp["pictures"]["sources"] == [str(copy)]
    again = score(ScoreOptions(sources=summary.embeddings, out=str(tmp_path / "again.parquet"), heads=(str(plain_head),)))
    check_counts(again, 22, 0)
    first = pl.read_parquet(str(tmp_path / out / "scores") if out == "folder" else str(tmp_path / out))
    second = pl.read_parquet(str(tmp_path / "again.parquet"))
    assert first["sample"].to_list() == second["sample"].to_list()
    assert np.abs(first["aesthetic_score"] - second["aesthetic_score"]).max() < 5e-3  # float16 rows
    assert not again.warnings


@pytest.mark.slow
def test_embeddings_as_float32_give_the_same_bits(tmp_path: Path, photos: Path, small_tower: Path, plain_head: Path) -> None:
    embed(embed_options(str(photos), tmp_path / "e", small_tower, dtype="float32", normalise=False, shard_rows=4))
    direct = score(score_options(str(photos), tmp_path / "direct.parquet", small_tower, plain_head, shard_rows=9))
    later = score(ScoreOptions(sources=str(tmp_path / "e"), out=str(tmp_path / "later.parquet"), heads=(str(plain_head),)))
    assert direct.num_scored == later.num_scored == 22
    one, other = pl.read_parquet(tmp_path / "direct.parquet"), pl.read_parquet(tmp_path / "later.parquet")
    assert one["aesthetic_score"].to_numpy().tobytes() == other["aesthetic_score"].to_numpy().tobytes()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("out", "more"),
    mostly_slow(
        [
            ("e", {}),
            ("e", {"format": "parquet"}),
            ("e.parquet", {}),
            ("e.parquet", {"format": "birder-parquet"}),
            ("e.csv", {}),
        ],
        quick=2,
    ),
)
def test_every_layout_is_read_again(
    tmp_path: Path, photos: Path, small_tower: Path, plain_head: Path, out: str, more: dict[str, Any]
) -> None:
    summary = embed(embed_options(str(photos), tmp_path / out, small_tower, dtype="float32", shard_rows=7, **more))
    check_counts(summary, 22, 1)
    scored = score(ScoreOptions(sources=str(tmp_path / out), out=str(tmp_path / "s.parquet"), heads=(str(plain_head),)))
    check_counts(scored, 22, 0)
    assert not scored.warnings, "the stamp was not found"
    found = pl.read_parquet(tmp_path / "s.parquet")
    expected = plain_scores(found["sample"].to_list(), small_tower, plain_head)
    assert np.abs(found["aesthetic_score"].to_numpy() - expected).max() < 2e-4


def test_batches_and_shards_do_not_change_a_bit(tmp_path: Path, photos: Path, small_tower: Path, plain_head: Path) -> None:
    found = []
    for number, more in enumerate([{"shard_rows": 1}, {"shard_rows": 22}, {"workers": 0}, {"workers": 2, "shard_rows": 3}]):
        score(score_options(str(photos), tmp_path / f"{number}.parquet", small_tower, plain_head, **more))
        found.append(pl.read_parquet(tmp_path / f"{number}.parquet")["aesthetic_score"].to_numpy().tobytes())
    assert len(set(found)) == 1


def write_tar(path: Path, keys: list[str], *, cut: bool = False) -> None:
    with tarfile.open(path, "w") as tar:
        for number, key in enumerate(keys):
            for suffix, data in (("jpg", picture_bytes(number)), ("json", json.dumps({"punsafe": number / 100}).encode())):
                member = tarfile.TarInfo(f"{key}.{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    if cut:
        path.write_bytes(path.read_bytes()[:-20_000])


def test_tars_are_scored_with_what_their_json_says(tmp_path: Path, small_tower: Path, plain_head: Path) -> None:
    for shard in range(3):
        write_tar(tmp_path / f"{shard:05}.tar", [f"{shard:05}{number:04}" for number in range(6)])
    source = str(tmp_path / "{00000..00002}.tar")
    summary = score(score_options(source, tmp_path / "s.parquet", small_tower, plain_head))
    check_counts(summary, 18, 0)
    found = pl.read_parquet(tmp_path / "s.parquet")
    assert found["sample"].to_list()[:2] == [f"{tmp_path}/00000.tar/000000000", f"{tmp_path}/00000.tar/000000001"]
    assert found["punsafe"].to_list()[:6] == [number / 100 for number in range(6)]


def test_a_broken_tar_keeps_what_came_before(tmp_path: Path, small_tower: Path, plain_head: Path) -> None:
    write_tar(tmp_path / "00000.tar", [f"{number:09}" for number in range(9)], cut=True)
    summary = score(score_options(str(tmp_path / "00000.tar"), tmp_path / "s.parquet", small_tower, plain_head))
    assert summary.num_scored >= 3
    assert summary.num_rejected >= 1
    assert set(summary.reasons) <= {"truncated", "unreadable"}


def test_presets_differ_only_where_pictures_have_traits(tmp_path: Path, small_tower: Path, plain_head: Path) -> None:
    folder = tmp_path / "odd"
    folder.mkdir()
    image = Image.open(io.BytesIO(picture_bytes(1, size=(80, 120))))
    image.save(folder / "plain.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(folder / "turned.jpg", exif=exif)
    image.convert("P").save(folder / "palette.png")
    image.convert("CMYK").save(folder / "cmyk.jpg")
    alpha = image.convert("RGBA")
    alpha.putalpha(Image.linear_gradient("L").resize(alpha.size))
    alpha.save(folder / "alpha.png")
    reference = score(score_options(str(folder), tmp_path / "r.parquet", small_tower, plain_head))
    score(score_options(str(folder), tmp_path / "u.parquet", small_tower, plain_head, preset="upright"))
    assert reference.traits == {"rotated": 1, "palette": 1, "cmyk": 1, "alpha": 1}
    one, other = pl.read_parquet(tmp_path / "r.parquet"), pl.read_parquet(tmp_path / "u.parquet")
    differ = dict(zip([Path(s).name for s in one["sample"]], one["aesthetic_score"] != other["aesthetic_score"], strict=True))
    assert (differ["plain.png"], differ["turned.jpg"], differ["palette.png"], differ["alpha.png"]) == (False, True, True, True)
    assert dict(zip([Path(s).name for s in one["sample"]], one["traits"], strict=True))["turned.jpg"] == "rotated"


def test_only_bad_pictures_is_a_result_too(tmp_path: Path, small_tower: Path, plain_head: Path) -> None:
    folder = tmp_path / "bad"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.jpg").write_bytes(b"\0" * number)
    check_counts(score(score_options(str(folder), tmp_path / "s.parquet", small_tower, plain_head)), 0, 3)
    assert pl.read_parquet(tmp_path / "s.parquet").height == 0
    assert pq.read_table(tmp_path / "s.parquet.rejects.parquet")["reason"].to_pylist() == [
        "empty",
        "not_an_image",
        "not_an_image",
    ]
    check_counts(embed(embed_options(str(folder), tmp_path / "e", small_tower)), 0, 3)
    (folder / "0.jpg").write_bytes(b"\0")
    (folder / "9.jpg").write_bytes(b"")
    for _ in range(2):  # the second reads the record of the first
        summary = score(score_options(str(folder), tmp_path / "again.parquet", small_tower, plain_head))
        assert list(summary.reasons.items()) == [("empty", 1), ("not_an_image", 3)]


def test_one_picture(tmp_path: Path, photos: Path, small_tower: Path, plain_head: Path) -> None:
    path = str(photos / "a" / "p01.png")
    check_counts(score(score_options(path, tmp_path / "s.parquet", small_tower, plain_head)), 1, 0)
    found = pl.read_parquet(tmp_path / "s.parquet")
    assert abs(found["aesthetic_score"][0] - plain_scores([path], small_tower, plain_head)[0]) < 1e-4


def test_lists_pass_their_columns_and_clashing_names_are_renamed(
    tmp_path: Path, photos: Path, small_tower: Path, plain_head: Path
) -> None:
    paths = [str(path) for path in sorted((photos / "a").glob("p*"))][:4]
    table = pl.DataFrame(
        {"path": paths, "caption": list("wxyz"), "aesthetic_score": [1.0, 2.0, 3.0, 4.0], "status": list("abcd")}
    )
    table.write_csv(tmp_path / "list.csv")
    score(score_options(str(tmp_path / "list.csv"), tmp_path / "s.csv", small_tower, plain_head))
    found = pl.read_csv(tmp_path / "s.csv")
    assert found["caption"].to_list() == list("wxyz")
    assert found["source_aesthetic_score"].to_list() == [1.0, 2.0, 3.0, 4.0]
    assert found["source_status"].to_list() == list("abcd")
    expected = plain_scores(paths, small_tower, plain_head)
    assert np.abs(found["aesthetic_score"].to_numpy() - expected).max() < 2e-4
    scored_again = found.rename({"sample": "path"})
    scored_again.write_csv(tmp_path / "again.csv")
    score(score_options(str(tmp_path / "again.csv"), tmp_path / "again.parquet", small_tower, plain_head))
    again = pl.read_parquet(tmp_path / "again.parquet")
    assert again["source_aesthetic_score"].to_list() == ["1.0", "2.0", "3.0", "4.0"], "it keeps its name"
    assert [float(text) for text in again["source_source_aesthetic_score"]] == found["aesthetic_score"].to_list()


def test_hidden_vectors_are_those_before_the_projection(tmp_path: Path, photos: Path, small_tower: Path) -> None:
    import torch

    paths = sorted(str(path) for path in (photos / "a").glob("p*.png"))
    embed(embed_options(tuple(paths), tmp_path / "h.parquet", small_tower, dtype="float32", normalise=False, hidden=True))
    table = pl.read_parquet(tmp_path / "h.parquet")
    module = load_tower(str(small_tower)).module
    with torch.inference_mode():
        expected = module.hidden(torch.stack([torch.from_numpy(preprocess(path, size_px=SIDE)) for path in paths])).numpy()
    assert table["sample"].to_list() == paths
    assert np.abs(table["embedding"].to_numpy() - expected).max() < 2e-5


@pytest.mark.parametrize("name", ["e.parquet", "e.csv", "folder"])
def test_embedding_only_bad_pictures_is_no_failure(tmp_path: Path, small_tower: Path, name: str) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"no picture")
    summary = embed(embed_options(str(tmp_path / "bad.jpg"), tmp_path / name, small_tower))
    check_counts(summary, 0, 1)
    assert not list(tmp_path.glob("*.partial"))
    if name == "e.parquet":
        table = pq.read_table(tmp_path / name)
        assert (table.num_rows, table.schema.field("embedding").type.list_size) == (0, 24)
    if name == "e.csv":
        assert (tmp_path / name).read_text().splitlines()[0].split(",")[:3] == ["sample", "0", "1"]
        assert len((tmp_path / name).read_text().splitlines()) == 1


def test_links_to_a_picture_that_is_listed_are_counted(
    tmp_path: Path, photos: Path, small_tower: Path, plain_head: Path
) -> None:
    folder = tmp_path / "links"
    folder.mkdir()
    shutil.copy(photos / "a" / "p01.png", folder / "real.png")
    (folder / "alias.png").symlink_to(folder / "real.png")
    summary = score(score_options(str(folder), tmp_path / "s.parquet", small_tower, plain_head))
    assert (summary.num_read, summary.num_ignored) == (1, 1)
