"""A head in a new file: in beholder's own format, as a checkpoint that other programs load, or as an ONNX graph."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from beholder.errors import HeadError, OutputError
from beholder.io import storage, writing
from beholder.kernels.scoring import Affine
from beholder.models.head_layouts import HIDDEN_WIDTHS, LINEAR_POSITIONS, RELU_POSITIONS
from beholder.models.head_record import check_no_record, write_record
from beholder.models.heads import Head, save_head

PublishedLayout = Literal["five-layers", "laion-v1"]
PUBLISHED_LAYOUTS: tuple[PublishedLayout, ...] = get_args(PublishedLayout)
"""The published five layers, or LAION's first single one."""
PUBLISHED_SUFFIXES, ONNX_SUFFIX = (".pth", ".pt"), ".onnx"
_OPSET, _IR = 18, 10
"""Opset 18 (2022) is the first whose norms take axes as this graph gives them; the IR version is what runtimes of 2024 read."""

Floats = npt.NDArray[np.float32]


def save_anew(head: Head, path: str, record: Mapping[str, Any] | None = None) -> str:
    """Write a head in beholder's own format where nothing is yet, with the record of its training where it has one.

    Returns its sha256. Raises OutputError.
    """
    if not path.endswith(".safetensors"):
        raise OutputError(f"{path}: a head is written as .safetensors, or as .pth for other programs; name such a file")
    _check_new(path)
    if record is None:
        return save_head(head, path)
    check_no_record(path)
    digest = save_head(head, path)
    write_record(record, head, path, digest)
    return digest


def save_published(head: Head, path: str, layout: PublishedLayout = "five-layers") -> str:
    """Write a head as such a checkpoint, where nothing is yet; its sha256. Raises HeadError and OutputError."""
    import torch

    _check_new(path)
    buffer = io.BytesIO()
    torch.save({name: torch.from_numpy(values) for name, values in tensors_in_layout(head, layout).items()}, buffer)
    return _written(path, buffer.getvalue())


def save_onnx(head: Head, path: str) -> str:
    """Write a head as a graph where nothing is yet: embeddings (N, D) float32, of any length, to scores (N,) float32.

    Rows are first divided by their largest magnitude, so that no square overflows; one that is all zeros, or holds NaN or Inf,
    scores NaN. Weights are rounded to float32. Returns the file's sha256.

    Raises:
        HeadError: onnx is not installed.
        OutputError: the file is there, or cannot be written.
    """
    _check_new(path)
    return _written(path, _onnx_model(head))


def _check_new(path: str) -> None:
    if storage.exists(path):
        raise OutputError(f"{path} is there already; remove it, or choose another name")


def _written(path: str, data: bytes) -> str:
    """Write a file; its sha256."""
    writing.write_bytes(path, data)
    return hashlib.sha256(data).hexdigest()


def tensors_in_layout(head: Head, layout: PublishedLayout) -> dict[str, Floats]:
    """The head's numbers, float32, by the names that a layout has.

    five-layers: D-1024-128-64-16-1, as improved-aesthetic-predictor and VDC load them; nothing stands between the layers of an
    affine head. Its weight is the first row of the first layer, whose number the other layers pass on; the bias is that of the
    last one. So the number is that of the head but for its rounding to float32. A head with ReLUs has to be of these widths.
    laion-v1: one layer, `weight` (1, D) and `bias` (1,).

    Raises HeadError for a head that has no such form.
    """
    if layout == "laion-v1":
        if not isinstance(head.math, Affine):
            raise HeadError(f"{head.name} has ReLUs between its layers, so it is no single layer; use five-layers")
        return {"weight": _single(head.math.weight[np.newaxis]), "bias": _single(np.array([head.math.bias]))}
    if isinstance(head.math, Affine):
        return _named(_passing_on(head.math), LINEAR_POSITIONS)
    layers = [(layer.weight, layer.bias) for layer in head.layers]
    if tuple(len(weight) for weight, _ in layers) != (*HIDDEN_WIDTHS, 1):
        widths = "-".join(str(len(weight)) for weight, _ in layers)
        raise HeadError(f"{head.name} has layers of {widths}, not the published {'-'.join(map(str, HIDDEN_WIDTHS))}-1")
    return _named(layers, RELU_POSITIONS)


def _passing_on(math: Affine) -> list[tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]]:
    layers: list[tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]] = []
    before = len(math.weight)
    for width in (*HIDDEN_WIDTHS, 1):
        weight = np.zeros((width, before))
        if layers:
            weight[0, 0] = 1.0
        else:
            weight[0] = math.weight
        layers.append((weight, np.zeros(width)))
        before = width
    layers[-1] = (layers[-1][0], np.array([math.bias]))
    return layers


def _named(
    layers: list[tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]], positions: tuple[int, ...]
) -> dict[str, Floats]:
    found: dict[str, Floats] = {}
    for position, (weight, bias) in zip(positions, layers, strict=True):
        found |= {f"layers.{position}.weight": _single(weight), f"layers.{position}.bias": _single(bias)}
    return found


def _single(values: npt.NDArray[np.float64]) -> Floats:
    return np.ascontiguousarray(values, np.float32)


def _onnx_model(head: Head) -> bytes:
    """The bytes of the model."""
    try:
        from onnx import TensorProto, checker, helper, numpy_helper
    except ImportError:
        raise HeadError("an .onnx file needs onnx, which is not installed: pip install 'beholder[onnx]'") from None
    constants: list[tuple[str, npt.NDArray[np.generic]]] = [("axis", np.array([1], np.int64))]
    nodes = [
        helper.make_node("Abs", ["embeddings"], ["magnitudes"]),
        helper.make_node("ReduceMax", ["magnitudes", "axis"], ["largest"], keepdims=1),
        helper.make_node("Div", ["embeddings", "largest"], ["scaled"]),
        helper.make_node("ReduceL2", ["scaled", "axis"], ["length"], keepdims=1),
        helper.make_node("Div", ["scaled", "length"], ["layer_0"]),
    ]
    for at, layer in enumerate(head.layers):
        constants += [(f"weight_{at}", layer.weight.astype(np.float32)), (f"bias_{at}", layer.bias.astype(np.float32))]
        is_last = at == len(head.layers) - 1
        out = "column" if is_last else f"sum_{at}"
        nodes.append(helper.make_node("Gemm", [f"layer_{at}", f"weight_{at}", f"bias_{at}"], [out], transB=1))
        if not is_last:
            nodes.append(helper.make_node("Relu", [out], [f"layer_{at + 1}"]))
    nodes.append(helper.make_node("Squeeze", ["column", "axis"], ["scores"]))
    graph = helper.make_graph(
        nodes,
        "head",
        [helper.make_tensor_value_info("embeddings", TensorProto.FLOAT, ["N", head.dim])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N"])],
        [numpy_helper.from_array(values, name) for name, values in constants],
    )
    model = helper.make_model(graph, producer_name="beholder", ir_version=_IR, opset_imports=[helper.make_opsetid("", _OPSET)])
    known = {name: value for name, value in head.describe().items() if isinstance(value, str) and value}
    helper.set_model_props(model, {name: known[name] for name in sorted(known)})
    checker.check_model(model)
    data: bytes = model.SerializeToString(deterministic=True)
    return data
