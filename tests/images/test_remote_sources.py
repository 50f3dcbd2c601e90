"""Pictures on S3 and on web servers (both on this machine): what local ones give, or one clear line."""

from __future__ import annotations

import gzip
import io
import json
import logging
import re
import threading
import urllib.request
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beholder import InputError, storage
from beholder.images import remote_stream
from beholder.images.labels import join_labels
from beholder.images.picture import PicturePart, PictureRef, SourceOptions
from beholder.images.remote_stream import RemoteStream
from beholder.images.sources import find_pictures, looks_like_pictures, reader_of
from oracles.tar_making import png, tar

BUCKET = "data"
MEMBERS = [
    member for i in range(30) for member in ((f"{i:03d}.png", png(i, 30)), (f"{i:03d}.json", json.dumps({"n": i}).encode()))
]


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
    blocks = list(reader_of(part.kind).blocks(part, start, stop, SourceOptions(**options)))
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


@pytest.fixture(scope="module")
def s3_server() -> Iterator[str]:
    """The address of an S3 server on this machine."""
    pytest.importorskip("s3fs", reason="needs-s3: pip install 'beholder[s3]'")
    moto_server = pytest.importorskip("moto.server", reason="needs-s3: pip install 'beholder[test]'")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    running = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    yield f"http://{host}:{port}"
    running.stop()


