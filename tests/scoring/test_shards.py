"""Shards tile their input, have names of their own, and are done exactly once, whatever happens to the process."""

from __future__ import annotations

import hashlib
import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beholder import OutputError
from beholder.scoring.folder import RunFolder
from beholder.scoring.shards import (
    DamagedShardError,
    Shard,
    ShardResult,
    difference,
    fingerprint,
    is_shard_file,
    marker_of,
    plan_rows,
    shard_names,
)


@st.composite
def cut_rows(draw: Any) -> tuple[int, list[int] | None]:
    num_rows = draw(st.integers(0, 3000))
    cuts = draw(st.none() | st.lists(st.integers(1, max(1, num_rows - 1)), unique=True).map(sorted))
    return num_rows, (cuts if cuts is None or num_rows > 1 else [])


@given(cut_rows(), st.integers(1, 4000))
def test_ranges_tile_all_rows_and_respect_cuts(rows: tuple[int, list[int] | None], shard_rows: int) -> None:
    num_rows, cuts = rows
    ranges = plan_rows(num_rows, cuts, shard_rows)
    covered = [row for low, high in ranges for row in range(low, high or 0)]
    assert covered == list(range(num_rows))
    assert all(high is not None and low < high for low, high in ranges)
    allowed = set(range(num_rows + 1)) if cuts is None else {0, *cuts, num_rows}
    assert {edge for pair in ranges for edge in pair} <= allowed
    for low, high in ranges:
        assert high is not None
        within = [cut for cut in allowed if low < cut < high]
        assert high - low <= shard_rows or not within, "a range that is too long could have been cut"
    for (low, _), (_, high) in zip(ranges, ranges[1:], strict=False):
        assert high is not None
        assert high - low > shard_rows, "two neighbours could have been one"


def test_ranges_by_hand() -> None:
    assert plan_rows(10, None, 4) == [(0, 4), (4, 8), (8, 10)]
    assert plan_rows(8, None, 4) == [(0, 4), (4, 8)]
    assert plan_rows(1, None, 4) == [(0, 1)]
    assert plan_rows(0, None, 4) == plan_rows(0, [], 4) == []
    assert plan_rows(None, None, 4) == [(0, None)]
    assert plan_rows(10, [], 4) == [(0, 10)]
    assert plan_rows(10, [3, 6, 9], 4) == [(0, 3), (3, 6), (6, 10)]
    assert plan_rows(10, [3, 6, 9], 6) == [(0, 6), (6, 10)]
    assert plan_rows(20, [2, 18], 4) == [(0, 2), (2, 18), (18, 20)]


@given(st.lists(st.text(max_size=150) | st.text(max_size=9).map("zz-vanished{}".format), unique=True, max_size=8))
def test_shard_names_are_unique_and_safe(names: list[str]) -> None:
    stems = shard_names(names)
    assert len(stems) == len(names)
    assert len(set(stems)) == len(stems)
    assert shard_names(names) == stems
    for stem in stems:
        assert re.fullmatch(r"[\w.+=-]+", stem)
        assert not stem.startswith((".", "zz-vanished"))
        assert len(stem.encode()) <= 200, "file systems allow 255 bytes, and `-from-000000000000.parquet` comes after it"


def test_shard_names_by_hand() -> None:
    assert shard_names(["img_emb/img_emb_0001.npy", "x.parquet", "b.CSV"]) == ["img_emb_0001", "x", "b"]
    assert re.fullmatch("b__x-[0-9a-f]{8}", shard_names(["b/x.parquet"])[0]), "b__x.parquet may come later"
    long = shard_names(["画" * 80 + "/" + "像" * 80 + ".npy"])[0]
    assert len(long.encode()) < 120
    assert long.startswith("画" * 33)
    assert shard_names(["a.npy"]) == shard_names(["a.npz"]) == ["a"]
    first, second = shard_names(["a.npy", "a.npz"])
    assert first == "a"
    assert re.fullmatch(r"a-[0-9a-f]{8}", second)
    assert re.fullmatch("zz_vanished-00000-[0-9a-f]{8}", shard_names([".zz-vanished-00000.npy"])[0])
    assert shard_names(["a-zz-vanished.npy", "zz-vanishe.npy"]) == ["a-zz-vanished", "zz-vanishe"]
    assert shard_names(["../../x.npy"])[0].startswith("_")
    assert "/" not in shard_names(["../../x.npy"])[0]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5), lambda inner: st.lists(inner, max_size=3), max_leaves=5
)
options = st.dictionaries(st.text(max_size=5), json_values, max_size=5)


