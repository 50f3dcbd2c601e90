"""A table's schema in; which column holds the pictures and which names them out, or that it holds embeddings."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pyarrow as pa

from beholder.columns import SAMPLE_COLUMN_NAMES
from beholder.csv_tables import check_names
from beholder.errors import InputError
from beholder.images.labels import is_heavy, listing
from beholder.images.magic import PICTURE_SUFFIXES, suffix_of

PATH_NAMES = (
    "image_path", "img_path", "path", "file_path", "filepath", "file_name", "filename", "file", "image", "img", "picture",
    "image_url", "img_url", "url", "image_uri", "uri", "src", "sample",
)  # fmt: skip
"""Where tables have paths or URLs, best first, in any case."""
_BYTES_NAMES = ("image", "jpg", "jpeg", "png", "webp", "img", "picture", "image_bytes", "img_bytes", "bytes", "content", "data")
_MANY_COLUMNS = 64
"""A table with so many columns of floats is one of embeddings."""

_DIMENSION = re.compile(r"[a-zA-Z_]*[._-]?[0-9]+")
_MANY_DIMENSIONS = 16

FirstValue = Callable[[str], object]
"""A column's name -> its first value that is not null, or None."""


@dataclass(frozen=True)
class Columns:
    """Which column is what.

    Attributes:
        kind: "parquet": `picture` holds bytes or HF structs; "table": it holds paths or URLs.
        picture: the column with the pictures.
        is_struct: whether it is a `struct<bytes, path>`.
        sample: the column that names them; None: the struct's path, else part name and row.
    """

    kind: str
    picture: str
    is_struct: bool
    sample: str | None


def is_text(kind: pa.DataType) -> bool:
    """Whether a column holds text (dictionary-encoded or not)."""
    if pa.types.is_dictionary(kind):
        return is_text(kind.value_type)
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def is_bytes(kind: pa.DataType) -> bool:
    """Whether a column holds byte strings."""
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def is_picture_struct(kind: pa.DataType) -> bool:
    """Whether a column is Hugging Face's `struct<bytes: binary, path: string>`, or has at least its bytes."""
    if not pa.types.is_struct(kind):
        return False
    at = kind.get_field_index("bytes")
    return bool(at >= 0 and is_bytes(kind.field(at).type))


def holds_embeddings(schema: pa.Schema) -> bool:
    """Whether a table looks like one of embeddings: a column of float lists, or many columns of floats, fewer if numbered."""
    lists = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    if any(check(field.type) and bool(pa.types.is_floating(field.type.value_type)) for field in schema for check in lists):
        return True
    floats = [field.name for field in schema if pa.types.is_floating(field.type)]
    return len(floats) >= _MANY_COLUMNS or are_dimensions(floats)


def are_dimensions(names: Sequence[str]) -> bool:
    """Whether columns are called like the dimensions of an embedding: 0, 1, ... or 16 and more of dim_0, emb.1, ..."""
    plain = sum(name.isdecimal() for name in names)
    return plain >= 2 or sum(_DIMENSION.fullmatch(name) is not None for name in names) >= _MANY_DIMENSIONS


def looks_like_place(value: object) -> bool:
    """Whether a value is the path or URL of a picture, as far as a look can tell."""
    return isinstance(value, str) and ("://" in value or suffix_of(value) in PICTURE_SUFFIXES)


def choose(
    schema: pa.Schema, picture: str | None, sample: str | None, first_value: FirstValue, is_picture: Callable[[bytes], bool],
    where: str,
) -> Columns:  # fmt: skip
    """Which columns hold and name the pictures.

    Args:
        schema: of the table.
        picture: the column that the user named, or None.
        sample: the one for the names that the user named, or None.
        first_value: looks into a column.
        is_picture: whether bytes begin a picture.
        where: for messages.

    Raises:
        InputError: there is none, or which one is not clear.
    """
    check_names(schema.names, where)
    types = {field.name: field.type for field in schema}
    for wanted in (picture, sample):
        if wanted is not None and wanted not in types:
            raise InputError(f"{where} has no column {wanted!r}; it has: {listing(schema.names)}")
    if picture is not None:
        found = picture
        if not (is_picture_struct(types[found]) or is_bytes(types[found]) or is_text(types[found])):
            raise InputError(f"{where}: column {found!r} is {types[found]}; expected bytes, struct<bytes, path>, paths or URLs")
    else:
        found = _find_bytes(types, first_value, is_picture, where) or _find_places(types, first_value, where)
    has_bytes = not is_text(types[found])
    if sample is None:
        named = [name for name in SAMPLE_COLUMN_NAMES if name in types and name != found and _is_name(types[name])]
        sample = _choose_sample(named, is_picture_struct(types[found])) if has_bytes else _table_sample(named, found)
    return Columns("parquet" if has_bytes else "table", found, is_picture_struct(types[found]), sample)


def _is_name(kind: pa.DataType) -> bool:
    return is_text(kind) or bool(pa.types.is_integer(kind))


def _choose_sample(named: Sequence[str], is_struct: bool) -> str | None:
    """Of a table of bytes: its own names, before the struct's path, before URLs."""
    own = [name for name in named if name.lower() != "url"]
    if own:
        return own[0]
    return named[0] if named and not is_struct else None


def _table_sample(named: Sequence[str], picture: str) -> str:
    """Of a table of places: a column called sample or key, else the place itself."""
    return next((name for name in named if name in ("sample", "key", "SAMPLE_ID")), picture)


def _find_bytes(
    types: dict[str, pa.DataType], first_value: FirstValue, is_picture: Callable[[bytes], bool], where: str
) -> str | None:
    structs = [name for name, kind in types.items() if is_picture_struct(kind)]
    named = [name for name, kind in types.items() if is_bytes(kind) and name.lower() in _BYTES_NAMES]
    found = structs or named
    if not found:
        found = [name for name, kind in types.items() if is_bytes(kind) and _has_picture(first_value(name), is_picture)]
    if len(found) > 1:
        preferred = [name for wanted in _BYTES_NAMES for name in found if name.lower() == wanted]
        if not preferred:
            raise InputError(f"{where}: which column holds the pictures? Name it with --picture-column: {', '.join(found)}")
        return preferred[0]
    return found[0] if found else None


def _has_picture(value: object, is_picture: Callable[[bytes], bool]) -> bool:
    return isinstance(value, bytes) and is_picture(value)


def _find_places(types: dict[str, pa.DataType], first_value: FirstValue, where: str) -> str:
    """A text column of a usual name, one whose first value looks like a picture's place if there is such."""
    texts = [name for wanted in PATH_NAMES for name in types if name.lower() == wanted and is_text(types[name])]
    found = next((name for name in texts if looks_like_place(first_value(name))), None) or (texts[0] if texts else None)
    if found is None:
        light = [name for name, kind in types.items() if not is_heavy(kind)]
        hint = f"name it with --picture-column: {listing(light)}" if light else "it has no columns"
        raise InputError(f"{where} has no column with pictures, paths or URLs of a usual name; {hint}")
    return found
