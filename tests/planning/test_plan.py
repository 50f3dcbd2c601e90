"""Plans of typed rates against hours worked out by hand: what binds, what one more brings; sources counted and estimated."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from beholder.cli.app import app
from beholder.planning.arithmetic import shared_seconds
from beholder.scoring.score import score
from oracles.picture_jobs import picture_bytes, score_options
from oracles.tar_making import tar
from planning.conftest import TYPED, Write

COUNT, SMALL, LARGE = "3600000", "1000x500", "1000x1500"


def planned(*words: str) -> dict[str, Any]:
    """What `beholder plan ... --json` prints."""
    done = CliRunner().invoke(app, ["plan", *words, "--json"])
    assert done.exit_code == 0, (done.output, done.exception)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def seconds(found: dict[str, Any]) -> float:
    """By the clock."""
    return float(found["hours"]) * 3600


def test_the_tower_of_a_gpu_binds(rates_file: Write) -> None:
    found = planned("--count", COUNT, "--pixels", SMALL, "--rates", rates_file())
    stages = found["stage_seconds"]
    assert stages["decode"] == pytest.approx(3.6e6 * 0.006 / 16)  # 1350 s
    assert stages["tower"] == pytest.approx(3.6e6 / 2000)  # 1800 s
    assert stages["feed"] == pytest.approx(3.6e6 * (0.0002 + 0.00005))  # 900 s: handed on, and given to the card
    assert stages["cores"] == pytest.approx(3.6e6 * (0.006 + 0.0001 + 0.0002) / 16)  # 1417.5 s
    assert stages["storage"] == pytest.approx(360 + 1.8)  # 100 kB read at 1 GB/s, 100 bytes written at 200 MB/s
    assert (found["binds"], found["device"], found["workers"]) == ("tower", "cuda", 16)
    assert seconds(found) == pytest.approx(1800 + 20 + 10)
    assert found["gpu_hours"] == pytest.approx(1830 / 3600)
    assert (found["read_bytes"], found["written_bytes"]) == (360_000_000_000, 360_000_000)
    more = found["one_more"]
    assert more["core"]["hours"] == pytest.approx(1830 / 3600)
    assert more["GPU"] == {"hours": pytest.approx((1417.5 + 30) / 3600), "binds": "decode"}
    assert more["machine"]["hours"] == pytest.approx((900 + 30) / 3600)


def test_decoding_binds_where_pictures_are_large(rates_file: Write) -> None:
    found = planned("--count", COUNT, "--pixels", LARGE, "--rates", rates_file())
    assert found["binds"] == "decode"
    assert seconds(found) == pytest.approx(3.6e6 * 0.0163 / 16 + 30)
    assert found["one_more"]["core"]["hours"] * 3600 == pytest.approx(3.6e6 * 0.0163 / 17 + 30)
    assert found["one_more"]["GPU"]["hours"] == pytest.approx(found["hours"])  # 2 x 8 workers are as many
    few = planned("--count", COUNT, "--pixels", LARGE, "--rates", rates_file(), "-j", "4")
    assert seconds(few) == pytest.approx(3.6e6 * 0.016 / 4 + 30)


def test_storage_binds_and_embeddings_are_written(rates_file: Write) -> None:
    slow = rates_file(storage={"read_bytes_per_second": 1e8})
    found = planned("--count", COUNT, "--pixels", SMALL, "--rates", slow, "--keep-embeddings")
    assert found["binds"] == "storage"
    assert found["written_bytes"] == 3_600_000 * (100 + 768 * 2)
    assert seconds(found) == pytest.approx(3600 + 3.6e6 * 1636 / 2e8 + 30)
    assert found["one_more"]["machine"]["hours"] * 3600 == pytest.approx((3600 + 3.6e6 * 1636 / 2e8) / 2 + 30)


def test_feeding_a_fast_device_binds(rates_file: Write) -> None:
    """Of 3.6 million pictures: the card 180 s, 64 cores 354.4, storage 361.8, the process that feeds it 900."""
    fast = [{**TYPED["towers"][0], "pictures_per_second": 20_000}]
    words = ("--count", COUNT, "--pixels", SMALL, "--cores", "64", "--rates", rates_file(towers=fast))
    found = planned(*words)
    stages = found["stage_seconds"]
    assert (stages["tower"], stages["feed"]) == (pytest.approx(180), pytest.approx(900))
    assert stages["cores"] == pytest.approx(3.6e6 * (0.006 + 0.0001 + 0.0002) / 64)
    assert found["core_shares"] == {"decode": pytest.approx(60 / 63), "feed": pytest.approx(3 / 63)}
    assert (found["binds"], seconds(found)) == ("feed", pytest.approx(930))
    more = found["one_more"]
    assert more["GPU"] == {"hours": pytest.approx(480 / 3600), "binds": "feed"}  # another process feeds it
    assert more["core"] == {"hours": pytest.approx(930 / 3600), "binds": "feed"}
    assert planned(*words, "--devices", "0,1,2")["binds"] == "storage"  # 300 s each, and 361.8
    text = CliRunner().invoke(app, ["plan", *words], env={"COLUMNS": "200"}).stdout
    assert "what binds is feeding the device, which one process does for each" in text


def test_the_process_that_hands_on_binds(rates_file: Write) -> None:
    file = rates_file(run={"core_s": 0.001})
    found = planned("--count", COUNT, "--pixels", SMALL, "--rates", file)
    assert (found["binds"], seconds(found)) == ("feed", pytest.approx(3.6e6 * 0.00105 + 30))
    alone = planned("--count", COUNT, "--pixels", SMALL, "--rates", file, "-j", "0")  # decoding is its work, too
    assert (alone["binds"], seconds(alone)) == ("feed", pytest.approx(3.6e6 * 0.00705 + 30))


def test_machines_and_gpus_share_the_pictures(rates_file: Write) -> None:
    words = ("--count", COUNT, "--pixels", SMALL, "--machines", "4", "--devices", "0,1", "--rates", rates_file())
    found = planned(*words)
    assert found["stage_seconds"]["tower"] == pytest.approx(900_000 / 2 / 2000)
    assert seconds(found) == pytest.approx(900_000 * 0.0063 / 16 + 30)
    assert found["gpu_hours"] == pytest.approx(8 * found["hours"])
    assert seconds(planned(*words, "--cores", "64")) == pytest.approx(900_000 / 2 / 2000 + 30)


@pytest.mark.parametrize(("devices", "workers"), [("cpu", 8), ("cpu:4", 2), ("cpu:16", 1)])
def test_a_tower_on_the_processor_shares_its_cores(rates_file: Write, devices: str, workers: int) -> None:
    found = planned("--count", "1000", "--pixels", SMALL, "--rates", rates_file(), "--devices", devices)
    assert found["stage_seconds"]["tower"] == pytest.approx(1000 * 1.6 / 16)
    assert found["stage_seconds"]["cores"] == pytest.approx(1000 * (1.6 + 0.006 + 0.0002) / 16)
    assert (found["slowest_stage"], found["binds"], found["workers"]) == ("cores", "tower", workers)
    assert seconds(found) == pytest.approx(1000 * 1.6062 / 16 + 25)
    assert (found["gpu_hours"], "GPU" in found["one_more"]) == (0, False)
    assert sum(found["core_shares"].values()) == pytest.approx(1)


def test_few_workers_take_turns_with_the_tower(rates_file: Write) -> None:
    """1000 pictures on 2 cores: 1 worker decodes 2 s, 2 threads compute 3 core-seconds.

    While the tower computes, three threads have two thirds of a core: it takes 3 / (4/3) = 2.25 s, in which the worker gets on
    by 1.5 s; the other 0.5 s the worker has a core, and the other one idles.
    """
    tower = [{**TYPED["towers"][1], "core_s": 0.003}]
    file = rates_file(towers=tower, run={"core_s": 0})
    words = ("--count", "1000", "--pixels", "1000x100", "--cores", "2", "--rates", file)
    found = planned(*words)
    assert (found["workers"], found["stage_seconds"]["decode"]) == (1, pytest.approx(2))
    assert found["stage_seconds"]["cores"] == pytest.approx(2.25 + 0.5)
    assert (found["slowest_stage"], found["binds"], seconds(found)) == ("cores", "tower", pytest.approx(2.75 + 25))
    assert planned(*words, "-j", "2")["stage_seconds"]["cores"] == pytest.approx(2.5), "two workers leave no core idle"
    handing = rates_file(towers=tower, run={"core_s": 0.0002})
    text = CliRunner().invoke(app, ["plan", *words[:-1], handing, "--threads", "1"], env={"COLUMNS": "200"}).stdout
    assert "(of what the cores do: the tower 58 %, decoding 38 %, feeding the device 4 %)" in text


@given(jobs=st.lists(st.tuples(st.integers(1, 8), st.floats(0.01, 10)), min_size=1, max_size=3), cores=st.integers(1, 8))
def test_shared_cores_are_never_more_than_there_are(jobs: list[tuple[int, float]], cores: int) -> None:
    """Between what each stage takes alone, or all together on full cores, and what they take one after the other.

    Where the threads are no more than the cores nobody waits; where one stage that fills the cores always has work, none idles.
    """
    found = shared_seconds(jobs, cores)
    alone = [core_s / min(threads, cores) for threads, core_s in jobs]
    together = sum(core_s for _, core_s in jobs) / cores
    assert max(*alone, together) <= found * (1 + 1e-6)
    assert found <= sum(alone) * (1 + 1e-6)
    if sum(threads for threads, _ in jobs) <= cores:
        assert found == pytest.approx(max(alone))
    longest = (cores, 2 * cores * sum(alone))
    assert shared_seconds([*jobs, longest], cores) == pytest.approx(together + longest[1] / cores)


def test_few_decode_workers_are_named_where_they_bind(rates_file: Write) -> None:
    words = ("--count", COUNT, "--pixels", SMALL, "--rates", rates_file(), "-j", "2")
    found = planned(*words)
    assert (found["slowest_stage"], seconds(found)) == ("decode", pytest.approx(3.6e6 * 0.006 / 2 + 30))
    text = CliRunner().invoke(app, ["plan", *words], env={"COLUMNS": "200"}).stdout
    assert "what binds is decoding by 2 decode workers beside 16 cores; more of them (-j), or --decoder scaled" in text


def test_threads_are_kept(rates_file: Write) -> None:
    found = planned("--count", "1000", "--pixels", SMALL, "--rates", rates_file(), "--devices", "cpu", "--threads", "2")
    assert (found["binds"], seconds(found)) == ("tower", pytest.approx(1000 * 1.6 / 2 + 25))


def test_several_files_of_rates_make_one(rates_file: Write) -> None:
    disks = rates_file("disks.json", decode=None, run=None, rows=None, towers=[], num_cores=32,
                       storage={"read_bytes_per_second": 1e7})  # fmt: skip
    found = planned("--count", COUNT, "--pixels", SMALL, "--rates", rates_file(), "--rates", disks)
    assert (found["binds"], found["cores"]) == ("storage", 16)
    assert seconds(found) == pytest.approx(36_000 + 1.8 + 30)


def test_cores_and_quiet_are_those_of_the_file_that_brings_the_stage(rates_file: Write) -> None:
    others = rates_file("others.json", num_cores=32, busy=0.4)
    decode = rates_file("decode.json", run=None, rows=None, storage=None, towers=[], num_cores=8, busy=0.2)
    found = planned("--count", COUNT, "--pixels", SMALL, "--rates", others, "--rates", decode)
    assert found["cores"] == 8
    assert any("others had 40 % of the processor" in note for note in found["notes"])
    found = planned("--count", COUNT, "--pixels", SMALL, "--rates", others, "--rates", rates_file())
    assert found["cores"] == 16
    assert not any("of the processor" in note for note in found["notes"]), "nothing of the busy file is taken"


def test_other_words_for_the_count_and_what_is_printed(rates_file: Write) -> None:
    words = ["plan", "--pictures", COUNT, "--pixels", LARGE, "--rates", rates_file()]
    text = CliRunner().invoke(app, words, env={"COLUMNS": "200"}).stdout
    lines = text.splitlines()
    assert lines[0] == "3,600,000 pictures on 1 machine of 1 x a card and 16 cores, fp16"
    assert lines[1] == "  1.03 h, 1.03 h of GPUs, of which the start 30 s"  # 3697.5 s
    assert lines[2] == "  read 1.08 TB, written 360.00 MB"
    assert "decoding; cores, or --decoder scaled, make it faster" in lines[3]
    assert "decoding 98 %, feeding the device 2 %" in lines[3]


def test_the_example_of_the_page_is_what_is_printed(rates_file: Write) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "scale.md").read_text(encoding="utf-8")
    done = CliRunner().invoke(app, ["plan", "--count", COUNT, "--rates", rates_file()], env={"COLUMNS": "200"})
    assert f"```\n{done.stdout}```\n" in page


def test_embeddings_by_their_rows(rates_file: Write, here: Path) -> None:
    np.save("rows.npy", np.zeros((1000, 768), np.float16))
    found = planned("rows.npy", "--rates", rates_file())
    assert (found["unit"], found["count"], found["read_bytes"]) == ("rows", 1000, 128 + 1000 * 1536)
    written_s = 1000 * 13.09 / 2e8
    assert found["stage_seconds"] == {"scoring": pytest.approx(10), "storage": pytest.approx(written_s)}  # just made: in memory
    assert any("100 % of what is read lies in the memory" in note for note in found["notes"])
    ours = planned("rows.npy", "--rates", rates_file(), "--machines", "2")  # the other one's memory has nothing of it
    assert ours["stage_seconds"]["storage"] == pytest.approx((0.001536 + written_s) / 2, rel=0.1)
    assert found["binds"] == "scoring"
    assert found["start_seconds"] == pytest.approx(2, abs=60)  # and looking at the file
    half = planned("rows.npy", "--rates", rates_file(), "--cores", "4", "--machines", "2")
    assert half["stage_seconds"]["scoring"] == pytest.approx(20)
    assert half["one_more"]["core"]["hours"] < half["hours"]
    np.save("short.npy", np.zeros((1000, 192), np.float16))
    assert planned("short.npy", "--rates", rates_file())["stage_seconds"]["scoring"] == pytest.approx(2.5)


def test_a_folder_is_counted(rates_file: Write, here: Path) -> None:
    Path("photos").mkdir()
    for number, size in enumerate([(70, 60), (70, 60), (100, 50), (140, 120)]):
        Path(f"photos/{number}.jpg").write_bytes(picture_bytes(number, size=size))
    found = planned("photos", "--rates", rates_file())
    assert (found["count"], found["count_error"], found["pixels"]) == (4, 0, (2 * 4200 + 5000 + 16_800) / 4)
    assert found["read_bytes"] == sum(path.stat().st_size for path in Path("photos").iterdir())


def test_tars_are_counted_or_estimated_with_the_error(rates_file: Write, here: Path) -> None:
    """Of 20 tars 16 are counted: number i * 20 // 16; the estimate and its error by Cochran's ratio estimator."""
    Path("tars").mkdir()
    for number in range(20):
        pictures = [(f"{at}.jpg", picture_bytes(number, size=(64, 64 + 32 * (number % 3)))) for at in range(2 + number % 2)]
        Path(f"tars/{number:02d}.tar").write_bytes(tar(pictures))
    found = planned("tars", "--rates", rates_file())
    sizes = np.array([path.stat().st_size for path in sorted(Path("tars").iterdir())])
    at = np.array([place * 20 // 16 for place in range(16)])
    rows, each = 2 + at % 2, sizes[at]
    ratio = rows.sum() / each.sum()
    assert found["count"] == round(ratio * sizes.sum())
    error = 2 * np.sqrt((1 - 16 / 20) / 16 * ((rows - ratio * each) ** 2).sum() / 15) / each.mean() / ratio
    assert found["count_error"] == pytest.approx(error)
    assert any("16 of 20 tars were counted" in note for note in found["notes"])
    few = planned("tars/0{0..4}.tar", "--rates", rates_file())
    assert (few["count"], few["count_error"]) == (2 + 3 + 2 + 3 + 2, 0)


def test_what_is_left_of_a_run_that_was_begun(rates_file: Write, here: Path, small_tower: Path, plain_head: Path) -> None:
    Path("tars").mkdir()
    for number, count in enumerate((3, 5)):
        pictures = [(f"{at}.jpg", picture_bytes(at)) for at in range(count)]
        Path(f"tars/{number}.tar").write_bytes(tar(pictures))
    assert planned("tars", "--rates", rates_file(), "-o", "out")["count"] == 8
    score(score_options(("tars",), here / "out", small_tower, plain_head, part="0/2"))
    found = planned("tars", "--rates", rates_file(), "-o", "out")
    assert (found["count"], found["stage_seconds"]["tower"]) == (5, pytest.approx(5 / 2000))
    assert any("3 pictures are done in out" in note for note in found["notes"])


def test_the_error_of_an_estimate_is_a_larger_share_of_what_is_left(
    rates_file: Write, here: Path, small_tower: Path, plain_head: Path
) -> None:
    """20 tars of 2 or 3 pictures in turn: one part of two does 20 of 50. Then two tars go, and more were done than are left."""
    Path("tars").mkdir()
    for number in range(20):
        pictures = [(f"{at}.jpg", picture_bytes(number, size=(64, 64 + 32 * (number % 3)))) for at in range(2 + number % 2)]
        Path(f"tars/{number:02d}.tar").write_bytes(tar(pictures))
    whole = planned("tars", "--rates", rates_file())
    score(score_options(("tars",), here / "out", small_tower, plain_head, part="0/2"))
    left = planned("tars", "--rates", rates_file(), "-o", "out")
    assert left["count"] == pytest.approx(whole["count"] - 20, abs=1)
    assert left["count_error"] == pytest.approx(whole["count_error"] * whole["count"] / left["count"], rel=0.05)
    score(score_options(("tars",), here / "out", small_tower, plain_head))
    for name in ("17", "19"):
        Path(f"tars/{name}.tar").unlink()
    np.save("few.npy", np.ones((3, 24), np.float32))
    ended = CliRunner().invoke(app, ["plan", "few.npy", "--rates", rates_file(), "-o", "out"])
    assert "out has 50 rows, and the sources have 3 rows: it is of another job" in str(ended.exception)
    ended = CliRunner().invoke(app, ["plan", "tars", "--rates", rates_file(), "-o", "out"])
    assert "50 pictures are done, and about 4" in str(ended.exception)
    assert "what is left cannot be told; beholder status out" in str(ended.exception)


def test_rates_of_this_machine_are_found(rates_file: Write, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BEHOLDER_DATA", str(here / "data"))
    Path("data").mkdir()
    Path("data/rates.json").write_text(json.dumps(TYPED), encoding="utf-8")
    assert planned("--count", COUNT, "--pixels", SMALL)["hours"] == pytest.approx(1830 / 3600)


def test_a_table_that_needs_its_column_named(rates_file: Write, here: Path) -> None:
    Path("a.jpg").write_bytes(picture_bytes(0))
    Path("table.csv").write_text("mine,caption\na.jpg,one\na.jpg,two\n", encoding="utf-8")
    words = ("table.csv", "--rates", rates_file())
    assert CliRunner().invoke(app, ["plan", *words]).exit_code != 0
    found = planned(*words, "--picture-column", "mine")
    assert (found["count"], found["pixels"], found["read_bytes"]) == (2, 4200, 2 * Path("a.jpg").stat().st_size)
