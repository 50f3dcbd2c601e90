"""One head in memory: inputs of every kind against a slow float64 reference, the torch module, other processes."""

from __future__ import annotations

import copy
import itertools
import math
import multiprocessing
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from beholder.errors import InputError
from beholder.kernels.scoring import Affine, Perceptron
from beholder.models.heads import Head, score_on_device


def rows_of(dim: int, num_rows: int = 7, seed: int = 0, dtype: str = "f4") -> npt.NDArray[Any]:
    return (np.random.default_rng(seed).normal(size=(num_rows, dim)) * 3).astype(dtype)


def small(kind: str = "affine", dim: int = 24) -> Head:
    make = np.random.default_rng(11)
    if kind == "affine":
        return Head(name="mine", math=Affine(make.normal(size=dim) * 4, 5.25))
    widths = (dim, 9, 5, 1)
    weights = tuple(make.normal(size=(out, num_in)) for num_in, out in itertools.pairwise(widths))
    return Head(name="mine", math=Perceptron(weights, tuple(make.normal(size=out) for out in widths[1:])))


def slow_small(head: Head, rows: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    x: npt.NDArray[np.float64] = rows.astype(np.float64)
    x = x / np.sqrt((x**2).sum(axis=1, keepdims=True))
    for number, layer in enumerate(head.layers):
        x = x @ layer.weight.T + layer.bias
        x = np.maximum(x, 0) if number < len(head.layers) - 1 else x
    return x[:, 0]


def test_scores_do_not_depend_on_length_and_are_never_clipped() -> None:
    head = Head(name="steep", math=Affine(np.eye(4)[0] * 100, 5.0))
    rows = np.array([[1, 0, 0, 0], [1e-20, 0, 0, 0], [-3e30, 0, 0, 0]], np.float32)
    np.testing.assert_array_equal(head.score(rows), np.array([105, 105, -95], np.float32))


@pytest.mark.parametrize("kind", ["affine", "relu"])
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", ">f2", ">f4", ">f8"])
@pytest.mark.parametrize("num_rows", [0, 1, 2, 33])
def test_numpy_inputs(kind: str, dtype: str, num_rows: int) -> None:
    head = small(kind)
    rows = rows_of(24, num_rows, dtype=dtype)
    scores = head.score(rows)
    assert scores.shape == (num_rows,)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, slow_small(head, rows), atol=1e-5)


LAYOUTS: dict[str, Callable[[npt.NDArray[Any]], npt.NDArray[Any]]] = {
    "Fortran": np.asfortranarray,
    "reversed rows": lambda x: x[::-1],
    "reversed columns": lambda x: x[:, ::-1],
    "every other row": lambda x: np.repeat(x, 2, axis=0)[::2],
    "every other column": lambda x: np.repeat(x, 2, axis=1)[:, ::2],
    "columns of a wider table": lambda x: np.hstack([x, x])[:, 3 : 3 + x.shape[1]],
    "one row repeated": lambda x: np.broadcast_to(x[0], x.shape),
    "unaligned": lambda x: np.frombuffer(b"\0" + x.tobytes(), x.dtype.newbyteorder("<"), offset=1).reshape(x.shape),
    "read-only": lambda x: np.frombuffer(x.tobytes(), x.dtype).reshape(x.shape),
}


