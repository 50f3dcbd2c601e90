"""The files of a trained head: its weights, its record, and its card.

The card says what it was trained on, how good it is and by what, what it is for and what not.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any

from beholder.errors import OutputError, number_of
from beholder.io import storage, writing
from beholder.io.overwriting import check_ours
from beholder.models import upload
from beholder.models.head_layouts import HEAD_FORMAT
from beholder.models.heads import Head, save_head
from beholder.train.folds import FEW_GROUPS
from beholder.train.measures import CONSTANT, Interval

WORDS = {
    "srcc": "rank correlation (Spearman)",
    "plcc": "linear correlation (Pearson)",
    "kendall": "Kendall's tau-b",
    "mae": "mean absolute error",
    "rmse": "root of the mean squared error",
    "accuracy": "on the right side of the cut",
    "pair_accuracy": "pairs in the right order",
    "top_1_percent_precision": "of its best 1 %, among the best 1 % rated",
    "top_5_percent_precision": "of its best 5 %, among the best 5 % rated",
}
"""What the measures are, in words (`words_of`)."""
METRICS = {
    "srcc": "spearmanr", "plcc": "pearsonr", "mae": "mae", "rmse": "rmse", "accuracy": "accuracy",
    "pair_accuracy": "pair_accuracy",
}  # fmt: skip
"""What hubs call those of them that they are told."""

LIBRARY = f"library_name: {upload.LIBRARY}"
"""What says at the top of a card that it is one of ours."""
_MARK = '"beholder": "'
"""Stands in every record, with the version."""
_NOTES = ("method", "scale", "rows", "measured", "measures", "ceiling")
"""What of the record stands in the head's own file; all of it is in the file beside it."""
_MOST_ODD = 5


@dataclass(frozen=True)
class HeadFiles:
    """Where a head (`out`, ending in .safetensors), its card and its record are written."""

    out: str

    @property
    def card(self) -> str:
        """Beside it, ending in .md."""
        return f"{self.out.removesuffix('.safetensors')}.md"

    @property
    def record(self) -> str:
        """Beside it, ending in .json."""
        return f"{self.out.removesuffix('.safetensors')}.json"

    def check(self, *, overwrite: bool, advice: str, mark: str = _MARK) -> None:
        """Raise OutputError where one of them is there and may not be replaced, or was not written by this program.

        Args:
            overwrite: whether they may be replaced.
            advice: what to do about a file of somebody else, for the end of the message.
            mark: a text that stands in every record that may be replaced.
        """
        for path in (self.out, self.card, self.record):
            if storage.exists(path) and not overwrite:
                raise OutputError(f"{path} is there already; use --overwrite to replace it, or another --out")
        for path, text in ((self.out, HEAD_FORMAT), (self.card, LIBRARY), (self.record, mark)):
            check_ours(path, text, advice)

    def write(self, head: Head, record: Mapping[str, Any], remarks: Sequence[str], **more: Any) -> tuple[Head, dict[str, Any]]:
        """Write all three; returns the head and the record with the sha256 of the file, and more. Raises OutputError.

        The card gets the remarks, since it is published; those of the record may name pictures and folders.
        """
        notes = {**head.notes, **{name: json.dumps(record[name]) for name in _NOTES if record.get(name) is not None}}
        head = replace(head, notes=notes)
        digest = save_head(head, self.out)
        whole = {**record, "sha256": digest, **more}
        writing.write_bytes(self.record, (json.dumps(whole, indent=2) + "\n").encode())
        writing.write_bytes(self.card, card_of(head, PurePosixPath(self.out).name, whole, remarks).encode())
        return replace(head, sha256=digest), whole


def words_of(name: str, kind: str) -> str:
    """What a measure is, in words; of keep and drop the squared error is that of chances, the Brier score."""
    return "root of the Brier score" if name == "rmse" and kind == "decisions" else WORDS[name]


