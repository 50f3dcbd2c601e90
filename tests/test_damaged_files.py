"""Readers of heads and towers, on files damaged in thousands of ways: what cannot be read is one line of ours."""

from __future__ import annotations

import io
import random
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
import torch

from beholder import BeholderError
from beholder.models.clip import random_tensors
from beholder.models.head_layouts import read_head_file
from beholder.models.tower_layouts import open_tower_file
from oracles import checkpoints as made
from oracles.mutating import mutated
from oracles.small_towers import SHAPE

NUM_FILES = 60
"""Of each kind; a longer run: `python tests/test_damaged_files.py SECONDS SEED` with `tests` in the PYTHONPATH."""


def head(path: Path) -> None:
    read_head_file(path)


def tower(path: Path) -> None:
    open_tower_file(path).tensors()


def _torch(what: object, *, old: bool = False) -> bytes:
    data = io.BytesIO()
    torch.save(what, data, _use_new_zipfile_serialization=not old)
    return data.getvalue()


HEAD = {"weight": torch.ones(1, 24), "bias": torch.zeros(1)}
STATE = {name: tensor.half() for name, tensor in made.openai_state(random_tensors(SHAPE, seed=9)).items()}


def _safetensors(tensors: dict[str, torch.Tensor]) -> bytes:
    from safetensors.torch import save

    return save({name: tensor.contiguous() for name, tensor in tensors.items()}, {"format": "pt"})


def _script() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        return made.write_archive(Path(folder) / "x.pt", STATE | made.text_state()).read_bytes()


KINDS: dict[str, tuple[str, Callable[[], bytes], Callable[[Path], None]]] = {
    "head": ("x.pth", lambda: _torch(HEAD), head),
    "old head": ("x.pth", lambda: _torch(HEAD, old=True), head),
    "safe head": ("x.safetensors", lambda: _safetensors(HEAD), head),
    "tower": ("x.pt", lambda: _torch(STATE), tower),
    "old tower": ("x.pt", lambda: _torch(STATE, old=True), tower),
    "safe tower": ("x.safetensors", lambda: _safetensors(STATE), tower),
    "script tower": ("x.pt", _script, tower),
}


def num_refused(kind: str, folder: Path, seeds: Iterable[object]) -> int:
    """How many files are refused; raises what is no line of ours, with the file kept in `folder`."""
    name, make, read = KINDS[kind]
    whole, path = make(), folder / name
    count = lines = 0
    for seed in seeds:
        path.write_bytes(mutated(whole, random.Random(f"{kind} {seed}")))
        try:
            read(path)
        except BeholderError as error:
            count += 1
            lines += str(error).count("\n") + 1
    assert lines == count
    return count


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Files this small are done sooner by one thread than threads can be woken."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("kind", KINDS)
def test_damage_is_one_line_of_ours(kind: str, tmp_path: Path) -> None:
    KINDS[kind][2](_written(tmp_path / KINDS[kind][0], KINDS[kind][1]()))  # as it is made it can be read
    assert num_refused(kind, tmp_path, range(NUM_FILES)) > NUM_FILES // 10


def _written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


if __name__ == "__main__":
    import itertools
    import sys
    import time

    for each in KINDS:
        until = time.monotonic() + float(sys.argv[1])
        tried = itertools.count()
        seeds = (f"{sys.argv[2]} {next(tried)}" for _ in iter(lambda end=until: time.monotonic() < end, False))
        place = Path(tempfile.mkdtemp(prefix="damaged-"))
        try:
            print(each, num_refused(each, place, seeds), "refused of", next(tried), flush=True)
        except Exception as error:
            print(each, place, f"{type(error).__name__}: {error}", flush=True)
