"""What a source is: its form, the kind of a file, and whether it is pictures or embeddings, each looked at once."""

from __future__ import annotations

import csv
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import pyarrow as pa

from beholder.errors import ChoiceNeededError, InputError, reading_failed
from beholder.io import locations, remote, storage
from beholder.io.tables import JSON_SUFFIXES, delimiter_of, is_utf16, read_head
from beholder.notices import say
from beholder.sources.column_choice import (
    PATH_NAMES,
    Columns,
    are_dimensions,
    fixed_size,
    float_columns,
    is_wide,
    list_values,
    looks_like_place,
)
from beholder.sources.file_kinds import (
    MOST_LOOKED_AT,
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
    names_pictures,
    suffix_of,
)
from beholder.sources.folder import Listing, prefix_of, scan_local, scan_remote
from beholder.sources.json_lines import first_rows, vector_fields
from beholder.sources.parquet import columns_in, columns_of_parquet
from beholder.sources.reader import SourceOptions
from beholder.sources.stamp import is_result_file, is_result_folder

Kind = Literal["pictures", "embeddings"]
_CSV_LOOK_BYTES = 1 << 16
_LEAST_DIM = 64
"""Shorter lists of numbers beside pictures are boxes, points, colours; no tower gives so few."""
_VECTOR_NAMES = ("emb", "feature", "vector", "clip", "latent", "repr")
_TEXT_NAMES = ("text", "caption", "prompt", "txt", "tag")
"""Columns with vectors of these names are about the pictures' words."""
_MOST_LISTS = 3
"""Lists may name lists so deep."""
_NPY = b"\x93NUMPY"
_TEXT_IN_DISGUISE = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\xff\xfe", b"\xfe\xff")
"""gzip, zstd, UTF-16: left to the CSV reader, which says what to do with them."""


Form = Literal["range", "glob", "list", "folder", "file"]


class Look:
    """What is at a path; each question is asked of the disk or the server once.

    Attributes:
        path: as it is opened, without a "/" at its end.
        suffix: as `suffix_of` has it.
        local: the path on this machine; None of what is on a server.

    Raises:
        InputError: there is a zero byte in the path.
    """

    def __init__(self, path: str) -> None:
        if "\0" in path:
            raise InputError(f"{path} has a zero byte, which no path has")
        self.path = path.rstrip("/") or "/" if len(path) > 1 else path
        self.suffix = suffix_of(self.path)
        self.local = locations.local_path(self.path) if locations.is_local(self.path) else None

    @cached_property
    def form(self) -> Form:
        """A brace range, a glob, a list of sources, a folder, or a file or what is not there. Raises InputError."""
        if RANGE.search(self.path) and not (self.local and self.exists):
            return "range"
        if storage.is_glob(self.path):
            return "glob"
        if self.suffix == "txt":
            entry = first_line(self.path)
            return "file" if entry is not None and names_pictures(entry) else "list"
        return "folder" if not self.is_remote_file and self.is_folder else "file"

    @property
    def is_remote_file(self) -> bool:
        """Whether it is on a server and called like a picture or tar, so that nobody needs to be asked."""
        return self.local is None and (self.suffix in PICTURE_SUFFIXES or is_tar_name(self.path))

    @cached_property
    def _mode(self) -> int:
        """What the system says of a local path; 0 where nothing is."""
        assert self.local is not None
        try:
            return storage.mode_at(self.path)
        except OSError as error:
            raise reading_failed(self.path, error) from error

    @property
    def exists(self) -> bool:
        """Whether anything is there."""
        return bool(self._mode) if self.local else storage.exists(self.path)

    @cached_property
    def is_folder(self) -> bool:
        """Whether it is a folder, or on a server something below which there are files."""
        return stat.S_ISDIR(self._mode) if self.local else storage.is_folder(self.path)

    @property
    def is_file(self) -> bool:
        """Whether it is a regular file of this machine."""
        return self.local is not None and stat.S_ISREG(self._mode)

    @cached_property
    def is_result(self) -> bool:
        """Whether it is a folder with results of an earlier run."""
        return is_result_folder(str(self.local or self.path))

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
        if self.local:
            return scan_local(str(self.local)), prefix_of(self.path)
        return scan_remote(self.path)

    @cached_property
    def matches(self) -> list[str]:
        """What a glob matches, in natural order. Raises InputError."""
        return sorted(storage.expand_glob(self.path), key=locations.natural_key)

    def check_file(self) -> None:
        """Raise InputError for what is not there, or a local path that is no file."""
        if not self.exists:
            raise InputError(f"{self.path} does not exist; check the path")
        if self.local and not self.is_file:
            raise InputError(
                f"{self.path} is not a file but a pipe or device, which cannot be read twice; save it to a file first"
            )


class Looks(dict[str, Look]):
    """The looks by which sources were told, for the search for the parts behind them."""

    def __missing__(self, path: str) -> Look:
        self[path] = Look(path)
        return self[path]

    def known(self, path: str) -> Look:
        """The look at a path. One that was not needed before is not kept: a glob can name millions."""
        return self.get(path) or Look(path)


