"""The compiled tower: the numbers of the one that is written, one compilation for all blocks, none where there cannot be."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from beholder.engine.engine import Engine
from beholder.models.backbones import TowerShape
from beholder.models.clip import random_tower

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
SHAPE = TowerShape.small(image_px=56, patch_px=14, width=64, num_layers=5, dim=24)


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
