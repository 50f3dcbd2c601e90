"""Damages journals of acts, takes the acts back by them, and counts what came of it; run as a program.

Arguments: folder to work in (empty), damages, seed. Each damage is one of a journal that was whole: a changed or flipped
character, a deleted, doubled or swapped line, an end that is cut off within a line or between two. It is

    noticed    if it is refused in one line and nothing is touched, or the lost end is said and every file is at its old or its
               new place, with what stays at the new one counted;
    harmless   if the files are afterwards as after an undo by the whole journal, and so is the exit status;
    wrong      otherwise.

Prints a table, and ends with status 1 if anything is wrong.
"""

from __future__ import annotations

import os
import random
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from beholder import InputError
from oracles.acting import act, contents, photos, take_back
from oracles.journals import lines_of, write_journal
from oracles.tar_making import png

Tree = dict[str, bytes | str]
JOURNAL = Path("kept.journal.jsonl")
PICTURES = ["a.jpg", "b/c.png", "b/d.webp", "e f.jpg", "ö.gif"]
ACTS = ["move", "copy", "link", "symlink", "tars", "move, stopped", "copy, stopped", "xmp", "xmp, stopped"]
SIDECAR = """<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmp:Rating="0"/></rdf:RDF></x:xmpmeta>"""


@dataclass
class Case:
    """An act that was done: the folder as it is then, before, and after an undo; the undo's exit status."""

    done: Path
    before: Tree
    after: Tree
    status: int


def trees() -> Tree:
    """All files but the journal; what is in both `photos` and `kept`."""
    return {name: data for name, data in contents(Path()).items() if name != str(JOURNAL)}


def restore(case: Case) -> None:
    """Have the folder as it was when the act was done, with times and links."""
    for name in ("photos", "kept"):
        shutil.rmtree(name, ignore_errors=True)
    JOURNAL.unlink(missing_ok=True)
    shutil.copytree(case.done, ".", symlinks=True, dirs_exist_ok=True)
    for path in Path("kept").rglob("*"):  # what were two names of one file
        source = Path("photos", path.relative_to("kept"))
        if case.done.name == "link" and path.is_file():
            path.unlink()
            os.link(source, path)


def prepare(folder: Path, kind: str) -> Case:
    """Do the act once, take it back once, and keep what it left."""
    action, _, stopped = kind.partition(", ")
    for i, name in enumerate(PICTURES):
        path = Path("photos", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(i))
        path.with_suffix(".txt").write_text(name)
        if action == "xmp" and i < 2:
            path.with_suffix(".xmp").write_text(SIDECAR)
    Path("kept").mkdir(exist_ok=True)
    before = trees()
    options: dict[str, Any] = {"xmp": True, "journal": str(JOURNAL)} if action == "xmp" else {action: "kept"}
    act(photos(*PICTURES), **options, apply=True)
    if stopped:  # killed after its first files were made
        lines = lines_of(JOURNAL)
        write_journal(JOURNAL, lines[: next(i for i, line in enumerate(lines) if "results" in line)])
    case = Case(folder / kind, before, {}, 0)
    for name in ("photos", "kept"):
        shutil.copytree(name, case.done / name, symlinks=True)
    shutil.copy2(JOURNAL, case.done)
    case.status = take_back(str(JOURNAL))[0].exit_status
    case.after = trees()
    JOURNAL.unlink()
    assert case.after == before, kind
    for path in Path("photos").rglob("*.xmp"):
        path.unlink()
    return case


def changed(text: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(text))
    new = chance.choice([bytes([byte]) for byte in (*range(32, 127), 10) if byte != text[at]])
    return text[:at] + new + text[at + 1 :]


def flipped(text: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(text))
    return text[:at] + bytes([text[at] ^ 1 << chance.randrange(8)]) + text[at + 1 :]


def of_lines(change: Callable[[list[bytes], random.Random], None]) -> Callable[[bytes, random.Random], bytes]:
    def damage(text: bytes, chance: random.Random) -> bytes:
        lines = text.splitlines(keepends=True)
        change(lines, chance)
        return b"".join(lines)

    return damage


def swap(lines: list[bytes], chance: random.Random) -> None:
    one, other = chance.sample(range(len(lines)), 2)
    lines[one], lines[other] = lines[other], lines[one]


DAMAGES: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "character changed": changed,
    "bit flipped": flipped,
    "line deleted": of_lines(lambda lines, chance: lines.pop(chance.randrange(len(lines))) and None),
    "line doubled": of_lines(lambda lines, chance: lines.insert(at := chance.randrange(len(lines)), lines[at])),
    "lines swapped": of_lines(swap),
    "cut in a line": lambda text, chance: text[: chance.randrange(1, len(text))],
    "cut between lines": of_lines(lambda lines, chance: lines.__delitem__(slice(chance.randrange(1, len(lines)), None))),
}


def outcome(case: Case, text: bytes) -> str:
    """What comes of an undo by a journal of these bytes."""
    restore(case)
    JOURNAL.write_bytes(text)
    there = trees()
    try:
        summary, said = take_back(str(JOURNAL))
    except InputError as error:
        is_one_line = str(error).isprintable() and str(JOURNAL) in str(error)
        return (
            "noticed" if is_one_line and trees() == there and JOURNAL.read_bytes() == text else "wrong: touched, then refused"
        )
    now = trees()
    if any("has lost its end" in line for line in said):
        if any(data not in (case.before.get(name), there.get(name)) for name, data in now.items()):
            return "wrong: a file that never was"
        if set(case.before) - {name.replace("kept/", "photos/", 1) for name in now}:
            return "wrong: a file is lost"
        if case.done.name.startswith("xmp"):
            return "noticed" if now == case.before or summary.exit_status == 3 else "wrong: not counted"
        left = sum(name.startswith("kept/") for name in now)
        return "noticed" if summary.num_skipped == left and summary.exit_status == (3 if left else 0) else "wrong: not counted"
    return "harmless" if (now, summary.exit_status) == (case.after, case.status) else "wrong: another end, and nothing said"


def main(folder: str, num_damages: int, seed: int) -> int:
    """Do and count so many damages."""
    work = Path(folder).resolve()
    (work / "now").mkdir(parents=True)
    os.chdir(work / "now")
    chance = random.Random(seed)
    cases = {kind: prepare(work / "kept", kind) for kind in ACTS}
    counts: dict[str, Counter[str]] = {name: Counter() for name in DAMAGES}
    number = 0
    while number < num_damages:
        name = list(DAMAGES)[number % len(DAMAGES)]
        kind = chance.choice(ACTS)
        whole = (cases[kind].done / JOURNAL).read_bytes()
        text = DAMAGES[name](whole, chance)
        if text == whole:
            continue
        found = outcome(cases[kind], text)
        if found.startswith("wrong"):
            print(f"{name}, {kind}: {found}", file=sys.stderr)
            Path(work, f"wrong{number}.jsonl").write_bytes(text)
        counts[name][found.partition(":")[0]] += 1
        number += 1
    total: Counter[str] = sum(counts.values(), Counter())
    for name, count in [*counts.items(), ("all", total)]:
        noticed, harmless, wrong = (count[word] for word in ("noticed", "harmless", "wrong"))
        print(f"{name:20}{count.total():6} injected {noticed:6} noticed {harmless:6} harmless {wrong:6} wrong")
    return 1 if total["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], *map(int, sys.argv[2:4])))
