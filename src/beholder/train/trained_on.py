"""Which pictures a head was trained on: kept in its record, so that it is not measured on them as if they were new."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from beholder.errors import BeholderError
from beholder.io import locations, storage
from beholder.io.records import json_value
from beholder.train.folds import list_sha256
from beholder.train.ratings.match import Matched
from beholder.train.ratings.ratings import Ratings

MOST = 100_000
"""Hashes that are kept, the smallest: 8 bytes each, as base64 about 1.1 MB."""
KEY = "trained_on"
"""Where it stands in the record of a head."""
_MOST_RECORD = 1 << 28
_HASH = np.dtype(">u8")


@dataclass(frozen=True, kw_only=True)
class TrainedOn:
    """Names of the pictures that a head was fitted to, as hashes.

    Attributes:
        num_pictures: pictures.
        samples_sha256: of the list of their names (`folds.list_sha256`).
        hashes: (H,) uint64, ascending: the first 8 bytes, big-endian, of the SHA-256 of each name; a picture has one by each
            list that names it (the ratings', the embeddings').
        is_whole: whether all hashes are there; else they are the smallest ones.
    """

    num_pictures: int
    samples_sha256: str
    hashes: npt.NDArray[np.uint64]
    is_whole: bool

    @classmethod
    def of(cls, names: Sequence[str], more: Iterable[str] = ()) -> TrainedOn:
        """From the names of pictures, and names that others have for the same ones."""
        both = np.unique(np.concatenate([hashed(names), hashed(list(more))]))
        return cls(
            num_pictures=len(names),
            samples_sha256=list_sha256(names),
            hashes=both[:MOST],
            is_whole=len(both) <= MOST,
        )

    def to_json(self) -> dict[str, Any]:
        """Ready for a record."""
        return {
            "num_pictures": self.num_pictures,
            "samples_sha256": self.samples_sha256,
            "hashes": base64.b64encode(self.hashes.astype(_HASH).tobytes()).decode(),
            "is_whole": self.is_whole,
        }

    def holds(self, hashes: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
        """(N,) which hashes of names are among those that are known."""
        return np.isin(hashes, self.hashes)

    def share(self, hashes: npt.NDArray[np.uint64]) -> float:
        """The share of pictures with these hashes, (N, W) by W names each, that it was trained on.

        Counted; where the smallest hashes alone are known, of the pictures with hashes as small, by the name that finds more.
        """
        if not len(hashes) or not self.hashes.size:
            return 0.0
        if self.is_whole:
            return float(self.holds(hashes).any(axis=1).mean())
        tellable = hashes <= self.hashes[-1]
        found = (self.holds(hashes) & tellable).sum(axis=0) / np.maximum(tellable.sum(axis=0), 1)
        return float(found.max())


def hashed(names: Sequence[str]) -> npt.NDArray[np.uint64]:
    """(N,) the first 8 bytes of the SHA-256 of each name."""
    digests = b"".join(hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()[:8] for name in names)
    return np.frombuffer(digests, _HASH).astype(np.uint64)


def hashes_of(ratings: Ratings, matched: Matched, names: Sequence[str]) -> npt.NDArray[np.uint64]:
    """(N, 2) hashes of the names of N rated pictures, by the ratings and by a source whose matched rows have these names.

    A picture that the source lacks, and one of ratings by place, has that of its other name twice.
    """
    ours = hashed(ratings.samples.to_pylist())
    theirs = ours.copy()
    theirs[matched.places] = hashed(names)
    return np.stack([theirs if ratings.is_by_row else ours, theirs], axis=1)


def known_of(head: Mapping[str, Any]) -> TrainedOn | None:
    """What is known of the pictures that a described head (`Head.describe`, a score set's record) was trained on."""
    source = head.get("source")
    return trained_on(source, head.get("sha256")) if isinstance(source, str) else None


def trained_on(head: str, sha256: str | None) -> TrainedOn | None:
    """What the record beside a head's file says; None where there is none, or it is of another file.

    Args:
        head: the file's path; of a web address nothing is asked.
        sha256: of the head; None: not known.
    """
    if not head.endswith(".safetensors") or locations.is_web(head):
        return None
    path = f"{head.removesuffix('.safetensors')}.json"
    try:
        if not storage.exists(path) or storage.size(path) > _MOST_RECORD:
            return None
        record = json_value(storage.read_range(path, 0, storage.size(path)))
    except (BeholderError, OSError, ValueError):
        return None
    if not isinstance(record, dict) or (sha256 and record.get("sha256") != sha256):
        return None
    return _read(record.get(KEY))


def _read(found: Any) -> TrainedOn | None:
    """As `to_json` wrote it; None for anything else."""
    try:
        hashes = np.frombuffer(base64.b64decode(found["hashes"], validate=True), _HASH).astype(np.uint64)
        return TrainedOn(
            num_pictures=int(found["num_pictures"]),
            samples_sha256=str(found["samples_sha256"]),
            hashes=np.unique(hashes),
            is_whole=bool(found["is_whole"]),
        )
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