@pytest.mark.parametrize("kind", ["affine", "relu"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_memory_layouts(kind: str, layout: str, dtype: str) -> None:
    head = small(kind)
    rows = LAYOUTS[layout](rows_of(24, 9, dtype=dtype))
    np.testing.assert_array_equal(head.score(rows), head.score(np.array(rows, order="C")))
    np.testing.assert_allclose(head.score(rows), slow_small(head, rows), atol=1e-5)


@pytest.mark.parametrize("kind", ["affine", "relu"])
def test_one_embedding_gives_a_float(kind: str) -> None:
    head = small(kind)
    row = rows_of(24, 1)[0]
    expected = float(slow_small(head, row[None])[0])
    for given in (row, row[::-1][::-1], row.tolist(), torch.from_numpy(row), torch.from_numpy(row).requires_grad_()):
        score = head.score(given)
        assert type(score) is float
        assert score == pytest.approx(expected, abs=1e-5)


def test_lists_are_float64() -> None:
    head = small()
    rows = rows_of(24, 3, dtype="f8")
    np.testing.assert_array_equal(head.score(rows.tolist()), head.score(rows))
    np.testing.assert_array_equal(head.score(list(rows)), head.score(rows))


@pytest.mark.parametrize("kind", ["affine", "relu"])
@pytest.mark.parametrize("how", ["numpy", "torch", "on device", "module"])
def test_rows_without_a_direction_have_no_score(kind: str, how: str) -> None:
    head = small(kind)
    rows = rows_of(24, 6)
    rows[1] = 0
    rows[2, 3] = np.nan
    rows[3, 23] = np.inf
    rows[4, 0] = -np.inf
    tensor = torch.from_numpy(rows)
    scores = {
        "numpy": lambda: head.score(rows),
        "torch": lambda: head.score(tensor).numpy(),
        "on device": lambda: score_on_device(head, tensor).numpy(),
        "module": lambda: head.as_module()(tensor).numpy(),
    }[how]()
    assert np.isnan(scores).tolist() == [False, True, True, True, True, False]
    assert math.isnan(head.score(rows[1]))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (np.ones((2, 24), np.int64), "hold int64; they must be float16, float32 or float64"),
        (np.ones((2, 24), bool), "hold bool"),
        (np.ones((2, 24), object), "hold object"),
        (np.ones((2, 24), np.longdouble), "float128|longdouble|float96"),
        (np.ones((2, 24), complex), "hold complex128"),
        ([[1] * 24], "hold int64"),
        ([[1.0] * 24, [1.0] * 23], "not a table of numbers"),
        ("text", "hold <U4"),
        (None, "hold object"),
        (np.ma.ones((2, 24)), "masked array"),
        (np.ones((2, 23)), r"have shape \(2, 23\); mine needs \(N, 24\) or \(24,\)"),
        (np.ones((2, 2, 24)), "have shape"),
        (np.float64(3), "have shape"),
        ([], "have shape"),
        (torch.ones(2, 24, dtype=torch.int64), "not torch.int64"),
        (torch.ones(2, 24, dtype=torch.complex64), "not torch.complex64"),
        (torch.ones(2, 24).to_sparse(), "dense"),
        (torch.ones(2, 23), "have shape"),
        (torch.ones(2, 2, 24), "have shape"),
        (torch.tensor(1.0), "have shape"),
    ],
)
def test_what_cannot_be_scored_says_so(given: Any, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        small().score(given)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["affine", "relu"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("num_rows", [0, 1, 5])
def test_torch_inputs(kind: str, dtype: torch.dtype, num_rows: int) -> None:
    head = small(kind)
    rows = torch.from_numpy(rows_of(24, num_rows)).to(dtype)
    expected = slow_small(head, rows.double().numpy())
    for given in (rows, rows.clone().requires_grad_(), rows.T.contiguous().T):
        scores = head.score(given)
        assert isinstance(scores, torch.Tensor)
        assert (scores.dtype, tuple(scores.shape), scores.device, scores.requires_grad) == (
            torch.float32, (num_rows,), rows.device, False,
        )  # fmt: skip
        np.testing.assert_allclose(scores.numpy(), expected, atol=1e-5)
    np.testing.assert_allclose(score_on_device(head, rows).numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["affine", "relu"])
def test_on_device_in_several_chunks(kind: str) -> None:
    head = small(kind)
    rows = rows_of(24, 16384 * 2 + 3)
    np.testing.assert_allclose(score_on_device(head, torch.from_numpy(rows)).numpy(), slow_small(head, rows), atol=1e-6)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("kind", ["affine", "relu"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_scores_stay_on_the_gpu(kind: str, dtype: torch.dtype) -> None:
    head = small(kind)
    rows = torch.from_numpy(rows_of(24, 100)).to("cuda", dtype)
    scores = head.score(rows)
    assert scores.device == rows.device
    assert scores.dtype == torch.float32
    np.testing.assert_allclose(scores.cpu().numpy(), slow_small(head, rows.double().cpu().numpy()), atol=1e-5)
    assert type(head.score(rows[0])) is float
    module = head.as_module().to("cuda")
    assert (module(rows) - scores).abs().max() <= 1e-4


@pytest.mark.parametrize("kind", ["affine", "relu"])
def test_the_module_is_frozen_and_differentiable(kind: str) -> None:
    head = small(kind)
    module = head.as_module()
    assert list(module.parameters()) == []
    assert {buffer.dtype for buffer in module.buffers()} == {torch.float32}
    rows = torch.from_numpy(rows_of(24, 4, dtype="f8")).requires_grad_()
    assert torch.autograd.gradcheck(copy.deepcopy(module).double(), (rows,))
    # By hand, for an affine head: d score / d x = (w - (w.u) u) / |x| with u = x / |x|.
    if kind == "affine":
        (gradient,) = torch.autograd.grad(module.double()(rows).sum(), rows)
        x = rows.detach().numpy()
        length = np.linalg.norm(x, axis=1, keepdims=True)
        unit, weight = x / length, head.weight.astype(np.float32).astype(np.float64)
        expected = (weight - (unit @ weight)[:, None] * unit) / length
        np.testing.assert_allclose(gradient.numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("kind", ["affine", "relu"])
@pytest.mark.parametrize("num_rows", [0, 1, 5])
def test_the_module_agrees_with_score(kind: str, num_rows: int) -> None:
    head = small(kind)
    rows = rows_of(24, num_rows)
    out = head.as_module()(torch.from_numpy(rows))
    assert tuple(out.shape) == (num_rows,)
    np.testing.assert_allclose(out.numpy(), head.score(rows), atol=1e-5)


def test_the_module_keeps_its_precision_under_autocast() -> None:
    head = small()
    rows = torch.from_numpy(rows_of(24, 50))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = head.as_module()(rows)
    assert out.dtype == torch.float32
    assert (out - head.score(rows)).abs().max() <= 1e-5


def test_the_module_travels(tmp_path: Path) -> None:
    module = small("relu").as_module()
    rows = torch.from_numpy(rows_of(24, 3))
    again = pickle.loads(pickle.dumps(module))
    assert torch.equal(again(rows), module(rows))
    again.load_state_dict(module.state_dict())
    assert module.to(torch.float64)(rows.double()).dtype == torch.float64


def test_a_head_can_be_sent_to_another_process() -> None:
    head = small("relu")
    rows = rows_of(24, 40)
    before = head.score(rows)
    again = pickle.loads(pickle.dumps(head))
    np.testing.assert_array_equal(again.score(rows), before)


def _score_in_child(head: Head, rows: npt.NDArray[Any], queue: Any) -> None:
    queue.put(head.score(rows))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_head_works_after_a_fork() -> None:
    head = small()
    rows = rows_of(24, 40)
    before = head.score(rows)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_score_in_child, args=(head, rows, queue))
    child.start()
    np.testing.assert_array_equal(queue.get(timeout=30), before)
    child.join(timeout=30)
    assert child.exitcode == 0
