"""Applies the rules of a selection to the rows of a score set, one after another, and notes what each one did and found."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from beholder import columns
from beholder.curate.advise.rows import head_of
from beholder.curate.advise.wording import about_other_scales
from beholder.curate.options import BYTES, EXACT_BYTES, KEEP_WORDS, OLDEST, PIXELS, SCORE, SelectRules
from beholder.curate.select import grouping
from beholder.curate.select.array_mask import ArrayMask
from beholder.curate.select.range_mask import RangeMask
from beholder.curate.select.ranking import GumbelSampler, Ranking
from beholder.curate.select.row_mask import NUMBER, RowMask, sizes_of
from beholder.curate.select.values import Cuts, Values, choose_columns, cuts_of, read_values
from beholder.errors import InputError, number_of
from beholder.io import locations, storage
from beholder.kernels import ordering
from beholder.scoreset import database, joined
from beholder.scoreset.row_names import Names
from beholder.scoreset.row_reader import RowReader
from beholder.scoreset.score_set import ROW, ScoreSet
from beholder.scoreset.untyped import Untyped

if TYPE_CHECKING:
    import duckdb

    from beholder.locate.locate import PictureFinder

OnRows = Callable[[str, int, int], None]
"""Told what is read, how many rows of it are done, and how many there are."""
Order = npt.NDArray[np.uint32]
Places = npt.NDArray[np.int64]

_UNKNOWN = np.iinfo(np.int64).max
_FLAG = "--dedup-keep"
_NAMED_AT_ONCE = 65_536
_BYTES_OF_A_TIE = 400
"""About what a row takes while rows of nearly the same score are put in order."""


class SelectionInput:
    """A score set while a selection is made of it: its reader, names, database, groups.

    Closing it frees the scratch folder; the score set is its opener's.

    Attributes:
        scores: the whole set.
        repeated: (K,) uint32, the rows of it that the opened set leaves out, ascending: they name a sample again.
    """

    def __init__(self, scores: ScoreSet, rules: SelectRules, on_rows: OnRows | None = None) -> None:
        self.scores, self.rules, self.repeated = scores.whole(), rules, scores.left_out
        scores = self.scores
        self._on_rows = on_rows
        self._done: dict[str, int] = {}
        self._stack = ExitStack()
        self.scratch = Path(tempfile.mkdtemp(prefix="beholder-select-"))
        self._stack.callback(shutil.rmtree, self.scratch, ignore_errors=True)
        found = joined.Joined("scores", scores.untyped)
        try:
            if rules.join:
                with database.clear_errors(f"--join {', '.join(rules.join)}", database.WITH_FLAG):
                    found = joined.join_metadata(self.connection, scores, rules.join, self.scratch)
            self._view, self.joined_notes, self.untyped = found.view, found.notes, Untyped(found.untyped)
            self.reader = RowReader(scores, found.file, untyped=found.untyped, num_threads=rules.threads)
            self.names = Names(self.reader, self.tell)
        except BaseException:
            self.close()
            raise

    @cached_property
    def connection(self) -> duckdb.DuckDBPyConnection:
        """A database with the set as the view `scores`; made when it is first needed."""
        connection = database.connect(self.scratch, memory=self.rules.memory // 2, num_threads=self.rules.threads)
        self._stack.callback(connection.close)
        with database.clear_errors(f"{self.scores.source} cannot be read", database.WITH_FLAG):
            self.scores.register(connection)
        return connection

    def database(self) -> tuple[duckdb.DuckDBPyConnection, str]:
        """The connection, and the view with every column there is."""
        connection = self.connection
        return connection, self._view

    def finder(self) -> PictureFinder:
        """Finds the pictures of the rows."""
        from beholder.locate.locate import PictureFinder

        return PictureFinder(self.scores.record, pictures=self.rules.pictures, root=self.rules.root)

    def tell_all(self, what: str, done: int, total: int) -> None:
        """Pass on how much of something is done."""
        if self._on_rows is not None:
            self._on_rows(what, done, total)

    def tell(self, what: str, num_rows: int) -> None:
        """Pass on that rows were read."""
        self._done[what] = self._done.get(what, 0) + num_rows
        if self._on_rows is not None:
            self._on_rows(what, min(self._done[what], self.scores.num_rows), self.scores.num_rows)

    def stage(self, what: str) -> None:
        """Say that something is done from now on."""
        self._done[what] = 0
        self.tell(what, 0)

    def close(self) -> None:
        """Free the scratch folder and the database."""
        self._stack.close()


class RuleRunner:
    """Applies the rules to the rows of a set.

    Where the scores (and sizes) alone decide, and what became of every row is not asked for, nothing is held of a row (`mask`
    is a RangeMask); else a key and a byte of each (an ArrayMask).

    Args:
        rows: the set, and what was asked for.
        is_whole: decide all that can be told of every row. Else near-duplicates are looked for only as far down the ranking
            as `top` reaches, where only the rows that stay depend on it; `num_looked_at` then says how far that was.
    """

    def __init__(self, rows: SelectionInput, *, is_whole: bool = True) -> None:
        self.rows, self.rules, self.scores = rows, rows.rules, rows.scores
        self._is_whole = is_whole
        self.num_looked_at: int | None = None
        self.num_rows_that_meet = self.scores.num_rows - len(rows.repeated)
        if self.scores.num_rows > ordering.MOST_ROWS:
            raise InputError(f"{self.scores.source} has more than {ordering.MOST_ROWS:,} rows; select from parts of it")
        for flag, path in (*(("--exclude", path) for path in self.rules.exclude), ("--marks", self.rules.marks)):
            if path is not None and not storage.exists(path):
                raise InputError(f"{flag} {path} does not exist")
        rows.stage("scores")
        self.score, self.expression = choose_columns(rows.reader, self.rules)
        self.cuts: Cuts = cuts_of(self.scores, self.score, self.rules)
        self._score_keys: npt.NDArray[np.uint32] | None = None
        self.mask: RowMask = self._streamed() or self._by_arrays()
        self.thresholds: dict[str, float | None] = {}
        self.groups: pa.Table | None = None
        self.notes: list[str] = [*self.scores.notes, *rows.joined_notes, *self.cuts.notes, *map(str, self.cuts.translations)]
        self._group_cache: dict[str, grouping.Groups] = {}

    def _streamed(self) -> RangeMask | None:
        """The mask that holds nothing of a row; None where the rules or the scores need another."""
        rules, rows = self.rules, self.rows
        given = (rules.per, rules.balance, rules.sample, rules.dedup, rules.marks, self.expression)
        lists = (*rules.where, *rules.exclude, *rules.dedup_against)
        if self._is_whole or lists or any(value is not None for value in given):
            return None
        assert self.score is not None
        least, most = self._range()

        def tell(count: int) -> None:
            rows.tell("scores", count)

        mask = RangeMask(rows.reader, rows.names, self.score, rows.repeated, [least, most + 1], ordering.score_of, tell)
        return mask if mask.most_in_bin * _BYTES_OF_A_TIE <= rules.memory else None

    def _by_arrays(self) -> ArrayMask:
        rules = self.rules
        self.values: Values = read_values(self.rows.reader, rules, self.score, self.expression, self.rows.repeated)
        self._score_keys = self.values.score_keys
        ranking = Ranking(self.values.rank_keys, self.rows.names, rules.threads)
        return ArrayMask(ranking, self.rows.reader, self.values.value_of)

    @property
    def knows_scores(self) -> bool:
        """Whether the score column was read, and not only an expression's columns."""
        return self._score_keys is not None or isinstance(self.mask, RangeMask)

    @property
    def arrays(self) -> ArrayMask:
        """The mask where it holds a byte of every row."""
        assert isinstance(self.mask, ArrayMask)
        return self.mask

    def run(self) -> None:
        """Apply every rule that was asked for, in order."""
        rules, mask, repeated = self.rules, self.mask, self.rows.repeated
        if len(repeated):
            if isinstance(mask, ArrayMask):
                mask.drop_rows("repeated", repeated)
            mask.note("repeated", "each sample once", len(repeated))
        marked_drop = self._read_marks()
        missing = mask.keep_between("no_score")
        if missing:
            mask.note("no_score", "a score" if self.expression is None else "a ranking value", missing)
        self._lists(marked_drop)
        self._where()
        self._scores()
        if rules.similarity is not None or rules.dedup_against:
            self._near()
        if rules.dedup == EXACT_BYTES:
            self._identical()
        if rules.balance is not None:
            self._balance(rules.balance)
        self._best()
        if rules.sample is not None:
            self._draw(rules.sample)
        if rules.budget is not None:
            self.rows.stage("sizes")
            mask.keep_within(self.rows.reader, rules.budget, rules.size_column)
            self.thresholds["budget"] = mask.steps[-1].lowest

    def _read_marks(self) -> npt.NDArray[np.int64] | None:
        """Protect the rows marked keep; returns the rows marked drop, or None without marks."""
        path = self.rules.marks
        if path is None:
            return None
        with database.clear_errors(f"--marks {path}", database.WITH_FLAG):
            marks = joined.read_marks(path)
            keep, drop, num_known = joined.marked_rows(self.rows.connection, marks, self.rows.database()[1])
        if marks and not num_known:
            self.notes.append(f"--marks {path}: {_none_of(len(marks))} among the rows")
        elif unknown := len(marks) - num_known:
            were = "was" if unknown == 1 else "were"
            self.notes.append(f"--marks {path}: {unknown:,} of its {len(marks):,} samples {were} not among the rows")
        self.arrays.protect(keep)
        return drop

    def _lists(self, marked_drop: npt.NDArray[np.int64] | None) -> None:
        for number, path in enumerate(self.rules.exclude):
            table = f"excluded{number}"
            self.rows.stage(f"--exclude {path}")
            dropped = 0
            with database.clear_errors(f"--exclude {path}", database.WITH_FLAG):
                count = joined.read_list(self.rows.connection, path, table, self.rows.scratch)
                for found in database.rows_of(self.rows.connection, joined.rows_in(table, self.rows.database()[1])):
                    dropped += self.arrays.drop_rows("excluded", found, protected_too=True)
            self.arrays.note("excluded", f"not in {path}", dropped, note=f"{number_of(count, 'sample')} in the list")
            if count and not dropped:
                self.notes.append(f"--exclude {path}: {_none_of(count)} among the rows that were left")
        if marked_drop is not None:
            dropped = self.arrays.drop_rows("marked", marked_drop)
            kept = self.arrays.num_protected
            told = f"{kept:,} marked keep, which no later rule drops" if kept else "none marked keep"
            self.arrays.note("marked", f"not marked drop in {self.rules.marks}", dropped, note=told)

    def _where(self) -> None:
        meets: npt.NDArray[np.bool_] | None = None
        for expression in self.rules.where:
            self.rows.stage(f"where {expression}")
            mask = database.mask_where(
                self.rows.connection, expression, self.rows.database()[1], self.scores.num_rows, self.rows.untyped
            )
            self.arrays.note("where", f"where {' '.join(expression.split())}", self.arrays.drop_unmarked("where", mask))
            meets = mask if meets is None else np.logical_and(meets, mask, out=meets)
        if meets is not None:
            meets[self.rows.repeated] = False
            self.num_rows_that_meet = int(np.count_nonzero(meets))

    def _range(self) -> tuple[int, int]:
        """The keys of min_score and max_score."""
        threshold, most = self.cuts.least, self.cuts.most
        least = 1 if threshold is None else max(1, ordering.key_of(threshold.value) + threshold.is_strict)
        return least, ordering.MOST_KEY if most is None else ordering.key_of(most)

    def _scores(self) -> None:
        rules, mask, keys = self.rules, self.mask, self._score_keys
        least, most = self._range()
        threshold = self.cuts.least
        if threshold is not None:
            mask.note("min_score", self.cuts.least_text, mask.keep_between("min_score", keys, least=least))
            if threshold.landmark is not None and self.score is not None and rules.scale_of is None:
                head = head_of(self.scores, self.score, None)
                self.notes += about_other_scales(head, threshold.value, threshold.landmark)
        if self.cuts.most is not None:
            mask.note("max_score", self.cuts.most_text, mask.keep_between("max_score", keys, most=most))
        if rules.quantile is not None:
            value = self._quantile(rules.quantile)
            dropped = mask.keep_between("quantile", keys, least=1 if value is None else _key_at_least(value))
            mask.note("quantile", f"score >= the {rules.quantile:g} quantile", dropped, value)
            self.thresholds["quantile"] = value

    def _quantile(self, quantile: float) -> float | None:
        """The quantile of the scores left, interpolated as by numpy, in float64; None without scores."""
        count = self.mask.num_with_key(self._score_keys)
        if not count:
            return None
        place = quantile * (count - 1)
        below = int(place)
        low, high = (
            ordering.score_of(self.mask.nth_best(count - min(at, count - 1), self._score_keys, protected_too=True)[0])
            for at in (below, below + 1)
        )
        part = place - below
        if low == high or part == 0:
            return low
        return float(low + (high - low) * part if part < 0.5 else high - (high - low) * (1 - part))

    def _near(self) -> None:
        """Drop what is near to a reference set, then near-duplicates."""
        from beholder.curate.duplicates.groups import drop_near_duplicates

        rules, mask = self.rules, self.arrays
        order, num_always = self._selection_order(), mask.num_protected
        embeddings = self._embeddings("--dedup" if rules.similarity is not None else "--dedup-against")
        groups = None
        if rules.similarity is not None:
            order, notes = in_order_of_keeping(self.rows, order, num_always)
            self.notes += notes
            groups = (
                None if rules.dedup_per is None else self._groups(rules.dedup_per, "--dedup-per").codes[order].astype(np.int64)
            )
        most_stays = self._most_stays(len(order))
        self.rows.stage("near-duplicates")
        found = drop_near_duplicates(
            self.scores,
            embeddings,
            order.astype(np.int64),
            rules,
            self.rows.scratch,
            self.rows.tell_all,
            num_always=num_always,
            groups=groups,
            most_stays=most_stays,
        )
        notes = [found.method]
        if found.num_looked_at < len(order):
            self.num_looked_at = found.num_looked_at
            notes.append(f"ended after the best {found.num_looked_at:,} rows, as {most_stays:,} of them stay")
        if found.num_without_embedding:
            notes.append(f"{found.num_without_embedding:,} without an embedding stay")
        if rules.dedup_against:
            told = [f"{found.num_references:,} in the reference"]
            if found.num_references_left_out:
                told.append(f"{found.num_references_left_out:,} more without an embedding")
            if found.num_near_that_stay:
                told.append(f"{found.num_near_that_stay:,} marked keep stay all the same")
            dropped = mask.drop_rows("near_reference", np.asarray(found.near_reference))
            told += notes if rules.similarity is None else []
            text = f"not near {', '.join(rules.dedup_against)}, similarity < {rules.reference_similarity:g}"
            mask.note("near_reference", text, dropped, note="; ".join(told))
        self.groups = found.groups
        if rules.similarity is not None:
            dropped = mask.drop_rows("duplicate", np.asarray(found.dropped))
            text = f"near-duplicates, similarity >= {rules.similarity:g}"
            mask.note("duplicate", text + self._claimed(), dropped, note="; ".join(notes))
            self._tell_of_pixels()

    def _claimed(self) -> str:
        """How the funnel says what is compared, and what stays."""
        per = "" if self.rules.dedup_per is None else f", inside each {self.rules.dedup_per}"
        keep = " ".join(self.rules.dedup_keep.split())
        what = {SCORE: "", PIXELS: "most pixels", BYTES: "most bytes", OLDEST: "the oldest file"}.get(keep, f"highest {keep}")
        return per + (f", keeping {what}" if what else "")

    def _most_stays(self, num_rows: int) -> int | None:
        """How many of the first rows that stay `top` will keep; None: all rows are decided, as few of them soon are."""
        from beholder.curate.duplicates.groups import FIRST_WALK_ROWS

        rules = self.rules
        if self._is_whole or num_rows <= FIRST_WALK_ROWS:
            return None
        if rules.top is None or rules.per is not None or rules.balance is not None:
            return None
        if rules.share is not None:  # of how many rows is known only when all have been compared
            return None
        if rules.dedup_keep != SCORE:  # then rows are not gone through in the order of the ranking
            return None
        return max(rules.top, self.arrays.num_protected)

    def _tell_of_pixels(self) -> None:
        """Say how many groups have a larger picture than the one that stays, where what stays goes by the score."""
        if self.rules.dedup_keep != SCORE or self.groups is None or not has_pixels(self.rows.reader):
            return
        table = self.groups.filter(pc.is_null(self.groups.column("reference")))
        pixels = pixels_of(self.rows.reader, "--dedup")[table.column("row").to_numpy()]
        group, stays = table.column("group").to_numpy(), table.column("kept").to_numpy(zero_copy_only=False)
        count = int(group[-1]) + 1 if len(group) else 0
        most = np.full(count, -1, np.int64)
        np.maximum.at(most, group, pixels)
        kept = pixels[stays]
        larger = int(((most > kept) & (kept >= 0)).sum())
        if count:
            self.notes.append(
                f"a picture with more pixels than the one kept is in {larger:,} of {number_of(count, 'group')} of "
                "near-duplicates" + ("; --dedup-keep pixels keeps the largest" if larger else "")
            )

    def _identical(self) -> None:
        """Drop pictures whose files hold the same bytes."""
        from beholder.curate.duplicates.groups import groups_table, joined_groups
        from beholder.curate.duplicates.identical import find_identical

        rules, mask = self.rules, self.arrays
        rows = mask.rows()
        self.rows.stage("sizes")
        sizes = recorded_bytes(self.rows.reader)[rows]
        self.rows.stage("pictures read")

        def named(numbers: npt.NDArray[np.int64]) -> Iterator[tuple[npt.NDArray[np.int64], list[str]]]:
            for part, samples in named_pieces(self.rows, rows[numbers]):
                yield np.searchsorted(rows, part), samples

        with self.rows.finder() as finder:
            found = find_identical(finder, sizes, named, lambda done, total: self.rows.tell_all("pictures read", done, total))
        kinds = found.first
        if rules.dedup_per is not None:  # the same bytes in two groups are two kinds
            codes = self._groups(rules.dedup_per, "--dedup-per").codes[rows].astype(np.int64)
            kinds = np.unique(np.stack([found.first, codes]), axis=1, return_inverse=True)[1].reshape(-1)
        alike = np.bincount(kinds, minlength=1)[kinds] > 1
        order = self._selection_order()
        order = order[alike[np.searchsorted(rows, order)]]
        num_always = 0 if mask.protected is None else int(np.count_nonzero(mask.protected[order]))
        order, notes = in_order_of_keeping(self.rows, order, num_always)
        kind = kinds[np.searchsorted(rows, order)]
        first = np.full(int(kinds.max(initial=-1)) + 1, len(order), np.int64)
        np.minimum.at(first, kind, np.arange(len(order)))
        keeper = first[kind]
        keeper[:num_always] = np.arange(num_always)
        alike_groups = groups_table(self.scores, order.astype(np.int64), keeper, np.ones(len(order), np.float32))
        self.groups = alike_groups if self.groups is None else joined_groups(alike_groups, self.groups)
        dropped = mask.drop_rows("duplicate", order[keeper != np.arange(len(order))])
        mask.note("duplicate", f"the same bytes{self._claimed()}", dropped, note=f"{found.num_read:,} of {len(rows):,} read")
        self.notes += notes
        if found.num_unread:
            stays = "it stays" if found.num_unread == 1 else "they stay"
            self.notes.append(
                f"{number_of(found.num_unread, 'picture')} could not be read, so {stays} (the first: {found.example})"
            )

    def _selection_order(self) -> npt.NDArray[np.uint32]:
        """The rows left, those that stay in any case first, then best first."""
        mask = self.arrays
        order = mask.best_first(mask.rows(protected=False))
        return order if mask.protected is None else np.concatenate([mask.best_first(mask.rows(protected=True)), order])

    def _embeddings(self, flag: str) -> str:
        found = self.rules.embeddings or self.scores.embeddings
        if found is None:
            raise InputError(
                f"{flag} needs embeddings: score with --keep-embeddings, or name a set of these pictures with --embeddings"
            )
        return found

    def _groups(self, column: str, flag: str) -> grouping.Groups:
        """Groups by a column, made once."""
        if column not in self._group_cache:
            self.rows.stage(f"groups by {column}")
            if column == grouping.CLUSTER and column not in self.rows.reader.schema.names:
                self._group_cache[column] = self._clusters(flag)
            else:
                self._group_cache[column] = grouping.group_rows(
                    column, self.rows.reader, self.rows.names, self.values.score_keys, self.rows.database, flag
                )
        return self._group_cache[column]

    def _clusters(self, flag: str) -> grouping.Groups:
        if self.rules.clusters is None:
            raise InputError(f"{flag} cluster: there is no such column; --clusters K makes one of the embeddings")
        from beholder.curate.duplicates.ann import cluster_rows
        from beholder.scoreset.vectors import load_vectors

        once = np.flatnonzero(self.arrays.dropped != NUMBER["repeated"]) if len(self.rows.repeated) else None
        vectors = load_vectors(self.scores, self._embeddings("--clusters"), scratch=self.rows.scratch, rows=once)
        codes = cluster_rows(vectors, self.rules.clusters, num_threads=self.rules.threads)
        number = min(self.rules.clusters, len(codes))
        codes[codes < 0] = number
        return grouping.Groups(codes, number + 1)

    def _balance(self, column: str) -> None:
        groups, mask = self._groups(column, "--balance"), self.arrays
        sizes = mask.group_sizes(groups.codes, groups.num_groups)
        held = mask.group_sizes(groups.codes, groups.num_groups, protected=True)
        wanted, level = grouping.equal_quotas(
            sizes, held, self.rules.top, lambda found: mask.groups_best_first(groups.codes, found)
        )
        dropped = mask.keep_best_of_groups("balance", groups.codes, wanted)
        text = f"equally many of each {column}" + (f", {self.rules.top:,} in all" if self.rules.top is not None else "")
        some = int(np.count_nonzero(sizes))
        note = f"{level:,} of each of {number_of(some, 'group')}"
        self.thresholds["balance"] = mask.note("balance", text, dropped, level, note=note)

    def _best(self) -> None:
        """Keep the best, so many and a share: both of what was there before either, so the smaller number stays."""
        rules, share = self.rules, self.rules.share
        number = rules.top if rules.balance is None else None
        if number is None and share is None:
            return
        groups = None if rules.per is None else self._groups(rules.per, "--per")
        sizes = np.array([self.mask.left]) if groups is None else self.arrays.group_sizes(groups.codes, groups.num_groups)
        some = int(np.count_nonzero(sizes))
        of_each, note = ("", "") if groups is None else (f" of each {rules.per}", number_of(some, "group"))
        if number is not None:
            wanted = np.full(len(sizes), min(number, self.mask.left), np.int64)
            self._cut("top", f"top {number:,}{of_each}", groups, wanted, note)
        if share is not None:
            wanted = grouping.share_of(sizes, share)
            text, before = f"top {float(100 * share):.12g} %", f" before top {number:,}" if number is not None else ""
            if groups is None:
                text += f" of {'the ' if before else ''}{number_of(int(sizes[0]), 'row')}{before}"
                note = number_of(int(wanted[0]), "row")
            else:
                text += of_each + (f" as it was{before}" if before else "")
            self._cut("top_share", text, groups, wanted, note)

    def _cut(self, word: str, text: str, groups: grouping.Groups | None, wanted: npt.NDArray[np.int64], note: str) -> None:
        """Keep the best `wanted[0]` rows, or of each group (G,) so many."""
        if groups is None:
            dropped = self.mask.keep_best(word, int(wanted[0]))
        else:
            dropped = self.arrays.keep_best_of_groups(word, groups.codes, wanted)
        self.thresholds[word] = self.mask.note(word, text, dropped, note=note, is_cut=True)

    def _draw(self, number: int) -> None:
        mask, rules = self.arrays, self.rules
        text = f"a draw of {number:,}, seed {rules.seed}, temperature {rules.temperature:g}"
        sampler = GumbelSampler(self.values, mask.ranking, rules.seed, rules.temperature)
        if rules.per is None:
            if mask.left > number:
                self.rows.stage("drawing")
                mask.note("sample", text, mask.keep_best("sample", number, sampler.keys(), sampler.in_order))
            else:
                mask.note("sample", text, 0)
            return
        groups = self._groups(rules.per, "--per")
        self.rows.stage("drawing")
        wanted = np.full(groups.num_groups, min(number, mask.left), np.int64)
        dropped = mask.keep_best_of_groups("sample", groups.codes, wanted, sampler.keys(), sampler.in_order)
        mask.note("sample", f"{text}, of each {rules.per}", dropped)


