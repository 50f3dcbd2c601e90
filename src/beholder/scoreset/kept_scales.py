"""Where maps between scales are kept, with their head, and which of them translates a threshold.

Those of a head that is a file of one's own lie beside it, in `mine.scales/`; those of all others, public heads and heads with a
name of one's own, in `$BEHOLDER_DATA/scales/NAME/`. A map is known by the weights (sha256) of its heads, not by their names.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from beholder.errors import HeadError, InputError, OutputError
from beholder.io import locations, records, user_folders
from beholder.models import catalog, download
from beholder.models.heads import load_head
from beholder.scoreset.head_key import HeadKey
from beholder.scoreset.scales import SCALE_MAP_FORMAT, ScaleKind, ScaleMap, read_map, write_map
from beholder.scoreset.score_set import ScoreSet, as_score

_FOLDER, _SUFFIX = "scales", ".scales"
RATINGS, PERCENTILES = "ratings", "percentiles"
"""Scales that are of no head, as --scale-of names them."""


def head_of_column(scores: ScoreSet, column: str, told: str | None = None, *, flag: str = "--head") -> HeadKey:
    """The head behind a score column: as the set's record has it, or as the user tells by a flag.

    Raises:
        InputError: nobody says it; the user names another than the set.
        HeadError: the user names one that cannot be loaded.
    """
    known = HeadKey.of_record(scores.head_record(column))
    if told is not None:
        named = head_named(told)
        if known is not None and not named.is_same(known):
            raise InputError(
                f"{scores.source}: the scores {column} are by {known.short}, as the set itself says, not by {told}"
            )
        return named
    if known is None:
        raise InputError(
            f"{scores.source} does not say which head its scores {column} are by, and maps are kept with their head; say it "
            f"with {flag}"
        )
    return known


def head_named(name: str) -> HeadKey:
    """The head of a name, alias or path. Raises HeadError for one that nobody knows, or that is not here."""
    entry = catalog.find(name)
    if entry is not None:
        found = HeadKey.of_record({"name": entry.name})
        assert found is not None
        return found
    found = HeadKey.of_record(load_head(name, offline=True).describe())
    assert found is not None
    own = download.own_file(name)
    return replace(found, place=str(own)) if own is not None else found


def folder_of(head: HeadKey) -> Path:
    """Where the maps of a head are kept."""
    file = _own_file(head)
    return file.with_suffix(_SUFFIX) if file is not None else _data_folder(head.name)


def _data_folder(name: str) -> Path:
    return user_folders.data_folder() / _FOLDER / _as_file_name(name)


def _own_file(head: HeadKey) -> Path | None:
    """The local file of a head that neither the catalogue nor `models add` knows, where it is still the same."""
    if catalog.find(head.name) is not None or not head.place or not locations.is_local(head.place):
        return None
    path = locations.local_path(head.place)
    if _is_added(head) or not path.is_file():
        return None
    return path if download.file_sha256(path) in head.hashes[:1] else None


def _is_added(head: HeadKey) -> bool:
    """Whether a head was read from where `models add` keeps those that it gave a name."""
    folder = download.own_heads_folder().resolve()
    return locations.is_local(head.place) and locations.local_path(head.place).parent.resolve() == folder


def _as_file_name(name: str) -> str:
    """A name as that of a file; names that are no file names get a piece of their hash, so that no two become the same."""
    plain = re.sub(r"[^\w.+-]+", "-", name).strip(".-") or "head"
    return plain if plain == name else f"{plain}-{_piece(name)}"


def _piece(*texts: str) -> str:
    """Eight hex digits that tell these texts from others."""
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:8]


def path_of(head: HeadKey, kind: ScaleKind, onto: HeadKey | None) -> Path:
    """The file of the map of a head onto another one, onto ratings, or onto percentiles: the one that is there, or a new one.

    Several heads may share a folder (`mine.pt` and `mine.safetensors`), so names have a piece of the hash of both heads.
    """
    folder = folder_of(head)
    for path in sorted(folder.glob("*.json")):
        with contextlib.suppress(InputError):
            if _is_between(read_map(str(path)), head, kind, onto):
                return path
    told = [text for one in (head, onto) if one is not None for text in (one.hashes[0] if one.hashes else one.name, "")]
    stem = kind if onto is None else f"onto-{_as_file_name(onto.name)}"
    return folder / f"{stem}-{_piece(*told)}.json"


def _is_between(found: ScaleMap, head: HeadKey, kind: ScaleKind, onto: HeadKey | None) -> bool:
    if found.kind != kind or not found.of.is_same(head):
        return False
    return onto is None or (found.onto is not None and found.onto.is_same(onto))


def keep_map(found: ScaleMap, *, overwrite: bool = False) -> Path:
    """Write a map to where it is kept; returns its file. Raises OutputError where one is there and is not to be replaced."""
    path = path_of(found.of, found.kind, found.onto)
    check_free(path, found.of, found.scale, overwrite=overwrite)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_map(found, str(path))
    return path


def check_free(path: Path, head: HeadKey, scale: str, *, overwrite: bool) -> None:
    """Raise OutputError where a map of these heads is there already."""
    if path.exists() and not overwrite:
        raise OutputError(f"{head.short} has a map onto {scale} already ({path}); use --overwrite to replace it")


def maps_of(head: HeadKey, damaged: list[str]) -> Iterator[ScaleMap]:
    """All whole maps that are kept with a head of this name or place, also those for other weights.

    Args:
        head: the head.
        damaged: a line is added for each file that is no whole map.
    """
    folders = dict.fromkeys([folder_of(head), _data_folder(head.name)])
    for folder in folders:
        for path in sorted(folder.glob("*.json")):
            try:
                found = read_map(str(path))
            except InputError as error:
                damaged.append(str(error))
                continue
            yield found


def scale_records(head: HeadKey, damaged: list[str]) -> list[dict[str, Any]]:
    """The scales onto which a head has maps, as records without their knots; `damaged` as `maps_of` has it."""
    return [found.to_json(is_whole=False) for found in maps_of(head, damaged) if found.of.is_same(head)]


def carry_over(old: HeadKey, new: HeadKey, *, overwrite: bool = False) -> tuple[int, list[str]]:
    """Keep the maps of a head with a copy of it that has another name.

    Returns:
        How many were kept so; and a line for each that could not be: another one is there and `overwrite` is not given, or it
        is damaged.
    """
    lines: list[str] = []
    found = [one for one in maps_of(old, lines) if one.of.is_same(old)]
    kept = 0
    for one in found:
        path = path_of(new, one.kind, one.onto)
        if path.is_file() and not _holds(path, replace(one, of=new)) and not overwrite:
            lines.append(f"its map onto {one.scale} did not go along: another one is there ({path}); --overwrite replaces it")
            continue
        keep_map(replace(one, of=new), overwrite=True)
        kept += 1
    return kept, lines


def _holds(path: Path, wanted: ScaleMap) -> bool:
    """Whether a file holds this very map."""
    try:
        return read_map(str(path)).to_json() == wanted.to_json()
    except InputError:
        return False


def forget_maps(name: str) -> list[Path]:
    """Remove the maps that are kept in the data folder for a head's name, and no other file; returns what is gone."""
    folder, gone = _data_folder(name), []
    for path in sorted(folder.glob("*.json")):
        try:
            is_its = read_map(str(path)).of.name == name
        except InputError:
            is_its = SCALE_MAP_FORMAT.encode() in path.read_bytes()  # damaged, in a folder that is this head's alone
        if is_its:
            path.unlink()
            gone.append(path)
    with contextlib.suppress(OSError):  # something else is in it, or it is not there
        folder.rmdir()
    return gone


