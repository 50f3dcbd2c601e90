"""The compiled tower: the numbers of the one that is written, one compilation for all blocks, none where there cannot be."""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch

from beholder.engine.backends import CpuBackend, build_backend
from beholder.engine.compiled import CompiledTower, memory_error
from beholder.engine.engine import Engine
from beholder.errors import BeholderError
from beholder.libraries.transforms import Normalisation
from beholder.models.backbones import TowerShape
from beholder.models.clip import random_tower
from beholder.models.library_towers import LibraryModule, LibraryShape
from beholder.notices import told_to

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
SHAPE = TowerShape.small(image_px=56, patch_px=14, width=64, num_layers=5, dim=24)


class Residual(torch.nn.Module):
    """A block as networks repeat them: (B, W) -> (B, W)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.product = torch.nn.LayerNorm(width), torch.nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        added: torch.Tensor = x + torch.nn.functional.gelu(self.product(self.norm(x)))
        return added


def library_module(*, num_blocks: int) -> LibraryModule:
    """A network of another make: 8 x 8 pixels -> a vector of 24, with so many equal blocks."""
    torch.manual_seed(4)
    blocks = torch.nn.ModuleDict({"stem": torch.nn.Linear(192, 24)})
    if num_blocks:
        blocks["blocks"] = torch.nn.Sequential(*(Residual(24) for _ in range(num_blocks)))
    network = torch.nn.Sequential(torch.nn.Flatten(), *blocks.values())
    shape = LibraryShape("timm:made#0123456789ab", 8, 24)
    return LibraryModule(network, Normalisation(255.0, (0.5, 0.4, 0.3), (0.5, 0.6, 0.7)), shape).requires_grad_(False).eval()


@needs_compiler
@pytest.mark.soak
def test_compiled_embeddings_are_those_of_the_plain_tower_in_float64() -> None:
    tower = random_tower(SHAPE, seed=3)
    pixels = np.random.default_rng(0).integers(0, 256, (7, 56, 56, 3), np.uint8)
    with torch.inference_mode():
        exact = random_tower(SHAPE, seed=3).double()(torch.from_numpy(pixels)).numpy()
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    engine = Engine(tower, device="cpu", precision="fp32", compile=True, batch_size=3, num_threads=1)
    assert engine.describe()["compiled"] is True
    assert engine.describe()["form"] == "compiled"
    assert engine.compile_seconds > 0
    np.testing.assert_allclose(engine.embed(pixels), exact, rtol=0, atol=2e-5 * np.abs(exact).max())
    one_by_one = np.concatenate([engine.embed(pixels[at : at + 1]) for at in range(7)])
    np.testing.assert_array_equal(engine.embed(pixels), one_by_one)  # padded to the same batch
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1  # four blocks, one graph
    assert engine.embed(pixels[:0]).shape == (0, 24)
    engine.close()


@pytest.mark.soak
def test_a_failing_compiler_is_one_line_and_the_plain_tower(tmp_path: Path) -> None:
    program = (
        "import numpy as np\n"
        "from beholder.engine.engine import Engine\n"
        "from beholder.models.backbones import TowerShape\n"
        "from beholder.models.clip import random_tower\n"
        "from beholder.notices import told_to\n"
        "tower = random_tower(TowerShape.small())\n"
        "said = []\n"
        "with told_to(said.append): engine = Engine(tower, device='cpu', precision='fp32', compile=True)\n"
        "print(said[0][:49], len(said), said[0].count(chr(10)), said[0][-27:])\n"
        "plain = Engine(tower, device='cpu', precision='fp32')\n"
        "pixels = np.random.default_rng(0).integers(0, 256, (3, 28, 28, 3), np.uint8)\n"
        "print(engine.describe()['compiled'], engine.describe()['form'], (engine.embed(pixels) == plain.embed(pixels)).all())\n"
    )
    setting = {**os.environ, "CXX": "/nonexistent/c++", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", program], env=setting, capture_output=True, text=True, timeout=200, check=True)
    first, second = done.stdout.splitlines()
    assert first == "--compile: torch could not compile the tower (Inv 1 0 : computed as it is written"
    assert second == "False plain True"


@needs_compiler
@pytest.mark.soak
def test_the_program_can_compile() -> None:
    """The command line hides pandas from whoever imports it; torch's compiler asks whether it is there."""
    program = (
        "import sys\n"
        "from beholder.__main__ import _NoPandas\n"
        "sys.meta_path.insert(0, _NoPandas)\n"
        "import importlib.util, torch._dynamo.trace_rules\n"
        "importlib.util.find_spec('pandas')\n"
        "try: import pandas\n"
        "except ModuleNotFoundError: print('hidden')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=100, check=True)
    assert done.stdout == "hidden\n"


@needs_compiler
@pytest.mark.soak
@pytest.mark.parametrize(("precision", "nearness"), [("fp32", 2e-6), ("bf16", 3e-2)])
def test_a_library_towers_equal_blocks_are_compiled_once(precision: str, nearness: float) -> None:
    module = library_module(num_blocks=4)
    pixels = np.random.default_rng(0).integers(0, 256, (7, 8, 8, 3), np.uint8)
    spread = (pixels / 255 - np.array([0.5, 0.4, 0.3])) / np.array([0.5, 0.6, 0.7])
    wide = library_module(num_blocks=4).network.double()
    exact = wide(torch.from_numpy(spread.transpose(0, 3, 1, 2))).numpy()
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    engine = Engine(module, device="cpu", precision=precision, compile=True, batch_size=3)  # type: ignore[arg-type]
    found = engine.embed(pixels)
    assert (engine.describe()["compiled"], engine.describe()["form"]) == (True, "compiled")
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    np.testing.assert_allclose(found, exact, rtol=0, atol=nearness * np.abs(exact).max())
    engine.close()


def num_towers() -> int:
    """Back ends that anything in this process refers to."""
    gc.collect()
    return sum(type(one) is CpuBackend for one in gc.get_objects())  # (isinstance asks proxies whose object is gone)


class Noting(torch.nn.Module):
    """Hands on what it gets, and notes how many pictures that are and how many towers there are meanwhile."""

    seen: ClassVar[list[tuple[int, int]]] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.append((len(x), num_towers()))
        return x


def noting_module(*, num_blocks: int) -> LibraryModule:
    module = library_module(num_blocks=num_blocks)
    assert isinstance(module.network, torch.nn.Sequential)
    module.network.insert(0, Noting())
    return module


@needs_compiler
@pytest.mark.soak
def test_a_check_has_one_tower_at_a_time_and_those_beside_the_compiled_one_in_small_batches() -> None:
    Noting.seen.clear()
    before = num_towers()
    engine = Engine(noting_module(num_blocks=4), device="cpu", precision="bf16", compile=True, batch_size=64)
    assert engine.describe()["form"] == "compiled"
    assert [size for size, _ in Noting.seen] == [8, 8, 64]  # plain, float32, compiled
    assert {number - before for _, number in Noting.seen} == {1}
    engine.close()


@needs_compiler
@pytest.mark.soak
def test_more_sizes_of_batches_than_torch_remembers_are_compiled_all_the_same() -> None:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    module, limit = library_module(num_blocks=2), torch._dynamo.config.recompile_limit
    tower = CompiledTower(module, list(module.network[2]))  # type: ignore[index, arg-type]
    sizes = range(1, limit + 4)
    with torch.inference_mode():
        for size in sizes:
            pixels = torch.zeros(size, 8, 8, 3, dtype=torch.uint8)
            np.testing.assert_allclose(tower(pixels), library_module(num_blocks=2)(pixels), rtol=0, atol=1e-5)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == len(sizes)
    assert torch._dynamo.config.recompile_limit == limit


def test_memory_that_ran_out_is_found_behind_the_error_of_a_broken_capture() -> None:
    def ended(first: Exception) -> BaseException:
        try:
            try:
                raise first
            finally:
                raise RuntimeError("capture failed")
        except RuntimeError as error:
            return error

    full = torch.OutOfMemoryError("full")
    assert memory_error(ended(full)) is full
    assert memory_error(full) is full
    assert memory_error(ended(ValueError("other"))) is None


def test_a_library_tower_without_equal_blocks_is_computed_as_written_and_a_line_says_so() -> None:
    module = library_module(num_blocks=0)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), np.uint8)
    said: list[str] = []
    with told_to(said.append):
        engine = Engine(module, device="cpu", precision="fp32", compile=True)
    assert said == ["--compile: timm:made#0123456789ab has no repeated blocks to compile: computed as it is written"]
    assert (engine.describe()["compiled"], engine.describe()["form"]) == (False, "plain")
    np.testing.assert_array_equal(engine.embed(pixels), Engine(module, device="cpu", precision="fp32").embed(pixels))


