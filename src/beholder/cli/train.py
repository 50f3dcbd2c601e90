"""`beholder train`: a head of one's own from people's ratings, with what may be believed of it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from beholder.cli.flags import SUMMARY_FLAGS, command
from beholder.train.options import TrainJobOptions

if TYPE_CHECKING:
    from beholder.train.job import TrainRun


def _run(options: TrainJobOptions, **shown: bool) -> None:
    """Train, and show what came of it."""
    from beholder.cli.show import run_and_tell
    from beholder.train.job import train as job

    run_and_tell(partial(job, options), _record, summary_lines, **shown)


def _record(found: TrainRun) -> dict[str, Any]:
    sent = None if found.upload is None else found.upload.told()
    return {"output": found.out, "card": found.card, "upload": sent, **found.record}


def summary_lines(found: TrainRun) -> list[str]:
    """What is printed of a trained head."""
    from beholder.train import card
    from beholder.train.measures import CONSTANT

    record = found.record
    lines = [*record["remarks"], ""]
    best = card.best_beside(record)
    constant = next((one for one in record["beside"] if one["name"] == CONSTANT), None)
    named = [(record["name"], record["measures"]), *([(best["name"], best["measures"])] if best else [])]
    named += [("a constant", constant["measures"])] if constant else []
    lines.append(f"{card.measured_by(record)}:")
    width = max(map(len, card.WORDS.values()))
    lines.append(f"  {'':{width}}  " + "  ".join(f"{name[:24]:24}" for name, _ in named))
    for name in card.measures_told(record):
        cells = [card.shown(one["values"].get(name)) for _, one in named]
        if cells[0] != "-":
            words = card.words_of(name, record["ratings"]["kind"])
            lines.append((f"  {words:{width}}  " + "  ".join(f"{cell:24}" for cell in cells)).rstrip())
    lines += [line for line in card.few_groups_lines(record) if line]
    lines += ["", *(line for line in (*card.ceiling_lines(record), *card.curve_lines(record)) if line)]
    lines += [
        *(f"not compared: {line}" for line in record["missing_heads"]),
        *card.odd_lines(record, f"in {found.record_file}"),
    ]
    lines += ["", f"head: {found.out} (card {found.card}, record {found.record_file}; {found.seconds:.1f} s)"]
    lines += found.upload.lines() if found.upload is not None else []
    return lines


train = command(
    TrainJobOptions,
    _run,
    name="train",
    sources="Embeddings, what beholder score wrote with --keep-embeddings, or pictures, which are embedded first and kept.",
    description="""Train a head of your own on people's ratings: a mean a picture, votes, pairs, keep and drop, stars.

    It says how good the head is on pictures that it has not seen, with intervals, beside the public heads and beside what the
    raters' own noise allows. The head is used like any other: --head ./head.safetensors.
    """,
    examples="""Examples:\n
  beholder train photos.scores/ --ratings photos.scores.marks.jsonl -o mine.safetensors\n
  beholder train embeddings/ --ratings ratings.csv --start-from laion-v2\n
  beholder train photos/ --ratings photos/ --split-by folder  # stars in XMP\n
  beholder train embeddings/ --ratings votes.csv --rater-column worker --per-rater centre\n
  beholder train embeddings/ --ratings pairs.csv -o taste.safetensors\n
  beholder train embeddings/ --ratings ratings.csv --push-to-hub me/taste --dry-run\n
  beholder score more-photos/ --head ./mine.safetensors
""",
    extra=SUMMARY_FLAGS,
)