@given(options, options)
def test_fingerprints_differ_exactly_when_options_do(first: dict[str, Any], second: dict[str, Any]) -> None:
    same = json.dumps(first, sort_keys=True) == json.dumps(second, sort_keys=True)
    assert (fingerprint(first) == fingerprint(second)) is same
    assert fingerprint(dict(reversed(first.items()))) == fingerprint(first)
    assert fingerprint(json.loads(json.dumps(first))) == fingerprint(first)
    assert re.fullmatch("[0-9a-f]{16}", fingerprint(first))


def test_the_difference_is_told_in_words() -> None:
    assert difference({"a": 1, "b": [2]}, {"b": [2], "a": 1}) is None
    assert difference({"--head": ["x"]}, {"--head": ["y"]}) == '--head was ["x"], now it is ["y"]'
    assert difference({}, {"a": 1}) == "a was null, now it is 1"
    assert difference({"a": 1}, {}) == "a was 1, now it is null"


@pytest.mark.parametrize(
    "counts",
    [
        {"num_read": 3, "num_scored": 2, "num_rejected": 0},
        {"num_read": 3, "num_scored": 3, "num_rejected": 1, "reasons": {"nan": 1}},
        {"num_read": 3, "num_scored": 2, "num_rejected": 1},
        {"num_read": 3, "num_scored": 2, "num_rejected": 1, "reasons": {"nan": 2}},
    ],
)
def test_counts_that_lose_a_row_are_refused(counts: dict[str, Any]) -> None:
    with pytest.raises(AssertionError, match="rows were lost"):
        ShardResult(**counts)


SHARD = Shard("x", 0, 0, 3, {"rows": 3, "bytes": 100})
STATS = {
    "count": 2,
    "mean": 5.0,
    "sum_squared_deviations": 0.5,
    "minimum": 4.5,
    "maximum": 5.5,
    "bins": [[197768, 1], [197888, 1]],
}
RESULT = ShardResult(3, 2, 1, {"nan": 1}, {"scores/x.parquet": 4}, {"aesthetic_score": STATS})


def marker_path(folder: RunFolder) -> Path:
    return folder.path / marker_of(SHARD.name)


def record_path(folder: RunFolder) -> Path:
    return folder.path / "beholder.json"


def finished(folder: RunFolder, shard: Shard, wanted: str) -> ShardResult | None:
    """What became of a shard, if it was done with these options."""
    found = folder.finished_shard(shard.name, wanted)
    assert found is None or found.identity == shard.identity
    return None if found is None else found.result


def finished_folder(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path / "run")
    (folder.path / "scores").mkdir(parents=True)
    (folder.path / "scores" / "x.parquet").write_bytes(b"data")
    folder.mark_finished(SHARD, RESULT, "print", ["sha"])
    return folder


def test_a_finished_shard_is_known_again(tmp_path: Path) -> None:
    folder = finished_folder(tmp_path)
    assert finished(folder, SHARD, "print") == RESULT
    assert finished(folder, Shard("y", 0, 0, 3, SHARD.identity), "print") is None


def test_other_options_mean_doing_it_again(tmp_path: Path) -> None:
    folder = finished_folder(tmp_path)
    assert finished(folder, SHARD, "other print") is None


def test_lost_and_changed_files_are_damage(tmp_path: Path) -> None:
    folder = finished_folder(tmp_path)
    file = folder.path / "scores" / "x.parquet"
    file.write_bytes(b"dat")
    with pytest.raises(DamagedShardError, match="gone or of another size"):
        finished(folder, SHARD, "print")
    file.write_bytes(b"daTa")
    with pytest.raises(DamagedShardError, match=r"not what was written \(sha256\)"):
        finished(folder, SHARD, "print")
    file.unlink()
    with pytest.raises(DamagedShardError, match="gone or of another size"):
        finished(folder, SHARD, "print")
    file.mkdir()
    with pytest.raises(DamagedShardError, match="gone or of another size"):
        finished(folder, SHARD, "print")