class FullAtFirst(torch.nn.Module):
    """Hands on what it gets; in 16 bits memory runs out as long as `is_full`."""

    is_full: ClassVar[bool] = True
    seen: ClassVar[list[int]] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if torch.is_autocast_enabled("cpu"):
            self.seen.append(num_towers())
            if self.is_full:
                raise torch.OutOfMemoryError("full")
        return x


def test_a_self_check_that_memory_cut_short_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """What another program took of the memory then is no reason to do without a precision for ever."""
    module = library_module(num_blocks=2)
    assert isinstance(module.network, torch.nn.Sequential)
    module.network.insert(0, FullAtFirst())
    before = num_towers()
    short = Engine(module, device="cpu", precision="bf16").check()
    assert (short["failed"], list(short["drift"])) == ({"bf16": "full"}, ["fp32"])
    monkeypatch.setattr(FullAtFirst, "is_full", False)
    engine = Engine(module, device="cpu", precision="bf16")
    whole = engine.check()
    assert (whole["failed"], list(whole["drift"])) == ({}, ["fp32", "bf16"])
    assert whole["drift"]["bf16"] > 0
    assert max(FullAtFirst.seen) - before == 2  # the engine's own and the one that is tried
    assert Engine(module, device="cpu", precision="bf16").check()["seconds"] == whole["seconds"]  # that is remembered


@pytest.mark.parametrize(("device", "precision"), [("cpu", "int8"), ("cuda", "fp8")])
def test_small_integers_and_floats_are_for_clips_own_shapes(device: str, precision: str) -> None:
    with pytest.raises(BeholderError, match=f"--precision {precision}: only for CLIP's own shapes; choose bf16, fp32 or auto"):
        build_backend(library_module(num_blocks=2), torch.device(device), precision)  # type: ignore[arg-type]
