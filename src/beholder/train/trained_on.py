"""Which pictures a head was trained on: kept in its record, so that it is not measured on them as if they were new."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from beholder.errors import BeholderError
from beholder.io import locations
from beholder.models import catalog, download
from beholder.models.head_record import record_of
from beholder.scoreset.head_key import HeadKey
from beholder.scoreset.kept_scales import head_named
from beholder.train.folds import list_sha256
from beholder.train.ratings.match import Matched
from beholder.train.ratings.ratings import Ratings
from beholder.train.ratings.rows import Mask
from beholder.train.rows import Rows
from beholder.train.sketches import Sketched, is_among

MOST = 100_000
"""Hashes that are kept, the smallest: 8 bytes each, as base64 about 1.1 MB; and as many sketches."""
KEY = "trained_on"
"""Where it stands in the record of a head."""
_HASH = np.dtype(">u8")
_PLACE = re.compile(r"#[0-9]+\Z")
"""What ends a name that is a place in a file: `e.npy#5` is another picture in another file of that name."""

Hashes = npt.NDArray[np.uint64]


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """By what N pictures are known.

    Attributes:
        hashes: (N, W) uint64 of the W names of each (`hashed`).
        is_place: (N, W) whether the name is a place in a file.
        sketched: of their embeddings; None: there are none.
    """

    hashes: Hashes
    is_place: Mask
    sketched: Sketched | None = None

    @classmethod
    def named(cls, *names: Sequence[str]) -> Pictures:
        """N pictures by W lists of their names."""
        places = [np.array([_PLACE.search(name) is not None for name in some], np.bool_) for some in names]
        return cls(hashes=np.stack([hashed(some) for some in names], axis=1), is_place=np.stack(places, axis=1))

    def at(self, rows: Rows) -> Pictures:
        """Some of them."""
        some = None if self.sketched is None else self.sketched.at(rows)
        return Pictures(hashes=self.hashes[rows], is_place=self.is_place[rows], sketched=some)


@dataclass(frozen=True, kw_only=True)
class TrainedOn:
    """By what the pictures are known that a head was fitted to.

    Attributes:
        num_pictures: pictures.
        samples_sha256: of the list of their names (`folds.list_sha256`).
        hashes: (H,) uint64, ascending: the first 8 bytes, big-endian, of the SHA-256 of each name; a picture has one by each
            list that names it (the ratings', the embeddings').
        is_whole: whether all hashes and sketches are there; else they are the smallest ones.
        kept: sketches of their embeddings, ascending, each once; None in records of earlier versions.
    """

    num_pictures: int
    samples_sha256: str
    hashes: Hashes
    is_whole: bool
    kept: Sketched | None = None

    @classmethod
    def of(cls, names: Sequence[str], more: Iterable[str] = (), sketched: Sketched | None = None) -> TrainedOn:
        """From the names of pictures, names that others have for the same ones, and their embeddings."""
        both, kept, num_sketches = np.unique(np.concatenate([hashed(names), hashed(list(more))])), None, 0
        if sketched is not None:
            sketches = np.unique(sketched.sketches[sketched.has_one])
            num_sketches = len(sketches)
            kept = Sketched.whole(sketches[:MOST], sketched.dim, sketched.backbone)
        return cls(
            num_pictures=len(names),
            samples_sha256=list_sha256(names),
            hashes=both[:MOST],
            is_whole=max(len(both), num_sketches) <= MOST,
            kept=kept,
        )

    def to_json(self) -> dict[str, Any]:
        """Ready for a record."""
        return {
            "num_pictures": self.num_pictures,
            "samples_sha256": self.samples_sha256,
            "hashes": _as_text(self.hashes),
            "is_whole": self.is_whole,
        } | (
            {}
            if self.kept is None
            else {"sketches": _as_text(self.kept.sketches), "dim": self.kept.dim, "backbone": self.kept.backbone}
        )

    def holds(self, hashes: Hashes) -> Mask:
        """Which hashes of names are among those that are known; of the same shape."""
        return np.isin(hashes, self.hashes)

    def seen(self, pictures: Pictures) -> Mask:
        """(N,) which pictures it was trained on, as far as that is known.

        By their embeddings, in whatever file, and by their names; a name that is a place in a file counts only where the
        embeddings cannot tell.
        """
        named = self.holds(pictures.hashes) & ~self._is_doubted(pictures)
        return np.asarray(named.any(axis=1) | self._is_sketched(pictures))

    def by_place(self, pictures: Pictures) -> Mask:
        """(N,) which of those `seen` are known by names alone that are places in a file."""
        sure = self.holds(pictures.hashes) & ~pictures.is_place
        return self.seen(pictures) & ~sure.any(axis=1) & ~self._is_sketched(pictures)

    def share(self, pictures: Pictures) -> float:
        """The share of the pictures that it was trained on.

        Counted; where the smallest hashes alone are known, of the pictures with hashes as small, by the name that finds more,
        or by the embeddings where they do.
        """
        if not len(pictures.hashes) or not self.hashes.size:
            return 0.0
        if self.is_whole:
            return float(self.seen(pictures).mean())
        shares = _shares(self.holds(pictures.hashes) & ~self._is_doubted(pictures), pictures.hashes <= self.hashes[-1])
        if self.kept is not None and self.kept.sketches.size and pictures.sketched is not None:
            small = self._can_tell(pictures) & (pictures.sketched.sketches <= self.kept.sketches[-1])
            shares = np.append(shares, _shares(self._is_sketched(pictures)[:, None], small[:, None]))
        return float(shares.max())

    def _can_tell(self, pictures: Pictures) -> Mask:
        """(N,) of which pictures embeddings are known that may be compared with those of the training."""
        kept, asked = self.kept, pictures.sketched
        if kept is None or asked is None or not asked.is_of(kept.dim, kept.backbone):
            return np.zeros(len(pictures.hashes), np.bool_)
        return asked.has_one

    def _is_doubted(self, pictures: Pictures) -> Mask:
        """(N, W) names that are places in a file, of pictures whose embeddings tell."""
        return pictures.is_place & self._can_tell(pictures)[:, np.newaxis]

    def _is_sketched(self, pictures: Pictures) -> Mask:
        """(N,) pictures whose embeddings are among those of the training."""
        can_tell = self._can_tell(pictures)
        found = np.zeros(len(can_tell), np.bool_)
        if self.kept is not None and pictures.sketched is not None and can_tell.any():
            found[can_tell] = is_among(pictures.sketched.sketches[can_tell], self.kept.sketches)
        return found


@dataclass(frozen=True, kw_only=True)
class Seen:
    """Which of N pictures a head was trained on.

    Attributes:
        name: the head's.
        known: what its record says.
        pictures: the N ones.
    """

    name: str
    known: TrainedOn
    pictures: Pictures

    def at(self, rows: Rows) -> Seen:
        """Of some of them."""
        return replace(self, pictures=self.pictures.at(rows))

    def with_sketches(self, sketched: Sketched | None) -> Seen:
        """The same with sketches of the pictures' embeddings."""
        return replace(self, pictures=replace(self.pictures, sketched=sketched))

    def surely(self) -> Mask:
        """(N,) which; none where only a part of those of the training is known."""
        return self.known.seen(self.pictures) if self.known.is_whole else np.zeros(len(self.pictures.hashes), np.bool_)

    def share(self) -> float:
        """The share of the pictures that it was trained on."""
        return self.known.share(self.pictures)

    def lines_by_place(self, way: str) -> list[str]:
        """What to say of pictures that count by names alone that are places in a file; nothing where there are none.

        `way`: how embeddings of them are named to this command.
        """
        count = int(np.count_nonzero(self.known.by_place(self.pictures)))
        if not count:
            return []
        if self.known.kept is None:
            old = "since its record is of an earlier version that kept no sketches of embeddings"
            way = f"train {self.name} again, {old}, and {way}"
        return [
            f"{count:,} of {len(self.pictures.hashes):,} pictures count as those that {self.name} was trained on by their "
            "names alone, which are places in a file, and other pictures in another file of that name; to tell by their "
            f"embeddings, {way}."
        ]


