"""What becomes of sources while a run reads them: each changes something below a folder, at a place that is drawn."""

from __future__ import annotations

import io
import os
import random
import shutil
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from oracles.picture_jobs import picture_bytes
from oracles.tar_making import tar

Change = Callable[[Path, random.Random], None]
"""Given the folder of the source."""

NO_OVERRIDE = """
import ctypes, os
if os.geteuid() == 0:
    libc = ctypes.CDLL(None, use_errno=True)
    for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
        assert libc.prctl(24, capability, 0, 0, 0) == 0  # PR_CAPBSET_DROP: processes that it starts have them neither
    header, sets = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    assert libc.capget(header, sets) == 0
    for at in (0, 1, 2):  # effective, permitted, inheritable
        sets[at] &= ~0b110
    assert libc.capset(header, sets) == 0
"""
"""To run before a command: root may then read no more than the modes of files allow."""


def _any_file(folder: Path, chance: random.Random) -> Path:
    return chance.choice(sorted(path for path in folder.rglob("*") if path.is_file()))


def _other(path: Path, chance: random.Random) -> bytes:
    """Other contents of the kind that stand at a path."""
    seed = chance.randrange(1000, 1 << 20)
    if path.suffix == ".tar":
        return tar([(f"{at:03}.jpg", picture_bytes(seed + at)) for at in range(chance.randrange(1, 9))])
    if path.suffix == ".npy":
        rows = np.random.default_rng(seed).standard_normal((chance.choice([500, 2000, 2500]), 24)).astype(np.float32)
        rows[0] = 0
        file = io.BytesIO()
        np.save(file, rows)
        return file.getvalue()
    return picture_bytes(seed, "PNG", (30 + seed % 50, 60))


def replaced(folder: Path, chance: random.Random) -> None:
    """By a file of other contents, at once."""
    path = _any_file(folder, chance)
    beside = folder.parent / "beside"
    beside.write_bytes(_other(path, chance))
    beside.replace(path)


def rewritten(folder: Path, chance: random.Random) -> None:
    """In its place, with a moment in which half of it is there."""
    path = _any_file(folder, chance)
    data = _other(path, chance)
    with path.open("wb", buffering=0) as file:
        file.write(data[: len(data) // 2])
        time.sleep(chance.uniform(0, 0.1))
        file.write(data[len(data) // 2 :])


def truncated(folder: Path, chance: random.Random) -> None:
    """To any length."""
    path = _any_file(folder, chance)
    os.truncate(path, chance.randrange(path.stat().st_size))


def removed(folder: Path, chance: random.Random) -> None:
    """One file."""
    _any_file(folder, chance).unlink()


def renamed(folder: Path, chance: random.Random) -> None:
    """One file, to a name that sorts first or last."""
    path = _any_file(folder, chance)
    path.rename(path.with_name(chance.choice(["!", "zz-"]) + path.name))


def grown(folder: Path, chance: random.Random) -> None:
    """A tar gets more members, an array more rows, a folder more pictures."""
    path = _any_file(folder, chance)
    if path.suffix == ".tar":
        with tarfile.open(path, "a") as archive:
            for at in range(chance.randrange(1, 9)):
                data = picture_bytes(chance.randrange(1 << 20))
                info = tarfile.TarInfo(f"new-{at}.jpg")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    elif path.suffix == ".npy":
        rows = np.load(path)
        np.save(path, np.concatenate([rows, rows[: chance.randrange(1, 300)] + 1]))
    else:
        for number in range(chance.randrange(1, 9)):
            path.with_name(f"new-{number}.png").write_bytes(_other(path, chance))


def folder_renamed(folder: Path, chance: random.Random) -> None:
    """The source itself, or a folder below."""
    place = chance.choice([folder, *sorted(path for path in folder.iterdir() if path.is_dir())])
    place.rename(place.with_name(f"{place.name} moved"))


def folder_removed(folder: Path, chance: random.Random) -> None:
    """The source itself, or a folder below."""
    shutil.rmtree(chance.choice([folder, *sorted(path for path in folder.iterdir() if path.is_dir())]))


def pipe(folder: Path, chance: random.Random) -> None:
    """A named pipe that nobody writes to stands in the place of a file."""
    path = _any_file(folder, chance)
    path.unlink()
    os.mkfifo(path)


def folder_instead(folder: Path, chance: random.Random) -> None:
    """A folder stands in the place of a file."""
    path = _any_file(folder, chance)
    path.unlink()
    path.mkdir()


def forbidden(folder: Path, chance: random.Random) -> None:
    """Nobody may read it any more (for a run with `NO_OVERRIDE`)."""
    _any_file(folder, chance).chmod(0)


def read_error(folder: Path, chance: random.Random) -> None:
    """Every read of it fails with EIO, as on a disk that fails: it leads to the memory of its reader, at no mapped address."""
    path = _any_file(folder, chance)
    path.unlink()
    path.symlink_to("/proc/self/mem")


OF_FILES: dict[str, Change] = {
    "file replaced": replaced,
    "file rewritten": rewritten,
    "file truncated": truncated,
    "file removed": removed,
    "file renamed": renamed,
    "files grown or new": grown,
    "named pipe in a file's place": pipe,
    "folder in a file's place": folder_instead,
    "file forbidden (mode 000)": forbidden,
    "read error (EIO)": read_error,
    "folder renamed": folder_renamed,
    "folder removed": folder_removed,
}
"""What is changed, by its name in the table of faults."""
