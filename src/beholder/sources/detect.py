"""A quick look at sources: whether they are pictures or embeddings, told by listings, first bytes, and columns of tables."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa

from beholder.errors import ChoiceNeededError, InputError
from beholder.io import storage
from beholder.io.tables import JSON_SUFFIXES, read_head
from beholder.notices import say
from beholder.pixels.picture import SourceOptions
from beholder.sources.column_choice import PATH_NAMES, Columns, are_dimensions, is_list, looks_like_place
from beholder.sources.file_kinds import (
    MOST_LOOKED_AT,
    OTHER_SUFFIXES,
    PARQUET_SUFFIXES,
    PICTURE_SUFFIXES,
    RANGE,
    TABLE_SUFFIXES,
    compression_of,
    first_line,
    head_of,
    is_picture_text,
    is_tar_name,
    kind_of_bytes,
    kind_of_head,
    names_pictures,
    suffix_of,
)
from beholder.sources.folder import is_result_file, is_result_folder, scan_remote, suffix_of_bytes
from beholder.sources.json_lines import first_rows, vector_fields
from beholder.sources.parquet import columns_of_parquet

Kind = Literal["pictures", "embeddings"]
_MOST_ENTRIES = 200_000
_CSV_LOOK_BYTES = 1 << 16
_MANY_COLUMNS = 64
"""A table with so many columns of floats is one of embeddings."""
_LEAST_DIM = 64
"""Shorter lists of numbers beside pictures are boxes, points, colours; no tower gives so few."""
_VECTOR_NAMES = ("emb", "feature", "vector", "clip", "latent", "repr")
_TEXT_NAMES = ("text", "caption", "prompt", "txt", "tag")
"""Columns with vectors of these names are about the pictures' words."""


def detect(
    sources: Sequence[str],
    options: SourceOptions,
    embedding_column: str | None = None,
    *,
    wants_pictures: bool = False,
) -> Kind | None:
    """What the first of `sources` that tells anything is; None where none does.

    Cheap: a few listings, first bytes, and schemas. What is not there or cannot be read tells nothing: the reader of
    embeddings, which knows more about files of numbers, says what is wrong.

    Args:
        sources: as `sources.find.find_pictures` and `sources.find.find_parts` take them.
        options: the picture column that the user named decides for pictures.
        embedding_column: the one that the user named decides, in tables, for embeddings.
        wants_pictures: a table that holds pictures and vectors is one of pictures.

    Raises:
        ChoiceNeededError: a table can be read in several ways, or has pictures in a form that is not read.
    """
    if options.picture_column is not None:
        return "pictures"
    look = _Look(options, embedding_column, wants_pictures)
    for source in sources:
        try:
            storage.forget_listings(source)
            told = look.at(source)
        except ChoiceNeededError:
            raise
        except (InputError, OSError, RuntimeError):  # RuntimeError: a home folder that is not known
            return None
        if told is not None:
            return told
    return None


