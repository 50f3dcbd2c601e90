"""Ratings in an `.npy` file: one for each row of embeddings, by place, as improved-aesthetic-predictor keeps them."""

from __future__ import annotations

import io
import warnings

import numpy as np

from beholder.errors import InputError, damaged
from beholder.io import remote, storage
from beholder.train.ratings.findings import Findings
from beholder.train.ratings.options import RatingsOptions
from beholder.train.ratings.ratings import Ratings
from beholder.train.ratings.rows import Rows, number_names
from beholder.train.ratings.scales import check_varied, note_outlying


def read_array(path: str, options: RatingsOptions) -> Ratings:
    """Ratings of shape (N,) or (N, 1); NaN is a missing one. Raises InputError for other arrays."""
    with remote.read_errors(path), storage.open_binary(path) as file:
        data = file.read()
    with damaged(lambda why: InputError(f"{path} cannot be read as .npy: {why}")), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy and Python remark on odd headers; what matters is raised
        array = np.load(io.BytesIO(data), allow_pickle=False)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1 or array.dtype.kind not in "fiub":
        hint = "; are these the embeddings? ratings are one number a row (y_ratings.npy)" if array.ndim == 2 else ""
        raise InputError(
            f"{path} has shape {array.shape} and type {array.dtype}; ratings of shape (N,) or (N, 1) were expected{hint}"
        )
    findings = Findings()
    values = array.astype(np.float64)
    rows = Rows.of(path, number_names(len(values)), findings)
    rows.drop(~np.isfinite(values), "missing", "has no finite rating", "have no finite rating")
    rows.keep_scale(values, options)
    _, samples = rows.samples()
    found = values[rows.is_left]
    check_varied(found, path)
    note_outlying(found, samples, findings)
    return Ratings(
        kind="mean",
        source=path,
        layout=f"one rating a row, by place, for {len(values):,} rows",
        samples=samples,
        values=found,
        is_by_row=True,
        findings=tuple(findings.found),
    )
