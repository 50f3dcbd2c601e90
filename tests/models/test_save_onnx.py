"""Heads as ONNX graphs: onnxruntime, and ONNX's own reference, give the scores of float64."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from beholder import Head, load_head, save_head
from beholder.kernels.scoring import Affine, Perceptron
from oracles.program import beholder

DIM = 96
RNG = np.random.default_rng(0)
AFFINE = Head(name="mine", math=Affine(18 * RNG.standard_normal(DIM) / DIM**0.5, 5.25), licence="mit")
LAYERS = Head(
    name="layers",
    math=Perceptron(
        (RNG.standard_normal((32, DIM)) / 4, RNG.standard_normal((8, 32)) / 4, RNG.standard_normal((1, 8))),
        (RNG.standard_normal(32), RNG.standard_normal(8), RNG.standard_normal(1)),
    ),
)


def exact(head: Head, rows: np.ndarray) -> np.ndarray:
    """Layer by layer in float64."""
    values = rows.astype(np.float64) / np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    for at, layer in enumerate(head.layers):
        values = values @ layer.weight.T + layer.bias
        values = values if at == len(head.layers) - 1 else np.maximum(values, 0)
    return np.asarray(values[:, 0])


def written(head: Head, folder: Path) -> Path:
    save_head(head, folder / "head.safetensors")
    done = beholder("models", "save", "head.safetensors", "head.onnx", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("head.onnx  ")
    return folder / "head.onnx"


@pytest.mark.slow
@pytest.mark.parametrize("head", [AFFINE, LAYERS], ids=["affine", "layers"])
def test_runtimes_give_the_scores(head: Head, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx", reason="needs-onnx: pip install 'beholder[onnx]'")
    reference = pytest.importorskip("onnx.reference")
    path = written(head, tmp_path)
    rows = (RNG.standard_normal((50, DIM)) * 10.0 ** RNG.integers(-15, 19, (50, 1))).astype(np.float32)
    runs = {"reference": lambda given: reference.ReferenceEvaluator(str(path)).run(None, {"embeddings": given})[0]}
    try:
        import onnxruntime
    except ImportError:
        pass
    else:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        runs["onnxruntime"] = lambda given: session.run(None, {"embeddings": given})[0]
    for name, run in runs.items():
        found = run(rows)
        assert (found.shape, found.dtype) == ((50,), np.float32), name
        np.testing.assert_allclose(found, exact(head, rows), atol=2e-5, err_msg=name)
        np.testing.assert_allclose(found, head.score(rows), atol=2e-5, err_msg=name)
        assert run(rows[:1]).shape == (1,)
        assert run(rows[:0]).shape == (0,)
        odd = rows[:3].copy()
        odd[0], odd[1, 5], odd[2, 5] = 0, np.nan, np.inf
        with np.errstate(all="ignore"):
            assert np.isnan(run(odd)).all(), name
    props = {one.key: one.value for one in onnx.load(str(path)).metadata_props}
    assert props["name"] == head.name
    assert props.get("licence") == head.licence


@pytest.mark.slow
def test_the_same_head_is_the_same_bytes_and_replaces_nothing(tmp_path: Path) -> None:
    pytest.importorskip("onnx", reason="needs-onnx: pip install 'beholder[onnx]'")
    first = written(AFFINE, tmp_path).read_bytes()
    again = beholder("models", "save", "head.safetensors", "head.onnx", cwd=tmp_path)
    assert (again.returncode, again.stderr) == (
        1, "beholder: head.onnx is there already; remove it, or choose another name\n",
    )  # fmt: skip
    (tmp_path / "head.onnx").unlink()
    assert written(AFFINE, tmp_path).read_bytes() == first
    assert load_head(tmp_path / "head.safetensors").name == "mine"


def test_without_onnx_it_is_said_what_is_missing(tmp_path: Path) -> None:
    """A package of that name that cannot be imported stands for one that is not there."""
    save_head(AFFINE, tmp_path / "head.safetensors")
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / "onnx.py").write_text("raise ImportError('not here')")
    import os
    import subprocess
    import sys

    paths = os.pathsep.join([str(tmp_path / "hidden"), *(one for one in sys.path if one)])
    done = subprocess.run(
        [sys.executable, "-m", "beholder", "models", "save", "head.safetensors", "head.onnx"],
        cwd=tmp_path, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True,
    )  # fmt: skip
    said = "beholder: an .onnx file needs onnx, which is not installed: pip install 'beholder[onnx]'\n"
    assert (done.returncode, done.stderr) == (1, said)
    assert not (tmp_path / "head.onnx").exists()
