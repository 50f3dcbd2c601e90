"""Pictures or embeddings, by a quick look: never wrong for what either reader takes, never raising."""

from __future__ import annotations

import gzip
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beholder import InputError
from beholder.sources.detect import detect
from beholder.sources.find import find_parts, find_pictures
from beholder.sources.reader import ReadOptions, SourceOptions
from oracles.tar_making import png, tar


def looks(*sources: object) -> bool:
    return detect([str(source) for source in sources], SourceOptions()) == "pictures"


def put(path: Path, data: bytes = b"") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data or png(1))
    return path


def zipped(path: Path, name: str, data: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, data)
    return path


def parquet(path: Path, **columns: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)
    return path


def birder_columns() -> dict[str, object]:
    return {"sample": ["a.jpg"], **{str(i): pa.array([0.5], pa.float32()) for i in range(768)}}


def make_pictures(root: Path) -> dict[str, Path]:
    """Sources of pictures of every kind."""
    put(root / "folder" / "deep" / "er" / "x.jpg")
    put(root / "latents" / "x.jpg")
    np.savez(root / "latents" / "x.npz", np.ones(3))
    put(root / "by content" / "0a1b2c")
    put(root / "shards" / "0.tar", tar([("1.png", png(1))]))
    parquet(root / "shards" / "0.parquet", key=["1"])
    put(root / "run" / "x.jpg")
    np.save(root / "run" / "y.npy", np.ones((2, 3)))
    put(root / "run" / "img_emb" / "beholder.json", b'{"format": "beholder-embedding-set"}')
    parquet(root / "packed" / "p.parquet", image=[{"bytes": png(1), "path": "x"}], label=[1])
    parquet(root / "urls" / "u.parquet", URL=["http://x/1.jpg"], TEXT=["x"])
    zipped(root / "z.zip", "a/x.png", png(1))
    (root / "zips").mkdir()
    zipped(root / "zips" / "z.zip", "a/x.png", png(1))
    (root / "t.csv").write_text("url,caption\nhttp://x/1.jpg,hello\n")
    (root / "scores.csv").write_text("sample,aesthetic_score\na.jpg,5.5\n")
    (root / "l.txt").write_text(f"# list\n{root}/one.jpg\n")
    (root / "ll.txt").write_text(f"{root}/folder\n")
    return {
        "picture": put(root / "one.jpg"), "odd": put(root / "odd"), "lie": put(root / "lie.jpg", b"words"),
        "folder": root / "folder",
        "latents": root / "latents", "content": root / "by content", "shards": root / "shards",
        "tar": root / "shards" / "0.tar",
        "gz": put(root / "x.tgz", gzip.compress(tar([("1.png", png(1))]))), "run": root / "run", "packed": root / "packed",
        "packed file": root / "packed" / "p.parquet", "urls": root / "urls", "zip": root / "z.zip", "zips": root / "zips",
        "csv": root / "t.csv", "score csv": root / "scores.csv", "list": root / "l.txt", "list of folders": root / "ll.txt",
        "glob": root / "fold*" / "**" / "*.jpg", "range": root / "shards" / "{0..0}.tar",
    }  # fmt: skip


def make_embeddings(root: Path) -> dict[str, Path]:
    """Sources of embeddings of every kind."""
    (root / "set" / "img_emb").mkdir(parents=True)
    np.save(root / "set" / "img_emb" / "img_emb_0.npy", np.ones((1, 4), np.float16))
    parquet(root / "set" / "metadata" / "metadata_0.parquet", image_path=["a.jpg"], url=["http://x/1.jpg"])
    np.save(root / "x.npy", np.ones((2, 4), np.float32))
    np.savez(root / "x.npz", embeddings=np.ones((2, 4), np.float32))
    (root / "odd.npy").write_bytes((root / "x.npy").read_bytes())
    header = ",".join(["sample", *map(str, range(768))])
    (root / "logits.csv").write_text(f"{header}\n" + ",".join(["a.jpg", *["0.5"] * 768]) + "\n")
    (root / "emb.txt").write_text(f"{root}/x.npy\n")
    (root / "own").mkdir()
    (root / "own" / "beholder.json").write_text('{"format": "beholder-embedding-set"}')
    np.save(root / "own" / "x.npy", np.ones((2, 4), np.float32))
    return {
        "npy": root / "x.npy", "npz": root / "x.npz", "set": root / "set", "img_emb": root / "set" / "img_emb",
        "csv": root / "logits.csv",
        "wide": parquet(root / "wide.parquet", **birder_columns()), "list": root / "emb.txt", "own": root / "own",
        "fixed": parquet(root / "parts" / "f.parquet", sample=["a.jpg"],
                         embedding=pa.array([[0.5] * 4], pa.list_(pa.float32(), 4))),
        "folder": root / "parts", "with url": parquet(root / "v.parquet", url=["http://x/1.jpg"], emb=[[0.5] * 4]),
        "glob": root / "*.npy", "with bytes": parquet(root / "b.parquet", jpg=[png(1)], embedding=[[0.5] * 4]),
    }  # fmt: skip


def test_what_looks_like_pictures_is_read_as_pictures(tmp_path: Path) -> None:
    for name, source in make_pictures(tmp_path).items():
        assert looks(source), name
        assert find_pictures([str(source)], SourceOptions()), name


def test_what_does_not_is_read_as_embeddings(tmp_path: Path) -> None:
    for name, source in make_embeddings(tmp_path).items():
        assert not looks(source), name
        assert find_parts([str(source)], ReadOptions()), name


def test_what_is_neither_is_left_to_the_reader_of_embeddings(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "loop.txt").write_text("loop.txt\n")
    (tmp_path / "nothing.txt").write_text("# nothing\n")
    (tmp_path / "closed.parquet").write_bytes(b"PAR1 and no more")
    (tmp_path / "bad.zip").write_bytes(b"PK\3\4 and no more")
    (tmp_path / "x.csv.gz").write_bytes(gzip.compress(b"sample,0,1\n"))
    for source in (
        "nosuch.jpg", tmp_path / "no" / "such", tmp_path / "empty", tmp_path / "loop.txt", tmp_path / "nothing.txt",
        tmp_path / "closed.parquet", tmp_path / "bad.zip", tmp_path / "x.csv.gz", tmp_path / "*.gif", "bogus://x/y",
        "~nobody-at-all/x",
        "http://127.0.0.1:9/x.npy", "http://127.0.0.1:9/x", put(tmp_path / "words", b"words"), "/dev/null",
    ):  # fmt: skip
        assert not looks(source), source
        with pytest.raises(InputError):
            find_parts([str(source)], ReadOptions())
    assert not looks()


def test_the_first_source_decides(tmp_path: Path) -> None:
    picture = put(tmp_path / "x.jpg")
    np.save(tmp_path / "x.npy", np.ones((2, 4), np.float32))
    assert looks(picture, tmp_path / "x.npy")
    assert not looks(tmp_path / "x.npy", picture)
    assert looks("https://example.org/x.jpg?size=2", tmp_path / "x.npy")
    assert looks("s3://bucket/{00000..00010}.tar")