def card_of(head: Head, file_name: str, record: Mapping[str, Any], remarks: Sequence[str]) -> str:
    """A model card in Markdown, with the metadata that hubs read at its top.

    Args:
        head: whose card it is.
        file_name: that of the head.
        record: of `train`.
        remarks: what was found of the ratings, in full sentences without names of pictures and people: cards are published.
    """
    measured = record["measured"]
    tower = head.backbone or "a tower that nobody named"
    lines = [
        "---",
        *metadata_of(head, record).splitlines(),
        *("---", ""),
        f"# {head.name}",
        "",
        f"Scores pictures by their embeddings of {tower} ({head.dim} numbers, divided by their length). "
        f"Its scores are {head.scale_note}.",
        "",
        "```bash",
        f"beholder score photos/ --head ./{file_name}",
        "```",
        "",
        "## Trained on",
        "",
        *(f"- {line}" for line in remarks),
        f"- Fit: {record['method_note']}, seed {record['seed']}"
        + (f"; shrunk towards {record['start_from']}" if record["start_from"] else "")
        + ".",
        "",
        "## How good it is",
        "",
        f"{measured_by(record)}." + ("" if measured["unit"] == "pairs" else " No group is on both sides of a split."),
        "",
        *measure_table(record),
        "",
        *few_groups_lines(record),
        *ceiling_lines(record),
        *curve_lines(record),
        f"The list of measured pictures has the SHA-256 `{measured['samples_sha256']}`; compare no figures of other lists.",
        "",
        "## What it is for, and what not",
        "",
        "It predicts how the people who rated would rate, on average, pictures like those that they rated. It says nothing of "
        "other people's taste, of other kinds of pictures, or of what a picture is worth; where few ratings stand behind it, "
        "the intervals above say how little is known. It works on embeddings of the tower above alone.",
        "",
    ]
    return "\n".join(lines)


def metadata_of(head: Head, record: Mapping[str, Any]) -> str:
    """What hubs read at the top of a card, in YAML: licence, tags, and the measures as results on these ratings."""
    from huggingface_hub import EvalResult, ModelCardData

    results = [
        EvalResult(
            task_type="image-scoring",
            dataset_type="ratings",
            dataset_name=record["ratings"].get("public_name") or record["ratings"]["kind"],
            metric_type=kind,
            metric_name=words_of(name, record["ratings"]["kind"]),
            metric_value=round(interval["value"], 6),
        )
        for name, kind in METRICS.items()
        if (interval := record["measures"]["values"].get(name)) is not None and interval["value"] is not None
    ]
    tags = ["aesthetics", "image-scoring", "beholder"]
    data = ModelCardData(
        license=head.licence, tags=tags, library_name=upload.LIBRARY, model_name=head.name, eval_results=results or None
    )
    return str(data.to_yaml())


def measured_by(record: Mapping[str, Any]) -> str:
    """How and on what the head was measured, in words."""
    measures = record["measures"]
    what = f"{measures['num_rows']:,} pictures ({measures['num_groups']:,} groups)"
    if record["measured"]["unit"] == "pairs":
        what = f"{measures['num_rows']:,} pairs"
    return f"Measured by {record['measured']['by']}, on {what}, with {100 * measures['level']:g} % intervals"


def measure_table(record: Mapping[str, Any]) -> list[str]:
    """A Markdown table: a row for each measure, the head beside the best public one and a constant."""
    others = [one for one in record["beside"] if one["name"] == CONSTANT or one is best_beside(record)]
    head = ["measure", record["name"], *(one["name"] for one in others)]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for name in measures_told(record):
        words = words_of(name, record["ratings"]["kind"])
        cells = [shown(one["measures"]["values"].get(name)) for one in ({"measures": record["measures"]}, *others)]
        if cells[0] != "-":
            lines.append(f"| {words} | {' | '.join(cells)} |")
    return lines


def measures_told(record: Mapping[str, Any]) -> list[str]:
    """Measures that a summary has a line for: of keep and drop none of the best few, since all that are kept are the best."""
    return [name for name in WORDS if not (name.startswith("top_") and record["ratings"]["kind"] == "decisions")]


def few_groups_lines(record: Mapping[str, Any]) -> list[str]:
    """A warning where pictures that belong together are so many that little was measured."""
    num_groups, rows = record["measures"]["num_groups"], record.get("rows", {})
    if record["measured"]["unit"] == "pairs" or not 0 < num_groups < FEW_GROUPS:
        return []
    largest = (
        f" (the largest has {number_of(rows['num_in_largest_group'], 'picture')})" if "num_in_largest_group" in rows else ""
    )
    return [
        f"Warning: the pictures are of {num_groups:,} groups alone{largest}, so neither measures nor strength of the fit can "
        "be relied on. Near-duplicates belong to one group, and what is near to one of them: --near-duplicates says from "
        "which cosine (0: none are looked for).",
        "",
    ]


