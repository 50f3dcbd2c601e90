"""What an act writes into one XMP sidecar, with all that takes it back: part of the sidecar's line in the journal."""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass
from functools import cache
from typing import Any

from beholder.io.xmp import MOST_STARS, REJECTED, with_rating


@dataclass(frozen=True, slots=True)
class Splice:
    """Bytes that take the place of others, so that either file can be made of the other one.

    Attributes:
        at: where the two files begin to differ.
        old, new: what stands there before and after.
        sha256: of the file before.
    """

    at: int
    old: bytes
    new: bytes
    sha256: str

    @classmethod
    def between(cls, before: bytes, after: bytes) -> Splice:
        """The one that makes `after` of `before`: all between what they have in common at both ends."""
        at = _num_common(before, after)
        end = _num_common(before[at:][::-1], after[at:][::-1])
        return cls(at, before[at : len(before) - end], after[at : len(after) - end], sha256(before))

    def forward(self, before: bytes) -> bytes:
        """The file after, of the one before."""
        return before[: self.at] + self.new + before[self.at + len(self.old) :]

    def backward(self, after: bytes) -> bytes:
        """The file before, of the one after."""
        return after[: self.at] + self.old + after[self.at + len(self.new) :]


@dataclass(frozen=True, slots=True)
class SidecarChange:
    """A rating, a label, or both, that are written into a sidecar.

    Attributes:
        stars: -1 (rejected) to 5; None where that is not written.
        label: None where that is not written.
        sha256: of the sidecar with them.
        splice: how the one that was there is changed; None where there was none.
    """

    stars: int | None
    label: str | None
    sha256: str
    splice: Splice | None = None

    @classmethod
    def of(cls, before: bytes | None, stars: int | None, label: str | None, named: str) -> tuple[SidecarChange, int]:
        """The change of a sidecar (None: a new one), and its bytes then. Raises InputError, OutputError as `with_rating`."""
        after = _new_sidecar(stars, label) if before is None else with_rating(before, stars, label, named)
        splice = None if before is None else Splice.between(before, after)
        return cls(stars, label, sha256(after), splice), len(after)

    def new(self, before: bytes | None) -> bytes:
        """The sidecar with it, of the one before."""
        if self.splice is not None and before is not None:
            return self.splice.forward(before)
        return _new_sidecar(self.stars, self.label)

    def to_json(self) -> dict[str, Any]:
        """What its line holds."""
        said: dict[str, Any] = {"stars": self.stars, "label": self.label, "sha256": self.sha256}
        if self.splice is not None:
            old, new = (base64.b64encode(piece).decode() for piece in (self.splice.old, self.splice.new))
            said["was"] = [self.splice.at, old, new, self.splice.sha256]
        return said

    @classmethod
    def from_json(cls, said: dict[str, Any]) -> SidecarChange:
        """The change of a line. Raises KeyError, TypeError, ValueError for what is none."""
        stars, label, digest, was = said["stars"], said["label"], said["sha256"], said.get("was")
        is_one = (stars is None or (type(stars) is int and REJECTED <= stars <= MOST_STARS)) and type(digest) is str
        if not is_one or not (label is None or type(label) is str):
            raise TypeError
        if was is None:
            return cls(stars, label, digest)
        at, old, new, before = was
        if type(at) is not int or at < 0 or type(before) is not str:
            raise TypeError
        pieces = base64.b64decode(old, validate=True), base64.b64decode(new, validate=True)
        return cls(stars, label, digest, Splice(at, *pieces, before))

    @classmethod
    def is_one(cls, said: Any) -> bool:
        """Whether that is what a line may hold."""
        try:
            cls.from_json(said)
        except (AttributeError, KeyError, TypeError, ValueError, binascii.Error):
            return False
        return True


@cache
def _new_sidecar(stars: int | None, label: str | None) -> bytes:
    """A sidecar where there was none; there are as many as stars and labels together."""
    return with_rating(None, stars, label)


def _num_common(one: bytes, other: bytes) -> int:
    """How many first bytes are the same."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if one[low:middle] == other[low:middle] else (low, middle - 1)
    return low


def sha256(data: bytes) -> str:
    """64 hex digits."""
    return hashlib.sha256(data).hexdigest()
