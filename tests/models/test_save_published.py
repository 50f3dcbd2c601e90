"""Heads written as the checkpoints that other programs load: their own code gives the same scores."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from beholder import Head, HeadError, OutputError, load_head, save_head
from beholder.kernels.scoring import Affine, Perceptron
from beholder.models.save import save_published
from oracles.peers import PEERS, needs_peers
from oracles.program import beholder

DIM = 768
ROWS = np.random.default_rng(0).standard_normal((50, DIM)).astype(np.float32)
HEAD = Head(name="mine", math=Affine(18 * np.random.default_rng(1).standard_normal(DIM) / DIM**0.5, 5.25))


def five_layers(has_relu: bool) -> torch.nn.Module:
    """The published network (improved-aesthetic-predictor, commit 6934dd8), written down again."""
    relu = [torch.nn.ReLU()] if has_relu else []
    return torch.nn.Sequential(
        *(torch.nn.Linear(DIM, 1024), *relu, torch.nn.Dropout(0.2), torch.nn.Linear(1024, 128), *relu, torch.nn.Dropout(0.2)),
        *(torch.nn.Linear(128, 64), *relu, torch.nn.Dropout(0.1), torch.nn.Linear(64, 16), *relu, torch.nn.Linear(16, 1)),
    )


def scores_of(module: torch.nn.Module, path: Path) -> np.ndarray:
    state = torch.load(path, weights_only=True)
    module.load_state_dict({name.removeprefix("layers."): tensor for name, tensor in state.items()})
    with torch.no_grad():
        found = module.eval()(torch.nn.functional.normalize(torch.from_numpy(ROWS), dim=-1))
    return np.asarray(found[:, 0].numpy())


def expected(head: Head) -> np.ndarray:
    unit = ROWS.astype(np.float64) / np.linalg.norm(ROWS.astype(np.float64), axis=1, keepdims=True)
    return np.asarray(unit @ head.weight + head.bias)


def test_an_affine_head_as_five_layers(tmp_path: Path) -> None:
    save_published(HEAD, str(tmp_path / "mine.pth"))
    np.testing.assert_allclose(scores_of(five_layers(has_relu=False), tmp_path / "mine.pth"), expected(HEAD), atol=1e-5)
    again = load_head(tmp_path / "mine.pth")
    np.testing.assert_allclose(again.weight, HEAD.weight, rtol=1e-7)
    assert again.bias == pytest.approx(HEAD.bias, rel=1e-7)


def test_an_affine_head_as_one_layer(tmp_path: Path) -> None:
    save_published(HEAD, str(tmp_path / "mine.pth"), "laion-v1")
    module = torch.nn.Linear(DIM, 1)
    np.testing.assert_allclose(scores_of(module, tmp_path / "mine.pth"), expected(HEAD), atol=1e-5)


def test_a_head_with_relus(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    widths = (DIM, 1024, 128, 64, 16, 1)
    pairs = zip(widths, widths[1:], strict=False)
    weights = tuple(rng.standard_normal((after, before)) / before**0.5 for before, after in pairs)
    head = Head(name="relu", math=Perceptron(weights, tuple(rng.standard_normal(after) for after in widths[1:])))
    save_published(head, str(tmp_path / "relu.pth"))
    values = ROWS.astype(np.float64) / np.linalg.norm(ROWS.astype(np.float64), axis=1, keepdims=True)
    for at, layer in enumerate(head.layers):
        values = values @ layer.weight.T + layer.bias
        values = np.maximum(values, 0) if at < 4 else values
    np.testing.assert_allclose(scores_of(five_layers(has_relu=True), tmp_path / "relu.pth"), values[:, 0], atol=1e-5)
    with pytest.raises(HeadError, match="has ReLUs between its layers, so it is no single layer"):
        save_published(head, str(tmp_path / "one.pth"), "laion-v1")
    small = Head(name="small", math=Perceptron((np.ones((4, 8)), np.ones((1, 4))), (np.zeros(4), np.zeros(1))))
    with pytest.raises(HeadError, match="small has layers of 4-1, not the published 1024-128-64-16-1"):
        save_published(small, str(tmp_path / "small.pth"))


def test_the_command(tmp_path: Path) -> None:
    save_head(HEAD, tmp_path / "mine.safetensors")
    done = beholder("models", "save", str(tmp_path / "mine.safetensors"), str(tmp_path / "mine.pth"))
    assert (done.returncode, done.stdout.split()[0]) == (0, str(tmp_path / "mine.pth"))
    np.testing.assert_allclose(load_head(tmp_path / "mine.pth").weight, HEAD.weight, rtol=1e-7)
    again = beholder("models", "save", str(tmp_path / "mine.safetensors"), str(tmp_path / "mine.pth"))
    assert (again.returncode, again.stderr.count("\n")) == (1, 1)
    assert "is there already" in again.stderr
    wrong = beholder("models", "save", str(tmp_path / "mine.safetensors"), str(tmp_path / "x.pth"), "--layout", "onnx")
    assert wrong.stderr == "beholder: --layout onnx: choose five-layers or laion-v1\n"
    with pytest.raises(OutputError, match="is there already"):
        save_published(HEAD, str(tmp_path / "mine.pth"))


@pytest.mark.slow
@needs_peers("VDC is")
def test_in_vdcs_own_code(tmp_path: Path) -> None:
    save_published(HEAD, str(tmp_path / "mine.pth"))
    np.save(tmp_path / "rows.npy", ROWS)
    code = (
        "import json, sys, numpy as np, torch\n"
        "from vdc.scripts.aesthetic_filter import AestheticClassifier\n"
        "model = AestheticClassifier(768)\n"
        "model.load_state_dict(torch.load(sys.argv[1], weights_only=True)); model.eval()\n"
        "with torch.no_grad(): print(json.dumps(model(torch.from_numpy(np.load(sys.argv[2])))[:, 0].tolist()))\n"
    )
    line = [str(PEERS), "-c", code, str(tmp_path / "mine.pth"), str(tmp_path / "rows.npy")]
    done = subprocess.run(line, capture_output=True, text=True, check=False, cwd=tmp_path, timeout=120)
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(json.loads(done.stdout.splitlines()[-1]), expected(HEAD), atol=1e-5)