@dataclass(frozen=True)
class _Look:
    """Looks at sources; `embedding_column` as the user named it."""

    options: SourceOptions
    embedding_column: str | None
    wants_pictures: bool = False

    def at(self, source: str, depth: int = 0) -> Kind | None:
        """What one source is; None when it does not tell."""
        source = source.rstrip("/") if len(source) > 1 else source
        if RANGE.search(source) and not (storage.is_local(source) and storage.exists(source)):
            source = RANGE.sub(lambda found: found[1], source)
        if storage.is_glob(source):
            notes = {"txt", *JSON_SUFFIXES} - {suffix_of(source)}  # beside what else matches, unless the pattern asks for them
            matches = [path for path in storage.expand_glob(source) if suffix_of(path) not in notes]
            matches = sorted(matches, key=storage.natural_key)[:MOST_LOOKED_AT]
            return next((told for path in matches if (told := self.at(path, depth)) is not None), None)
        if suffix_of(source) == "txt":
            if depth > 3:
                return None
            entry = first_line(source)
            return None if entry is None else "pictures" if names_pictures(entry) else self.at(entry, depth + 1)
        if storage.is_local(source):
            if storage.is_folder(source):
                return self.into_folder(str(storage.local_path(source)))
            return self.into_file(source) if storage.local_path(source).is_file() else "embeddings"
        if suffix_of(source) in PICTURE_SUFFIXES or is_tar_name(source):
            return "pictures"
        if not suffix_of(source) and storage.is_folder(source):
            return self.into_remote_folder(source)
        return self.into_file(source)

    def into_remote_folder(self, source: str) -> Kind:
        """What a remote folder holds, by its listing and one of its archives."""
        if is_result_folder(source):
            return "embeddings"
        listing, root = scan_remote(source)
        if len(listing.names) or listing.tars:
            return "pictures"
        archives = (listing.parquets or listing.zips)[:1]
        return "embeddings" if listing.has_arrays or not archives else self.into_file(root + archives[0])

    def into_file(self, path: str) -> Kind:
        """What a file is, by its first bytes, then by its suffix."""
        head = head_of(path)
        kind, suffix = kind_of_bytes(head), suffix_of(path)
        if kind in ("files", "tar"):
            return "pictures"
        if kind == "parquet":
            return self.into_parquet(path)
        if kind == "zip":
            return "pictures" if suffix not in ("npz", "pt", "pth") and _zip_has_pictures(path) else "embeddings"
        if head.startswith(b"\x93NUMPY"):
            return "embeddings"
        if suffix in PICTURE_SUFFIXES or is_tar_name(path):
            return "pictures"
        if suffix in TABLE_SUFFIXES and not compression_of(head):
            return self.into_json(path) if suffix in JSON_SUFFIXES else _into_csv(path, self.embedding_column)
        return "embeddings"

    def into_parquet(self, path: str) -> Kind:
        """What a Parquet file holds: pictures, or their places, or vectors, or both."""
        if self.embedding_column is not None:
            return "embeddings"
        with storage.remote_errors(path), storage.open_parquet(path, streamed=True) as file:
            schema = file.schema_arrow
            vectors = {} if _is_wide(schema) else _vectors(file, schema)
        try:
            columns, _ = columns_of_parquet(path, self.options)
        except ChoiceNeededError:
            if (vectors and not self.wants_pictures) or _is_wide(schema):
                return "embeddings"
            raise
        except InputError:
            return "embeddings"
        if _is_wide(schema):
            return "embeddings" if columns.kind == "table" or are_dimensions(_floats(schema)) else "pictures"
        return self.of_both(columns, vectors, path) if vectors else "pictures"

    def into_json(self, path: str) -> Kind:
        """What JSON lines hold, by the first rows."""
        if self.embedding_column is not None:
            return "embeddings"
        rows = first_rows(path)
        keys = list(dict.fromkeys(key for row in rows for key in row))
        places = [key for key in keys if any(_is_place(key, row.get(key)) for row in rows[:MOST_LOOKED_AT])]
        vectors = vector_fields(rows)
        if places and vectors:
            written = any(isinstance(row.get(places[0]), str) and is_picture_text(row[places[0]]) for row in rows)
            return self.of_both(Columns("parquet" if written else "table", places[0], False, None), vectors, path)
        return "pictures" if places and not are_dimensions(keys) else "embeddings"

    def into_folder(self, folder: str) -> Kind | None:
        """Pictures or tars anywhere below say yes; else a Parquet file or zip is looked into, if there are no arrays."""
        if is_result_folder(folder):
            return "embeddings"
        archives: list[str] = []
        has_arrays, num_unknown = False, 0
        for number, path in enumerate(_files_below(os.fsencode(folder))):
            name, suffix = os.fsdecode(path), suffix_of_bytes(path.rsplit(b"/", 1)[-1]).decode("ascii", "replace")
            if suffix in PICTURE_SUFFIXES or is_tar_name(name):
                return "pictures"
            if suffix in ("npy", "npz"):
                has_arrays = True
            elif suffix in (*PARQUET_SUFFIXES, "zip"):
                archives.append(name)
            elif suffix not in OTHER_SUFFIXES and num_unknown < MOST_LOOKED_AT:
                num_unknown += 1
                if kind_of_head(name) == "files":
                    return "pictures"
            if number > _MOST_ENTRIES:
                return None
        if has_arrays:
            return "embeddings"
        archives = [path for path in sorted(archives, key=storage.natural_key) if not is_result_file(path)]
        return "pictures" if any(self.into_file(path) == "pictures" for path in archives[:4]) else "embeddings"

    def of_both(self, columns: Columns, vectors: dict[str, int], path: str) -> Kind:
        """What a table with pictures (or their places) and vectors is. Raises ChoiceNeededError."""
        about = {name: dim for name, dim in vectors.items() if not any(word in name.lower() for word in _TEXT_NAMES)}
        named = [name for name in about if any(word in name.lower() for word in _VECTOR_NAMES)]
        long = [name for name, dim in about.items() if dim >= _LEAST_DIM]
        if columns.kind == "table":
            return "embeddings" if named or long else "pictures"
        if self.wants_pictures:
            return "pictures"
        if named:
            say(
                f"{path} holds embeddings (column {named[0]!r}) and pictures; the embeddings are scored "
                f"(--picture-column {columns.picture}: the pictures)"
            )
            return "embeddings"
        if long:
            raise ChoiceNeededError(
                f"{path} holds pictures (column {columns.picture!r}) and vectors of {about[long[0]]} numbers "
                f"(column {long[0]!r}); say which are to be scored: "
                f"--picture-column {columns.picture} or --embedding-column {long[0]}"
            )
        return "pictures"


