"""A score set's rows and the options in; the rules applied one after another, with what each one did and found, out."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from beholder.curate.advise.inputs import head_of
from beholder.curate.advise.warnings import about_other_scales
from beholder.curate.select import draw, grouping, quotas
from beholder.curate.select.budget import keep_within
from beholder.curate.select.keeping import has_pixels, in_order_of_claim, named_pieces, pixels_of, recorded_bytes
from beholder.curate.select.options import BYTES, EXACT_BYTES, OLDEST, PIXELS, SCORE, SelectRules
from beholder.curate.select.ranking import Ranking
from beholder.curate.select.sieve import NUMBER, Sieve
from beholder.curate.select.values import Values, read_values
from beholder.errors import InputError
from beholder.io import storage
from beholder.kernels import choosing, ordering
from beholder.locate.locate import PictureFinder
from beholder.scoreset import database, joined, sample_lists
from beholder.scoreset.row_names import Names
from beholder.scoreset.row_reader import RowReader
from beholder.scoreset.score_set import ScoreSet
from beholder.scoreset.untyped import Untyped

if TYPE_CHECKING:
    import duckdb

OnRows = Callable[[str, int, int], None]
"""Told what is read, how many rows of it are done, and how many there are."""


class Rows:
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
        self.joined_notes: tuple[str, ...] = ()
        untyped = set(scores.untyped)
        joined_file: Path | None = None
        try:
            if rules.join:
                with database.clear_errors(f"--join {', '.join(rules.join)}", database.WITH_FLAG):
                    found = joined.join_metadata(self.connection, scores, rules.join, self.scratch)
                joined_file, self.joined_notes = found.file, found.notes
                untyped |= found.untyped
                self.view = joined.register_joined(self.connection, joined_file)
            self.untyped = Untyped(untyped)
            self.reader = RowReader(scores, joined_file, untyped=untyped, num_threads=rules.threads)
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

    @cached_property
    def view(self) -> str:
        """The view with every column there is."""
        _ = self.connection
        return "scores"

    def database(self) -> tuple[duckdb.DuckDBPyConnection, str]:
        """The connection, and the view with every column there is."""
        return self.connection, self.view

    def finder(self) -> PictureFinder:
        """Finds the pictures of the rows."""
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


class Judge:
    """Applies the rules to the rows of a set.

    Args:
        rows: the set, and what was asked for.
        is_whole: decide all that can be told of every row. Else near-duplicates are looked for only as far down the ranking
            as `top` reaches, where only the rows that stay depend on it; `num_looked_at` then says how far that was.
    """

    def __init__(self, rows: Rows, *, is_whole: bool = True) -> None:
        self.rows, self.rules, self.scores = rows, rows.rules, rows.scores
        self._is_whole = is_whole
        self.num_looked_at: int | None = None
        self.num_rows_that_meet = self.scores.num_rows - len(rows.repeated)
        if self.scores.num_rows > ordering.MOST_ROWS:
            raise InputError(f"{self.scores.source} has more than {ordering.MOST_ROWS:,} rows; select from parts of it")
        self._check_files()
        rows.stage("scores")
        self.values: Values = read_values(self.scores, rows.reader, self.rules, rows.repeated)
        self.sieve = Sieve(Ranking(self.values.rank_keys, rows.names, self.rules.threads), self.rules.threads, self._value_of)
        self.thresholds: dict[str, float | None] = {}
        self.groups: pa.Table | None = None
        self.notes: list[str] = [*self.scores.notes, *rows.joined_notes]
        self._group_cache: dict[str, grouping.Groups] = {}

    def _check_files(self) -> None:
        """Say early what is missing."""
        for flag, path in (*(("--exclude", path) for path in self.rules.exclude), ("--marks", self.rules.marks)):
            if path is not None and not storage.exists(path):
                raise InputError(f"{flag} {path} does not exist")

    def judge(self) -> None:
        """Apply every rule that was asked for, in order."""
        rules, sieve = self.rules, self.sieve
        if len(self.rows.repeated):
            sieve.note("repeated", "each sample once", sieve.drop_rows("repeated", self.rows.repeated))
        marked_drop = self._read_marks()
        missing = sieve.drop_outside("no_score", self.values.rank_keys)
        if missing:
            sieve.note("no_score", "a score" if self.values.expression is None else "a ranking value", missing)
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
            keep_within(sieve, self.rows.reader, rules.budget, rules.size_column)
            self._found("budget")

    def _read_marks(self) -> npt.NDArray[np.int64] | None:
        """Pin the rows marked keep; rows marked drop, or None without marks."""
        path = self.rules.marks
        if path is None:
            return None
        with database.clear_errors(f"--marks {path}", database.WITH_FLAG):
            marks = sample_lists.read_marks(path)
            keep, drop, num_known = sample_lists.marked_rows(self.rows.connection, marks, self.rows.view)
        if marks and not num_known:
            self.notes.append(f"--marks {path}: {_none_of(len(marks))} among the rows")
        elif unknown := len(marks) - num_known:
            were = "was" if unknown == 1 else "were"
            self.notes.append(f"--marks {path}: {unknown:,} of its {len(marks):,} samples {were} not among the rows")
        self.sieve.pin(keep)
        return drop

    def _lists(self, marked_drop: npt.NDArray[np.int64] | None) -> None:
        for number, path in enumerate(self.rules.exclude):
            table = f"excluded{number}"
            self.rows.stage(f"--exclude {path}")
            dropped = 0
            with database.clear_errors(f"--exclude {path}", database.WITH_FLAG):
                count = sample_lists.read_list(self.rows.connection, path, table, self.rows.scratch)
                for found in database.rows_of(self.rows.connection, sample_lists.rows_in(table, self.rows.view)):
                    dropped += self.sieve.drop_rows("excluded", found, pinned_too=True)
            self.sieve.note("excluded", f"not in {path}", dropped, note=f"{count:,} sample{_s(count)} in the list")
            if count and not dropped:
                self.notes.append(f"--exclude {path}: {_none_of(count)} among the rows that were left")
        if marked_drop is not None:
            dropped = self.sieve.drop_rows("marked", marked_drop)
            kept = self.sieve.num_pinned
            told = f"{kept:,} marked keep, which no later rule drops" if kept else "none marked keep"
            self.sieve.note("marked", f"not marked drop in {self.rules.marks}", dropped, note=told)

    def _where(self) -> None:
        meets: npt.NDArray[np.bool_] | None = None
        for expression in self.rules.where:
            self.rows.stage(f"where {expression}")
            mask = database.mask_where(
                self.rows.connection, expression, self.rows.view, self.scores.num_rows, self.rows.untyped
            )
            self.sieve.note("where", f"where {' '.join(expression.split())}", self.sieve.drop_unmarked("where", mask))
            meets = mask if meets is None else np.logical_and(meets, mask, out=meets)
        if meets is not None:
            meets[self.rows.repeated] = False
            self.num_rows_that_meet = int(np.count_nonzero(meets))

    def _scores(self) -> None:
        rules, sieve, keys = self.rules, self.sieve, self.values.score_keys
        if keys is None:
            return
        threshold = rules.least_score
        if threshold is not None:
            least = max(1, ordering.key_of(threshold.value) + threshold.is_strict)
            sieve.note("min_score", str(threshold), sieve.drop_outside("min_score", keys, least=least))
            if threshold.landmark is not None and self.values.score is not None:
                head = head_of(self.scores, self.values.score, None)
                self.notes += about_other_scales(head, threshold.value, threshold.landmark)
        if rules.max_score is not None:
            most = ordering.key_of(rules.max_score)
            sieve.note("max_score", f"score <= {rules.max_score:g}", sieve.drop_outside("max_score", keys, most=most))
        if rules.quantile is not None:
            value = self._quantile(rules.quantile, keys)
            dropped = sieve.drop_outside("quantile", keys, least=1 if value is None else _key_at_least(value))
            sieve.note("quantile", f"score >= the {rules.quantile:g} quantile", dropped, value)
            self.thresholds["quantile"] = value

    def _quantile(self, quantile: float, keys: npt.NDArray[np.uint32]) -> float | None:
        """The quantile of the scores left, interpolated as by numpy, in float64; None without scores."""
        count, _, _ = choosing.survey(keys, self.sieve.dropped, self.rules.threads)
        if not count:
            return None
        place = quantile * (count - 1)
        below = int(place)
        low, high = (self._nth_score(keys, count, min(at, count - 1)) for at in (below, below + 1))
        part = place - below
        if low == high or part == 0:
            return low
        return float(low + (high - low) * part if part < 0.5 else high - (high - low) * (1 - part))

    def _nth_score(self, keys: npt.NDArray[np.uint32], count: int, place: int) -> float:
        """The score at a place from 0, the smallest, among the `count` rows left that have one."""
        key, _, _ = choosing.nth_best(keys, self.sieve.dropped, count - place, num_threads=self.rules.threads)
        return float(ordering.scores_of(np.array([key], np.uint32))[0])

    def _near(self) -> None:
        """Drop what is near to a reference set, then near-duplicates."""
        from beholder.curate.duplicates.groups import drop_near_duplicates

        rules, sieve = self.rules, self.sieve
        order, num_always = self._selection_order(), sieve.num_pinned
        embeddings = self._embeddings("--dedup" if rules.similarity is not None else "--dedup-against")
        groups = None
        if rules.similarity is not None:
            order, notes = in_order_of_claim(self.rows, order, num_always)
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
            rules.similarity,
            rules.dedup_method,
            rules.threads,
            self.rows.scratch,
            self.rows.tell_all,
            num_always=num_always,
            groups=groups,
            references=rules.dedup_against,
            reference_threshold=rules.reference_similarity,
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
            dropped = sieve.drop_rows("near_reference", np.asarray(found.near_reference))
            told += notes if rules.similarity is None else []
            text = f"not near {', '.join(rules.dedup_against)}, similarity < {rules.reference_similarity:g}"
            sieve.note("near_reference", text, dropped, note="; ".join(told))
        self.groups = found.groups
        if rules.similarity is not None:
            dropped = sieve.drop_rows("duplicate", np.asarray(found.dropped))
            text = f"near-duplicates, similarity >= {rules.similarity:g}"
            sieve.note("duplicate", text + self._claimed(), dropped, note="; ".join(notes))
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
        return max(rules.top, self.sieve.num_pinned)

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
                f"{larger:,} of {count:,} group{_s(count)} of near-duplicates would keep another picture by its pixels"
                + (" (--dedup-keep pixels)" if larger else "")
            )

    def _identical(self) -> None:
        """Drop pictures whose files hold the same bytes."""
        from beholder.curate.duplicates.groups import groups_table, joined_groups
        from beholder.curate.duplicates.identical import find_identical

        rules, sieve = self.rules, self.sieve
        rows = choosing.left_rows(sieve.ranking.keys, sieve.dropped)
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
        num_always = int((sieve.pinned[order] != 0).sum()) if len(sieve.pinned) else 0
        order, notes = in_order_of_claim(self.rows, order, num_always)
        kind = kinds[np.searchsorted(rows, order)]
        first = np.full(int(kinds.max(initial=-1)) + 1, len(order), np.int64)
        np.minimum.at(first, kind, np.arange(len(order)))
        keeper = first[kind]
        keeper[:num_always] = np.arange(num_always)
        alike_groups = groups_table(self.scores, order.astype(np.int64), keeper, np.ones(len(order), np.float32))
        self.groups = alike_groups if self.groups is None else joined_groups(alike_groups, self.groups)
        dropped = sieve.drop_rows("duplicate", order[keeper != np.arange(len(order))])
        sieve.note("duplicate", f"the same bytes{self._claimed()}", dropped, note=f"{found.num_read:,} of {len(rows):,} read")
        self.notes += notes
        if found.num_unread:
            stays = "it stays" if found.num_unread == 1 else "they stay"
            self.notes.append(
                f"{found.num_unread:,} picture{_s(found.num_unread)} could not be read, so {stays} (the first: {found.example})"
            )

    def _selection_order(self) -> npt.NDArray[np.uint32]:
        """The rows left, those that stay in any case first, then best first."""
        sieve, ranking = self.sieve, self.sieve.ranking
        rows = choosing.left_rows(ranking.keys, sieve.dropped, pinned=sieve.pinned)
        order = ranking.best_first(rows)
        if not len(sieve.pinned):
            return order
        pinned = choosing.left_rows(ranking.keys, sieve.dropped | (sieve.pinned == 0))
        return np.concatenate([ranking.best_first(pinned), order])

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
        from beholder.curate.duplicates.clusters import cluster_rows
        from beholder.scoreset.vectors import load_vectors

        once = np.flatnonzero(self.sieve.dropped != NUMBER["repeated"]) if len(self.rows.repeated) else None
        vectors = load_vectors(self.scores, self._embeddings("--clusters"), scratch=self.rows.scratch, rows=once)
        codes = cluster_rows(vectors, self.rules.clusters, num_threads=self.rules.threads)
        codes[codes < 0] = self.rules.clusters
        values: list[Any] = [*range(self.rules.clusters), None]
        return grouping.Groups(grouping.CLUSTER, codes, values, len(values))

    def _balance(self, column: str) -> None:
        groups, sieve = self._groups(column, "--balance"), self.sieve
        sizes = sieve.group_sizes(groups.codes, groups.num_groups)
        held = sieve.group_sizes(groups.codes, groups.num_groups, "pinned")
        wanted, level = quotas.balanced(sizes, held, self.rules.top, lambda found: sieve.groups_best_first(groups.codes, found))
        dropped = sieve.keep_best_of_groups("balance", groups.codes, wanted)
        text = f"equally many of each {column}" + (f", {self.rules.top:,} in all" if self.rules.top is not None else "")
        some = int(np.count_nonzero(sizes))
        sieve.note("balance", text, dropped, level, note=f"{level:,} of each of {some:,} group{_s(some)}")
        self._found("balance")

    def _best(self) -> None:
        """Keep the best, so many and a share: both of what was there before either, so the smaller number stays."""
        rules, sieve, share = self.rules, self.sieve, self.rules.share
        number = rules.top if rules.balance is None else None
        if number is None and share is None:
            return
        groups = None if rules.per is None else self._groups(rules.per, "--per")
        sizes = np.array([sieve.left]) if groups is None else sieve.group_sizes(groups.codes, groups.num_groups)
        some = int(np.count_nonzero(sizes))
        of_each, note = ("", "") if groups is None else (f" of each {rules.per}", f"{some:,} group{_s(some)}")
        if number is not None:
            self._cut("top", f"top {number:,}{of_each}", groups, np.full(len(sizes), number, np.int64), note)
        if share is not None:
            wanted = quotas.share_of(sizes, share)
            text, before = f"top {float(100 * share):.12g} %", f" before top {number:,}" if number is not None else ""
            if groups is None:
                text += f" of {'the ' if before else ''}{sizes[0]:,} row{_s(int(sizes[0]))}{before}"
                note = f"{wanted[0]:,} row{_s(int(wanted[0]))}"
            else:
                text += of_each + (f" as it was{before}" if before else "")
            self._cut("top_share", text, groups, wanted, note)

    def _cut(self, word: str, text: str, groups: grouping.Groups | None, wanted: npt.NDArray[np.int64], note: str) -> None:
        """Keep the best `wanted[0]` rows, or of each group (G,) so many."""
        sieve = self.sieve
        if groups is None:
            dropped = sieve.keep_best(word, int(wanted[0]))
        else:
            dropped = sieve.keep_best_of_groups(word, groups.codes, wanted)
        sieve.note(word, text, dropped, self._found(word), note)

    def _draw(self, number: int) -> None:
        sieve, rules = self.sieve, self.rules
        text = f"a draw of {number:,}, seed {rules.seed}, temperature {rules.temperature:g}"
        lots = draw.Lots(self.values, sieve.ranking, rules.seed, rules.temperature)
        if rules.per is None:
            if sieve.left > number:
                self.rows.stage("drawing")
                sieve.note("sample", text, sieve.keep_best("sample", number, lots.keys(), lots.in_order))
            else:
                sieve.note("sample", text, 0)
            return
        groups = self._groups(rules.per, "--per")
        self.rows.stage("drawing")
        wanted = np.full(groups.num_groups, number, np.int64)
        dropped = sieve.keep_best_of_groups("sample", groups.codes, wanted, lots.keys(), lots.in_order)
        sieve.note("sample", f"{text}, of each {rules.per}", dropped)

    def _found(self, word: str) -> float | None:
        """Note the lowest ranking value that is left."""
        value = self.thresholds[word] = self.sieve.lowest_value()
        return value

    def _value_of(self, key: int) -> float:
        """The ranking value that has a key."""
        if self.values.levels is not None:
            return float(self.values.levels[key - 1])
        return float(ordering.scores_of(np.array([key], np.uint32))[0])


def _s(count: int) -> str:
    return "" if count == 1 else "s"


def _none_of(count: int) -> str:
    return "its only sample was not" if count == 1 else f"none of its {count:,} samples was"


def _key_at_least(value: float) -> int:
    """The key of the smallest float32 that is at least a float64 value."""
    with np.errstate(over="ignore"):
        near = np.float32(value)
    if float(near) < value:
        near = np.nextafter(near, np.float32(np.inf))
    return max(1, ordering.key_of(float(near)))
