"""The published five layers, trained in PyTorch: without activations (mlp-linear) or with ReLU (mlp-relu).

Architecture, optimiser and loss are those of improved-aesthetic-predictor (https://github.com/christophschuhmann/
improved-aesthetic-predictor, train_predictor.py): D-1024-128-64-16-1, dropout 0.2, 0.2, 0.1, Adam, mean squared error, batches
of 256. Mended: it is measured in evaluation mode, on whole groups that are drawn and not the file's last rows; rows are
shuffled anew in each epoch; the best epoch is kept and the training ends when there is none for a while; rows have weights;
targets are taken to mean 0 and deviation 1, which the last layer gives back.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from beholder.errors import InputError
from beholder.kernels.scoring import Affine, Perceptron
from beholder.models.head_layouts import HeadFile, Layer
from beholder.models.heads import math_of
from beholder.train.rows import Doubles, Matrix, Rows, unit_rows

if TYPE_CHECKING:
    import torch

Kind = Literal["mlp-linear", "mlp-relu"]

WIDTHS = (1024, 128, 64, 16)
DROPOUT = (0.2, 0.2, 0.1, 0.0)
LEARNING_RATE, BATCH_ROWS, MOST_EPOCHS = 1e-3, 256, 50
"""As published."""
_PATIENCE = 5
"""Epochs without a better one after which the training ends."""
_READ_ROWS = 1 << 14


@dataclass(frozen=True, kw_only=True)
class MlpFit:
    """Trained layers.

    Attributes:
        math: of a `Head`: one affine map for mlp-linear, whose layers have nothing between them.
        best_epoch: counted from 1.
        validation_mse: (epochs,) after each, in squared units of the ratings.
    """

    math: Affine | Perceptron
    best_epoch: int
    validation_mse: tuple[float, ...]


def layers_of(kind: Kind, dim: int) -> torch.nn.Sequential:
    """The published modules in their published order, untrained, from torch's own state of random numbers."""
    from torch import nn

    modules: list[nn.Module] = []
    inputs = dim
    for width, rate in zip(WIDTHS, DROPOUT, strict=True):
        modules.append(nn.Linear(inputs, width))
        if kind == "mlp-relu":
            modules.append(nn.ReLU())
        if rate:
            modules.append(nn.Dropout(rate))
        inputs = width
    return nn.Sequential(*modules, nn.Linear(inputs, 1))


def fit_mlp(
    matrix: Matrix,
    rows: Rows,
    targets: Doubles,
    weights: Doubles | None,
    is_validation: npt.NDArray[np.bool_],
    kind: Kind,
    *,
    seed: int = 0,
    most_epochs: int = MOST_EPOCHS,
) -> MlpFit:
    """Train the layers. The same rows, seed and number of threads give the same bits on one machine.

    Args:
        matrix: (M, D) float16, float32 or float64; may be memory-mapped. Copies of length 1 of `rows` are held as float32.
        rows: (N,) its rows of the fit.
        targets: (N,) their ratings.
        weights: (N,) >= 0; None: 1 each.
        is_validation: (N,) which of them choose the epoch; whole groups (`folds.held_out`).
        kind: "mlp-linear" or "mlp-relu".
        seed: of the first weights, dropout and the order of rows.
        most_epochs: after which it ends at the latest.

    Raises:
        InputError: no rows on one side, ratings that are all the same, training that diverged.
    """
    import torch

    given = np.ones(len(rows)) if weights is None else weights
    for part, what in ((~is_validation, "to train on"), (is_validation, "to choose the epoch with")):
        if not (part & (given > 0)).any():
            raise InputError(f"too few rows to fit a head: none is left {what}")
    centre = float(np.average(targets[~is_validation], weights=given[~is_validation]))
    deviation = math.sqrt(float(np.average((targets[~is_validation] - centre) ** 2, weights=given[~is_validation])))
    if deviation == 0:
        raise InputError(f"cannot fit a head: all ratings are {centre:g}, there is nothing to learn")
    unit = torch.empty((len(rows), matrix.shape[1]), dtype=torch.float32)
    for start in range(0, len(rows), _READ_ROWS):
        unit[start : start + _READ_ROWS] = torch.from_numpy(unit_rows(matrix, rows[start : start + _READ_ROWS]))
    wanted = torch.from_numpy(((targets - centre) / deviation).astype(np.float32))
    votes = torch.from_numpy((given / given[~is_validation].mean()).astype(np.float32))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = layers_of(kind, matrix.shape[1])
        train, validation = (torch.from_numpy(np.flatnonzero(part)) for part in (~is_validation, is_validation))
        best_epoch, errors, state = _trained(module, unit, wanted, votes, train, validation, most_epochs)
    if state is None:
        raise InputError("the training diverged: its errors are not finite; use ridge, or a smaller learning rate")
    module.load_state_dict(state)
    return MlpFit(
        math=_math_of(module, kind, centre, deviation),
        best_epoch=best_epoch,
        validation_mse=tuple(error * deviation**2 for error in errors),
    )


def _trained(
    module: torch.nn.Module,
    unit: torch.Tensor,
    wanted: torch.Tensor,
    votes: torch.Tensor,
    train: torch.Tensor,
    validation: torch.Tensor,
    most_epochs: int,
) -> tuple[int, list[float], dict[str, Any] | None]:
    """The best epoch, the validation error after each, and the best weights."""
    import torch

    optimiser = torch.optim.Adam(module.parameters(), lr=LEARNING_RATE)
    best, best_epoch, state, errors = math.inf, 0, None, []
    for epoch in range(1, most_epochs + 1):
        module.train()
        order = train[torch.randperm(len(train))]
        for start in range(0, len(order), BATCH_ROWS):
            rows = order[start : start + BATCH_ROWS]
            optimiser.zero_grad()
            loss = (votes[rows] * (module(unit[rows]).squeeze(1) - wanted[rows]) ** 2).mean()
            loss.backward()
            optimiser.step()
        errors.append(_error(module, unit, wanted, votes, validation))
        if errors[-1] < best:
            best, best_epoch, state = errors[-1], epoch, copy.deepcopy(module.state_dict())
        elif epoch - best_epoch >= _PATIENCE:
            break
    return best_epoch, errors, state


def _error(module: torch.nn.Module, unit: torch.Tensor, wanted: torch.Tensor, votes: torch.Tensor, rows: torch.Tensor) -> float:
    """Weighted mean squared error in evaluation mode."""
    import torch

    module.eval()
    squares, total = 0.0, 0.0
    with torch.no_grad():
        for start in range(0, len(rows), _READ_ROWS):
            some = rows[start : start + _READ_ROWS]
            errors = (module(unit[some]).squeeze(1) - wanted[some]).double() ** 2
            squares += float((votes[some].double() * errors).sum())
            total += float(votes[some].double().sum())
    return squares / total


def _math_of(module: torch.nn.Sequential, kind: Kind, centre: float, deviation: float) -> Affine | Perceptron:
    """The layers in float64, the last one giving ratings; those without activations folded into one."""
    from torch import nn

    linear = [layer for layer in module if isinstance(layer, nn.Linear)]
    layers = [Layer(layer.weight.detach().double().numpy(), layer.bias.detach().double().numpy()) for layer in linear]
    layers[-1] = Layer(layers[-1].weight * deviation, layers[-1].bias * deviation + centre)
    return math_of(HeadFile(tuple(layers), "relu" if kind == "mlp-relu" else "none", 1.0, ""))