def _none_of(count: int) -> str:
    return "its only sample was not" if count == 1 else f"none of its {count:,} samples was"


def _key_at_least(value: float) -> int:
    """The key of the smallest float32 that is at least a float64 value."""
    with np.errstate(over="ignore"):
        near = np.float32(value)
    if float(near) < value:
        near = np.nextafter(near, np.float32(np.inf))
    return max(1, ordering.key_of(float(near)))


def in_order_of_keeping(rows: SelectionInput, order: Order, num_always: int) -> tuple[Order, list[str]]:
    """Put rows into the order in which `--dedup` goes through them: of rows that are alike the first one stays.

    Most pixels, most bytes, the oldest file or the highest value of the expression come first, as `dedup_keep` says. Rows for
    which that is equal stay as they are ranked (by value, then by sample, then by row), and so do those for which it is not
    known, which come last. The first `num_always` rows, which stay in any case, stay in front.

    Args:
        rows: the score set, and what was asked for.
        order: (M,) rows, best first.
        num_always: how many at its head always stay.

    Returns:
        (M,) the same rows; lines worth telling.

    Raises:
        InputError: a column that is not there, or that holds no numbers; an expression that is none; no file time is known.
    """
    keep = rows.rules.dedup_keep
    if keep == SCORE or not len(order):
        return order, []
    if keep == PIXELS:
        places, what = _largest_first(pixels_of(rows.reader, f"{_FLAG} {PIXELS}")), "size in pixels"
    elif keep == BYTES:
        _check_column(rows.reader, columns.NUM_BYTES, f"{_FLAG} {BYTES}")
        places, what = _largest_first(recorded_bytes(rows.reader)), "number of bytes"
    elif keep == OLDEST:
        places, what = _file_times(rows, order), "file time"
    else:
        places, what = _places_by_expression(rows, keep), "value"
    places = places[order]
    parts = (places[:num_always], places[num_always:])
    by = np.concatenate([np.argsort(parts[0], kind="stable"), num_always + np.argsort(parts[1], kind="stable")])
    notes = []
    unknown = int((places == _UNKNOWN).sum())
    if unknown:
        shown = keep if keep in KEEP_WORDS else f"{' '.join(keep.split())!r}"
        why = " (no local file of its own, or one that has gone)" if keep == OLDEST else ""
        notes.append(
            f"{_FLAG} {shown}: the {what} of {unknown:,} of {len(order):,} rows is not known{why}; all others go before them"
        )
    return order[by], notes


