"""A table's schema in; which column holds the pictures and which names them out, or that it holds embeddings."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pyarrow as pa

from beholder.columns import SAMPLE_COLUMN_NAMES
from beholder.errors import ChoiceNeededError, InputError
from beholder.io.tables import check_names
from beholder.sources.pictures.labels import is_heavy, listing
from beholder.sources.pictures.magic import PICTURE_SUFFIXES, suffix_of
from beholder.sources.pictures.text_pictures import is_picture_text

PATH_NAMES = (
    "image_path", "img_path", "path", "file_path", "filepath", "file_name", "filename", "file", "image", "img", "picture",
    "image_url", "img_url", "url", "image_uri", "uri", "src", "sample",
)  # fmt: skip
"""Where tables have paths or URLs, best first, in any case."""
_BYTES_NAMES = ("image", "jpg", "jpeg", "png", "webp", "img", "picture", "image_bytes", "img_bytes", "bytes", "content", "data")
_MANY_COLUMNS = 64
"""A table with so many columns of floats is one of embeddings."""
_LEAST_NUMBERS = 12
"""So many bytes tell every format of a picture."""
_HINT = "expected bytes, struct<bytes, path>, lists of these, bytes as whole numbers, paths, URLs, base64 or data: addresses"

_DIMENSION = re.compile(r"[a-zA-Z_]*[._-]?[0-9]+")
_MANY_DIMENSIONS = 16

FirstValue = Callable[[str], object]
"""A column's name -> its first value that is not null, or None."""


@dataclass(frozen=True)
class Columns:
    """Which column is what.

    Attributes:
        kind: "parquet": `picture` holds bytes, HF structs, or text that is pictures itself; "table": it holds paths or URLs.
        picture: the column with the pictures.
        is_struct: whether it holds `struct<bytes, path>` (or lists of these).
        sample: the column that names them; None: the struct's path, else part name and row.
        is_list: whether each cell is a list of pictures.
    """

    kind: str
    picture: str
    is_struct: bool
    sample: str | None
    is_list: bool = False


def is_text(kind: pa.DataType) -> bool:
    """Whether a column holds text (dictionary-encoded or not)."""
    if pa.types.is_dictionary(kind):
        return is_text(kind.value_type)
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def is_bytes(kind: pa.DataType) -> bool:
    """Whether a column holds byte strings (dictionary-encoded or not)."""
    if pa.types.is_dictionary(kind):
        return is_bytes(kind.value_type)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def is_list(kind: pa.DataType) -> bool:
    """Whether a column holds lists."""
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def is_numbers(kind: pa.DataType) -> bool:
    """Whether a column holds lists of whole numbers, which may be bytes."""
    return is_list(kind) and bool(pa.types.is_integer(kind.value_type))


def is_picture_struct(kind: pa.DataType) -> bool:
    """Whether a column is Hugging Face's `struct<bytes: binary, path: string>`, or has at least its bytes.

    The bytes may be written as base64 text or whole numbers.
    """
    if not pa.types.is_struct(kind):
        return False
    at = kind.get_field_index("bytes")
    return at >= 0 and _is_single(kind.field(at).type)


def _is_single(kind: pa.DataType) -> bool:
    """Whether a column can hold the bytes of one picture a row."""
    return is_bytes(kind) or is_text(kind) or is_numbers(kind)


def _is_pictures(kind: pa.DataType) -> bool:
    """Whether a column can hold pictures, one or a list of them a row."""
    if is_picture_struct(kind) or _is_single(kind):
        return True
    return is_list(kind) and (is_picture_struct(kind.value_type) or is_bytes(kind.value_type))


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
    """Whether a value is the path or URL of a picture, or a picture as text, as far as a look can tell."""
    return isinstance(value, str) and ("://" in value or suffix_of(value) in PICTURE_SUFFIXES or is_picture_text(value))


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
        if not _is_pictures(types[found]):
            raise InputError(f"{where}: column {found!r} is {types[found]}; {_HINT}")
    else:
        marked = [name for name in marked_pictures(schema) if _is_pictures(types[name])]
        found = _find_bytes(types, marked, first_value, is_picture, where) or _find_places(types, marked, first_value, where)
    kind = types[found]
    holds_lists = is_list(kind) and not is_numbers(kind)
    is_struct = is_picture_struct(kind.value_type if holds_lists else kind)
    has_bytes = not is_text(kind) or _is_picture_text(first_value(found))
    if sample is None:
        named = [name for name in SAMPLE_COLUMN_NAMES if name in types and name != found and _is_name(types[name])]
        sample = _choose_sample(named, is_struct) if has_bytes else _table_sample(named, found)
    return Columns("parquet" if has_bytes else "table", found, is_struct, sample, holds_lists)


