"""Small inputs that failed once, each with what must come; they lie beside the repository (tests/README.md), a folder each."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from oracles.program import beholder


@dataclass(frozen=True)
class Outcome:
    """What a command did: exit status, both streams, and the process's largest memory, bytes."""

    status: int
    out: str
    err: str
    most_memory: int

    def ends_in_one_line(self) -> bool:
        """Exit status 1 with a single line of the program's own."""
        lines = [line for line in self.err.splitlines() if not line.startswith("warning: ")]
        return self.status == 1 and len(lines) == 1 and lines[0].startswith("beholder: ") and "internal error" not in self.err


def run(*command: str) -> Outcome:
    """One command."""
    done = beholder(*command)
    return Outcome(done.returncode, done.stdout, done.stderr, done.most_memory)


def run_all(commands: list[list[str]]) -> list[Outcome]:
    """The commands one after another."""
    return [run(*command) for command in commands]


@pytest.fixture
def models(small_tower: Path, plain_head: Path) -> list[str]:
    """Options that name a small tower and a head for it."""
    return ["--backbone", str(small_tower), "--head", str(plain_head), "--precision", "fp32", "-j", "0"]


@pytest.fixture
def case(request: pytest.FixtureRequest, shared_cases: Path, here: Path) -> Path:
    """The current folder, filled with the files of the case that the test names."""
    shutil.copytree(shared_cases / request.param, here, dirs_exist_ok=True)
    for path in (here, *here.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return here


def case_of(name: str) -> pytest.MarkDecorator:
    """Give the test the case of this name."""
    return pytest.mark.parametrize("case", [name], indirect=True)


def rows_of(path: Path) -> list[dict[str, str]]:
    """A CSV's rows as text."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def tar_names(path: Path) -> list[str]:
    """Names of a tar's members."""
    with tarfile.open(path) as tar:
        return tar.getnames()


@pytest.mark.slow
@case_of("01_csv_refused_aborts")
def test_a_refused_csv_never_aborts(case: Path, models: list[str]) -> None:
    (case / "dup.csv").write_text("image_path,c,c\nimgs/0.jpg,x,y\n")
    (case / "latin1.csv").write_bytes("image_path,c\nimgs/0.jpg,caf\xe9\n".encode("latin-1"))
    for name in ("ragged.csv", "dup.csv", "latin1.csv"):
        for _ in range(4):
            found = run("score", name, "-o", "x.parquet", *models)
            assert found.ends_in_one_line(), (name, found)


@case_of("02_select_csv_types")
def test_columns_of_a_csv_stay_as_they_were(case: Path) -> None:
    found = run_all([
        ["select", "scores.csv", "--min-score", "0", "-o", "k.csv"],
        ["select", "scores.csv", "--top", "1", "--per", "phash", "-o", "per.csv"],
        ["select", "scores.csv", "--where", "phash = '18446744073709551614'", "-o", "one.csv"],
    ])  # fmt: skip
    assert [outcome.status for outcome in found] == [0, 0, 0], found
    before, after = rows_of(case / "scores.csv"), rows_of(case / "k.csv")
    kept = {row["sample"]: row for row in after}
    for row in before:
        for name in ("code", "ver", "hexid", "flag", "t", "phash"):
            assert kept[row["sample"]][name] == row[name]
    assert len(rows_of(case / "per.csv")) == 3
    assert [row["sample"] for row in rows_of(case / "one.csv")] == ["b"]


@case_of("03_tar_members_not_adjacent")
def test_captions_apart_from_their_pictures_are_joined(case: Path, models: list[str]) -> None:
    scored = run("score", "nonadj.tar", "-o", "s.parquet", *models)
    assert scored.status == 0, scored
    table = pl.read_parquet("s.parquet").sort("sample")
    assert table["caption"].to_list() == ["cap zero", "cap one"]
    assert [int(value) for value in table["w"]] == [1, 2]
    packed, copied = run_all([
        ["select", "s.parquet", "--min-score", "0", "--tars", "tars", "--apply"],
        ["select", "s.parquet", "--min-score", "0", "--copy", "copies", "--apply"],
    ])  # fmt: skip
    members = [name for path in Path("tars").glob("*.tar") for name in tar_names(path)]
    copies = [path.name for path in Path("copies").rglob("*") if path.is_file()]
    for outcome, names in ((packed, members), (copied, copies)):
        assert outcome.status == 0, outcome
        assert len([name for name in names if name.endswith(".jpg")]) == 2
        beside = [name for name in names if name.endswith((".txt", ".json"))]
        assert len(beside) == 4 or re.search(r"\b4 members\b|\b2 members\b", outcome.out + outcome.err), (names, outcome)


@case_of("04_csv_output_mixed_parts")
def test_parts_of_different_columns_go_into_one_csv(case: Path, models: list[str]) -> None:
    with tarfile.open("full.tar") as full, tarfile.open("nocaption.tar", "w") as without:
        for member in full.getmembers():
            if member.name.endswith(".jpg"):
                member_file = full.extractfile(member)
                member.name = f"1{member.name}"
                without.addfile(member, member_file)
    beside_empty, mixed = run_all([
        ["score", "full.tar", "empty.tar", "-o", "x.csv", *models],
        ["score", "full.tar", "nocaption.tar", "-o", "y.csv", *models],
    ])  # fmt: skip
    assert beside_empty.status == 0, beside_empty
    assert len(rows_of(Path("x.csv"))) == 2
    assert mixed.status == 0, mixed
    assert [bool(row["caption"]) for row in rows_of(Path("y.csv"))] == [True, True, False, False]


@pytest.mark.slow
@case_of("05_folder_mixed_types")
def test_a_folder_of_parts_with_other_types_can_be_selected_from(case: Path, models: list[str]) -> None:
    for number, uid in enumerate(("12", "1a")):
        (case / f"c{number}.csv").write_text(f"image_path,uid\nimgs/{number}.jpg,{uid}\n")
    found = run_all([
        ["score", "i.tar", "t.tar", "-o", "set", *models],
        ["select", "set", "--min-score", "0", "-o", "k.csv"],
        ["score", "i.tar", "t.tar", "-o", "set.parquet", *models],
        ["score", "c0.csv", "c1.csv", "-o", "lists", *models],
        ["select", "lists", "--min-score", "0", "-o", "l.csv"],
    ])  # fmt: skip
    assert [outcome.status for outcome in found] == [0] * 5, found
    assert sorted(row["f"] for row in rows_of(Path("k.csv"))) == ["1", "1a"]
    assert sorted(str(value) for value in pl.read_parquet("set.parquet")["f"]) == ["1", "1a"]
    assert sorted(row["uid"] for row in rows_of(Path("l.csv"))) == ["12", "1a"]


@case_of("06_tar_two_pictures_one_key")
def test_two_pictures_of_one_key_are_both_copied(case: Path, models: list[str]) -> None:
    found = run_all([
        ["score", "multi.tar", "-o", "m.parquet", *models],
        ["select", "m.parquet", "--min-score", "0", "--copy", "out", "--apply"],
    ])  # fmt: skip
    assert [outcome.status for outcome in found] == [0, 0], found
    names = sorted(path.name for path in Path("out").rglob("*") if path.is_file())
    assert len([name for name in names if name.endswith(".png")]) == 4, names
    assert len([name for name in names if name.endswith(".json")]) == 2, names


@pytest.fixture
def odd_server(case: Path) -> Iterator[None]:
    """The case's own web server, on the port that its list names."""
    with subprocess.Popen([sys.executable, "srv.py"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            for _ in range(200):
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", 18231)) == 0:
                        break
                time.sleep(0.05)
            yield
        finally:
            server.kill()


def three_ways(source: str, models: list[str], *flags: str, out: str = "x") -> list[list[str]]:
    """The commands that take pictures, on one source: to `out`.parquet, to `out`.e.parquet, and as JSON."""
    tower = models[:2] + models[4:]
    return [
        ["score", source, "-o", f"{out}.parquet", *models, *flags],
        ["embed", source, "-o", f"{out}.e.parquet", *tower, *flags],
        ["verify", source, "--json", *models[:-2], *flags],
    ]


def check_counts(outcomes: list[Outcome], num_scored: int, num_rejected: int = 0, out: str = "x") -> None:
    """What the commands of `three_ways` must have done."""
    assert [outcome.status for outcome in outcomes] == [3 if num_rejected else 0] * 3, outcomes
    scored, embedded = (pl.read_parquet(f"{out}.{kind}") for kind in ("parquet", "e.parquet"))
    assert scored["sample"].to_list() == embedded["sample"].to_list()
    assert len(scored) == num_scored
    verified = json.loads(outcomes[2].out)
    assert (verified["num_pictures"], verified["num_rejected"]) == (num_scored, num_rejected)


@case_of("07_parquet_pictures_beside_floats")
def test_pictures_beside_lists_of_floats_are_pictures(case: Path, models: list[str]) -> None:
    check_counts(run_all(three_ways("hf_bbox.parquet", models)), 4)


@pytest.mark.slow
@case_of("08_parquet_picture_columns")
def test_several_picture_columns_are_asked_about(case: Path, models: list[str]) -> None:
    asked = run_all(three_ways("ip2p.parquet", models) + three_ways("pickapic.parquet", models))
    for outcome, names in zip(asked, ["original_image, edited_image"] * 3 + ["jpg_0, jpg_1"] * 3, strict=True):
        assert outcome.ends_in_one_line(), outcome
        assert f"which column holds the pictures? Name it with --picture-column: {names}" in outcome.err
    found = run_all(
        three_ways("ip2p.parquet", models, "--picture-column", "edited_image", out="c")
        + three_ways("list_struct.parquet", models, out="d")
    )
    check_counts(found[:3], 2, out="c")
    check_counts(found[3:], 3, 2, out="d")  # two lists are empty


@pytest.mark.slow
@case_of("13_base64_pictures")
def test_base64_is_scored_and_never_printed(case: Path, models: list[str]) -> None:
    table = pl.read_parquet("b64.parquet")
    texts = table["image"].to_list()
    cut = [texts[0][:200] + "*" + texts[0][201:], "data:image/png;base64,AAAA", *texts[2:]]
    table.with_columns(image=pl.Series(cut)).write_parquet("bad.parquet")
    Path("list.txt").write_text("imgs/none.jpg\n" + "\n".join([*texts[:2], cut[0]]) + "\n")
    names = ["b64.parquet", "dataurl.parquet", "bad.parquet", "list.txt"]
    found = run_all([["score", name, "-o", f"{i}.parquet", *models] for i, name in enumerate(names)])
    assert [outcome.status for outcome in found] == [0, 0, 3, 3], found
    assert [len(pl.read_parquet(f"{i}.parquet")) for i in range(4)] == [4, 4, 2, 2]
    told = "".join(outcome.out + outcome.err for outcome in found)
    tables = "".join(str(pl.read_parquet(path).to_dicts()) for path in Path().glob("?.parquet*.parquet"))
    for text in texts:
        assert text[:60] not in told + tables
        assert text[300:360] not in told + tables


@pytest.mark.slow
@case_of("13_base64_pictures")
def test_base64_is_embedded_and_verified(case: Path, models: list[str]) -> None:
    found = run_all(three_ways("b64.parquet", models) + three_ways("dataurl.parquet", models, out="d"))
    check_counts(found[:3], 4)
    check_counts(found[3:], 4, out="d")


@case_of("14_tiff_deep_grey")
def test_deep_grey_is_shown_as_people_see_it(case: Path) -> None:
    from PIL import Image

    import beholder

    seen = np.asarray(Image.open("ref.png")).astype(int)[:, 8:56]  # the middle square
    for name in ("w16.tif", "t12.tif"):
        found = beholder.preprocess(name, preset="upright", size_px=48).astype(int)
        if name == "w16.tif":
            assert np.abs(found - seen[:, :, None]).max() <= 1
        else:  # a ramp from 0 to 4095 over 64 columns
            assert np.abs(found[0, :, 0] - np.arange(8, 56) * 255 / 63).max() <= 2


@case_of("15_parquet_vector_types")
def test_vectors_of_tensor_types_are_scored(case: Path, shared_cases: Path) -> None:
    (found,) = run_all([["score", "tensor.parquet", "-o", "x.parquet", "--head", str(shared_cases / "head.pth")]])
    assert found.status == 0, found
    scores = pl.read_parquet("x.parquet")["aesthetic_score"].to_list()
    assert np.abs(np.array(scores) - [4.3855, 5.6062, 4.4911, 5.882, 4.7091]).max() < 1e-4


@case_of("15_parquet_vector_types")
def test_vectors_are_no_pictures_to_embed_or_verify(case: Path, models: list[str]) -> None:
    for outcome in run_all(three_ways("tensor.parquet", models)[1:]):
        assert outcome.ends_in_one_line(), outcome
        assert "tensor.parquet holds embeddings" in outcome.err
        assert "beholder score tensor.parquet" in outcome.err


@case_of("18_jsonl_list")
def test_json_lines_are_a_table_of_pictures(case: Path, models: list[str]) -> None:
    from PIL import Image

    Path("imgs").mkdir(exist_ok=True)
    for number in range(4):
        Image.new("RGB", (60, 60), (number * 50, 90, 30)).save(f"imgs/{number}.jpg")
    check_counts(run_all(three_ways("x.jsonl", models)), 4)
    table = pl.read_parquet("x.parquet")
    assert table["sample"].to_list() == [f"imgs/{number}.jpg" for number in range(4)]
    assert table["text"].to_list() == ["c"] * 4


@pytest.mark.slow
@case_of("09_packed_urls_without_suffix")
@pytest.mark.usefixtures("odd_server")
def test_packed_pictures_of_urls_have_a_picture_suffix(case: Path, models: list[str]) -> None:
    scored, packed, copied = run_all([
        ["score", "q.csv", "-o", "q.parquet", *models],
        ["select", "q.parquet", "--min-score", "0", "--tars", "out", "--apply"],
        ["select", "q.parquet", "--min-score", "0", "--copy", "files", "--apply"],
    ])  # fmt: skip
    table = pl.read_parquet("q.parquet")
    assert scored.status in (0, 3), scored
    (tar,) = Path("out").glob("*.tar")
    pictures = [name for name in tar_names(tar) if name.endswith((".jpg", ".jpeg", ".png", ".webp"))]
    assert (packed.status, copied.status) == (0, 0), (packed, copied)
    assert len(pictures) == len(set(pictures)) == len(table)
    assert not re.search(r"\b0 (B|bytes)\b", copied.out + copied.err), copied
    assert all(path.suffix in (".jpg", ".webp") for path in Path("files").rglob("*") if path.is_file() and "img" in path.name)


@case_of("10_npz_object_names")
def test_names_that_are_pickled_objects_are_not_lost_in_silence(case: Path, shared_cases: Path) -> None:
    head = str(shared_cases / "head.pth")
    plain, told = run_all([
        ["score", "names.npz", "-o", "a.parquet", "--head", head],
        ["score", "names.npz", "-o", "b.parquet", "--head", head, "--sample-column", "paths"],
    ])  # fmt: skip
    for outcome in (plain, told):
        assert "internal error" not in outcome.err
        assert "paths" in outcome.err
        assert "no such column" not in outcome.err
        assert re.search("pickle|object", outcome.err), outcome


@case_of("11_npy_appended")
def test_bytes_after_the_rows_of_an_npy_are_told(case: Path, shared_cases: Path) -> None:
    (found,) = run_all([["score", "two.npy", "-o", "a.parquet", "--head", str(shared_cases / "head.pth")]])
    assert "two.npy" in found.err
    assert re.search(r"\bafter\b|\bfollow", found.err), found


_MOST_BYTES = 1 << 30


@pytest.mark.slow
@case_of("30_damaged_files")
def test_damaged_files_end_in_one_line_and_take_little(case: Path, models: list[str], shared_cases: Path) -> None:
    np.save("embeddings.npy", np.random.default_rng(0).standard_normal((4, 768)).astype(np.float32))
    commands: list[list[str]] = []
    for number, path in enumerate(sorted(case.iterdir())):
        kind, name = path.name.split("-")[0], path.name
        target = ["-o", f"out/{number}.parquet"]
        if kind in ("npz", "parquet"):
            commands.append(["score", name, *target, "--head", str(shared_cases / "head.pth")])
        elif kind in ("headst", "headpth"):
            commands.append(["score", "embeddings.npy", *target, "--head", name])
        elif kind in ("zip", "table"):
            commands.append(["score", name, *target, *models])
        elif kind in ("scoreset", "scorecsv"):
            commands.append(["select", name, "--min-score", "0", *target])
        elif kind.startswith("tower"):
            commands.append(["score", "zip-0.zip", *target, "--backbone", name])
    assert len(commands) >= 25
    idle = run_all([["score", "embeddings.npy", "-o", "idle.parquet", "--head", str(shared_cases / "head.pth")]])[0]
    for command, found in zip(commands, run_all(commands), strict=True):
        assert found.ends_in_one_line() or found.status in (0, 3), (command, found)
        assert "Traceback" not in found.err + found.out, (command, found)
        assert "internal error" not in found.err, (command, found)
        assert found.status != 3 or "rejected" in found.out + found.err, (command, found)
        assert found.most_memory < idle.most_memory + _MOST_BYTES, (command, found)


@case_of("20_own_heads")
def test_heads_of_ones_own_score_or_say_what_they_need(case: Path) -> None:
    rows = np.random.default_rng(20).standard_normal((6, 768)).astype(np.float32)
    np.save("e.npy", rows)
    files = ["ckpt.pt", "myfc.pt", "mylinear.pt", "ridge.npz", "myseq.pt", "ridge.joblib"]
    found = dict(
        zip(files, run_all([["score", "e.npy", "-o", f"{name}.parquet", "--head", name] for name in files]), strict=True)
    )
    unit = rows.astype(np.float64) / np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    for name in files[:4]:
        assert found[name].status == 0, found[name]
        weight, bias = _linear_of(Path(name))
        scores = pl.read_parquet(f"{name}.parquet")["aesthetic_score"].to_numpy()
        assert np.abs(scores - (unit @ weight + bias)).max() < 1e-5
    for name in files[4:]:
        assert found[name].ends_in_one_line(), found[name]
    assert "beholder models save myseq.pt" in found["myseq.pt"].err
    assert "--activation relu" in found["myseq.pt"].err
    assert "numpy.savez('ridge.npz', coef_=m.coef_, intercept_=m.intercept_)" in found["ridge.joblib"].err


def _linear_of(path: Path) -> tuple[np.ndarray, float]:
    """(768,) weights and the bias of a linear layer, read without beholder."""
    if path.suffix == ".npz":
        held = np.load(path)
        return held["weight"], float(held["bias"])
    import torch

    saved = torch.load(path, weights_only=True)
    state = saved.get("state_dict", saved)
    found = {name.split(".")[-1]: value.double().numpy() for name, value in state.items()}
    return found["weight"][0], float(found["bias"][0])


@case_of("21_url_browse")
def test_a_set_of_addresses_is_selected_from_and_scored_again(case: Path, models: list[str]) -> None:
    from oracles.picture_jobs import picture_bytes
    from oracles.web import serving

    before = pl.read_parquet("crlike.parquet")
    files = {f"{number:03}.jpg": picture_bytes(number) for number in range(19)}  # the last one is not there
    with serving(files) as server:
        before.with_columns(url=before["url"].str.replace("http://127.0.0.1:8799", server.url)).write_parquet("here.parquet")
        (selected, scored) = run_all([
            ["select", "crlike.parquet", "--top", "5", "-o", "k.parquet"],
            ["score", "here.parquet", "-o", "x.parquet", *models],
        ])  # fmt: skip
    assert selected.status == 0, selected
    best = before.sort("aesthetic_score", descending=True)["sample"][:5].to_list()
    kept = pl.read_parquet("k.parquet")
    assert kept["sample"].to_list() == best
    assert kept["url"].to_list() == [before["url"][int(name)] for name in best]
    assert scored.status == 3, scored
    assert pl.read_parquet("x.parquet")["caption"].to_list() == [f"cap {number}" for number in range(19)]
    assert "1 missing" in scored.out


@case_of("22_grown_folder")
def test_a_folder_that_grows_is_continued(case: Path, models: list[str]) -> None:
    from oracles.picture_jobs import picture_bytes

    commands = (case / "run.sh").read_text().count("beholder score photos")
    Path("photos").mkdir()
    for number in range(3):
        Path(f"photos/{number}.jpg").write_bytes(picture_bytes(number))
    found = []
    for number in range(commands):
        if number == 1:
            shutil.copy("photos/0.jpg", "photos/zzz.jpg")
        if number == 2:
            Path("photos/zzz.jpg").unlink()
            for path in Path("photos").iterdir():
                os.utime(path, (1_700_000_000, 1_700_000_000))
        (outcome,) = run_all([["score", "photos", "-o", "s", *models, "--json"]])
        assert outcome.status == 0, outcome
        summary = json.loads(outcome.out)
        found.append([summary[name] for name in ("num_read", "num_new", "num_changed", "num_vanished")])
    assert found == [[3, 3, 0, 0], [4, 1, 0, 0], [3, 0, 0, 1]]
    (last,) = run_all([["score", "photos", "-o", "scratch", *models]])
    assert last.status == 0, last
    again, scratch = (pl.read_parquet(f"{folder}/scores/*.parquet") for folder in ("s", "scratch"))
    assert again.equals(scratch)


def test_every_case_has_a_test(shared_cases: Path) -> None:
    names = {path.name for path in shared_cases.iterdir() if path.is_dir()}
    tested = set()
    for value in list(globals().values()):
        for mark in getattr(value, "pytestmark", ()) if callable(value) else ():
            if mark.name == "parametrize" and mark.args[0] == "case":
                tested |= set(mark.args[1])
    assert names, "no cases at all"
    assert names - tested == set()
    assert tested - names == set()
