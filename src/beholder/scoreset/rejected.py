"""The job of `beholder rejects`: rejected rows of a set by reason, as text for a terminal or as a list in a file."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from beholder import columns
from beholder.columns import reason_text
from beholder.errors import InputError, OutputError
from beholder.io import storage
from beholder.io.table_writing import write_table
from beholder.locate.locate import PictureFinder
from beholder.locate.named_sources import NamedSources, named_in
from beholder.scoreset.rejects import RejectReason, RejectTables, count_reasons, find_rejects, reject_batches, words_of
from beholder.scoreset.rejects_options import RejectsOptions

MEANING = "meaning"
SCHEMA = pa.schema([
    (name, pa.large_string()) for name in (columns.SAMPLE, columns.REASON, MEANING, columns.STAGE, columns.MESSAGE)
])  # fmt: skip
_PIECE = 4096
_FILES = ("file", "url")


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
        _check_place(options)
        self.tables: RejectTables = find_rejects(options.scores)
        found = count_reasons(self.tables.paths)
        words = {reason.word for reason in found}
        unknown = next((word for word in options.reason if word not in words and not reason_text(word)), None)
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
            words = words_of(lines)
            some = lines.filter(pc.is_in(words, wanted))
            if not some.num_rows:
                continue
            words = words_of(some)
            texts = {item: reason_text(item) for item in words.unique().to_pylist()}
            meanings = pa.array([texts[item] for item in words.to_pylist()], pa.large_string())
            held = {name: some.column(name) for name in (columns.SAMPLE, columns.STAGE, columns.MESSAGE)}
            yield pa.table({**held, columns.REASON: words, MEANING: meanings}).select(SCHEMA.names).cast(SCHEMA)

    def write(self) -> tuple[int, str]:
        """Write the list; returns how many rows it has, and a line on those that it could not have, or "".

        Raises InputError where a .txt was asked for, and none of the rows is a picture with a name of its own.
        """
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
            said.append(f"{num_odd:,} whose names no list can hold (a line break, or bytes that are no UTF-8)")
        if not said:
            return num_written, ""
        return num_written, (
            f"not in the list: {' and '.join(said)}; the command that scored them tries again what may have been a passing "
            "matter with --retry-rejects"
        )

    def _names(self, finder: PictureFinder, counts: list[int]) -> Iterator[pa.Table]:
        """Paths and URLs of the pictures; counts: how many are written, have no name, have one that a list cannot hold."""
        for table in self.rows():
            for start in range(0, table.num_rows, _PIECE):
                samples = [name or "" for name in table.column(columns.SAMPLE).slice(start, _PIECE).to_pylist()]
                named = finder.sources(samples)
                found = [_claimed(named, sample) for sample in samples]
                open_ones = [at for at, name in enumerate(found) if name is None]
                for at, place in zip(open_ones, finder.locate([samples[at] for at in open_ones]), strict=True):
                    ref = place.files[0].ref
                    if place.kind in _FILES and ref is not None and ref.is_file:
                        found[at] = ref.path
                known = [name for name in found if name is not None]
                names = [name for name in known if _fits_a_line(name)]
                counts[0] += len(names)
                counts[1] += len(found) - len(known)
                counts[2] += len(known) - len(names)
                yield pa.table({columns.SAMPLE: pa.array(names, pa.large_string())})


def _check_place(options: RejectsOptions) -> None:
    """Raise OutputError for a list that may not be written."""
    if options.out is None:
        return
    if storage.is_folder(options.out):
        raise OutputError(f"--out {options.out} is a folder; name a file")
    if storage.exists(options.out) and not options.overwrite:
        raise OutputError(f"--out {options.out} exists; choose another name, or replace it with --overwrite")


def _claimed(named: NamedSources, sample: str) -> str | None:
    """The path or URL of a picture that is a file of its own, by its name alone; it may be gone."""
    claim = named.claim(sample)
    return None if claim is None or claim.source is None or claim.archive is not None else claim.path


def _fits_a_line(name: str) -> bool:
    """Whether a list of lines can hold a name as it is: no line break, and no bytes that stand in it as escapes."""
    if name.splitlines() != [name]:
        return False
    return "\\x" not in name or not storage.is_local(name) or storage.exists(name)
