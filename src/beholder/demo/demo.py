"""The demo: embeddings are made, a head is fitted, a million rows and some photographs are scored, the best are shown.

At the end a head is learned from made-up marks, and all rows are ranked by it.
"""

from __future__ import annotations

import contextlib
import shlex
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from beholder.columns import AESTHETIC_SCORE, FORMAT_VERSION, INPUTS_SUFFIX, PARTIAL_SUFFIX, SIDECAR_SUFFIX
from beholder.demo.photographs import (
    INDENT,
    Photographs,
    Say,
    find_photographs,
    real_models,
    score_photographs,
    untrained_models,
)
from beholder.demo.pictures import draw_histogram
from beholder.demo.synthetic import RATING, RATING_NOISE_SD, TRUTH, RatedRows, SyntheticOptions, read_rated, write_synthetic
from beholder.errors import InputError, OutputError, writing_failed
from beholder.io import records, remote, storage, writing
from beholder.kernels.scoring import Affine
from beholder.models.heads import load_head, save_head
from beholder.scoring.options import ScoreOptions
from beholder.scoring.score import score
from beholder.scoring.summary import THRESHOLDS, RunSummary
from beholder.train.fitting import fit_ridge
from beholder.train.measures import agreement, spearman
from beholder.train.taste import ORDER, Taste, learn_taste, scores_of_all

SYNTHETIC_NOTE = "The embeddings are synthetic: no picture is behind them, and their scores mean nothing."

_MARKER = "demo.json"
_MARKER_FORMAT = "beholder-demo"
_MIN_ROWS = 100
_MAX_RATED = 20_000
_SPARE_BYTES = 64 << 20
_RELATIVE_ERROR = 1e-6
"""Of the compiled scorer, as a share of the weight's length and the score: 10 * 2**-24 and half a unit in the last place."""


