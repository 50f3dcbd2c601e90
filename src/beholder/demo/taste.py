"""The demo's marks: made up from a taste that is made up as well, learned from in a moment, and all rows ranked by the head."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from beholder.demo.photographs import INDENT, Say
from beholder.demo.synthetic import RatedRows, SyntheticOptions
from beholder.kernels.scoring import Affine
from beholder.models.heads import load_head, save_head
from beholder.train.measures import spearman
from beholder.train.taste import ORDER, Taste, learn_taste, scores_of_all

MARKS_NOTE = "marks and taste are made up: nobody looked at anything"

_NUM_MARKS = 200
_TRUTH_SHARE, _OWN_SHARE = 0.8, 0.6
_MARK_NOISE_SD = 0.3
_AXIS_ROWS = 4096
_SEED = 20


@dataclass(frozen=True)
class _MadeUp:
    """A taste: `_TRUTH_SHARE` of the hidden truth and `_OWN_SHARE` of the axis along which the rows differ most.

    Attributes:
        axis: (D,) float64, for rows of length 1.
        scale: of truth and axis (mean, standard deviation) among the rated rows.
    """

    axis: npt.NDArray[np.float64]
    scale: tuple[tuple[float, float], tuple[float, float]]

    @classmethod
    def of(cls, rated: RatedRows) -> _MadeUp:
        some = rated.embeddings[:_AXIS_ROWS].astype(np.float64)
        some /= np.linalg.norm(some, axis=1, keepdims=True)
        centred = some - some.mean(axis=0)
        axis = np.linalg.eigh(centred.T @ centred)[1][:, -1]
        axis *= np.sign(axis[np.argmax(np.abs(axis))])  # an axis has two ends
        along = scores_of_all(Affine(axis, 0.0), rated.embeddings).astype(np.float64)
        return cls(axis, tuple((float(part.mean()), float(part.std()) or 1.0) for part in (rated.truth, along)))  # type: ignore[arg-type]

    def of_rows(self, truth: npt.NDArray[Any], embeddings: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """(N,) how much each row is liked."""
        parts = truth, scores_of_all(Affine(self.axis, 0.0), embeddings)
        (one, other) = ((part.astype(np.float64) - mean) / sd for part, (mean, sd) in zip(parts, self.scale, strict=True))
        return np.asarray(_TRUTH_SHARE * one + _OWN_SHARE * other)


def learn_made_up(
    embeddings: Path,
    options: SyntheticOptions,
    rated: RatedRows,
    *,
    head: Path,
    out: Path,
    scores: npt.NDArray[np.float32],
    truth: npt.NDArray[np.float32],
    say: Say,
) -> dict[str, Any]:
    """Make up marks, learn a head from them that starts from `head`, save it to `out`, and rank all rows by it.

    Args:
        embeddings: the set that `write_synthetic` wrote.
        options: by which it did.
        rated: its rated rows; the marks are of some of these.
        head: file of the head that gave the scores.
        out: file of the new one.
        scores: (N,) of all rows.
        truth: (N,) of all rows.
        say: takes each line of the account.

    Returns:
        A JSON-ready record.
    """
    made_up, rng = _MadeUp.of(rated), np.random.default_rng((_SEED, options.seed))
    liking = made_up.of_rows(rated.truth, rated.embeddings)
    chosen = np.sort(rng.permutation(len(liking))[: min(_NUM_MARKS, len(liking))])
    noisy = liking[chosen] + rng.normal(0, _MARK_NOISE_SD, len(chosen))
    before = load_head(str(head), offline=True)
    found = learn_taste(
        rated.embeddings[chosen],
        noisy > np.median(noisy),
        samples=[f"rated/{row}" for row in chosen.tolist()],
        start_from=before,
        before=before.score(rated.embeddings[chosen]),
        seed=options.seed,
    )
    save_head(found.to_head("demo-taste", options.backbone), out)
    mine, wanted = np.empty(options.num_rows, np.float32), np.empty(options.num_rows)
    for part in range(options.num_parts):
        start, stop = options.part_range(part)
        rows = np.load(options.part_paths(embeddings, part)[0], mmap_mode="r")
        mine[start:stop] = scores_of_all(found.fit.math, rows)
        wanted[start:stop] = made_up.of_rows(truth[start:stop], rows)
    ranked = {"learned": spearman(mine, wanted), "before": spearman(scores, wanted)}
    _say(found, ranked, options.num_rows, say)
    unseen = found.unseen
    return {
        "note": MARKS_NOTE,
        "num_keep": found.num_keep,
        "num_drop": found.num_drop,
        "pairs_not_seen": None if unseen is None else unseen.order.to_json(),
        "pairs_not_seen_before": None if unseen is None or unseen.before is None else unseen.before[ORDER].to_json(),
        "srcc_with_taste": ranked,
        "path": str(out),
    }


def _say(found: Taste, ranked: dict[str, float], num_rows: int, say: Say) -> None:
    say(
        f"9  taste    {found.num_keep + found.num_drop} made-up marks ({found.num_keep} keep, {found.num_drop} drop) by a "
        f"made-up taste, {_TRUTH_SHARE} of the hidden truth and {_OWN_SHARE} of something else"
    )
    unseen = found.unseen
    if unseen is not None and unseen.is_known and unseen.before is not None:
        order = unseen.order
        say(
            f"{INDENT}a head learned from them: of pairs it has not seen {100 * order.value:.0f} % in the right order "
            f"({100 * order.low:.0f} to {100 * order.high:.0f} %), by the head before {100 * unseen.before[ORDER].value:.0f} %"
        )
    say(
        f"{INDENT}all {num_rows:,} rows ranked by it: rank correlation with that taste {ranked['learned']:.3f}, "
        f"by the head before {ranked['before']:.3f}"
    )