def not_near(is_out: Mask, near: Rows | None) -> Rows:
    """Places of the pictures that are not out (N,), nor near-duplicates of such, by pairs (P, 2) of their places."""
    out = is_out.copy()
    if near is not None:
        out[near[is_out[near].any(axis=1)]] = True
    return np.flatnonzero(~out)


def share_in_words(share: float) -> str:
    """A share of pictures, as it stands before `of`."""
    return "all" if share == 1 else f"about {100 * share:.0f} %" if share >= 0.01 else "some"


def lost_line(name: str, file: str, way: str) -> str:
    """What to say of a head whose file is lost (`lost_file`), and what to do about it."""
    return (
        f"{name}: its file {file} is not there, or is another by now, so pictures that it was trained on are not known "
        f"and not left out; {way}."
    )


def _shares(found: Mask, can_tell: Mask) -> npt.NDArray[np.float64]:
    """(W,) of the (N, W) of which something can be told, the share that is found."""
    return np.asarray((found & can_tell).sum(axis=0) / np.maximum(can_tell.sum(axis=0), 1), np.float64)


def hashed(names: Sequence[str]) -> Hashes:
    """(N,) the first 8 bytes of the SHA-256 of each name."""
    digests = b"".join(hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()[:8] for name in names)
    return np.frombuffer(digests, _HASH).astype(np.uint64)


