"""Acts and undos that die once at each named point, and are gone on with or undone; run as a program: forking finds no threads.

Arguments: folder to work in, and a folder on another disk ("" where there is none). Whenever a run has died, no picture may be
lost and no file of somebody else changed; gone on with, the target must be that of a run that nothing disturbed; undone, all
must be as it was. Every point must be reached. Prints how often a run died.
"""

from __future__ import annotations

import os
import shutil
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import pyarrow as pa

from oracles.acting import act, contents, photos, score_table, take_back
from oracles.tar_making import png

JOURNAL = ("journal before lines", "journal lines written", "journal after lines")
COPYING, MOVING_FAR = ("copy written", "copy flushed"), ("copy written", "copy flushed", "move copied")
WRITING = ("sidecar written", "sidecar flushed")
KINDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "copy": ((*JOURNAL, *COPYING, "file done"), (*JOURNAL, "undo file")),
    "copy of a zip": ((*COPYING, "file done"), ("undo file",)),
    "link": (("file done",), ("undo file",)),
    "symlink": (("file done",), ("undo file",)),
    "move": ((*JOURNAL, "file done"), (*JOURNAL, "undo file")),
    "move far": ((*MOVING_FAR, "file done"), (*MOVING_FAR, "undo file")),
    "tars": ((*JOURNAL, "pack shard written", "pack file published"), (*JOURNAL, "undo shard file")),
    "xmp": ((*JOURNAL, *WRITING, "file done"), (*JOURNAL, *WRITING, "undo file")),
    "hf_parquet": (("pack shard written", "pack file published"), ("undo shard file",)),
}
"""Points that are reached in an act of this kind and in its undo; those of the journal where they are not like another's."""
MOST = 2
"""So often each point is taken: the first and the second time that it is reached."""
NAMES = ["a.jpg", "b/c.png", "cat.jpg", "cat.png", "taken.jpg"]
OTHERS = {"cat.txt": b"words of both", "cat.jpg.json": b"{}"}
SIDECARS = {"a.xmp": 0, "cat.xmp": 0, "taken.jpg.xmp": 3}
"""Sidecars of the act on these: the first is of one picture, the second of two, the third has somebody's stars."""
SIDECAR = """<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmp:Rating="%d"/></rdf:RDF></x:xmpmeta>"""


def make(folder: Path, target: Path, *, has_sidecars: bool) -> None:
    """Pictures, with words of one and of two of them, a zip of the same, and files of somebody else in the target."""
    files = {name: png(i) for i, name in enumerate(NAMES)} | OTHERS
    files |= {name: (SIDECAR % stars).encode() for name, stars in SIDECARS.items()} if has_sidecars else {}
    for i, (name, data) in enumerate(files.items()):
        path = folder / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        os.utime(path, ns=(10**18 + i, 10**18 + i))
    with zipfile.ZipFile(folder / "z.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    for path in (target / "taken.jpg", target / "z" / "taken.jpg"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"mine")


def dies(work: Callable[[], object], point: str) -> bool:
    """Run `work` in a child that is to die at a point; whether it did."""
    child = os.fork()
    if child == 0:
        os.environ["BEHOLDER_CRASH_AT"] = point
        try:
            work()
        except BaseException as error:
            print(f"failed: {error!r}", file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, 137), f"a run failed with status {status}"
    return status == 137


def main(folder: str, far: str) -> None:
    """Every kind of act, every point."""
    num_died = 0
    for kind, (in_act, in_undo) in KINDS.items():
        if kind == "move far" and not far:
            continue
        place = Path(folder, kind)
        target = Path(far, "best") if kind == "move far" else place / "best"
        options: dict[str, Any] = {kind.split()[0]: str(target), "journal": "j.jsonl", "apply": True}
        if kind in ("tars", "hf_parquet"):
            options["shard_count"] = 2
        if kind == "xmp":
            options |= {"xmp": True, "xmp_stars": "20%,20%,20%,20%,20%"}

        def start_anew(place: Path = place, target: Path = target, has_sidecars: bool = kind == "xmp") -> None:
            for path in (place, target):
                shutil.rmtree(path, ignore_errors=True)
            make(place, target, has_sidecars=has_sidecars)
            os.chdir(place)

        start_anew()
        table = score_table([f"z.zip/{name}" for name in NAMES], ["z.zip"]) if kind == "copy of a zip" else photos(*NAMES)
        table = table.append_column("n", pa.array(range(len(NAMES))))

        def work(table: pa.Table = table, options: dict[str, Any] = options) -> object:
            return act(table, **options)

        before, mine = contents(Path("photos")), contents(target)
        work()
        done, there = contents(Path("photos")), contents(target)
        assert there.items() >= mine.items()
        assert (done, there) != (before, mine)
        take_back("j.jsonl")
        assert (contents(Path("photos")), contents(target)) == (before, mine), f"{kind}: an undisturbed undo"

        def check_nothing_is_lost(
            what: str, target: Path = target, before: Any = before, mine: Any = mine, done: Any = done
        ) -> None:
            here, now = contents(Path("photos")), contents(target)
            assert now.items() >= mine.items(), f"{what}: a file of somebody else is not as it was"
            for name, data in before.items():
                stars = done.get(name) if name in SIDECARS else None  # a sidecar is whole at each moment, with them or without
                assert here.get(name) in (data, stars) or data == now.get(name), f"{what}: {name} is lost"

        for number, point in ((number, point) for point in in_act for number in range(1, MOST + 1)):
            what = f"{kind}, {point}"
            for then in ("undo", "go on"):
                start_anew()
                if not dies(work, f"{point}:{number}"):
                    assert number > 1, f"{what}: never reached"
                    break
                num_died += 1
                check_nothing_is_lost(what)
                if then == "go on":
                    work()
                    assert (contents(Path("photos")), contents(target)) == (done, there), f"{what}: gone on with"
                if Path("j.jsonl").exists():
                    summary, said = take_back("j.jsonl")
                    assert not summary.num_skipped, f"{what}: {said}"
                assert (contents(Path("photos")), contents(target)) == (before, mine), f"{what}: undone after {then}"
        for number, point in ((number, point) for point in in_undo for number in range(1, MOST + 1)):
            what = f"undo of {kind}, {point}"
            start_anew()
            work()
            if not dies(lambda: take_back("j.jsonl"), f"{point}:{number}"):
                assert number > 1, f"{what}: never reached"
                continue
            num_died += 1
            check_nothing_is_lost(what)
            summary, said = take_back("j.jsonl")
            assert not summary.num_skipped, f"{what}: {said}"
            assert (contents(Path("photos")), contents(target)) == (before, mine), f"{what}: undone again"
    print(num_died)


if __name__ == "__main__":
    main(*sys.argv[1:3])
