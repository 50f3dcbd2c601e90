"""Tells whether sources are pictures or embeddings, by listings, first bytes, and columns of tables."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Literal

import pyarrow as pa

from beholder.errors import ChoiceNeededError, InputError
from beholder.io import storage
from beholder.io.tables import JSON_SUFFIXES, read_head
from beholder.notices import say
from beholder.sources.column_choice import (
    PATH_NAMES,
    Columns,
    are_dimensions,
    float_columns,
    is_list,
    is_wide,
    looks_like_place,
)
from beholder.sources.file_kinds import (
    MOST_LOOKED_AT,
    PICTURE_SUFFIXES,
    RANGE,
    TABLE_SUFFIXES,
    compression_of,
    first_line,
    head_of,
    is_picture_text,
    is_tar_name,
    kind_of_bytes,
    names_pictures,
    suffix_of,
)
from beholder.sources.folder import Listing, is_result_file, is_result_folder, prefix_of, scan_local, scan_remote
from beholder.sources.json_lines import first_rows, vector_fields
from beholder.sources.parquet import columns_in
from beholder.sources.reader import SourceOptions

Kind = Literal["pictures", "embeddings"]
_CSV_LOOK_BYTES = 1 << 16
_LEAST_DIM = 64
"""Shorter lists of numbers beside pictures are boxes, points, colours; no tower gives so few."""
_VECTOR_NAMES = ("emb", "feature", "vector", "clip", "latent", "repr")
_TEXT_NAMES = ("text", "caption", "prompt", "txt", "tag")
"""Columns with vectors of these names are about the pictures' words."""
_MOST_LISTS = 3
"""Lists may name lists so deep."""


class Look:
    """What is at a path; each question is asked of the disk or the server once.

    Attributes:
        path: as it is opened.
        suffix: as `suffix_of` has it.
        is_local: whether it is on this machine.
    """

    def __init__(self, path: str) -> None:
        self.path, self.suffix, self.is_local = path, suffix_of(path), storage.is_local(path)

    @cached_property
    def is_folder(self) -> bool:
        """Whether it is a folder, or on a server something below which there are files."""
        return storage.is_folder(self.path)

    @cached_property
    def is_file(self) -> bool:
        """Whether it is a regular file of this machine."""
        return self.is_local and storage.local_path(self.path).is_file()

    @cached_property
    def head(self) -> bytes:
        """The first bytes of a file. Raises InputError."""
        return head_of(self.path)

    @cached_property
    def kind(self) -> str | None:
        """Kind by the first bytes, see `kind_of_bytes`. Raises InputError."""
        return kind_of_bytes(self.head)

    @cached_property
    def listing(self) -> tuple[Listing, str]:
        """What a folder holds, and what stands before the names in it. Raises InputError."""
        if self.is_local:
            return scan_local(str(storage.local_path(self.path))), prefix_of(self.path)
        return scan_remote(self.path)


class Looks(dict[str, Look]):
    """The looks by which sources were told, for the search for the parts behind them."""

    def __missing__(self, path: str) -> Look:
        self[path] = Look(path)
        return self[path]

    def known(self, path: str) -> Look:
        """The look at a path. One that was not needed before is not kept: a glob can name millions."""
        return self.get(path) or Look(path)


def detect(
    sources: Sequence[str],
    options: SourceOptions,
    embedding_column: str | None = None,
    *,
    wants_pictures: bool = False,
    looks: Looks | None = None,
) -> Kind | None:
    """What the first of `sources` that tells anything is; None where none does.

    What is not there or cannot be read tells nothing: the reader of embeddings, which knows more about files of numbers, says
    what is wrong.

    Args:
        sources: as `find.find` takes them.
        options: the picture column that the user named decides for pictures.
        embedding_column: the one that the user named decides, in tables, for embeddings.
        wants_pictures: a table that holds pictures and vectors is one of pictures.
        looks: takes up what was seen.

    Raises:
        ChoiceNeededError: a table can be read in several ways, or has pictures in a form that is not read.
    """
    if options.picture_column is not None:
        return "pictures"
    detector = _Detector(options, embedding_column, wants_pictures, Looks() if looks is None else looks)
    for source in sources:
        try:
            storage.forget_listings(source)
            told = detector.at(source)
        except ChoiceNeededError:
            raise
        except (InputError, OSError, RuntimeError):  # RuntimeError: a home folder that is not known
            return None
        if told is not None:
            return told
    return None