class _Folder:
    """The folder of a demo and what lies in it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.embeddings, self.head, self.fit = root / "embeddings", root / "head.safetensors", root / "fit.json"
        self.scores, self.picture, self.selected = root / "scores.parquet", root / "histogram.png", root / "best.parquet"
        self.page, self.photographs = root / "photographs.html", root / "photographs"
        self.taste = root / "taste.safetensors"

    def forget_scores(self) -> None:
        """Remove what was scored with an earlier head."""
        for suffix in ("", SIDECAR_SUFFIX, INPUTS_SUFFIX):
            self.scores.with_name(self.scores.name + suffix).unlink(missing_ok=True)
        shutil.rmtree(self.scores.with_name(self.scores.name + PARTIAL_SUFFIX), ignore_errors=True)

    def paths(self) -> dict[str, str]:
        """Where the results are, by name."""
        return {name: str(getattr(self, name)) for name in ("embeddings", "head", "scores", "picture", "selected", "taste")}

    def num_bytes(self) -> int:
        """Bytes of all files below the folder."""
        return sum(path.stat().st_size for path in self.root.rglob("*") if path.is_file())


def run_demo(
    folder: Path,
    *,
    num_rows: int = 1_000_000,
    dim: int = 768,
    seed: int = 0,
    real: bool = False,
    find: Callable[[], Photographs | None] = find_photographs,
    say: Say = print,
) -> dict[str, Any]:
    """Make synthetic embeddings with a hidden preference, fit a head to noisy ratings of a part, score all, and compare.

    Then score an installed package's photographs with an untrained tower, or the real one, list the best rows, write a page.
    Run again in the same folder, it keeps what is complete. No network is used unless `real`.

    Args:
        folder: new, empty, or of an earlier demo with the same options.
        num_rows: rows to make and score, >= 100.
        dim: dimensions of a row, >= 2.
        seed: draws everything, >= 0.
        real: score the photographs with the default tower and head, which are fetched first.
        find: gives the photographs; None: there are none to score.
        say: takes each line of the account.

    Returns:
        A JSON-ready record: sizes, seconds per step, the rate, the correlations, and where everything is.

    Raises:
        BeholderError: another kind of folder, other options than before, too little disk, no network if `real`.
    """
    if num_rows < _MIN_ROWS:
        raise InputError(f"the demo needs at least {_MIN_ROWS} rows, not {num_rows}")
    options = SyntheticOptions(num_rows=num_rows, dim=dim, num_rated=min(_MAX_RATED, num_rows // 2), seed=seed)
    place, clock, started = _Folder(folder), Clock(), time.perf_counter()
    models = real_models() if real else None
    _open_folder(place, options)
    say(f"beholder demo in {folder}\n{SYNTHETIC_NOTE}\n")
    _make(place, options, clock, say)
    fit = _fit(place, options, clock, say)
    summary = _score(place, clock, say)
    truth = _compare(place, options, clock, say)
    with clock.step("photographs"):
        pictures = score_photographs(place.photographs, find(), models or untrained_models(place.photographs, seed), say)
    result = {
        "synthetic": True,
        "note": SYNTHETIC_NOTE,
        "options": asdict(options),
        "fit": fit,
        "score": summary.to_json(),
        "rows_per_second": summary.num_new / summary.seconds if summary.num_new and summary.seconds else None,
        "with_hidden_truth": truth,
        "photographs": pictures,
        **_curate(place, pictures, clock, say),
        "taste": _taste(place, options, clock, say),
        "seconds": time.perf_counter() - started,
        "seconds_by_step": clock.seconds,
        "num_bytes": place.num_bytes(),
        "paths": place.paths(),
    }
    _say_end(place, result, say)
    return result


def _curate(place: _Folder, pictures: dict[str, Any], clock: Clock, say: Say) -> dict[str, Any]:
    """Step 7: the best of the million, and step 8: the page about the photographs, where there are any."""
    with clock.step("select"):
        selected = select_best(place.scores, place.selected, say)
    if "paths" not in pictures:
        return {"selected": selected, "report": None}
    with clock.step("report"):
        shown = Path(pictures["paths"]["scores"])
        page = report_photographs(shown, place.page, not pictures["is_meaningless"], say)
    return {"selected": selected, "report": page}


def _taste(place: _Folder, options: SyntheticOptions, clock: Clock, say: Say) -> dict[str, Any]:
    """Step 9: a head from made-up marks, and all rows ranked by it."""
    with clock.step("taste"):
        rated = read_rated(place.embeddings, options)
        scores, truth, _ = _read_scores(place, options)
        found = _learn_made_up(place, options, rated, scores, truth, say)
    say(f"{INDENT}{found['note']}; of your own pictures: K and D in beholder browse, then L{_took(clock, 'taste')}")
    return found


def _open_folder(place: _Folder, options: SyntheticOptions) -> None:
    """Take a new or empty folder, or one of the same demo. Raises OutputError for any other, or for too little disk."""
    root, marker = place.root, place.root / _MARKER
    if root.exists() and not root.is_dir():
        raise OutputError(f"{root} is a file; choose another folder for the demo")
    if marker.is_file():
        before = _read_json(marker)
        if before is None or before.get("format") != _MARKER_FORMAT or not isinstance(before.get("options", {}), dict):
            raise OutputError(f"{marker} is damaged or not of a demo; remove {root}, or choose another folder")
        for name, value in asdict(options).items():
            if (was := (before.get("options") or {}).get(name)) != value:
                raise OutputError(
                    f"{root} holds a demo with other options: {name} was {was}, now it is {value}; "
                    "use the same options to continue, remove it, or choose another folder"
                )
    elif root.is_dir() and any(not entry.name.startswith(".beholder-") for entry in root.iterdir()):
        raise OutputError(f"{root} is not empty and holds no demo; choose another folder")
    for part_of in (root, place.embeddings, place.embeddings / "img_emb", place.embeddings / "metadata", place.photographs):
        writing.remove_stray_temporaries(part_of)
    _check_disk(place, options)
    record = {"format": _MARKER_FORMAT, "version": FORMAT_VERSION, "note": SYNTHETIC_NOTE, "options": asdict(options)}
    writing.write_bytes(str(marker), records.sealed(record, indent=2))


def _check_disk(place: _Folder, options: SyntheticOptions) -> None:
    """Raise OutputError when what is still to be written will not fit."""
    there = next(parent for parent in (place.root, *place.root.absolute().parents) if parent.exists())
    done = place.num_bytes() if place.root.is_dir() else 0
    needed = options.num_bytes + 40 * options.num_rows + _SPARE_BYTES - done
    try:
        free = shutil.disk_usage(there).free
    except OSError as error:
        raise writing_failed(str(place.root), error) from error
    if free < needed:
        raise OutputError(
            f"the demo needs {needed / 1e9:.1f} GB at {place.root}, but {free / 1e9:.1f} GB are free; "
            "choose another folder, or fewer --rows"
        )


def _make(place: _Folder, options: SyntheticOptions, clock: Clock, say: Say) -> None:
    """Step 1: the embeddings."""
    say(f"1  make     {options.num_rows:,} embeddings of {options.dim} float16 ({options.num_bytes / 1e9:.2f} GB)")
    with clock.step("make"):
        written = write_synthetic(place.embeddings, options)
    kept = options.num_parts - written
    say(
        f"{INDENT}{options.num_rated:,} of them rated: hidden truth + noise (sd {RATING_NOISE_SD})"
        + (f"; {kept} of {options.num_parts} files kept from before" if kept else "")
        + _took(clock, "make")
    )


def _fit(place: _Folder, options: SyntheticOptions, clock: Clock, say: Say) -> dict[str, Any]:
    """Step 2: the head, and step 3: whether the compiled scorer gives what the fit meant. Kept from before where whole."""
    with clock.step("fit"):
        rated = read_rated(place.embeddings, options)
        record = _read_json(place.fit)
        is_new = record is None or not place.head.is_file() or storage.sha256_of(place.head) != record.get("head_sha256")
        if is_new or record is None:
            fit = fit_ridge(rated.embeddings, rated.ratings, seed=options.seed, name="demo-ridge", backbone=options.backbone)
            place.forget_scores()
            sha256 = save_head(fit.to_head(), place.head)
            ceiling = spearman(rated.truth, rated.ratings)
            record = {**fit.to_json(), "rated_truth_srcc": ceiling, "head_sha256": sha256, "note": SYNTHETIC_NOTE}
            writing.write_bytes(str(place.fit), records.sealed(record, indent=2))
    rows, test = record["rows"], record["test"]
    say(
        f"2  fit      ridge regression on {rows['train'] + rows['validation']:,} ratings, "
        f"{rows['validation']:,} of them to choose the strength ({record['regularisation']:.2g})"
        + ("" if is_new else "; kept from before")
        + _took(clock, "fit")
    )
    say(
        f"{INDENT}on {rows['test']:,} held-out ratings: rank correlation {_number(test['srcc'])} "
        f"(the hidden truth itself: {record['rated_truth_srcc']:.3f}), R2 {_number(test['r2'])}"
    )
    with clock.step("check"):
        difference = _check_scorer(place, rated)
    say(
        f"3  check    compiled scorer against float64 on {len(rated.ratings):,} rows: largest difference {difference:.1e}"
        + _took(clock, "check")
    )
    return record


def _check_scorer(place: _Folder, rated: RatedRows) -> float:
    """Largest difference of the saved head's scores from plain float64 arithmetic. Also compiles the scorer."""
    head = load_head(str(place.head), offline=True)
    wide = rated.embeddings.astype(np.float64)
    exact = wide @ head.weight / np.sqrt(np.einsum("ij,ij->i", wide, wide)) + head.bias
    difference = float(np.abs(head.score(rated.embeddings) - exact).max())
    if not difference <= _RELATIVE_ERROR * (float(np.linalg.norm(head.weight)) + float(np.abs(exact).max())):
        raise InputError(f"the compiled scorer is off by {difference:.1e} on this machine; please report it")
    return difference


