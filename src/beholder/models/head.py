"""A head in memory: scores of embeddings, a torch module, and its record for a stamp."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from beholder.errors import HeadError, InputError
from beholder.kernels.scoring import Affine, Perceptron, RowScorer
from beholder.models.backbones import canonical_backbone, find_backbone, same_backbone
from beholder.models.head_layouts import HEAD_FORMAT, HeadFile, Layer

if TYPE_CHECKING:
    import torch

_DEVICE_CHUNK_ROWS = 16384
_ROW_TYPES = (np.dtype(np.float16), np.dtype(np.float32), np.dtype(np.float64))


@dataclass(frozen=True, eq=False, kw_only=True)
class Head:
    """The small model that turns an embedding x into a score: math(x / |x|). Scores are never clipped.

    Attributes:
        name: catalogue name, or what its file says or is called.
        math: the arithmetic in float64: `Affine` (weight . x/|x| + bias) or `Perceptron` (layers with ReLU between them).
        sha256: of the file it came from (of its weights where `sha256_of` says so); empty for a head not saved yet.
        sha256_of: "file" or "weights". A head read out of a bundle with a whole CLIP tower has the hash of its weights.
        backbone: id of the tower whose embeddings it scores; None when nothing tells.
        licence: of the weights; None when unknown.
        source: where it was published or read from; None when made in memory.
        source_sha256: for a converted head, of the file it was converted from; None otherwise.
        scale_note: what its numbers mean.
        layout: a word for the layout it was found in.
        notes: further texts that are saved with it (how it was trained, say).
        is_scale_known: whether anything tells that it was trained on embeddings divided by their length (times a factor).
    """

    name: str
    math: Affine | Perceptron = field(repr=False)
    sha256: str = ""
    sha256_of: str = "file"
    backbone: str | None = None
    licence: str | None = None
    source: str | None = None
    source_sha256: str | None = None
    scale_note: str = ""
    layout: str = HEAD_FORMAT
    notes: Mapping[str, str] = field(default_factory=dict)
    is_scale_known: bool = True

    @classmethod
    def affine(cls, weight: Any, bias: Any = 0.0, *, name: str = "affine", backbone: str | None = None) -> Head:
        """A head of one's own: weight . x/|x| + bias.

        Args:
            weight: (D,) or (1, D) floats: an array, a list, or a torch tensor; `coef_` of scikit-learn, `weight` of
                `torch.nn.Linear`. To be used on embeddings of length 1.
            bias: one number, in whatever it comes; `intercept_` of scikit-learn.
            name: what its scores are called by.
            backbone: the tower whose embeddings it was trained on, by any tool's name; None when unknown.

        Raises:
            HeadError: other shapes, no floats, NaN or infinite values.
        """
        row, offset = _numbers(weight, f"{name}: weight"), _numbers(bias, f"{name}: bias")
        if row.size == 0 or row.ndim not in (1, 2) or row.size != row.shape[-1]:
            raise HeadError(f"{name}: weight has shape {row.shape}; give (D,) or (1, D) numbers, one for each of the embedding")
        if offset.size != 1:
            raise HeadError(f"{name}: bias has shape {offset.shape}; give one number")
        canonical = (canonical_backbone(backbone) or backbone) if backbone else None
        known = find_backbone(backbone) if backbone else None
        if known is not None and known.dim != row.size:
            raise HeadError(f"{name}: weight has {row.size} numbers, and {known.id} gives {known.dim}")
        return cls(name=name, math=Affine(row.reshape(-1).copy(), float(offset.reshape(-1)[0])), backbone=canonical)

    @property
    def doubt(self) -> str:
        """What nothing tells of how the head is meant to be used, in a line; empty where all is known."""
        tower, scale = "which tower it was trained on", "whether the embeddings it was trained on were normalised"
        given, record = "; it is given normalised ones", "beholder models save records"
        if self.backbone is None and not self.is_scale_known:
            return f"nothing says {tower}, or {scale}{given} ({record} both)"
        if not self.is_scale_known:
            return f"nothing says {scale}{given} ({record} it)"
        return f"nothing says {tower} ({record} it)" if self.backbone is None else ""

    @property
    def is_affine(self) -> bool:
        """Whether the head is exactly weight . x/|x| + bias."""
        return isinstance(self.math, Affine)

    @property
    def dim(self) -> int:
        """Length of the embeddings it scores."""
        return int(self.layers[0].weight.shape[1])

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The linear layers on x/|x|: one for an affine head; otherwise with ReLU after all but the last."""
        if isinstance(self.math, Affine):
            return (Layer(self.math.weight[np.newaxis], np.array([self.math.bias])),)
        return tuple(Layer(weight, bias) for weight, bias in zip(self.math.weights, self.math.biases, strict=True))

    @property
    def weight(self) -> npt.NDArray[np.float64]:
        """(D,) float64; any factor on the normalised embedding is inside. Raises HeadError for a head with ReLUs."""
        return self._affine().weight

    @property
    def bias(self) -> float:
        """Raises HeadError for a head with ReLUs."""
        return self._affine().bias

    def _affine(self) -> Affine:
        if isinstance(self.math, Affine):
            return self.math
        raise HeadError(f"{self.name} has ReLUs between its layers, so it has no single weight vector; use score() or layers")

    def score(self, embeddings: Any) -> Any:
        """Score embeddings, which need not be normalised.

        Args:
            embeddings: (N, D) or (D,), float16, float32 or float64, any memory layout; nested lists of floats; or a torch
                tensor (bfloat16 too) on any device.

        Returns:
            (N,) float32 scores, NaN for rows that are all zeros or hold NaN or Inf; a tensor on the same device for a
            tensor. For a single (D,) embedding a float.

        Raises:
            InputError: whole numbers, objects, or rows of another length than `dim`.
        """
        torch = sys.modules.get("torch")
        if torch is not None and isinstance(embeddings, torch.Tensor):
            return self._score_tensor(embeddings)
        rows, is_single = _as_rows(embeddings, self)
        scores = self._scorer().score(rows)[0].reshape(-1)
        return float(scores[0]) if is_single else scores

    def _score_tensor(self, embeddings: torch.Tensor) -> torch.Tensor | float:
        import torch

        floats = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
        if embeddings.dtype not in floats or embeddings.layout != torch.strided:
            raise InputError(f"embeddings must be a dense floating-point tensor, not {embeddings.dtype} {embeddings.layout}")
        _check_shape(tuple(embeddings.shape), self)
        rows = embeddings.detach()
        rows = (rows if rows.dtype != torch.bfloat16 else rows.float()).reshape(-1, self.dim)
        if rows.device.type == "cuda":
            scores = score_on_device(self, rows)
        else:
            found = self._scorer().score(rows.cpu().resolve_neg().numpy())[0].reshape(-1)
            scores = torch.from_numpy(found).to(rows.device)
        return float(scores[0]) if embeddings.ndim == 1 else scores

    def _scorer(self) -> RowScorer:
        """The compiled scorer, made on first use, anew in a forked process (its threads do not survive a fork)."""
        made = self.__dict__.get("_made_scorer")
        if made is None or made[0] != os.getpid():
            made = (os.getpid(), RowScorer([self.math]))
            self.__dict__["_made_scorer"] = made
        scorer: RowScorer = made[1]
        return scorer

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the scorer, whose threads cannot travel to another process."""
        return {key: value for key, value in self.__dict__.items() if key != "_made_scorer"}

    def as_module(self) -> torch.nn.Module:
        """A frozen float32 `torch.nn.Module`: (B, D) -> (B,), differentiable with respect to its input.

        It moves with `.to()`, keeps full precision under autocast, and agrees with `score` to 1e-5.
        """
        from beholder.models.clip import HeadModule

        return HeadModule([(layer.weight, layer.bias) for layer in self.layers])

    def describe(self) -> dict[str, Any]:
        """A JSON-ready record that tells this head from all others; for stamps and `beholder models info`."""
        record: dict[str, Any] = {
            "name": self.name,
            "sha256": self.sha256,
            "sha256_of": self.sha256_of,
            "backbone": self.backbone,
            "dim": self.dim,
            "is_affine": self.is_affine,
            "layout": self.layout,
            "licence": self.licence,
            "source": self.source,
            "source_sha256": self.source_sha256,
            "scale_note": self.scale_note,
            "notes": dict(self.notes),
        }
        if self.is_affine:
            record |= {"weight_norm": float(np.linalg.norm(self.weight)), "bias": self.bias}
        return record


def math_of(file: HeadFile) -> Affine | Perceptron:
    """Fold layers in float64: into one affine map where nothing stands between them, and the input's factor into weights."""
    if file.activation == "relu" and len(file.layers) > 1:
        first = file.layers[0].weight * file.input_scale
        weights = (first, *(layer.weight for layer in file.layers[1:]))
        return Perceptron(weights, tuple(layer.bias for layer in file.layers))
    weight, bias = file.layers[-1].weight, file.layers[-1].bias
    for layer in reversed(file.layers[:-1]):
        weight, bias = weight @ layer.weight, weight @ layer.bias + bias
    return Affine(weight[0] * file.input_scale, float(bias[0]))


