"""Ratings from whatever people hold: which file is of which kind, and who reads it."""

from __future__ import annotations

from dataclasses import replace
from os import PathLike
from typing import Any

import numpy as np
import pyarrow as pa

from beholder.errors import InputError
from beholder.io import locations, storage
from beholder.scoreset.foreign import as_source
from beholder.scoreset.joined import mark_of, read_marks
from beholder.train.ratings import tables
from beholder.train.ratings.findings import Findings
from beholder.train.ratings.folders import liked_and_disliked, read_folders, read_stars
from beholder.train.ratings.histograms import read_histogram
from beholder.train.ratings.layout import HistogramLayout, MeanLayout, layout_of
from beholder.train.ratings.means import decisions, read_array, read_mean
from beholder.train.ratings.options import RatingsOptions
from beholder.train.ratings.other_tools import SQLITE_BYTES, is_label_studio, read_label_studio, read_simulacra
from beholder.train.ratings.pairs import read_pairs
from beholder.train.ratings.ratings import DROP, KEEP, Ratings

_HEAD_BYTES = 1 << 16


def read_ratings(source: str | PathLike[str] | Any, options: RatingsOptions | None = None) -> Ratings:
    """Ratings of pictures, of the kind that the source holds (docs/train.md lists them).

    Args:
        source: a .csv, .tsv, .parquet, .json, .jsonl, .npy, .sqlite or AVA.txt file, local or remote; a glob, or a folder, of
            .csv, .tsv or .parquet files with the same columns; a folder with folders `liked` and `disliked`, or of pictures
            with stars in XMP; or a polars, pandas or Arrow table.
        options: what is not to be found out.

    Returns:
        The ratings, with what was found on the way.

    Raises:
        ChoiceNeededError: several readings are possible; the text says which flag decides.
        InputError: nothing that is understood, or no rating that can be used.
        TypeError: neither a path nor a table.
    """
    options = options or RatingsOptions()
    options.check()
    given, _ = as_source(source, "read_ratings")
    if not isinstance(given, str):
        return _of_table(tables.frame_table(given, "the frame"), options)
    if not given:
        raise InputError("the name of the ratings is empty (an unset variable?)")
    if options.disliked is not None:
        return read_folders(given, options.disliked)
    if storage.is_glob(given) and not (locations.is_local(given) and storage.exists(given)):
        return _of_table(tables.files_table(_matches(given)), options)
    if storage.is_folder(given):
        return _of_folder(given, options)
    if not storage.exists(given):
        raise InputError(f"{given} does not exist; name a file with ratings, or a folder of rated pictures")
    return _of_file(given, options)


def _of_folder(folder: str, options: RatingsOptions) -> Ratings:
    files = storage.list_files(folder)
    if not files:
        raise InputError(f"{folder} is an empty folder; name a file with ratings, or a folder of rated pictures")
    found = [path for path in files if path.lower().endswith((*tables.CSV, *tables.PARQUET))]
    if len(found) == len(files):
        return _of_table(tables.files_table(sorted(found, key=locations.natural_key)), options)
    two = liked_and_disliked(folder, files)
    return read_folders(*two) if two is not None else read_stars(folder, files, options)


def _matches(pattern: str) -> list[str]:
    """The files that a glob names, in natural order. Raises InputError."""
    found = sorted(storage.expand_glob(pattern), key=locations.natural_key)
    if not found:
        raise InputError(f"nothing matches {pattern}")
    other = next((path for path in found if not path.lower().endswith((*tables.CSV, *tables.PARQUET))), None)
    if other is not None:
        raise InputError(f"{other}: of several files only .csv, .tsv and .parquet are read together; name those you mean")
    return found


def _of_file(path: str, options: RatingsOptions) -> Ratings:
    suffix = locations.without_query(path).lower()
    head = storage.read_range(path, 0, _HEAD_BYTES)
    if not head:
        raise InputError(f"{path} is empty (0 bytes); ratings were expected")
    if head.startswith(SQLITE_BYTES):
        return read_simulacra(path, options)
    if suffix.endswith(".npy"):
        return read_array(path, options)
    if suffix.endswith(tables.JSON):
        return _of_json(path, options)
    if suffix.endswith(".txt"):
        return _of_table(tables.ava_table(path), options)
    if suffix.endswith((*tables.CSV, *tables.PARQUET)):
        return _of_table(tables.file_table(path), options)
    raise InputError(
        f"{path}: ratings are read from .csv, .tsv, .parquet, .json, .jsonl, .npy, .sqlite, AVA.txt, or a folder of pictures"
    )


def _of_json(path: str, options: RatingsOptions) -> Ratings:
    first = storage.read_range(path, 0, _HEAD_BYTES).removeprefix(b"\xef\xbb\xbf").split(b"\n", 1)[0]
    try:
        mark_of(first)
    except ValueError:
        pass
    else:
        return _of_marks(path)
    rows = tables.read_json(path)
    if not rows:
        raise InputError(f"{path} holds no rows; a list of objects, or an object a line, was expected")
    if is_label_studio(rows[0]):
        return read_label_studio(rows, path, options)
    return _of_table(tables.objects_table(rows, path), options)


def _of_marks(path: str) -> Ratings:
    """Marks of `beholder browse`; of each picture the last one counts. Raises InputError."""
    marks = read_marks(path)
    if not marks:
        raise InputError(f"{path} holds no marks; mark pictures to keep and to drop in `beholder browse` first")
    values = np.array([KEEP if word == "keep" else DROP for word in marks.values()])
    samples = pa.array(list(marks), pa.large_string())
    found = decisions(path, "marks of `beholder browse`", np.arange(len(marks)), samples, values, Findings())
    return replace(found, has_public_name=False)


def _of_table(table: tables.RatingTable, options: RatingsOptions) -> Ratings:
    layout = layout_of(table, options)
    if isinstance(layout, HistogramLayout):
        return read_histogram(table, layout, options)
    return read_mean(table, layout, options) if isinstance(layout, MeanLayout) else read_pairs(table, layout, options)