def _score(place: _Folder, clock: Clock, say: Say) -> RunSummary:
    """Step 4: the same job as `beholder score`."""
    with clock.step("score"):
        summary = score(
            ScoreOptions(
                sources=(str(place.embeddings),),
                out=str(place.scores),
                heads=(str(place.head),),
                columns=(TRUTH, RATING),
                offline=True,
            )
        )
    if summary.num_new:
        rate = (
            f"{summary.num_new / summary.seconds:,.0f} rows/s, {summary.num_bytes / summary.seconds / 1e9:.2f} GB/s "
            "from just-written embeddings to the finished file"
        )
    else:
        rate = "kept from before"
    say(f"4  score    {summary.num_scored:,} scored, {summary.num_rejected:,} rejected: {rate}{_took(clock, 'score')}")
    return summary


def _compare(place: _Folder, options: SyntheticOptions, clock: Clock, say: Say) -> dict[str, Any]:
    """Step 5: the written scores against the hidden truth, and the picture of both."""
    with clock.step("compare"):
        scores, truth, rated = _read_scores(place, options)
        everywhere, unrated = agreement(scores, truth), agreement(scores[~rated], truth[~rated])
    say(
        f"5  compare  rank correlation with the hidden truth {_number(everywhere.srcc)} over all {everywhere.num_rows:,} rows, "
        f"{_number(unrated.srcc)} over the {unrated.num_rows:,} without a rating{_took(clock, 'compare')}"
    )
    with clock.step("draw"):
        draw_histogram(
            place.picture,
            scores,
            truth,
            THRESHOLDS,
            subtitle=f"{len(scores):,} rows made by beholder demo, rank correlation {_number(everywhere.srcc)}; "
            "no picture is behind them, so the scores mean nothing",
        )
    return {"all_rows": everywhere.to_json(), "unrated_rows": unrated.to_json()}


