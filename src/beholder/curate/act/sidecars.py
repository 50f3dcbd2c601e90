"""Stars and labels into the XMP sidecars of pictures: what each picture gets, planned, journaled and done as other acts."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beholder import columns
from beholder.curate.act import files, journal, sidecar
from beholder.curate.act.change import SidecarChange
from beholder.curate.act.files import Intent, Made, Refused, refusals
from beholder.curate.act.journal import JournalState
from beholder.curate.act.messages import shown_path, stars_text
from beholder.curate.act.plan import Job, Planned, Planner, check_place
from beholder.curate.act.single import Act, NotYet, Rehearsal
from beholder.curate.options import ActionOptions
from beholder.curate.shares import counts
from beholder.errors import InputError, OutputError
from beholder.io import locations
from beholder.io.xmp import REJECTED, SUFFIX, UNRATED, XmpRating, parse_rating
from beholder.locate.archives import Place
from beholder.pixels.xmp import embedded_packet
from beholder.sources.file_kinds import RAW_SUFFIXES, suffix_of

STARS, LABEL = "stars of the act", "label of the act"
"""Columns that `with_stars` adds."""
_MOST_FOLDERS = 1000
"""Listings that are kept of folders with raw files."""


def with_stars(kept: pa.Table, rejected: pa.Table | None, options: ActionOptions) -> pa.Table:
    """The rows with what each gets: columns STARS (int8) and LABEL (string), null where nothing; rows that get neither go.

    Args:
        kept: the best first.
        rejected: those to be rejected; they come behind, so that a sidecar that two share is of the better one.
        options: the shares.
    """
    table = kept
    for name, shares, kind in ((STARS, options.star_shares, pa.int8()), (LABEL, options.label_shares, pa.string())):
        table = table.append_column(name, _dealt(shares, kept.num_rows, kind))
    if rejected is not None and rejected.num_rows:
        stars = pa.array(np.full(rejected.num_rows, REJECTED, np.int8))
        more = rejected.append_column(STARS, stars).append_column(LABEL, pa.nulls(rejected.num_rows, pa.string()))
        table = pa.concat_tables([table, more], promote_options="default")
    return table.filter(pc.or_(pc.is_valid(table.column(STARS)), pc.is_valid(table.column(LABEL))))


def _dealt(shares: Sequence[tuple[Any, Fraction]], num_rows: int, kind: pa.DataType) -> pa.Array:
    """What each of some ranked rows gets."""
    each = counts(shares, num_rows)
    which = np.repeat(np.arange(len(each) + 1), [*each, num_rows - sum(each)])
    return pa.array([value for value, _ in shares] + [None], kind).take(pa.array(which))


def _pairs(rows: pa.Table) -> zip[tuple[int | None, str | None]]:
    return zip(rows.column(STARS).to_pylist(), rows.column(LABEL).to_pylist(), strict=True)


class SidecarPlanner(Planner):
    """Plans what is written into sidecars.

    Args:
        job: the act; its rows have STARS and LABEL.
        state: what was planned and done so far.
    """

    def __init__(self, job: Job, state: JournalState) -> None:
        super().__init__(job, state)
        self._options, self._summary = job.options, job.summary
        self._wanted: dict[str, tuple[int | None, str | None]] = {}
        self._raw_stems: dict[str, frozenset[str]] = {}
        if job.earlier is not None:  # those of runs before, by which it is known what pictures share
            done = (outcome.intent for _, outcome in journal.settled(job.journal) if outcome is not None and outcome.is_done)
            self._seen = {hash(intent.target) for intent in done}
            self._seen |= {hash(intent.target) for intent in state.unsettled.values()}

    def want(self, rows: pa.Table) -> None:
        """Tell what the next pictures get."""
        self._wanted = dict(zip(rows.column(columns.SAMPLE).to_pylist(), _pairs(rows), strict=True))

    def _intents(self, place: Place, size: Any) -> list[Intent]:
        check_place(place, size)
        picture = self._picture(place)
        places = sidecar.candidates(picture, self._options.xmp_names)
        there = sidecar.existing(places)
        target = places[0] if there is None else there
        if hash(target) in self._seen:
            raise Refused("shared", f"{target} is the sidecar of a better picture than {place.sample}, too, which decides")
        change, length = self._change(place.sample, picture, there)
        status = sidecar.check_writable(target) if there is not None else self._check_new(picture, target)
        folder = os.path.dirname(target)  # noqa: PTH120
        self._check_source_folder(folder, place, "name what it leads to with --pictures", f"{folder} is not writable")
        source = target if there is not None else picture
        intent = Intent(self.number, place.sample, source, target, status.st_size, status.st_mtime_ns, length, change=change)
        self.number += 1
        self._seen.add(hash(target))
        if there is not None and status.st_nlink > 1:
            self._summary.note_not_kept("links")
        self._summary.num_with_raw += self._is_of_raw(picture, target)
        return [intent]

    def _picture(self, place: Place) -> str:
        """The absolute path of a picture that is a file. Raises Refused."""
        if place.kind == "url":
            raise Refused("remote", f"{place.sample} is on a server, where no sidecar can be written")
        if place.kind != "file":
            text = f"{place.sample} lies inside {place.archive}, which has no place for a sidecar; --copy takes it out"
            raise Refused("in_archive", text)
        ref = place.files[0].ref
        assert ref is not None
        assert ref.path is not None
        return os.path.abspath(locations.local_path(ref.path))  # noqa: PTH100 (links stay as they are)

    def _change(self, sample: str, picture: str, there: str | None) -> tuple[SidecarChange, int]:
        """What is written, and the bytes of the sidecar then. Raises Refused where nothing is to be."""
        stars, label = self._wanted[sample]
        before, says = None, XmpRating()
        if there is not None:
            sidecar.check_writable(there)
            before = sidecar.read(there)
            try:
                says = parse_rating(before, there)
            except InputError as error:
                raise Refused("damaged", str(error)) from None
        if not self._options.xmp_replace:
            stars, label = _unless_held(stars, label, says, picture, there)
        stars, label = None if stars == says.stars else stars, None if label == says.label else label
        if stars is None and label is None:
            raise Refused("same", f"{there} says so already")
        try:
            return SidecarChange.of(before, stars, label, there or picture)
        except (InputError, OutputError) as error:
            raise Refused("damaged", str(error)) from None

    def _check_new(self, picture: str, target: str) -> os.stat_result:
        """What the system says of the picture of a new sidecar. Raises Refused where that cannot be made."""
        if files.is_there(target):  # which also tells whether it is a name that can be
            raise Refused("clash", f"{target} is there already")
        with refusals(picture):
            return os.stat(picture)  # noqa: PTH116

    def _is_of_raw(self, picture: str, target: str) -> bool:
        """Whether a sidecar is named as that of a raw file beside the picture, too."""
        folder, slash, name = target.rpartition("/")
        stem = name[: -len(SUFFIX)]
        if picture == f"{folder}{slash}{stem}":
            return False
        if folder not in self._raw_stems:
            if len(self._raw_stems) >= _MOST_FOLDERS:
                self._raw_stems.clear()
            names: list[str] = []
            with contextlib.suppress(OSError):  # a folder that may not be listed
                names = os.listdir(folder or "/")  # noqa: PTH208 (names alone)
            stems = frozenset(each.rpartition(".")[0] for each in names if suffix_of(each) in RAW_SUFFIXES)
            self._raw_stems[folder] = stems
        return stem in self._raw_stems[folder]


def _inside(picture: str) -> XmpRating:
    """What the XMP inside a picture says; nothing where it cannot be read."""
    try:
        with refusals(picture), open(picture, "rb") as file:  # noqa: PTH123
            packet = embedded_packet(file)
        return parse_rating(packet, picture) if packet is not None else XmpRating()
    except InputError:
        return XmpRating()


def _unless_held(
    stars: int | None, label: str | None, says: XmpRating, picture: str, there: str | None
) -> tuple[int | None, str | None]:
    """The stars and the label, None where somebody has given the picture such already. Raises Refused where neither is left.

    says: what the sidecar says; where it says nothing, what is inside the picture counts.
    """
    is_rated, has_label = _is_rated(says), bool(says.label)
    needs_more = (stars is not None and not is_rated) or (label is not None and not has_label)
    inside = _inside(picture) if needs_more else XmpRating()
    given = []
    if stars is not None and (is_rated or _is_rated(inside)):
        stars, rated = None, says if is_rated else inside
        text = f"is rated {rated.unusable!r}" if rated.stars is None else f"has {stars_text(rated.stars)}"
        given.append(f"{there if is_rated else picture} {text}")
    if label is not None and (has_label or inside.label):
        label = None
        given.append(f"{there if has_label else picture} has the label {says.label or inside.label!r}")
    if stars is None and label is None:
        raise Refused("rated", ", ".join(given))
    return stars, label


def _is_rated(says: XmpRating) -> bool:
    """Whether somebody has rated: stars, rejected, or something that is no number; 0 is unrated."""
    return says.stars not in (None, UNRATED) or says.unusable is not None


class SidecarAct(Act):
    """Stars that are written; without a journal to write into they are only looked at."""

    planner: SidecarPlanner

    def _planner(self) -> SidecarPlanner:
        return SidecarPlanner(self.job, self.state)

    def _plan(self, rows: pa.Table) -> list[Planned]:
        self.planner.want(rows)
        return self.planner.plan(self.job.located(rows, with_belongings=False))

    def _make(self, intent: Intent, data: bytes | None) -> Made:
        del data
        return sidecar.write(intent, self.state.run)

    def _finish(self, intent: Intent) -> Made:
        if self.log is not None:
            files.remove_temporary(intent, self.state.run)
        made = sidecar.made_before(intent)
        if made is None:
            files.check_source(intent, follow=intent.source != intent.target)
            raise NotYet
        return made


class SidecarRehearsal(SidecarAct, Rehearsal):
    """A dry run: as if every sidecar could be written."""

    def _text(self, intent: Intent) -> str:
        change = intent.change
        assert change is not None
        gets = [] if change.stars is None else [stars_text(change.stars)]
        gets += [] if change.label is None else [f"label {change.label}"]
        return f"{shown_path(intent.target)}: {', '.join(gets)}{' (new)' if change.splice is None else ''}"
