"""Files that are read are known by whatever path: links, folders, globs, servers."""

from __future__ import annotations

from pathlib import Path

import pytest

from beholder.io.overwriting import is_read


def test_links_folders_and_globs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "set" / "deep").mkdir(parents=True)
    for name in ("a.parquet", "set/b.parquet", "set/deep/c.csv"):
        (tmp_path / name).write_text(name)
    (tmp_path / "hard.parquet").hardlink_to(tmp_path / "set" / "b.parquet")
    (tmp_path / "soft").symlink_to(tmp_path / "set")
    found = [
        ("a.parquet", ["./set/../a.parquet"]), ("a.parquet", [f"file://{tmp_path}/a.parquet"]), ("hard.parquet", ["set"]),
        ("hard.parquet", ["set/*.parquet"]), ("soft/b.parquet", ["set"]), ("soft/new.csv", ["set/"]),
        ("set/deep/c.csv", ["set"]),
        ("set/x.parquet", ["set/?.parquet"]), ("set/deep/new.csv", ["set/**/*.csv"]), ("set/new.csv", ["set/**/*.csv"]),
        ("new.parquet", [None, "new.parquet"]),
    ]  # fmt: skip
    assert [pair for pair in found if not is_read(*pair)] == []
    others = [
        ("new.parquet", []), ("new.parquet", ["a.parquet", None]), ("set/page.html", ["set"]),
        ("set/deep/x.parquet", ["set/*.parquet"]),
        ("set/x.csv", ["set/*.parquet"]), ("settings/x.csv", ["set"]), ("a.parquet", ["s3://bucket/a.parquet"]),
    ]  # fmt: skip
    assert [pair for pair in others if is_read(*pair)] == []


def test_servers() -> None:
    assert is_read("s3://bucket/set/a.parquet", ["s3://bucket/set/"])
    assert is_read("s3://bucket/set/a.parquet", ["s3://bucket/set/*.parquet"])
    assert is_read("s3://bucket/a.csv", ["s3://bucket/a.csv"])
    assert not is_read("s3://bucket/settings/a.csv", ["s3://bucket/set"])
    assert not is_read("a.csv", ["s3://bucket/a.csv"])
