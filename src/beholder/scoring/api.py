"""`beholder.score`: the scoring job from Python, with the command's options as keywords, and its result at hand."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from beholder.io import locations
from beholder.options import parse_bytes
from beholder.scoring.options import ScoreOptions
from beholder.scoring.summary import RunSummary

if TYPE_CHECKING:
    import pyarrow as pa

    from beholder.scoring.execute import Plan

Source = str | os.PathLike[str]


@dataclass(frozen=True)
class ScoreRun:
    """What a run of `beholder.score` did, and the rows that it wrote.

    Attributes:
        summary: all that the command's summary says: statistics, notes, warnings; `summary.to_json()` is what `--json` prints.
        place: the same output, by its full path where it is on this machine: it is found from any folder.
    """

    summary: RunSummary
    place: str

    @property
    def output(self) -> str:
        """Where the scores are: a folder or a file, as it was named."""
        return self.summary.output

    @property
    def num_read(self) -> int:
        """Pictures or rows, earlier runs of the same job included."""
        return self.summary.num_read

    @property
    def num_scored(self) -> int:
        """Those of them that have a score."""
        return self.summary.num_scored

    @property
    def num_rejected(self) -> int:
        """Those of them that were rejected."""
        return self.summary.num_rejected

    @property
    def num_new(self) -> int:
        """Those of them that this run went through."""
        return self.summary.num_new

    @property
    def reasons(self) -> dict[str, int]:
        """How many were rejected for each reason."""
        return self.summary.reasons

    def scores(self) -> pa.Table:
        """All rows that have a score, in order, as one Arrow table: `sample`, a float32 column per head, what else is known.

        `.to_pandas()` makes a data frame of it; `beholder.select`, `advise` and `report` take it, or `output`, which needs no
        memory for all rows. Of a .csv the other columns are text.

        Raises:
            InputError: the output is gone or damaged.
        """
        import pyarrow as pa
        import pyarrow.compute as pc

        from beholder.io.schemas import empty_table
        from beholder.scoreset.score_set import open_scores

        with open_scores(self.place) as found:
            names = found.schema.names
            record = {b"beholder": json.dumps(found.record, default=str).encode()} if found.record else None
            table = pa.concat_tables([empty_table(pa.schema(list(found.schema))), *found.batches(names)])
            for name in found.score_columns:
                column = table.column(name).cast(pa.float32())
                table = table.set_column(names.index(name), pa.field(name, pa.float32()), column)
            present = [pc.is_valid(table.column(name)) for name in found.score_columns]
        has_score = present[0]
        for more in present[1:]:
            has_score = pc.or_(has_score, more)
        return table.filter(has_score).replace_schema_metadata(record)

    def rejects(self) -> pa.Table:
        """All rejected rows, in order, as one Arrow table of text: `sample`, `stage`, `reason`, `message`.

        Raises InputError: the output is gone or damaged.
        """
        import pyarrow as pa

        from beholder.scoreset.rejects import NAMES, find_rejects, reject_batches

        schema = pa.schema([(name, pa.large_string()) for name in NAMES])
        return pa.concat_tables([schema.empty_table(), *reject_batches(find_rejects(self.place).paths)])


def score(
    sources: Source | Iterable[Source],
    out: Source | None = None,
    *,
    on_progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> ScoreRun:
    """Score pictures or embeddings as `beholder score` does: the same files, and only what is new where they are there already.

        run = beholder.score("photos/")                         # writes photos.scores in the current folder
        run.num_scored, run.num_rejected, run.output
        run.scores().to_pandas()                                # sample, aesthetic_score, width, height, ...
        run.rejects().to_pandas()                               # sample, stage, reason, message
        beholder.score("embeddings.npy", "scores.parquet", heads=["laion-v1", "laion-v2"])

    Args:
        sources: pictures (folders, files, globs, tars, zips, Parquet, lists, URLs) or embeddings; one, or several.
        out: a folder, or a file ending in .parquet or .csv; None: named after the source, in the current folder.
        on_progress: told (rows, bytes read) as they are scored.
        options: those of the command, by the name of the flag (`head`, `column`, `preset`, `keep_embeddings`, ...) or of the
            field of `scoring.options.ScoreOptions` (`heads`, `columns`, ...), with the same defaults.

    Returns:
        The run. What the command warns of is a `UserWarning`; nothing is printed.

    Raises:
        TypeError: no such option.
        BeholderError: bad input, a refused head, an output in the way, a full disk, ...
    """
    from beholder.scoring.score import score as job

    def warn(plan: Plan) -> None:
        for text in plan.summary.warnings:
            warnings.warn(text, UserWarning, stacklevel=5)

    named = sources if isinstance(sources, str | os.PathLike) else tuple(sources)
    chosen = ScoreOptions(sources=named, out=out, **_by_field(options))  # type: ignore[arg-type]
    more = {} if on_progress is None else {"on_progress": on_progress}
    here = Path.cwd()
    summary = job(chosen, on_plan=warn, **more)
    is_here = locations.is_local(summary.output)
    return ScoreRun(summary, str(here / locations.local_path(summary.output)) if is_here else summary.output)


def _by_field(options: dict[str, Any]) -> dict[str, Any]:
    """Options by the names of `ScoreOptions`' fields. Raises TypeError for one that is unknown or named twice."""
    known: dict[str, str] = {}
    texts = set()
    for item in fields(ScoreOptions):
        if "help" not in item.metadata or item.name == "out":
            continue
        known[item.name] = item.name
        for flag in item.metadata.get("flag", ()):
            if flag.startswith("--"):
                known[flag.split("/")[0].removeprefix("--").replace("-", "_")] = item.name
        if item.metadata.get("read") == "bytes":
            texts.add(item.name)
    found: dict[str, Any] = {}
    for name, value in options.items():
        if name not in known:
            raise TypeError(f"score() has no option {name!r}; there are {', '.join(sorted(known))}")
        field_name = known[name]
        if field_name in found:
            raise TypeError(f"score() was given {field_name!r} twice, under two names; give one")
        found[field_name] = parse_bytes(value) if field_name in texts and isinstance(value, str) else value
    return found
