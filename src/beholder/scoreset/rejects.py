"""Rejects of a score set or embedding set: where their tables are, their rows, counts by reason, and lists of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from beholder import columns
from beholder.errors import InputError, OutputError
from beholder.io import locations, remote, storage
from beholder.io.tables import write_table
from beholder.scoreset.foreign import read_record, rejects_of, run_of

if TYPE_CHECKING:
    from beholder.locate.locate import PictureFinder
    from beholder.locate.named_sources import NamedSources
    from beholder.options import RejectsOptions

NAMES = (columns.SAMPLE, columns.STAGE, columns.REASON, columns.MESSAGE)
_UNKNOWN = "unknown"
"""The reason of rows that have none."""
_MEANING = "meaning"
SCHEMA = pa.schema([
    (name, pa.large_string()) for name in (columns.SAMPLE, columns.REASON, _MEANING, columns.STAGE, columns.MESSAGE)
])  # fmt: skip
"""Columns of a list of rejects."""
_BATCH_ROWS, _NAMES_AT_ONCE = 1 << 16, 4096
_MOST_CHARACTERS = 300
_FORMATS = (columns.SCORE_SET_FORMAT, columns.EMBEDDINGS_FORMAT)


@dataclass(frozen=True)
class RejectTables:
    """The rejects of a set.

    Attributes:
        source: the set, as the user named it.
        paths: Parquet files of rejected rows, in natural order; () when there are none.
        record: what the set says about itself; {} where its run is not finished and said nothing yet.
    """

    source: str
    paths: tuple[str, ...]
    record: Mapping[str, Any] = field(default_factory=dict)


def find_rejects(source: str) -> RejectTables:
    """Find the rejects of what `beholder score`, `embed` or `predict` wrote: a folder, .parquet or .csv, local or remote.

    Raises InputError for anything else.
    """
    if not source:
        raise InputError("the name of the scores is empty (an unset variable?)")
    base = source.rstrip("/") or source
    if base.endswith(columns.REJECTS_SUFFIX) and storage.exists(base):
        return RejectTables(source, (base,))
    what = "name what beholder score, embed or predict wrote: a folder, .parquet or .csv"
    if storage.is_folder(base):
        base = run_of(base)
        record = read_record(f"{base}/{columns.STAMP_FILE}")
        if record.get("format") == columns.EMBEDDINGS_FORMAT and columns.KEPT_BESIDE in record:
            raise InputError(
                f"{source} holds embeddings that were kept beside scores ({record[columns.KEPT_BESIDE]}); name those"
            )
        paths = rejects_of(base)
        if record.get("format") not in _FORMATS and not paths:
            raise InputError(f"{source} is no set of scores or embeddings; {what}")
        return RejectTables(source, tuple(paths), record)
    if not storage.exists(base):
        raise InputError(f"{source} does not exist; {what}")
    record, rejects = read_record(base + columns.SIDECAR_SUFFIX), base + columns.REJECTS_SUFFIX
    has_rejects = storage.exists(rejects)
    if record.get("format") not in _FORMATS and not has_rejects:
        raise InputError(f"{source} is no set of scores or embeddings with a record beside it; {what}")
    return RejectTables(source, (rejects,) if has_rejects else (), record)


def reject_batches(paths: Sequence[str]) -> Iterator[pa.Table]:
    """Rows of rejects tables, at most 65,536 at a time: `NAMES`, large_string, null where a table lacks a column.

    Raises InputError for a damaged file.
    """
    for path in paths:
        with storage.open_parquet(path) as file, remote.read_errors(path):
            present = [name for name in NAMES if name in file.schema_arrow.names]
            if columns.SAMPLE not in present:
                continue
            for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=present):
                kind = pa.large_string()
                lacking = {name: pa.nulls(batch.num_rows, kind) for name in NAMES if name not in present}
                texts = lacking | {name: batch.column(name).cast(kind) for name in present}
                yield pa.table({name: texts[name] for name in NAMES})


@dataclass
class RejectReason:
    """One reason.

    Attributes:
        word: of the rejects table.
        text: what it means.
        count: rows.
        examples: (sample, stage, message) of the first few.
    """

    word: str
    text: str
    count: int = 0
    examples: list[tuple[str, str, str]] = field(default_factory=list)


def _words_of(lines: pa.Table) -> pa.ChunkedArray:
    """The reason of each row, as it is counted: "unknown" where there is none."""
    return pc.fill_null(lines.column(columns.REASON), _UNKNOWN)


def count_reasons(paths: Sequence[str], num_examples: int = 0) -> list[RejectReason]:
    """Reasons of all rows, commonest first, each with its first examples; [] for no rows. Raises InputError."""
    found: dict[str, RejectReason] = {}
    for lines in reject_batches(paths):
        words = _words_of(lines)
        for item in pc.value_counts(words).to_pylist():
            word = item["values"]
            reason = found.setdefault(word, RejectReason(word, columns.reason_text(word)))
            reason.count += item["counts"]
            wanted = num_examples - len(reason.examples)
            some = lines.filter(pc.equal(words, word)).slice(0, wanted) if wanted > 0 else lines.slice(0, 0)
            for line in some.select([columns.SAMPLE, columns.STAGE, columns.MESSAGE]).to_pylist():
                sample, stage, message = (str(value or "")[:_MOST_CHARACTERS] for value in line.values())
                reason.examples.append((sample, stage, message))
    return sorted(found.values(), key=lambda reason: (-reason.count, reason.word))


class Rejected:
    """The rejected rows of a set that were asked for; each pass over them reads the tables again.

    Args:
        options: say which.

    Attributes:
        tables: where they are.
        reasons: those that were asked for, commonest first, with their counts.

    Raises:
        InputError: SCORES is no set, its tables are damaged, or there is no such reason at all.
        OutputError: the list cannot be written there.
    """

    def __init__(self, options: RejectsOptions) -> None:
        self._options = options
        if options.out is not None and storage.is_folder(options.out):
            raise OutputError(f"--out {options.out} is a folder; name a file")
        if options.out is not None and storage.exists(options.out) and not options.overwrite:
            raise OutputError(f"--out {options.out} exists; choose another name, or replace it with --overwrite")
        self.tables: RejectTables = find_rejects(options.scores)
        found = count_reasons(self.tables.paths)
        words = {reason.word for reason in found}
        unknown = next((word for word in options.reason if word not in words and not columns.reason_text(word)), None)
        if unknown is not None:
            there = f"; {options.scores} has {', '.join(reason.word for reason in found)}" if found else ""
            raise InputError(f"--reason {unknown}: there is no such reason{there}")
        self.reasons: list[RejectReason] = [reason for reason in found if not options.reason or reason.word in options.reason]
        self.num_all = sum(reason.count for reason in found)

    @property
    def num_rows(self) -> int:
        """Rows that were asked for."""
        return sum(reason.count for reason in self.reasons)

    def rows(self, word: str | None = None) -> Iterator[pa.Table]:
        """Rows as `SCHEMA` has them, in the order of the set; `word`: of one reason."""
        wanted = pa.array([reason.word for reason in self.reasons] if word is None else [word], pa.large_string())
        for lines in reject_batches(self.tables.paths):
            some = lines.filter(pc.is_in(_words_of(lines), wanted))
            if not some.num_rows:
                continue
            words = _words_of(some)
            texts = {item: columns.reason_text(item) for item in words.unique().to_pylist()}
            meanings = pa.array([texts[item] for item in words.to_pylist()], pa.large_string())
            made = {**dict(zip(NAMES, some.columns, strict=True)), columns.REASON: words, _MEANING: meanings}
            yield pa.table({name: made[name] for name in SCHEMA.names}, schema=SCHEMA)

    def write(self) -> tuple[int, str]:
        """Write the list; returns how many rows it has, and a line on those that it could not have, or "".

        Raises InputError where a .txt was asked for, and none of the rows is a picture with a name of its own.
        """
        from beholder.locate.locate import PictureFinder
        from beholder.locate.named_sources import named_in

        out = self._options.out
        assert out is not None
        if not out.lower().endswith(".txt"):
            write_table(out, self.rows(), SCHEMA, {"format": "beholder-rejects", "of": self.tables.source})
            return self.num_rows, ""
        if named_in(self.tables.record).get("sources") is None and self.num_rows:
            raise InputError(
                f"--out {out}: nothing says where the pictures of {self.tables.source} were found (it was made of embeddings, "
                "or of a great many sources); write .csv, .parquet or .jsonl"
            )
        counts = [0, 0, 0]
        schema = pa.schema([SCHEMA.field(columns.SAMPLE)])
        with PictureFinder(self.tables.record, pictures=self._options.pictures, root=self._options.root) as finder:
            write_table(out, self._names(finder, counts), schema, {})
        num_written, num_nameless, num_odd = counts
        said = []
        if num_nameless:
            said.append(f"{num_nameless:,} without a path or address of their own (inside an archive or table, or gone)")
        if num_odd:
            said.append(f"{num_odd:,} whose names a list cannot hold (a line break, or bytes that are not UTF-8)")
        if not said:
            return num_written, ""
        return num_written, (
            f"not in the list: {' and '.join(said)}; to try those again whose reason may have passed, run the command that "
            "scored them with --retry-rejects"
        )

    def _names(self, finder: PictureFinder, counts: list[int]) -> Iterator[pa.Table]:
        """Paths and URLs of the pictures; counts: how many are written, have no name, have one that a list cannot hold."""
        for table in self.rows():
            for start in range(0, table.num_rows, _NAMES_AT_ONCE):
                samples = [name or "" for name in table.column(columns.SAMPLE).slice(start, _NAMES_AT_ONCE).to_pylist()]
                named = finder.sources(samples)
                found = [_claimed(named, sample) for sample in samples]
                open_ones = [at for at, name in enumerate(found) if name is None]
                for at, place in zip(open_ones, finder.locate([samples[at] for at in open_ones]), strict=True):
                    ref = place.files[0].ref
                    if place.kind in ("file", "url") and ref is not None and ref.is_file:
                        found[at] = ref.path
                known = [name for name in found if name is not None]
                names = [name for name in known if _fits_a_line(name)]
                counts[0] += len(names)
                counts[1] += len(found) - len(known)
                counts[2] += len(known) - len(names)
                yield pa.table({columns.SAMPLE: pa.array(names, pa.large_string())})


def _claimed(named: NamedSources, sample: str) -> str | None:
    """The path or URL of a picture that is a file of its own, by its name alone; it may be gone."""
    claim = named.match(sample)
    return None if claim is None or claim.source is None or claim.archive is not None else claim.path


def _fits_a_line(name: str) -> bool:
    """Whether a list of lines can hold a name as it is: no line break, and no bytes that stand in it as escapes."""
    if name.splitlines() != [name]:
        return False
    return "\\x" not in name or not locations.is_local(name) or storage.exists(name)