def score_on_device(head: Head, rows: torch.Tensor) -> torch.Tensor:
    """Scores (N,) float32 of rows (N, D) on the rows' own device, in float64, so that TF32 settings change nothing."""
    import torch

    module = head.as_module().double().to(rows.device)
    for buffer, exact in zip(module.buffers(), (a for layer in head.layers for a in (layer.weight, layer.bias)), strict=True):
        buffer.copy_(torch.from_numpy(exact))
    scores = torch.empty(len(rows), dtype=torch.float32, device=rows.device)
    with torch.no_grad():
        for start in range(0, len(rows), _DEVICE_CHUNK_ROWS):
            chunk = rows[start : start + _DEVICE_CHUNK_ROWS].double()
            largest = chunk.abs().amax(dim=-1, keepdim=True)
            scores[start : start + _DEVICE_CHUNK_ROWS] = module(chunk / largest)
    return scores


def checked_backbone(head_name: str, known: str | None, wanted: str | None) -> str | None:
    """The tower of a head when the caller says its embeddings are of `wanted`. Raises HeadError when that is another."""
    if wanted is None:
        return known
    if known is None or same_backbone(known, wanted):
        return known or canonical_backbone(wanted) or wanted
    if canonical_backbone(wanted) is None:
        raise HeadError(f"{head_name} scores embeddings of {known}; {wanted} is not known to be the same tower (docs/heads.md)")
    raise HeadError(f"{head_name} scores embeddings of {known}, and these are of {wanted}; its scores would mean nothing")