def marked_pictures(schema: pa.Schema) -> list[str]:
    """Columns that Hugging Face's metadata call pictures, or lists of pictures."""
    try:
        features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
        return [name for name, feature in features.items() if name in schema.names and _is_image_feature(feature)]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return []  # written by another tool, or not at all


def _is_image_feature(feature: object) -> bool:
    if isinstance(feature, list):  # a list of one feature, as older versions write it
        return len(feature) == 1 and _is_image_feature(feature[0])
    if not isinstance(feature, dict):
        return False
    return feature.get("_type") == "Image" or _is_image_feature(feature.get("feature"))


def _is_picture_text(value: object) -> bool:
    return isinstance(value, str) and is_picture_text(value)


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
    types: dict[str, pa.DataType],
    marked: Sequence[str],
    first_value: FirstValue,
    is_picture: Callable[[bytes], bool],
    where: str,
) -> str | None:
    """The column with pictures in it: as metadata, types, names or, last, first values have it. Raises InputError."""
    structs = [name for name, kind in types.items() if is_picture_struct(kind.value_type if is_list(kind) else kind)]
    named = [name for name, kind in types.items() if is_bytes(kind) and name.lower() in _BYTES_NAMES]
    found = [name for name in marked if not is_text(types[name])] or structs or named
    for fits in (is_bytes, is_list):
        if not found:
            found = [name for name, kind in types.items() if fits(kind) and _has_picture(first_value(name), is_picture)]
    if len(found) > 1:
        preferred = [name for wanted in _BYTES_NAMES for name in found if name.lower() == wanted]
        if not preferred:
            raise ChoiceNeededError(
                f"{where}: which column holds the pictures? Name it with --picture-column: {', '.join(found)}"
            )
        return preferred[0]
    return found[0] if found else None


def _has_picture(value: object, is_picture: Callable[[bytes], bool]) -> bool:
    """Whether a first value is a picture: bytes, whole numbers that are bytes, or a list or struct of these."""
    if isinstance(value, dict):
        return "bytes" in value and _has_picture(value["bytes"], is_picture)
    if isinstance(value, list) and value and isinstance(value[0], int):
        try:
            head = bytes(number % 256 if -128 <= number < 0 else number for number in value[:64])
        except (ValueError, TypeError):  # larger numbers, a null among them
            return False
        return len(value) >= _LEAST_NUMBERS and is_picture(head)
    if isinstance(value, list):
        first = next((item for item in value if item is not None), None)
        return isinstance(first, bytes | dict) and _has_picture(first, is_picture)
    return is_picture_text(value) if isinstance(value, str) else isinstance(value, bytes) and is_picture(value)


def _find_places(types: dict[str, pa.DataType], marked: Sequence[str], first_value: FirstValue, where: str) -> str:
    """A text column that metadata call pictures, or of a usual name: one whose first value looks like a place, if there is.

    Else the one column of any name that holds pictures as text.
    """
    usual = [name for wanted in PATH_NAMES for name in types if name.lower() == wanted and is_text(types[name])]
    texts = [*(name for name in marked if is_text(types[name])), *usual]
    found = next((name for name in texts if looks_like_place(first_value(name))), None)
    if found is None:
        written = [name for name, kind in types.items() if is_text(kind) and _is_picture_text(first_value(name))]
        if len(written) > 1:
            raise ChoiceNeededError(
                f"{where}: which column holds the pictures? Name it with --picture-column: {', '.join(written)}"
            )
        found = written[0] if written else texts[0] if texts else None
    if found is None:
        usual = [name for name in types if name.lower().removesuffix("s") in (*_BYTES_NAMES, *PATH_NAMES)]
        nested = [name for name in usual if pa.types.is_nested(types[name]) or isinstance(types[name], pa.BaseExtensionType)]
        odd = next((name for name in nested if not _is_pictures(types[name])), None)
        if odd is not None:
            raise ChoiceNeededError(f"{where}: column {odd!r} is {types[odd]}, which is not read as pictures; {_HINT}")
        light = [name for name, kind in types.items() if not is_heavy(kind)]
        hint = f"name it with --picture-column: {listing(light)}" if light else "it has no columns"
        raise InputError(f"{where} has no column with pictures, paths or URLs of a usual name; {hint}")
    return found