@pytest.fixture
def s3(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A boto3 client with FILES in the bucket "data"."""
    import boto3
    import s3fs

    for name, value in {
        "AWS_ENDPOINT_URL": s3_server, "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": "/dev/null",
        "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    urllib.request.urlopen(urllib.request.Request(f"{s3_server}/moto-api/reset", b"", method="POST"), timeout=10).close()
    s3fs.S3FileSystem.clear_instance_cache()
    client = boto3.client("s3")
    client.create_bucket(Bucket=BUCKET)
    for name, data in FILES.items():
        client.put_object(Bucket=BUCKET, Key=name, Body=data)
    yield client
    s3fs.S3FileSystem.clear_instance_cache()


class Pages(BaseHTTPRequestHandler):
    """`/ranges/NAME` with byte ranges, `/whole/NAME` without, `/flaky/NAME` failing every other time."""

    protocol_version = "HTTP/1.1"
    wbufsize = -1
    asked = 0
    broken = False

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _answer(self, *, with_body: bool) -> None:
        kind, _, name = self.path.split("?")[0].strip("/").partition("/")
        data = FILES.get(name)
        Pages.asked += with_body
        if data is None or Pages.broken or (kind == "flaky" and with_body and Pages.asked % 2):
            self.send_response(404 if data is None else 503)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")) if kind != "whole" else None
        start, stop = 0, len(data)
        if wanted:
            start, stop = int(wanted[1]), min(stop, int(wanted[2]) + 1) if wanted[2] else stop
        self.send_response(206 if wanted else 200)
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(data)}")
        self.send_header("Content-Length", str(stop - start))
        self.end_headers()
        if with_body:
            self.wfile.write(data[start:stop])


class QuietServer(ThreadingHTTPServer):
    """Clients may hang up in the middle of an answer."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass


@pytest.fixture(scope="module")
def web() -> Iterator[str]:
    """The address of a web server on this machine."""
    running = QuietServer(("127.0.0.1", 0), Pages)
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{running.server_address[1]}"
    running.shutdown()
    running.server_close()
    thread.join()


ARCHIVES = ["a/x.tar", "a/y.tar.gz", "b/p.parquet", "c/z.zip", "c/w.zip"]


@pytest.mark.parametrize("name", ARCHIVES)
def test_s3_gives_what_local_files_give(s3: Any, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    put_local(tmp_path)
    monkeypatch.setattr(remote_stream, "PIECE_BYTES", 7000)
    assert looks_like_pictures([f"s3://{BUCKET}/{name}"])
    check_like_local(f"s3://{BUCKET}/{name}", tmp_path / name)


@pytest.mark.parametrize("name", ARCHIVES)
def test_a_web_server_gives_what_local_files_give(web: str, tmp_path: Path, name: str) -> None:
    put_local(tmp_path)
    assert looks_like_pictures([f"{web}/ranges/{name}"])
    check_like_local(f"{web}/ranges/{name}", tmp_path / name)


def test_a_folder_on_s3(s3: Any) -> None:
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


def test_a_picture_on_s3_that_was_written_again_is_another_input(s3: Any) -> None:
    before = find(f"s3://{BUCKET}/d")[0].identity
    assert find(f"s3://{BUCKET}/d")[0].identity == before
    s3.put_object(Bucket=BUCKET, Key="d/9.png", Body=bytes(len(png(9))))
    after = find(f"s3://{BUCKET}/d")[0].identity
    assert after != before
    assert after["bytes"] == before["bytes"]


def test_globs_ranges_and_tables_on_s3(s3: Any, tmp_path: Path) -> None:
    (part,) = find(f"s3://{BUCKET}/d/*.*")
    assert read(part)[1].column("sample").to_pylist() == [f"s3://{BUCKET}/d/{name}" for name in ("9.png", "10.jpg", "é.webp")]
    assert [part.name for part in find(f"s3://{BUCKET}/{{a..a}}/x.tar")] == ["x.tar"]
    (part,) = find(f"s3://{BUCKET}/e/t.csv")
    refs, labels = read(part)
    assert refs[0].path == f"s3://{BUCKET}/e/../d/9.png"
    assert labels.column("caption").to_pylist() == ["nine"]
    (tmp_path / "l.txt").write_text(f"s3://{BUCKET}/a/x.tar\n")
    assert find(str(tmp_path / "l.txt"))[0].kind == "tar"


def test_a_cut_tar_on_s3_ends_with_one_error(s3: Any) -> None:
    refs, _ = read(find(f"s3://{BUCKET}/cut.tar")[0])
    assert [ref.error is None for ref in refs] == [True] * (len(refs) - 1) + [False]
    assert refs[-1].error is not None
    assert refs[-1].error[0] == "truncated"
    assert [data_of(ref) for ref in refs[:-1]] == [png(i, 30) for i in range(len(refs) - 1)]


def test_what_is_not_there_is_one_clear_line(s3: Any, web: str) -> None:
    for source, line in {
        f"s3://{BUCKET}/no.tar": "does not exist", f"s3://{BUCKET}/words": "is of no kind that is known",
        f"s3://{BUCKET}/empty.tar": "is empty", f"s3://{BUCKET}/nothing/": "does not exist",
        "s3://nowhere/*.jpg": "nothing matches",
        f"{web}/ranges/no.tar": "does not exist", f"{web}/ranges/words": "is of no kind", f"{web}/ranges/empty.tar": "is empty",
        "http://127.0.0.1:9/x.tar": "cannot read",
    }.items():  # fmt: skip
        with pytest.raises(InputError, match=re.escape(line)) as caught:
            find(source)
        assert "\n" not in str(caught.value), source


def test_single_pictures_are_not_asked_for(web: str) -> None:
    before = Pages.asked
    (part,) = find(f"{web}/ranges/d/9.png?token=x", f"{web}/ranges/no.jpg")
    refs, labels = read(part)
    assert (
        [ref.path for ref in refs]
        == labels.column("sample").to_pylist()
        == [f"{web}/ranges/d/9.png?token=x", f"{web}/ranges/no.jpg"]
    )
    assert Pages.asked == before
    assert find(f"{web}/ranges/noname?id=3")[0].kind == "files"


def test_a_server_that_fails_now_and_then_is_asked_again(web: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_stream, "_FIRST_PAUSE_S", 0.01)
    (part,) = find(f"{web}/ranges/a/y.tar.gz")
    data, got = FILES["a/x.tar"], b""
    with RemoteStream(f"{web}/flaky/a/x.tar", len(data), 9000) as stream:
        while piece := stream.read(5000):
            got += piece
        assert got == data
        assert stream.seek(12_345) == stream.tell() == 12_345
        assert stream.read(10) == data[12_345:12_355]
        assert stream.seek(-5, 2) == len(data) - 5
        assert stream.read(100) == data[-5:]
    monkeypatch.setattr(Pages, "broken", True)
    with pytest.raises(InputError, match="cannot read .*503"):
        read(part)


def test_a_stream_gives_every_byte_in_any_steps() -> None:
    rng = np.random.default_rng(0)
    data = rng.bytes(50_000)
    FILES["random"] = data
    running = QuietServer(("127.0.0.1", 0), Pages)
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        with io.BufferedReader(
            RemoteStream(f"http://127.0.0.1:{running.server_address[1]}/ranges/random", len(data), 777)
        ) as stream:
            for at in rng.integers(0, len(data), 60).tolist():
                stream.seek(at)
                assert stream.read(100) == data[at : at + 100]
    finally:
        running.shutdown()
        running.server_close()
        thread.join()
        del FILES["random"]