def picture_kind(look: Look, options: SourceOptions) -> str:
    """Kind of a file of pictures: by its first bytes, then by its suffix. Raises InputError for what is of no known kind."""
    path, suffix = look.path, look.suffix
    if suffix in PICTURE_SUFFIXES:
        return "files"
    if suffix == "txt":
        return "table"
    if look.kind == "parquet":
        return columns_of_parquet(path, options)[0].kind
    if look.kind is not None:
        return look.kind
    if is_tar_name(path) or (compression_of(look.head) and suffix not in TABLE_SUFFIXES and not path.endswith(".csv.gz")):
        return "tar"
    _refuse_empty(look)
    if suffix in TABLE_SUFFIXES and (b"\0" not in look.head or is_utf16(look.head)):
        return "table"
    if suffix in (*PARQUET_SUFFIXES, "zip"):
        raise _not_inside(look)
    raise InputError(f"{path} is of no kind that is known: expected pictures, a tar, a zip, Parquet, CSV or a .txt list")


def embedding_kind(look: Look) -> str:
    """Kind of a file of embeddings: by its first bytes; text counts as CSV. Raises InputError for what is of no known kind."""
    path, suffix, head = look.path, look.suffix, look.head
    if head.startswith(_NPY):
        return "npy"
    if head.startswith(b"PAR1"):
        return "parquet"
    if suffix in ("pt", "pth") and head:
        return "torch"
    if head.startswith(b"PK\x03\x04"):
        return "npz"
    _refuse_empty(look)
    if suffix in (*PICTURE_SUFFIXES, "txt"):
        what = "lists pictures" if suffix == "txt" else "is a picture"
        raise InputError(f"{path} {what}, and embeddings were asked for; name the file with the embeddings")
    if suffix in ("npy", "npz", *PARQUET_SUFFIXES):
        raise _not_inside(look)
    if b"\0" in head[:8] and not head.startswith(_TEXT_IN_DISGUISE):
        raise InputError(f"{path} is of no kind that is known: expected .npy, .npz, .parquet or .csv")
    return "json" if suffix in JSON_SUFFIXES else "csv"


def _refuse_empty(look: Look) -> None:
    if not look.head:
        raise InputError(f"{look.path} is empty (0 bytes); write it again, or leave it out")


def _not_inside(look: Look) -> InputError:
    text = f"{look.path} is not .{look.suffix} inside: it starts with {look.head[:8]!r}; is it whole, or of another kind?"
    return InputError(text)


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
            remote.forget_listings(source)
            told = detector.at(source)
        except ChoiceNeededError:
            raise
        except (InputError, OSError, RuntimeError):  # RuntimeError: a home folder that is not known
            return None
        if told is not None:
            return told
    return None


@dataclass
class _Detector:
    options: SourceOptions
    embedding_column: str | None
    wants_pictures: bool
    looks: Looks

    def at(self, source: str, depth: int = 0) -> Kind | None:
        """What one source is; None when it does not tell."""
        look = self.looks[source]
        if look.form == "range":
            return self.at(RANGE.sub(lambda found: found[1], look.path), depth)
        if look.form == "glob":
            notes = {"txt", *JSON_SUFFIXES} - {look.suffix}  # beside what else matches, unless the pattern asks for them
            matches = [path for path in look.matches if suffix_of(path) not in notes][:MOST_LOOKED_AT]
            return next((told for path in matches if (told := self.at(path, depth)) is not None), None)
        if look.form == "list":
            entry = first_line(look.path) if depth <= _MOST_LISTS else None
            return None if entry is None else self.at(entry, depth + 1)
        if look.form == "folder":
            return self.into_folder(look)
        if look.suffix == "txt" or look.is_remote_file:
            return "pictures"
        return self.into_file(look) if look.is_file or not look.local else "embeddings"

    def into_folder(self, look: Look) -> Kind:
        """Pictures or tars anywhere below say yes; else a few Parquet files or zips are looked into, if there are no arrays."""
        if look.is_result:
            return "embeddings"
        listing, base = look.listing
        if len(listing.names) or listing.tars:
            return "pictures"
        if listing.has_arrays:
            return "embeddings"
        if not look.local:
            archives = (listing.parquets or listing.zips)[:1]
        else:
            archives = sorted([*listing.parquets, *listing.zips], key=locations.natural_key)
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
        if look.head.startswith(_NPY):
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
        with remote.read_errors(path), storage.open_parquet(path, streamed=True) as file:
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
        values = list_values(field.type)
        if values is None or not pa.types.is_floating(values):
            continue
        if (size := fixed_size(field.type)) is not None:
            found[field.name] = size
            continue
        batch = next(file.iter_batches(batch_size=16, columns=[field.name]), None)
        rows = [] if batch is None else batch.column(0).to_pylist()
        found[field.name] = next((len(row) for row in rows if row), 0)
    return found


def _zip_has_pictures(path: str) -> bool:
    from beholder.sources.zip import is_numpy, open_zip

    with remote.read_errors(path), storage.open_binary(path) as file:
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
    rows = list(csv.reader(lines, delimiter=delimiter_of(path)))
    if not rows or are_dimensions(rows[0]):
        return "embeddings"
    cells = ((name, value) for row in rows[1:] for name, value in zip(rows[0], row, strict=False))
    return "pictures" if any(_is_place(name, value) for name, value in cells) else "embeddings"
