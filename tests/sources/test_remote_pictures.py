"""Pictures on S3 and on web servers (both on this machine): what local ones give, or one clear line."""

from __future__ import annotations

import gzip
import io
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beholder import InputError
from beholder.io import storage
from beholder.io.storage import RemoteStream
from beholder.sources.detect import detect
from beholder.sources.find import find_pictures
from beholder.sources.labels import join_labels
from beholder.sources.reader import PicturePart, PictureRef, SourceOptions, picture_reader
from oracles.s3 import BUCKET, fill_bucket
from oracles.tar_making import png, tar
from oracles.tiers import mostly_slow
from oracles.web import Answer, FileServer, Server, running, serving

MEMBERS = [
    member for i in range(30) for member in ((f"{i:03d}.png", png(i, 30)), (f"{i:03d}.json", json.dumps({"n": i}).encode()))
]


def looks_like_pictures(sources: list[str]) -> bool:
    return detect(sources, SourceOptions()) == "pictures"


def parquet(**columns: Any) -> bytes:
    stream = io.BytesIO()
    pq.write_table(pa.table(columns), stream, row_group_size=7)
    return stream.getvalue()


def zipped(packing: int) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", packing) as archive:
        for i in range(5):
            archive.writestr(f"{i}.png", png(i))
    return stream.getvalue()


FILES = {
    "a/x.tar": tar(MEMBERS), "a/x.parquet": parquet(key=[f"{i:03d}" for i in range(30)], url=[f"u{i}" for i in range(30)]),
    "a/y.tar.gz": gzip.compress(tar(MEMBERS)), "b/p.parquet": parquet(jpg=[png(i) for i in range(20)],
    key=[str(i) for i in range(20)]),
    "c/z.zip": zipped(zipfile.ZIP_STORED), "c/w.zip": zipped(zipfile.ZIP_DEFLATED), "d/10.jpg": png(10), "d/9.png": png(9),
    "d/é.webp": png(8), "d/x.txt": b"words", "d/.hidden.jpg": png(7), "d/__MACOSX/x.jpg": png(6), "d/run/x.jpg": png(5),
    "d/run/beholder.json": b'{"format": "beholder-score-set"}', "e/t.csv": b"file_name,caption\n../d/9.png,nine\n",
    "cut.tar": tar(MEMBERS)[:20_000], "words": b"words " * 200, "noname": png(3), "empty.tar": b"",
}  # fmt: skip


def find(*sources: str, **options: Any) -> list[PicturePart]:
    return find_pictures(sources, SourceOptions(**options))


def read(part: PicturePart, start: int = 0, stop: int | None = None, **options: Any) -> tuple[list[PictureRef], pa.Table]:
    blocks = list(picture_reader(part.kind).blocks(part, start, stop, SourceOptions(**options)))
    return [ref for block in blocks for ref in block.refs], join_labels([block.labels for block in blocks])


def data_of(ref: PictureRef) -> bytes:
    if ref.data is not None:
        return ref.data
    assert ref.path is not None
    low = ref.offset or 0
    return storage.read_range(ref.path, low, storage.size(ref.path) if ref.length is None else low + ref.length)


def check_like_local(remote: str, local: Path) -> None:
    """Same samples but for the place before them, same labels, same bytes, in any cut."""
    (there,), (here,) = find(remote), find(str(local))
    refs, labels = read(there)
    local_refs, local_labels = read(here)
    assert [name.replace(remote, str(local)) for name in labels.column("sample").to_pylist()] == local_labels.column(
        "sample"
    ).to_pylist()
    assert labels.drop_columns("sample").equals(local_labels.drop_columns("sample"))
    assert [data_of(ref) for ref in refs] == [data_of(ref) for ref in local_refs]
    assert all(ref.data is not None for ref in refs)
    assert (there.kind, there.num_rows, there.num_bytes) == (here.kind, here.num_rows, here.num_bytes)
    assert json.dumps(there.identity)
    for low, high in ((0, 3), (4, None), (2, 4)):
        assert read(there, low, high, block_rows=2)[0] == refs[low:high]


def put_local(folder: Path) -> None:
    for name, data in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


@pytest.fixture
def bucket(s3: Any) -> Any:
    """A boto3 client with FILES in the bucket."""
    fill_bucket(s3, FILES)
    return s3


@pytest.fixture
def web() -> Iterator[FileServer]:
    """A web server with FILES."""
    with serving(FILES) as server:
        yield server


ARCHIVES = ["a/x.tar", "a/y.tar.gz", "b/p.parquet", "c/z.zip", "c/w.zip"]


@pytest.mark.parametrize("name", mostly_slow(ARCHIVES, quick=2))
def test_s3_gives_what_local_files_give(bucket: Any, tmp_path: Path, name: str) -> None:
    put_local(tmp_path)
    assert looks_like_pictures([f"s3://{BUCKET}/{name}"])
    check_like_local(f"s3://{BUCKET}/{name}", tmp_path / name)


@pytest.mark.parametrize("name", ARCHIVES)
def test_a_web_server_gives_what_local_files_give(web: FileServer, tmp_path: Path, name: str) -> None:
    put_local(tmp_path)
    assert looks_like_pictures([f"{web.url}/{name}"])
    check_like_local(f"{web.url}/{name}", tmp_path / name)