def _floats(schema: pa.Schema) -> list[str]:
    return [field.name for field in schema if pa.types.is_floating(field.type)]


def _is_wide(schema: pa.Schema) -> bool:
    """Whether a table has a column per dimension: many of floats, fewer if they are numbered."""
    floats = _floats(schema)
    return len(floats) >= _MANY_COLUMNS or are_dimensions(floats)


def _vectors(file: Any, schema: pa.Schema) -> dict[str, int]:
    """Columns of lists of floats (or tensors), and how long the first one is; 0 where none is there."""
    found = {}
    for field in schema:
        kind = field.type.storage_type if isinstance(field.type, pa.BaseExtensionType) else field.type
        if not is_list(kind) or not pa.types.is_floating(kind.value_type):
            continue
        if pa.types.is_fixed_size_list(kind):
            found[field.name] = kind.list_size
            continue
        batch = next(file.iter_batches(batch_size=16, columns=[field.name]), None)
        values = [] if batch is None else batch.column(0).to_pylist()
        found[field.name] = next((len(value) for value in values if value), 0)
    return found


def _zip_has_pictures(path: str) -> bool:
    from beholder.sources.zip import is_numpy, open_zip

    with storage.remote_errors(path), storage.open_binary(path) as file:
        archive = open_zip(path, file)
        return not is_numpy(archive) and any(suffix_of(name) in PICTURE_SUFFIXES for name in archive.namelist())


def _is_place(name: str, value: object) -> bool:
    """Whether a value of a table is a picture's place, in a column of a usual name, or a picture as text in any."""
    if not isinstance(value, str):
        return False
    return looks_like_place(value) if name.lower() in PATH_NAMES else is_picture_text(value)


def _into_csv(path: str, embedding_column: str | None) -> Kind:
    """Pictures: a header has a column for places, the first rows hold some, and none is for dimensions."""
    if embedding_column is not None:
        return "embeddings"
    head, _ = read_head(path, _CSV_LOOK_BYTES)
    lines = head.decode("utf-8-sig", "replace").splitlines()[:MOST_LOOKED_AT]
    try:
        rows = list(csv.reader(lines, delimiter="\t" if suffix_of(path) == "tsv" else ","))
    except csv.Error:
        return "embeddings"
    if not rows or are_dimensions(rows[0]):
        return "embeddings"
    cells = ((name, value) for row in rows[1:] for name, value in zip(rows[0], row, strict=False))
    return "pictures" if any(_is_place(name, value) for name, value in cells) else "embeddings"


def _files_below(folder: bytes) -> Iterator[bytes]:
    """Regular files, each folder's own ones first; results of earlier runs and hidden names are left out."""
    stack = [folder]
    while stack:
        here = stack.pop()
        below = []
        with os.scandir(here) as entries:
            for entry in entries:
                if storage.is_ignored_name(entry.name):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    below.append(entry.path)
                elif _is_regular(entry):
                    yield entry.path
        stack += [path for path in below if not is_result_folder(os.fsdecode(path))]


def _is_regular(entry: os.DirEntry[bytes]) -> bool:
    try:
        return entry.is_file()
    except OSError:  # a link in circles
        return False