@dataclass(frozen=True, kw_only=True)
class Scale:
    """A scale as it was asked for.

    Attributes:
        said: as the user wrote it.
        kind: what it is.
        head: whose scale it is, for the scale of a head.
    """

    said: str
    kind: ScaleKind
    head: HeadKey | None = None

    @classmethod
    def named(cls, said: str) -> Scale:
        """`ratings`, `percentiles`, or a head; one that is not here is known by its name alone."""
        word = said.strip()
        if word in (RATINGS, PERCENTILES):
            return cls(said=word, kind="ratings" if word == RATINGS else "percentiles")
        try:
            head = head_named(word)
        except HeadError:
            head = HeadKey(name=word)
        return cls(said=word, kind="head", head=head)

    def is_of(self, found: ScaleMap) -> bool:
        """Whether a map gives this scale."""
        if self.head is None or found.onto is None:
            return self.kind == found.kind
        return found.onto.is_same(self.head)

    def has_name_of(self, found: ScaleMap) -> bool:
        """Whether a map gives a scale of this name, whatever its weights."""
        return self.kind == found.kind and (found.onto.name if found.onto else "") == (self.head.name if self.head else "")


def find_map(head: HeadKey, scale: Scale, source: str, damaged: list[str] | None = None) -> tuple[ScaleMap, bool]:
    """The map between the scale of a head and another one, and whether it goes from the head to that scale.

    A map of the head itself comes first. One that is kept with the other head and goes the other way is taken where it is a
    quantile map, whose inverse keeps the same shares; the inverse of an isotonic one says what the other head's scores are of
    pictures with a score of this one, which is another question than what is asked (the two lines of a regression).

    Args:
        head: whose scores are to be cut.
        scale: the scale that is asked for.
        source: the scores, for messages.
        damaged: a line is added for each file of a map that is damaged.

    Raises:
        InputError: there is none, or only of other weights, or a damaged one, or an isotonic one of the other direction; the
            scale is the head's own; it is of a head that nobody knows.
    """
    if scale.head is not None and scale.head.is_same(head):
        raise InputError(f"--scale-of {scale.said}: the scores of {source} are on this scale already; leave it out")
    torn: list[str] = [] if damaged is None else damaged
    mine = list(maps_of(head, torn))
    forward = next((one for one in mine if one.of.is_same(head) and scale.is_of(one)), None)
    if forward is not None:
        return forward, True
    theirs = list(maps_of(scale.head, torn)) if scale.head is not None else []
    own = Scale(said=head.short, kind="head", head=head)
    back = [one for one in theirs if scale.head is not None and one.of.is_same(scale.head) and own.is_of(one)]
    for one in back:
        if one.method == "quantile":
            return one, False
    if torn:
        raise InputError(torn[0])
    if back and scale.head is not None:
        raise InputError(
            f"--scale-of {scale.said}: the isotonic map that is kept goes from {scale.head.short} onto {head.short}, and says "
            f"nothing of the other direction; make that one: beholder calibrate {source} --onto SCORES_BY_{scale.head.short}"
        )
    stale = any(scale.has_name_of(one) and one.of.name == head.name for one in mine)
    stale |= any(own.has_name_of(one) and scale.head is not None and one.of.name == scale.head.name for one in theirs)
    raise InputError(_missing(head, scale, source, is_stale=stale))