def best_beside(record: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The head that did best of those it was compared with, or None."""
    return next((one for one in record["beside"] if one["name"] != CONSTANT), None)


def shown(interval: Mapping[str, float | None] | None) -> str:
    """A value of a record with its interval."""
    return "-" if interval is None else Interval.of_json(interval).text()


def ceiling_lines(record: Mapping[str, Any]) -> list[str]:
    """What the raters' noise allows, in words, and how the heads that lie above it are to be understood."""
    ceiling = record["ceiling"]
    if ceiling is None:
        return ["Nothing in the ratings tells how much raters differ, so it is not known how good a head could be at all.", ""]
    values = {name: Interval.of_json(one) for name, one in ceiling["values"].items()}
    if "reliability" not in values:
        return [
            *_pair_ceiling_lines(ceiling["num_rows"], values["pair_accuracy"]),
            *_above(record, values["pair_accuracy"]),
            "",
        ]
    if not values["reliability"].value > 0:
        return [
            "The ratings differ no more than the raters' own noise would have them differ, so nothing shows that any head "
            "could order these pictures better than chance.",
            "",
        ]
    return [
        "The raters' own noise sets a ceiling: a head that knew the true mean of every picture would reach a linear "
        f"correlation of {values['plcc'].text()}, a rank correlation of {values['srcc'].text()} and a root mean squared error "
        f"of {values['rmse'].text()}.",
        *_above(record, values["srcc"]),
        "",
    ]


def _pair_ceiling_lines(num_repeated: int, most: Interval) -> list[str]:
    """What votes on the same pairs allow."""
    if not math.isfinite(most.value):
        pairs = "pair has" if num_repeated == 1 else "pairs have"
        return [f"{num_repeated:,} {pairs} several votes: too few to tell how many pairs a head could put right at all."]
    if most.value == 1:
        return [f"Votes on the same pair, of which there are {num_repeated:,}, never disagree, so they set no ceiling."]
    bounds = f" ({100 * most.low:.1f} to {100 * most.high:.1f} %)" if most.has_bounds else ""
    return [
        f"Votes on the same pair disagree, so that no order could put more than {100 * most.value:.1f} %{bounds} of the pairs "
        f"right, by the {num_repeated:,} pairs that have several votes."
    ]


def _above(record: Mapping[str, Any], ceiling: Interval) -> list[str]:
    """A line for the heads above a ceiling of the measure that heads are put in order by, within its interval or beyond it."""
    if not ceiling.has_bounds:
        return []
    measure = "srcc" if "reliability" in record["ceiling"]["values"] else "pair_accuracy"
    heads = record.get("heads") or [{"name": record["name"], "measures": record["measures"]}]
    values = {one["name"]: one["measures"]["values"].get(measure, {}).get("value") for one in heads}
    above = [name for name, value in values.items() if value is not None and value > ceiling.value]
    within = [name for name in above if values[name] <= ceiling.high]
    lines = []
    if within:
        lies = "lies" if len(within) == 1 else "lie"
        lines.append(
            f"{_listed(within)} {lies} above it and within its interval: by chance, since nobody can be told to be better than "
            "the raters allow."
        )
    if beyond := [name for name in above if name not in within]:
        lies = "lies" if len(beyond) == 1 else "lie"
        lines.append(
            f"{_listed(beyond)} {lies} above its whole interval: either raters differ less than these ratings say, or these "
            "pictures are no new ones for it."
        )
    return lines


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def odd_lines(record: Mapping[str, Any], rest: str) -> list[str]:
    """Ratings that are worth another look, the first of them by name; `rest`: where all of them are."""
    odd = record["suspicious"]
    if not odd:
        return []
    what = "1 rating looks odd, and is" if len(odd) == 1 else f"{len(odd):,} ratings look odd, and are"
    lines = [f"{what} worth another look:"]
    lines += [f"  {one['sample']}: {one['residual']:+.2f} from what is predicted" for one in odd[:_MOST_ODD]]
    return [*lines, *([f"  ... all of them {rest}"] if len(odd) > _MOST_ODD else [])]


def curve_lines(record: Mapping[str, Any]) -> list[str]:
    """What more ratings would bring, in words."""
    curve = record["learning_curve"]
    if not curve or not curve["extrapolated_rmse"]:
        return []
    points = ", ".join(f"{point['num_rows']:,}: {point['rmse']:.3f}" for point in curve["points"] if point["rmse"] is not None)
    more = ", ".join(f"{int(size):,}: {rmse:.3f}" for size, rmse in curve["extrapolated_rmse"].items())
    return [f"Error by the number of ratings: {points}; with more of them, extrapolated: {more}.", ""]