def _largest_first(values: Places) -> Places:
    """Numbers that are smallest for the largest values; -1 is what is not known."""
    return np.where(values < 0, _UNKNOWN, -values)


def has_pixels(reader: RowReader) -> bool:
    """Whether the set has columns of width and height."""
    return all(name in reader.schema.names and reader.holds_numbers(name) for name in (columns.WIDTH, columns.HEIGHT))


def pixels_of(reader: RowReader, flag: str) -> Places:
    """(N,) int64 width times height of each row, -1 where it is not known. Raises InputError."""
    for name in (columns.WIDTH, columns.HEIGHT):
        _check_column(reader, name, flag)

    def pixels(width: grouping.Sides, height: grouping.Sides) -> npt.NDArray[np.int64]:
        is_known = (width > 0) & (height > 0) & (width * height < 2.0**62)
        return np.where(is_known, width * height, -1.0).astype(np.int64)

    return grouping.by_sides(reader, pixels, np.int64)


def recorded_bytes(reader: RowReader) -> Places:
    """(N,) int64 bytes of each picture as they were recorded, -1 where they are not known."""
    if columns.NUM_BYTES not in reader.schema.names or not reader.holds_numbers(columns.NUM_BYTES):
        return np.full(reader.num_rows, -1, np.int64)
    return reader.gathered([columns.NUM_BYTES], lambda table: sizes_of(reader, table, columns.NUM_BYTES), np.int64)