def _missing(head: HeadKey, scale: Scale, source: str, *, is_stale: bool) -> str:
    """The line that says that there is no map, and which command makes one."""
    if is_stale:
        why = (
            f"the map between {head.short} and {scale.said} was made for other weights of that name (sha256), so it is not used"
        )
    elif scale.head is not None and not scale.head.hashes:
        why = f"there is no head {scale.said}, and no map onto it{_beside(head)}"
        return f"--scale-of {scale.said}: {why}; {catalog.did_you_mean(catalog.suggestions(scale.said))}"
    else:
        why = f"no map between {head.short} and {scale.said} is kept{_beside(head)}"
    name = scale.head.short if scale.head is not None else ""
    onto = {"ratings": "--ratings FILE", "percentiles": "--percentiles"}.get(scale.kind, f"--onto SCORES_BY_{name}")
    return f"--scale-of {scale.said}: {why}; make one: beholder calibrate {source} {onto}"


def _beside(head: HeadKey) -> str:
    """Where maps of a head may lie that was a file of one's own, and is not found from here; "" for others."""
    if catalog.find(head.name) is not None or not head.place or _own_file(head) is not None or _is_added(head):
        return ""
    return f" (those of a head of your own lie beside its file, which is not at {head.place}; --head says where it is)"


@dataclass(frozen=True, kw_only=True)
class Translation:
    """A threshold that was given on another scale than the scores'.

    Attributes:
        flag: the rule's flag.
        given: on the scale that was named; used: on that of the scores, infinite where all stay or none does.
        scale: the scale that was named; head: that of the scores.
        found: the map.
        is_forward: whether it goes from the scores' head to that scale.
    """

    flag: str
    given: float
    used: float
    scale: str
    head: str
    found: ScaleMap
    is_forward: bool

    def __str__(self) -> str:
        """As the summary says it: "5 on laion-v1 is 5.43 on laion-v2 (isotonic, 10,000 pictures, error 0.21)"."""
        used = f"{self.used:.4g}"
        if math.isinf(self.used):
            used = "any score" if (self.used < 0) == (self.flag == "--min-score") else "no score"
        return f"{self.given:.12g} on {self.scale} is {used} on {self.head} ({self.found.how}){self._doubt}"

    @property
    def _doubt(self) -> str:
        """What is to be said of a threshold at an end of what an isotonic map was fitted to; "" elsewhere."""
        few = self.found.num_beyond(self.used) if self.is_forward and math.isfinite(self.used) else None
        if few is None:
            return ""
        return f"; only {few} of the fitted pictures {'lies' if few == 1 else 'lie'} at or beyond it, so little is known there"

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "rule": self.flag.removeprefix("--").replace("-", "_"),
            "given": self.given,
            "scale_of": self.scale,
            "used": records.finite(self.used),
            "is_forward": self.is_forward,
            "map": self.found.to_json(is_whole=False),
        }