DEEP = b'{"options": ' + b"[" * 200_000 + b"]" * 200_000 + b"}"


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"null", b"7", b"\xff\xfe{}", DEEP, b'{"result": ' + b"9" * 5000 + b"}"])
def test_damaged_records_and_markers_are_one_clear_line(tmp_path: Path, text: bytes) -> None:
    folder = finished_folder(tmp_path)
    marker_path(folder).write_bytes(text)
    with pytest.raises(DamagedShardError, match=r"x\.json is damaged: .*; run the same command again") as caught:
        finished(folder, SHARD, "print")
    assert "\n" not in str(caught.value)
    record_path(folder).write_bytes(text)
    with pytest.raises(OutputError, match=r"beholder\.json is damaged: .*; restore it, or use --overwrite"):
        folder.read_record()


def unsealed(folder: RunFolder) -> dict[str, Any]:
    """The marker as the version before wrote it: without checksums."""
    found: dict[str, Any] = json.loads(marker_path(folder).read_text())
    return {key: value for key, value in found.items() if key not in ("sha256", "file_sha256")}


ODD = [None, True, -5, 1.5, 10**30, float("nan"), "3", [], {}, [[1]], {"a": 1}]


@pytest.mark.parametrize("field", ["num_read", "num_scored", "num_rejected", "reasons", "files", "stats", "traits", "remarks"])
def test_fields_of_odd_types_and_ranges_are_damage(tmp_path: Path, field: str) -> None:
    folder = finished_folder(tmp_path)
    whole = unsealed(folder)
    for odd in ODD:
        if (field in ("files", "stats", "traits", "remarks") and odd == {}) or (
            field in ("traits", "remarks") and odd == {"a": 1}
        ):
            continue  # as it could be
        marker_path(folder).write_text(json.dumps({**whole, "result": {**whole["result"], field: odd}}))
        with pytest.raises(DamagedShardError, match=r"x\.json is damaged") as caught:
            finished(folder, SHARD, "print")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        {"num_read": 1, "num_scored": 2, "num_rejected": -1, "reasons": {"nan": -1}},
        {"reasons": {"sunspots": 1}},
        {"files": {"scores/x.parquet": -4}},
        {"remarks": {"values are null": -1}},
        {"files": {"scores/y.parquet": 4}},
        {"new": 1},
        *({"stats": {"aesthetic_score": {**STATS, key: odd}}} for key in STATS for odd in (None, "5", [3], -1)
          if (key, odd) not in (("mean", -1), ("sum_squared_deviations", -1), ("minimum", -1))),
        {"stats": {"aesthetic_score": {**STATS, "bins": [[197768, 2], [197888, -1], [1, 1]]}}},
        {"stats": {"aesthetic_score": {**STATS, "bins": [[2**18, 2]]}}},
    ],
)  # fmt: skip
def test_results_that_cannot_be_are_damage(tmp_path: Path, change: dict[str, Any]) -> None:
    folder = finished_folder(tmp_path)
    whole = unsealed(folder)
    marker_path(folder).write_text(json.dumps({**whole, "result": {**whole["result"], **change}}))
    with pytest.raises(DamagedShardError, match=r"x\.json is damaged"):
        finished(folder, SHARD, "print")


@pytest.mark.parametrize("lacking", ["shard", "fingerprint", "input", "result"])
def test_markers_that_lack_their_fields_are_damage(tmp_path: Path, lacking: str) -> None:
    folder = finished_folder(tmp_path)
    whole = unsealed(folder)
    marker_path(folder).write_text(json.dumps({key: whole[key] for key in whole if key != lacking}))
    with pytest.raises(DamagedShardError, match=r"x\.json is damaged"):
        finished(folder, SHARD, "print")


def test_every_changed_byte_of_a_marker_is_noticed(tmp_path: Path) -> None:
    folder = finished_folder(tmp_path)
    whole = marker_path(folder).read_bytes()
    for at in range(len(whole) - 1):  # after it comes the line's end
        marker_path(folder).write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(DamagedShardError):
            finished(folder, SHARD, "print")