def _check_column(reader: RowReader, name: str, flag: str) -> None:
    if name not in reader.schema.names:
        has = ", ".join(reader.metadata_columns[:20]) or "no metadata"
        raise InputError(f"{flag} needs the column {name}, which is not there ({has}); --join can bring it")
    if not reader.holds_numbers(name):
        raise InputError(f"{flag} needs numbers in the column {name}; it holds {reader.schema.field(name).type}")


def _places_by_expression(rows: SelectionInput, expression: str) -> Places:
    """(N,) int64 0 for the highest value, 1 for the next, ...; `_UNKNOWN` for NULL and NaN."""
    named = f"{_FLAG} {' '.join(expression.split())!r}"
    connection, view = rows.database()
    try:
        fitted = database.check_expression(connection, expression, view, _FLAG, rows.untyped)
    except InputError as error:
        if expression.strip().isidentifier():
            raise InputError(f"{error}; words that are no columns: {', '.join(KEEP_WORDS)}") from None
        raise
    with database.clear_errors(named):
        described = database.first_row(connection, f"DESCRIBE SELECT (\n{fitted}\n) AS value FROM {view}")
        kind = str(described[1]) if described is not None else ""
        if not database.is_number(kind) and kind != "BOOLEAN":
            hint = "; TRY_CAST(... AS DOUBLE) makes numbers of text" if kind == "VARCHAR" else ""
            raise InputError(f"{named} gives values of {kind}, not numbers that could be compared{hint}")
        value = "CASE WHEN isnan(value) THEN NULL ELSE value END" if kind in ("FLOAT", "DOUBLE") else "value"
        query = (
            f"SELECT {ROW}, CASE WHEN value IS NULL THEN NULL ELSE dense_rank() OVER (ORDER BY value DESC NULLS LAST) END "
            f"FROM (SELECT {ROW}, {value} AS value FROM (SELECT {ROW}, (\n{fitted}\n) AS value FROM {view}))"
        )
        found = np.full(rows.scores.num_rows, _UNKNOWN, np.int64)
        for batch in database.batches_of(connection, query, 1 << 20):
            number, place = (batch.column(at) for at in (0, 1))
            found[number.to_numpy(zero_copy_only=False)] = pc.fill_null(place, _UNKNOWN).to_numpy(zero_copy_only=False)
    return found


