"""Pictures that hold the same bytes. Only those whose number of bytes another one has are read."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from beholder.locate.archives import Place
from beholder.locate.locate import PictureFinder
from beholder.pixels.picture import PictureError
from beholder.sources.fetch import ReadLimits, read_bytes
from beholder.sources.reader import PictureRef

Numbers = npt.NDArray[np.int64]
Progress = Callable[[int, int], None]
"""Called with what is done and how much it is in all."""
NamedPieces = Callable[[Numbers], Iterator[tuple[Numbers, Sequence[str]]]]
"""Ascending numbers of pictures -> some of them and their samples, until all were given."""

_READERS = 8
_AT_ONCE = 32
"""Pictures whose bytes are held in memory together, where they have no place of their own."""
_UNREAD = -2
"""Stands for the size of a picture that could not be read."""


@dataclass
class Identical:
    """Which of M pictures hold the same bytes.

    Attributes:
        first: (M,) int64: number of the first picture with the same bytes; its own for all others, and for those that could
            not be read.
        num_read: pictures that were read.
        num_unread: pictures that had to be read and could not be.
        example: name of one of these and why.
    """

    first: Numbers
    num_read: int = 0
    num_unread: int = 0
    example: str = ""


def find_identical(finder: PictureFinder, sizes: Numbers, named: NamedPieces, on_progress: Progress) -> Identical:
    """Compare pictures by the bytes of their files: a size that nobody else has settles it, others are read and hashed.

    Args:
        finder: finds their bytes.
        sizes: (M,) bytes of each picture as they were recorded; -1 where that is not known: then it is looked up, and where
            that cannot be, the picture is read.
        named: gives the samples of pictures.
        on_progress: told how many of the pictures that have to be read are read.

    Returns:
        Pictures with equal bytes (SHA-256 and length).

    Raises:
        InputError: it is not clear which folder relative names count from.
    """
    found = Identical(np.arange(len(sizes)))
    sizes = sizes.copy()
    unknown = np.flatnonzero(sizes < 0)
    for numbers, samples in named(unknown):
        for number, place in zip(numbers.tolist(), finder.locate(samples), strict=True):
            sizes[number] = _size_of(place)
    wanted = np.flatnonzero((sizes < 0) | _is_shared(sizes))
    digests: dict[int, tuple[int, bytes]] = {}
    while len(wanted):  # a second time where a picture that was read has another size than was recorded
        total = len(digests) + found.num_unread + len(wanted)
        for numbers, samples in named(wanted):
            for number, digest in _digests_of(finder, numbers.tolist(), samples, found):
                if digest is None:
                    sizes[number] = _UNREAD
                else:
                    digests[number] = digest
                    sizes[number] = digest[0]
                on_progress(len(digests) + found.num_unread, total)
        is_read = np.zeros(len(sizes), np.bool_)
        is_read[list(digests)] = True
        wanted = np.flatnonzero(_is_shared(sizes) & ~is_read)
    firsts: dict[tuple[int, bytes], int] = {}
    for number in sorted(digests):
        found.first[number] = firsts.setdefault(digests[number], number)
    found.num_read = len(digests)
    return found


def _is_shared(sizes: Numbers) -> npt.NDArray[np.bool_]:
    """Whether another picture has the same number of bytes."""
    _, inverse, counts = np.unique(sizes, return_inverse=True, return_counts=True)
    shared: npt.NDArray[np.bool_] = (counts[inverse] > 1) & (sizes >= 0)
    return shared


def _size_of(place: Place) -> int:
    """Bytes of a picture, where they are known without reading it; else -1."""
    file = place.files[0]
    if file.size is not None:
        return file.size
    if file.ref is None or file.ref.error is not None:
        return -1
    if file.ref.data is not None:
        return len(file.ref.data)
    return -1 if file.ref.length is None else file.ref.length


def _digests_of(
    finder: PictureFinder, numbers: Sequence[int], samples: Sequence[str], found: Identical
) -> Iterator[tuple[int, tuple[int, bytes] | None]]:
    """(number, (bytes, SHA-256)) of pictures; None for one that cannot be read, which `found` then counts."""
    places = [replace(place, files=place.files[:1]) for place in finder.locate(samples)]
    with ThreadPoolExecutor(_READERS) as pool:
        for at in range(0, len(places), _AT_ONCE):
            contents = finder.contents(places[at : at + _AT_ONCE])
            for offset, result in enumerate(pool.map(_digest, [files[0][1] for files in contents])):
                if isinstance(result, PictureError):
                    found.num_unread += 1
                    found.example = found.example or f"{samples[at + offset]}: {result}"
                    yield numbers[at + offset], None
                else:
                    yield numbers[at + offset], result


def _digest(ref: PictureRef) -> tuple[int, bytes] | PictureError:
    try:
        data = read_bytes(ref, ReadLimits())
    except PictureError as error:
        return error
    return len(data), hashlib.sha256(data).digest()