def _read_scores(
    place: _Folder, options: SyntheticOptions
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
    """Scores (N,) and truth (N,) as the score set holds them, and which rows have a rating. Raises InputError if rows lack."""
    import pyarrow.parquet as pq

    with remote.read_errors(str(place.scores)):
        table = pq.read_table(place.scores, columns=[AESTHETIC_SCORE, TRUTH, RATING])
    if table.num_rows != options.num_rows:
        raise InputError(
            f"{place.scores} has {table.num_rows} rows, not {options.num_rows}; remove {place.root} and start anew"
        )
    return (
        table.column(AESTHETIC_SCORE).to_numpy(),
        table.column(TRUTH).to_numpy(),
        table.column(RATING).is_valid().to_numpy(),
    )


def _say_end(place: _Folder, result: dict[str, Any], say: Say) -> None:
    """Where everything is, what it was, and what to type next."""
    say(f"\nall done in {result['seconds']:.1f} s. {SYNTHETIC_NOTE}\n")
    results = {"scores": place.scores, "best": place.selected, "histogram": place.picture, "head": place.head}
    for label, path in {**results, "taste": place.taste}.items():
        say(f"  {label:<11}{path}")
    say(f"  {'embeddings':<11}{place.embeddings}")
    if "paths" in result["photographs"]:
        say(f"  {'pictures':<11}{result['photographs']['paths']['sheet']}")
        say(f"  {'page':<11}{place.page}")
    remove = f"rm -r {shlex.quote(str(place.root))}"
    say(f"\n{place.root} takes {result['num_bytes'] / 1e9:.2f} GB; delete it whenever you like ({remove})")
    say("\nNext, with real data:")
    for command, meaning in (
        ("beholder score YOUR_PHOTOS", "a folder, tars, Parquet or a list of pictures; the tower is 1.2 GB to fetch"),
        (
            "beholder score YOUR_PHOTOS --keep-embeddings",
            "the same, with the embeddings kept for other heads",
        ),
        ("beholder models list", "the public heads and towers"),
        ("beholder score YOUR_EMBEDDINGS", "CLIP ViT-L/14 embeddings: .npy, Parquet, CSV or a clip-retrieval folder"),
        ("beholder score YOUR_EMBEDDINGS -o scores.csv", "the same, as sample,aesthetic_score"),
        ("beholder advise SCORES", "what a threshold keeps, and which pictures it drops most"),
        ("beholder browse SCORES", "look at the pictures, move the threshold, mark what stays, learn from the marks"),
        (
            "beholder select SCORES --min-score 5 --copy DIR",
            "what would be copied; --apply does it, `beholder undo` takes it back",
        ),
        ("beholder score --help", "other heads, columns to keep, memory, threads"),
    ):
        say(f"  {command:<49}{meaning}")


def _took(clock: Clock, name: str) -> str:
    return f"  [{clock.seconds[name]:.1f} s]"


def _number(value: float | None) -> str:
    return "undefined" if value is None or value != value else f"{value:.3f}"


def _read_json(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file; None when it is missing or damaged."""
    try:
        return records.parse(path.read_bytes())
    except (OSError, records.DamagedRecordError):
        return None


@dataclass
class Clock:
    """Seconds of each step, by name."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time what happens inside."""
        started = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - started


_SHARE = "1%"


def select_best(scores: Path, out: Path, say: Say) -> dict[str, Any]:
    """Write the best hundredth of `scores` to `out` (Parquet), replacing an earlier one, as `beholder select` does.

    Returns a JSON-ready record: the funnel, the lowest score that is left, seconds, the file.
    """
    from beholder.curate.options import OutputOptions, SelectRules
    from beholder.curate.select.selection import select_rows, write_lists
    from beholder.scoreset.score_set import open_scores

    started = time.perf_counter()
    with open_scores(str(scores)) as opened, select_rows(opened, SelectRules(top_share=_SHARE)) as chosen:
        write_lists(chosen, OutputOptions(out=str(out), overwrite=True))
        record = chosen.to_json()
        lowest = chosen.thresholds.get("top_share")
    seconds = time.perf_counter() - started
    low = "" if lowest is None else f", down to a score of {lowest:.3f}"
    say(f"7  select   the best {_SHARE}: {chosen.num_kept:,} of {chosen.num_rows:,} rows{low}  [{seconds:.1f} s]")
    return record | {"seconds": seconds, "path": str(out)}


def report_photographs(scores: Path, out: Path, is_trained: bool, say: Say) -> dict[str, Any]:
    """Write the page about the photographs, replacing an earlier one, as `beholder report` does.

    Returns a JSON-ready record: size, thumbnails, seconds, the file.
    """
    from beholder.reporting.options import ReportOptions
    from beholder.reporting.report import write_report

    title = "Photographs of the demo" + ("" if is_trained else ": scores of a tower nobody trained, which mean nothing")
    summary = write_report(ReportOptions(scores=str(scores), out=str(out), overwrite=True, title=title, offline=True))
    say(
        f"8  report   one page with {summary.num_thumbnails} thumbnails, histogram, thresholds, rejects, provenance: "
        f"{summary.num_bytes / 1e6:.1f} MB  [{summary.seconds:.1f} s]"
    )
    say(f"{INDENT}open {out} in a browser; live, with a slider: beholder browse {scores}")
    return {
        "num_bytes": summary.num_bytes,
        "num_thumbnails": summary.num_thumbnails,
        "seconds": summary.seconds,
        "path": str(out),
    }


MARKS_NOTE = "marks and taste are made up: nobody looked at anything"

_NUM_MARKS = 200
_TRUTH_SHARE, _OWN_SHARE = 0.8, 0.6
_MARK_NOISE_SD = 0.3
_AXIS_ROWS = 4096
_MARK_SEED = 20


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


def _learn_made_up(
    place: _Folder,
    options: SyntheticOptions,
    rated: RatedRows,
    scores: npt.NDArray[np.float32],
    truth: npt.NDArray[np.float32],
    say: Say,
) -> dict[str, Any]:
    """Make up marks of some rated rows, learn a head from them that starts from that of the scores, and rank all rows by it.

    scores, truth: (N,) of all rows. Returns a JSON-ready record.
    """
    made_up, rng = _MadeUp.of(rated), np.random.default_rng((_MARK_SEED, options.seed))
    liking = made_up.of_rows(rated.truth, rated.embeddings)
    chosen = np.sort(rng.permutation(len(liking))[: min(_NUM_MARKS, len(liking))])
    noisy = liking[chosen] + rng.normal(0, _MARK_NOISE_SD, len(chosen))
    before = load_head(str(place.head), offline=True)
    found = learn_taste(
        rated.embeddings[chosen],
        noisy > np.median(noisy),
        samples=[f"rated/{row}" for row in chosen.tolist()],
        start_from=before,
        before=before.score(rated.embeddings[chosen]),
        seed=options.seed,
    )
    save_head(found.to_head("demo-taste", options.backbone), place.taste)
    mine, wanted = np.empty(options.num_rows, np.float32), np.empty(options.num_rows)
    for part in range(options.num_parts):
        start, stop = options.part_range(part)
        rows = np.load(options.part_paths(place.embeddings, part)[0], mmap_mode="r")
        mine[start:stop] = scores_of_all(found.fit.math, rows)
        wanted[start:stop] = made_up.of_rows(truth[start:stop], rows)
    ranked = {"learned": spearman(mine, wanted), "before": spearman(scores, wanted)}
    _say_learned(found, ranked, options.num_rows, say)
    unseen = found.unseen
    return {
        "note": MARKS_NOTE,
        "num_keep": found.num_keep,
        "num_drop": found.num_drop,
        "pairs_not_seen": None if unseen is None else unseen.order.to_json(),
        "pairs_not_seen_before": None if unseen is None or unseen.before is None else unseen.before[ORDER].to_json(),
        "srcc_with_taste": ranked,
        "path": str(place.taste),
    }


def _say_learned(found: Taste, ranked: dict[str, float], num_rows: int, say: Say) -> None:
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