def test_a_marker_of_the_version_before_is_believed_by_its_sizes(tmp_path: Path) -> None:
    folder = finished_folder(tmp_path)
    marker_path(folder).write_text(json.dumps(unsealed(folder)))
    with pytest.raises(DamagedShardError, match="x.parquet is damaged: it cannot be read"):
        finished(folder, SHARD, "print")
    found = json.loads(marker_path(folder).read_text())
    found["result"]["files"] = {"scores/x.csv": 4}
    marker_path(folder).write_text(json.dumps(found))
    (folder.path / "scores" / "x.csv").write_bytes(b"data")
    known = finished(folder, SHARD, "print")
    assert known is not None
    assert known.is_unchecked
    assert known.num_scored == 2
    (folder.path / "scores" / "x.csv").write_bytes(b"dat")
    with pytest.raises(DamagedShardError):
        finished(folder, SHARD, "print")


NAMES = [
    *("../../home/thesis.txt", "/etc/hostname", "scores/../../x.parquet", "done/x.json", "scores/x.parquet/../y", "x.parquet"),
    *("scores/x.txt", "beholder.json", "scores//x.parquet", "rejects/y.parquet", "embeddings/beholder.json"),
    *("scores/x.parquet\n", "img_emb/../img_emb_00001.npy", "scores\\x.parquet"),
]


@pytest.mark.parametrize("name", NAMES)
def test_names_that_are_not_of_the_shard_are_neither_believed_nor_removed(tmp_path: Path, name: str) -> None:
    folder = finished_folder(tmp_path)
    assert not is_shard_file(name, "x")
    whole = unsealed(folder)
    marker_path(folder).write_text(json.dumps({**whole, "result": {**whole["result"], "files": {name: 4}}}))
    with pytest.raises(DamagedShardError, match=r"x\.json is damaged: .*(name of a shard's file|files of another shard)"):
        finished(folder, SHARD, "print")
    precious = tmp_path / "home" / "thesis.txt"
    precious.parent.mkdir()
    precious.write_text("years")
    (folder.path / "scores" / "y.parquet").write_bytes(b"data")
    folder.forget(SHARD.name, [name, "../home/thesis.txt", str(precious), "scores/y.parquet", "scores/x.parquet"])
    assert precious.read_text() == "years"
    assert (folder.path / "scores" / "y.parquet").exists()
    assert not (folder.path / "scores" / "x.parquet").exists()
    assert not marker_path(folder).exists()


def test_records_come_back(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    assert folder.read_record() is None
    folder.write_record({"options": {"a": "ä"}})
    assert folder.read_record() == {"options": {"a": "ä"}}
    written = json.loads(record_path(folder).read_text())
    text = '{"options":{"a":"\\u00e4"}}'
    assert written == {"options": {"a": "ä"}, "sha256": hashlib.sha256(text.encode()).hexdigest()}
    record_path(folder).write_text(json.dumps(dict(reversed(written.items())), indent=7))
    assert folder.read_record() == {"options": {"a": "ä"}}, "formatted anew"
    record_path(folder).write_text(json.dumps({**written, "options": {"a": "o"}}))
    with pytest.raises(OutputError, match=r"its checksum \(sha256\) does not fit"):
        folder.read_record()
    assert [path.name for path in folder.path.iterdir()] == ["beholder.json"]


HOLDER = (
    "import sys, time; from pathlib import Path; from beholder.scoring.folder import RunFolder\n"
    "with RunFolder(Path(sys.argv[1])).locked():\n    print('held', flush=True); time.sleep(60)"
)


def test_a_second_process_is_kept_out_until_the_first_is_gone(tmp_path: Path) -> None:
    """Killed without a chance to clean up: the system lifts the lock, and the file it leaves does not matter."""
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(OutputError, match="another run is writing"), RunFolder(tmp_path / "run").locked():
            pytest.fail("two runs at once")
        with RunFolder(tmp_path / "other").locked():
            pass
        holder.send_signal(signal.SIGKILL)
        holder.wait(timeout=30)
    with RunFolder(tmp_path / "run").locked():
        assert (tmp_path / "run" / ".lock").exists()
    with RunFolder(tmp_path / "run").locked():
        pass


def test_a_place_that_takes_no_lock_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    folder = RunFolder(tmp_path / "file" / "x")
    with pytest.raises(OutputError, match="cannot write .*a part of its path is a file"), folder.locked():
        pytest.fail("no folder there")