def pictures_of(ratings: Ratings, matched: Matched, names: Sequence[str]) -> Pictures:
    """N rated pictures by the names of the ratings and of a source whose matched rows have these names.

    A picture that the source lacks, and one of ratings by place, has that of its other name twice.
    """
    ours = ratings.samples.to_pylist()
    theirs = list(ours)
    for place, name in zip(matched.places.tolist(), names, strict=True):
        theirs[place] = name
    return Pictures.named(theirs if ratings.is_by_row else ours, theirs)


def known_of(head: HeadKey | None, *named: HeadKey | None) -> TrainedOn | None:
    """What is known of the pictures that a head was trained on.

    Args:
        head: as a score set's record or its own file has it: its place may be a path that holds in another folder.
        named: heads that a user named; where they are the same weights, the records beside their files count first.
    """
    for place, hashes in _places(head, named):
        found = trained_on(place, hashes)
        if found is not None:
            return found
    return None


def lost_file(head: HeadKey | None, *named: HeadKey | None) -> str | None:
    """The file of a head of one's own, with a record perhaps, that is not where it was, nor anywhere else as it was; or None.

    Args: as `known_of`.
    """
    if head is None or not head.place.endswith(".safetensors") or not locations.is_local(head.place):
        return None
    return None if any(_is_file(place, hashes) for place, hashes in _places(head, named)) else head.place


def keys_of(names: Iterable[str]) -> list[HeadKey]:
    """The heads of one's own that these names or paths mean, and that are files here."""
    files = [download.own_file(name) for name in names if catalog.find(name) is None]
    return [key for file in files if file is not None and (key := _key(file)) is not None]


def _key(file: Path) -> HeadKey | None:
    try:
        return head_named(str(file))
    except BeholderError:  # whoever loads it says what is wrong
        return None


def _is_file(place: str, hashes: Collection[str]) -> bool:
    if not locations.is_local(place):
        return False
    path = locations.local_path(place)
    return path.is_file() and (not hashes or download.file_sha256(path) in hashes)


def _places(head: HeadKey | None, named: Iterable[HeadKey | None]) -> list[tuple[str, tuple[str, ...]]]:
    """Where the file of a head may be, the surest place first, and the sha256 by which it would be known there."""
    if head is None:
        return []
    added = download.locate_own(head.name) if head.place else None
    others = [*named, None if added is None else _key(added)]
    same = [one for one in others if one is not None and one.hashes and head.hashes and one.is_same(head)]
    return [(one.place, one.hashes) for one in [*same, head] if one.place]


def trained_on(head: str, hashes: Collection[str] = ()) -> TrainedOn | None:
    """What the record beside a head's file says; None where there is none, or it is of another file (`record_of`)."""
    record = record_of(head, hashes)
    return None if record is None else _read(record.get(KEY))


def _as_text(numbers: Hashes) -> str:
    return base64.b64encode(numbers.astype(_HASH).tobytes()).decode()


def _as_numbers(text: Any) -> Hashes:
    """Ascending, each once. Raises TypeError and ValueError for what `_as_text` did not write."""
    return np.unique(np.frombuffer(base64.b64decode(text, validate=True), _HASH).astype(np.uint64))


def _read(found: Any) -> TrainedOn | None:
    """As `to_json` wrote it; None for anything else."""
    try:
        kept = None
        if "sketches" in found:
            backbone = found.get("backbone")
            kept = Sketched.whole(
                _as_numbers(found["sketches"]),
                int(found["dim"]),
                backbone if isinstance(backbone, str) else None,
            )
        return TrainedOn(
            num_pictures=int(found["num_pictures"]),
            samples_sha256=str(found["samples_sha256"]),
            hashes=_as_numbers(found["hashes"]),
            is_whole=bool(found["is_whole"]),
            kept=kept,
        )
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError):
        return None
