"""A head as an ONNX graph: embeddings (N, D) float32, of any length, to scores (N,) float32."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from beholder.errors import HeadError, OutputError
from beholder.io import storage, writing
from beholder.models.heads import Head

SUFFIX = ".onnx"
_OPSET, _IR = 18, 10
"""Opset 18 (2022) is the first whose norms take axes as this graph gives them; the IR version is what runtimes of 2024 read."""


def save_onnx(head: Head, path: str) -> str:
    """Write a head where nothing is yet; its sha256.

    Rows are first divided by their largest magnitude, so that no square overflows; one that is all zeros, or holds NaN or Inf,
    scores NaN. Weights are rounded to float32.

    Raises:
        HeadError: onnx is not installed.
        OutputError: the file is there, or cannot be written.
    """
    if storage.exists(path):
        raise OutputError(f"{path} is there already; remove it, or choose another name")
    data = _serialised(head)
    with writing.write_whole(path) as temporary:
        temporary.write_bytes(data)
        return storage.sha256_of(temporary)


def _serialised(head: Head) -> bytes:
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
