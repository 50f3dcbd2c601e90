"""Simulacra Aesthetic Captions: an SQLite file with tables of ratings, images and paths.

The tables are those that https://github.com/JD-P/simulacra-aesthetic-captions publishes: `ratings` (iid, rating, who), `images`
(id, gid, idx) and, where it is there, `paths` (iid, path).
"""

from __future__ import annotations

import contextlib
import math
import sqlite3

import numpy as np
import pyarrow as pa

from beholder.errors import InputError
from beholder.io import locations
from beholder.train.ratings.findings import Findings, number_of
from beholder.train.ratings.means import of_votes
from beholder.train.ratings.options import RatingsOptions
from beholder.train.ratings.ratings import Ratings, Votes

FIRST_BYTES = b"SQLite format 3\0"
_WHO = ("uid", "sid", "user", "user_id", "rater")


def read_simulacra(path: str, options: RatingsOptions) -> Ratings:
    """Ratings of such a file; pictures are named by `paths.path`, without that table by `images.id`. Raises InputError."""
    if not locations.is_local(path):
        raise InputError(f"{path}: an SQLite file is read from this machine only; copy it here")
    address = locations.local_path(path).resolve().as_uri() + "?mode=ro&immutable=1"
    try:
        with contextlib.closing(sqlite3.connect(address, uri=True)) as connection:
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            if not {"ratings", "images"} <= tables:
                raise InputError(
                    f"{path} is an SQLite file with the tables {', '.join(sorted(tables)) or '(none)'}; ratings and images, as "
                    "Simulacra Aesthetic Captions has them, were expected"
                )
            fields = [row[1] for row in connection.execute("PRAGMA table_info(ratings)")]
            if not {"iid", "rating"} <= set(fields):
                raise InputError(f"{path}: its table ratings has no iid and rating; it has {', '.join(fields)}")
            who = next((name for name in _WHO if name in fields), None)
            name, joined = (
                ("p.path", "LEFT JOIN paths AS p ON p.iid = i.id") if "paths" in tables else ("CAST(i.id AS TEXT)", "")
            )
            rater = "'?'" if who is None else f"coalesce(CAST(r.{who} AS TEXT), '?')"
            query = (
                f"SELECT CAST(coalesce({name}, i.id) AS TEXT), {rater}, r.rating FROM ratings AS r "
                f"JOIN images AS i ON i.id = r.iid {joined} ORDER BY r.rowid"
            )
            rows = connection.execute(query).fetchall()
            (total,) = connection.execute("SELECT count(*) FROM ratings").fetchone()
    except (sqlite3.Error, UnicodeError) as error:
        raise InputError(f"{path} cannot be read as SQLite: {error}") from None
    findings = Findings()
    findings.note("unmatched", total - len(rows), f"{number_of(total - len(rows), 'rating')} of no image in the file, left out")
    usable = [row for row in rows if isinstance(row[2], int | float) and math.isfinite(row[2])]
    count = len(rows) - len(usable)
    findings.note("missing", count, f"{number_of(count, 'row')} without a rating {'is' if count == 1 else 'are'} left out")
    if not usable:
        raise InputError(f"{path} holds no ratings of its images")
    samples, raters = (pa.array([row[side] for row in usable], pa.large_string()).dictionary_encode() for side in (0, 1))
    votes = Votes(
        raters=tuple(raters.dictionary.to_pylist()),
        rater=raters.indices.to_numpy().astype(np.int64),
        sample=samples.indices.to_numpy().astype(np.int64),
        value=np.array([row[2] for row in usable], np.float64),
    )
    layout = "a row per rater, tables of Simulacra Aesthetic Captions"
    return of_votes(path, layout, samples.dictionary.cast(pa.large_string()), votes, options, findings)