class _Detector:
    def __init__(self, options: SourceOptions, embedding_column: str | None, wants_pictures: bool, looks: Looks) -> None:
        self.options, self.embedding_column, self.wants_pictures, self.looks = options, embedding_column, wants_pictures, looks

    def at(self, source: str, depth: int = 0) -> Kind | None:
        """What one source is; None when it does not tell."""
        source = source.rstrip("/") or "/" if len(source) > 1 else source
        if RANGE.search(source) and not (storage.is_local(source) and storage.exists(source)):
            source = RANGE.sub(lambda found: found[1], source)
        if storage.is_glob(source):
            notes = {"txt", *JSON_SUFFIXES} - {suffix_of(source)}  # beside what else matches, unless the pattern asks for them
            matches = [path for path in storage.expand_glob(source) if suffix_of(path) not in notes]
            matches = sorted(matches, key=storage.natural_key)[:MOST_LOOKED_AT]
            return next((told for path in matches if (told := self.at(path, depth)) is not None), None)
        look = self.looks[source]
        if look.suffix == "txt":
            entry = first_line(source) if depth <= _MOST_LISTS else None
            return None if entry is None else "pictures" if names_pictures(entry) else self.at(entry, depth + 1)
        if look.is_local:
            if look.is_folder:
                return self.into_folder(look)
            return self.into_file(look) if look.is_file else "embeddings"
        if look.suffix in PICTURE_SUFFIXES or is_tar_name(source):
            return "pictures"
        return self.into_folder(look) if not look.suffix and look.is_folder else self.into_file(look)

    def into_folder(self, look: Look) -> Kind:
        """Pictures or tars anywhere below say yes; else a few Parquet files or zips are looked into, if there are no arrays."""
        if is_result_folder(str(storage.local_path(look.path)) if look.is_local else look.path):
            return "embeddings"
        listing, base = look.listing
        if len(listing.names) or listing.tars:
            return "pictures"
        if listing.has_arrays:
            return "embeddings"
        if not look.is_local:
            archives = (listing.parquets or listing.zips)[:1]
        else:
            archives = sorted([*listing.parquets, *listing.zips], key=storage.natural_key)
            archives = [path for path in archives if not is_result_file(base + path)][:4]
        return "pictures" if any(self.into_file(self.looks[base + path]) == "pictures" for path in archives) else "embeddings"

    def into_file(self, look: Look) -> Kind:
        """What a file is, by its first bytes, then by its suffix."""
        if look.kind in ("files", "tar"):
            return "pictures"
        if look.kind == "parquet":
            return self.into_parquet(look.path)
        if look.kind == "zip":
            return "pictures" if look.suffix not in ("npz", "pt", "pth") and _zip_has_pictures(look.path) else "embeddings"
        if look.head.startswith(b"\x93NUMPY"):
            return "embeddings"
        if look.suffix in PICTURE_SUFFIXES or is_tar_name(look.path):
            return "pictures"
        if look.suffix not in TABLE_SUFFIXES or compression_of(look.head) or self.embedding_column is not None:
            return "embeddings"
        return self.into_json(look.path) if look.suffix in JSON_SUFFIXES else _into_csv(look.path)

    def into_parquet(self, path: str) -> Kind:
        """What a Parquet file holds: pictures, or their places, or vectors, or both."""
        if self.embedding_column is not None:
            return "embeddings"
        with storage.remote_errors(path), storage.open_parquet(path, streamed=True) as file:
            schema = file.schema_arrow
            has_dimensions = is_wide(schema)
            vectors = {} if has_dimensions else _vectors(file, schema)
            try:
                columns = columns_in(file, path, self.options)
            except ChoiceNeededError:
                if (vectors and not self.wants_pictures) or has_dimensions:
                    return "embeddings"
                raise
            except InputError:
                return "embeddings"
        if has_dimensions:
            return "embeddings" if columns.kind == "table" or are_dimensions(float_columns(schema)) else "pictures"
        return self.of_both(columns, vectors, path) if vectors else "pictures"

    def into_json(self, path: str) -> Kind:
        """What JSON lines hold, by the first rows."""
        rows = first_rows(path)
        keys = list(dict.fromkeys(key for row in rows for key in row))
        places = [key for key in keys if any(_is_place(key, row.get(key)) for row in rows[:MOST_LOOKED_AT])]
        vectors = vector_fields(rows)
        if places and vectors:
            written = any(isinstance(row.get(places[0]), str) and is_picture_text(row[places[0]]) for row in rows)
            return self.of_both(Columns("parquet" if written else "table", places[0], False, None), vectors, path)
        return "pictures" if places and not are_dimensions(keys) else "embeddings"

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


def _into_csv(path: str) -> Kind:
    """Pictures: a header has a column for places, the first rows hold some, and none is for dimensions."""
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