def translate(
    found: ScaleMap, *, is_forward: bool, value: float, flag: str, scale: Scale, head: HeadKey, is_strict: bool = False
) -> Translation:
    """A threshold on one scale as a score on that of `head`; infinite where all scores stay, or none does.

    By a map that gives the scale of the threshold: for a lower bound the smallest score whose mapped value is at least (strict:
    above) the threshold, for an upper bound the largest whose mapped value is at most that. By a map that goes the other way:
    what it makes of the threshold.

    Args:
        found: the map.
        is_forward: whether it goes from `head` to the scale of the threshold (`find_map`).
        value: the threshold.
        flag: `--min-score` or `--max-score`.
        scale: that of the threshold.
        head: whose scores are to be cut.
        is_strict: a lower bound keeps only what is above it.

    Raises:
        InputError: the threshold lies outside of what the map was fitted to: nothing is known there.
    """
    low, high = found.steps.value_range if is_forward else found.steps.score_range
    if found.kind == "percentiles":
        low, high = 0.0, 100.0
    wanted, least, most = as_score(value), as_score(low), as_score(high)
    is_beyond = is_strict and is_forward and wanted >= most
    if not least <= wanted <= most or is_beyond:
        raise InputError(
            f"{flag} {value:.12g}: the map between {head.short} and {scale.said} was fitted from {low:.4g} to {high:.4g} on "
            f"{scale.said}, and nothing is known outside; choose a score between them, or calibrate with pictures that reach it"
        )
    if not is_forward:
        used = float(as_score(float(found.steps(wanted))))
        if flag == "--max-score" and wanted == most:
            used = math.inf  # the map's inverse is level beyond its ends
        elif flag == "--min-score" and wanted == least and not is_strict:
            used = -math.inf
    elif flag == "--max-score":
        used = found.steps.largest_within(value)
    else:
        used = found.steps.least_reaching(value, is_strict=is_strict)
    return Translation(
        flag=flag, given=float(value), used=used, scale=scale.said, head=head.short, found=found, is_forward=is_forward
    )
