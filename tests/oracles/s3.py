"""An S3 server on this machine, with one bucket, out; beholder finds it by the usual environment variables alone."""

from __future__ import annotations

import contextlib
import logging
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

BUCKET = "data"


@contextlib.contextmanager
def s3_serving() -> Iterator[str]:
    """The address of a server that runs until the end of the block; without s3fs or moto the test skips."""
    pytest.importorskip("s3fs", reason="needs-s3: pip install 'beholder[s3]'")
    moto_server = pytest.importorskip("moto.server", reason="needs-s3: pip install 'beholder[test]'")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    running = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    try:
        yield f"http://{host}:{port}"
    finally:
        running.stop()


def ask_moto(server: str, path: str, body: bytes = b"") -> None:
    """Tell the server something of its own: "reset", or "reset-auth" with the number of requests that need no credentials."""
    request = urllib.request.Request(f"{server}/moto-api/{path}", body, {"Content-Type": "text/plain"}, method="POST")
    urllib.request.urlopen(request, timeout=10).close()


@contextlib.contextmanager
def empty_bucket(server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A boto3 client; the server has nothing but the empty bucket `BUCKET` until the end of the block."""
    import boto3
    import s3fs

    for name, value in {
        "AWS_ENDPOINT_URL": server, "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": "/dev/null",
        "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    ask_moto(server, "reset")
    s3fs.S3FileSystem.clear_instance_cache()
    client = boto3.client("s3")
    client.create_bucket(Bucket=BUCKET)
    yield client
    ask_moto(server, "reset-auth", b"inf")
    s3fs.S3FileSystem.clear_instance_cache()


def fill_bucket(client: Any, files: dict[str, bytes]) -> None:
    """Put files (key -> bytes) into the bucket."""
    for key, data in files.items():
        client.put_object(Bucket=BUCKET, Key=key, Body=data)