def test_a_folder_on_s3(bucket: Any) -> None:
    (part,) = find(f"s3://{BUCKET}/d")
    refs, labels = read(part)
    assert labels.column("sample").to_pylist() == [f"s3://{BUCKET}/d/{name}" for name in ("9.png", "10.jpg", "é.webp")]
    assert [data_of(ref) for ref in refs] == [png(9), png(10), png(8)]
    assert part.num_bytes == sum(len(png(i)) for i in (9, 10, 8))
    assert (part.name, part.num_ignored) == ("d", 1)
    assert [part.path for part in find(f"s3://{BUCKET}/a/")] == [f"s3://{BUCKET}/a/x.tar", f"s3://{BUCKET}/a/y.tar.gz"]
    assert looks_like_pictures([f"s3://{BUCKET}/d"])
    assert looks_like_pictures([f"s3://{BUCKET}/b"])
    assert not looks_like_pictures([f"s3://{BUCKET}/d/run"])
    assert not looks_like_pictures([f"s3://{BUCKET}/nothing"])


def test_a_picture_on_s3_that_was_written_again_is_another_input(bucket: Any) -> None:
    before = find(f"s3://{BUCKET}/d")[0].identity
    assert find(f"s3://{BUCKET}/d")[0].identity == before
    bucket.put_object(Bucket=BUCKET, Key="d/9.png", Body=bytes(len(png(9))))
    after = find(f"s3://{BUCKET}/d")[0].identity
    assert after != before
    assert after["bytes"] == before["bytes"]


@pytest.mark.slow
def test_globs_ranges_and_tables_on_s3(bucket: Any, tmp_path: Path) -> None:
    (part,) = find(f"s3://{BUCKET}/d/*.*")
    assert read(part)[1].column("sample").to_pylist() == [f"s3://{BUCKET}/d/{name}" for name in ("9.png", "10.jpg", "é.webp")]
    assert [part.name for part in find(f"s3://{BUCKET}/{{a..a}}/x.tar")] == ["x.tar"]
    (part,) = find(f"s3://{BUCKET}/e/t.csv")
    refs, labels = read(part)
    assert refs[0].path == f"s3://{BUCKET}/e/../d/9.png"
    assert labels.column("caption").to_pylist() == ["nine"]
    (tmp_path / "l.txt").write_text(f"s3://{BUCKET}/a/x.tar\n")
    assert find(str(tmp_path / "l.txt"))[0].kind == "tar"


def test_a_cut_tar_on_s3_ends_with_one_error(bucket: Any) -> None:
    refs, _ = read(find(f"s3://{BUCKET}/cut.tar")[0])
    assert [ref.error is None for ref in refs] == [True] * (len(refs) - 1) + [False]
    assert refs[-1].error is not None
    assert refs[-1].error[0] == "truncated"
    assert [data_of(ref) for ref in refs[:-1]] == [png(i, 30) for i in range(len(refs) - 1)]


def test_what_is_not_there_is_one_clear_line(bucket: Any, web: FileServer) -> None:
    for source, line in {
        f"s3://{BUCKET}/no.tar": "does not exist", f"s3://{BUCKET}/words": "is of no kind that is known",
        f"s3://{BUCKET}/empty.tar": "is empty", f"s3://{BUCKET}/nothing/": "does not exist",
        "s3://nowhere/*.jpg": "nothing matches",
        f"{web.url}/no.tar": "does not exist", f"{web.url}/words": "is of no kind", f"{web.url}/empty.tar": "is empty",
        "http://127.0.0.1:9/x.tar": "cannot read",
    }.items():  # fmt: skip
        with pytest.raises(InputError, match=re.escape(line)) as caught:
            find(source)
        assert "\n" not in str(caught.value), source


def test_single_pictures_are_not_asked_for(web: FileServer) -> None:
    (part,) = find(f"{web.url}/d/9.png?token=x", f"{web.url}/no.jpg")
    refs, labels = read(part)
    assert (
        [ref.path for ref in refs] == labels.column("sample").to_pylist() == [f"{web.url}/d/9.png?token=x", f"{web.url}/no.jpg"]
    )
    assert web.asked == []
    assert find(f"{web.url}/noname?id=3")[0].kind == "files"


def test_a_server_that_fails_now_and_then_is_asked_again(web: FileServer) -> None:
    (part,) = find(f"{web.url}/a/y.tar.gz")
    data, got = FILES["a/x.tar"], b""
    with RemoteStream(f"{web.url}/flaky/a/x.tar", len(data), 9000, pauses_s=(0.01, 0.02, 0.04)) as stream:
        while piece := stream.read(5000):
            got += piece
        assert got == data
        assert stream.seek(12_345) == stream.tell() == 12_345
        assert stream.read(10) == data[12_345:12_355]
        assert stream.seek(-5, 2) == len(data) - 5
        assert stream.read(100) == data[-5:]
    web.fails_from = 0
    with pytest.raises(InputError, match="cannot read .*503"):
        read(part)


@pytest.mark.parametrize("status", [403, 404, 410])
def test_what_a_stream_is_refused_for_good_is_asked_for_once(status: int) -> None:
    with running(Refusing(status)) as server, RemoteStream(f"{server.url}/x.tar", 100, pauses_s=(0.01, 0.01)) as stream:
        with pytest.raises(InputError, match="cannot read .*x.tar"):
            stream.read(10)
        assert server.num_asked == 1


class Refusing(Server):
    """Every request is answered with one status, and counted."""

    def __init__(self, status: int) -> None:
        super().__init__(_Refusal)
        self.status, self.num_asked = status, 0


class _Refusal(Answer):
    server: Refusing

    def answer(self, *, with_body: bool) -> None:
        self.server.num_asked += 1
        self.send(self.server.status)


def test_a_stream_gives_every_byte_in_any_steps() -> None:
    rng = np.random.default_rng(0)
    data = rng.bytes(50_000)
    with serving({"random": data}) as server, io.BufferedReader(RemoteStream(f"{server.url}/random", len(data), 777)) as stream:
        for at in rng.integers(0, len(data), 60).tolist():
            stream.seek(at)
            assert stream.read(100) == data[at : at + 100]