def _file_times(rows: SelectionInput, order: Order) -> Places:
    """(N,) int64 when each picture's file was last changed, in ns since 1970; `_UNKNOWN` for what is no local file."""
    found = np.full(rows.scores.num_rows, _UNKNOWN, np.int64)
    rows.stage("file times")
    with rows.finder() as finder:
        for at, samples in named_pieces(rows, np.sort(order)):
            for row, place in zip(at.tolist(), finder.locate(samples), strict=True):
                ref = place.files[0].ref
                if place.kind == "file" and ref is not None and ref.path is not None and locations.is_local(ref.path):
                    try:
                        found[row] = locations.local_path(ref.path).stat().st_mtime_ns
                    except (OSError, ValueError):
                        continue  # it has gone; counted with those that are not known
            rows.tell("file times", len(at))
    if (found == _UNKNOWN).all():
        raise InputError(
            f"{_FLAG} {OLDEST}: no picture is a local file whose time is known (in archives, tables and on servers it is not); "
            "--pictures or --root say where they are now, or keep by another rule"
        )
    return found


def named_pieces(rows: SelectionInput, ascending: Order) -> Iterator[tuple[Order, list[str]]]:
    """Ascending rows and their samples, some tens of thousands at a time."""
    for start in range(0, len(ascending), _NAMED_AT_ONCE):
        part = ascending[start : start + _NAMED_AT_ONCE]
        yield part, rows.names.of(part).to_pylist()