def _numbers(values: Any, what: str) -> npt.NDArray[np.float64]:
    """Finite numbers as float64. Raises HeadError."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(values, torch.Tensor):
        values = values.detach().to("cpu", torch.float64).numpy()
    try:
        array = np.asarray(values)
    except (ValueError, TypeError) as error:
        raise HeadError(f"{what} is no array of numbers ({' '.join(str(error).split())[:150]})") from None
    if array.dtype.kind not in "fiu":
        raise HeadError(f"{what} holds {array.dtype}, not numbers")
    found = array.astype(np.float64)
    if not np.isfinite(found).all():
        raise HeadError(f"{what} holds NaN or infinite values")
    return found


def _check_shape(shape: tuple[int, ...], head: Head) -> None:
    if len(shape) not in (1, 2) or shape[-1] != head.dim:
        raise InputError(f"embeddings have shape {shape}; {head.name} needs (N, {head.dim}) or ({head.dim},)")


def _as_rows(embeddings: Any, head: Head) -> tuple[npt.NDArray[np.floating[Any]], bool]:
    """(N, D) rows as the kernel reads them, copied only if it must be, and whether a single (D,) embedding was given."""
    if isinstance(embeddings, np.ma.MaskedArray):
        raise InputError("embeddings are a masked array; fill it first (masked values have no meaning for a head)")
    try:
        array = np.asarray(embeddings)
    except (ValueError, TypeError) as error:
        raise InputError(f"embeddings are not a table of numbers ({' '.join(str(error).split())[:150]})") from None
    if array.dtype.newbyteorder("=") not in _ROW_TYPES:
        raise InputError(f"embeddings hold {array.dtype}; they must be float16, float32 or float64")
    _check_shape(array.shape, head)
    if not array.dtype.isnative or not array.flags.aligned:
        array = array.astype(array.dtype.newbyteorder("="))
    return array.reshape(-1, head.dim) if array.ndim == 1 else array, array.ndim == 1
