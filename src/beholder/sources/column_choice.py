"""Choice of the columns of a table that hold pictures, names or an embedding."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pyarrow as pa

from beholder.columns import SAMPLE_COLUMN_NAMES
from beholder.errors import ChoiceNeededError, InputError, clipped
from beholder.io.schemas import is_list, is_text
from beholder.io.tables import check_names
from beholder.sources.file_kinds import PICTURE_SUFFIXES, is_picture, is_picture_text, suffix_of
from beholder.sources.labels import is_heavy, listing

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


def is_byte_strings(kind: pa.DataType) -> bool:
    """Whether a column holds byte strings (dictionary-encoded or not)."""
    if pa.types.is_dictionary(kind):
        return is_byte_strings(kind.value_type)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def list_values(kind: pa.DataType) -> pa.DataType | None:
    """The type of the values in a column of lists or tensors; None of other columns."""
    kind = kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind
    return kind.value_type if is_list(kind) else None


def fixed_size(kind: pa.DataType) -> int | None:
    """How many values each list (or tensor) of a column has, where its type says so."""
    kind = kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind
    return int(kind.list_size) if pa.types.is_fixed_size_list(kind) else None


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
    return is_byte_strings(kind) or is_text(kind) or is_numbers(kind)


def _is_pictures(kind: pa.DataType) -> bool:
    """Whether a column can hold pictures, one or a list of them a row."""
    if is_picture_struct(kind) or _is_single(kind):
        return True
    return is_list(kind) and (is_picture_struct(kind.value_type) or is_byte_strings(kind.value_type))


def holds_embeddings(schema: pa.Schema) -> bool:
    """Whether a table looks like one of embeddings: a column of float lists, or many columns of floats, fewer if numbered."""
    return is_wide(schema) or any(is_list(field.type) and pa.types.is_floating(field.type.value_type) for field in schema)


def float_columns(schema: pa.Schema) -> list[str]:
    """Names of the columns of floats."""
    return [field.name for field in schema if pa.types.is_floating(field.type)]


def is_wide(schema: pa.Schema) -> bool:
    """Whether a table has a column per dimension: many of floats, fewer if they are numbered."""
    floats = float_columns(schema)
    return len(floats) >= _MANY_COLUMNS or are_dimensions(floats)


def are_dimensions(names: Sequence[str]) -> bool:
    """Whether columns are called like the dimensions of an embedding: 0, 1, ... or 16 and more of dim_0, emb.1, ..."""
    plain = sum(name.isdecimal() for name in names)
    return plain >= 2 or sum(_DIMENSION.fullmatch(name) is not None for name in names) >= _MANY_DIMENSIONS


def looks_like_place(value: object) -> bool:
    """Whether a value is the path or URL of a picture, or a picture as text, as far as a look can tell."""
    return isinstance(value, str) and ("://" in value or suffix_of(value) in PICTURE_SUFFIXES or is_picture_text(value))


def choose(schema: pa.Schema, picture: str | None, sample: str | None, first_value: FirstValue, where: str) -> Columns:
    """Which columns hold and name the pictures.

    Args:
        schema: of the table.
        picture: the column that the user named, or None.
        sample: the one for the names that the user named, or None.
        first_value: looks into a column.
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
        found = _find_bytes(types, marked, first_value, where) or _find_places(types, marked, first_value, where)
    kind = types[found]
    holds_lists = is_list(kind) and not is_numbers(kind)
    is_struct = is_picture_struct(kind.value_type if holds_lists else kind)
    has_bytes = not is_text(kind) or _is_picture_text(first_value(found))
    if sample is None:
        can_name = [name for name in types if name != found and (is_text(types[name]) or pa.types.is_integer(types[name]))]
        named = [name for name in SAMPLE_COLUMN_NAMES if name in can_name]
        if not has_bytes:  # a column called sample or key, else the place itself
            sample = next((name for name in named if name in ("sample", "key", "SAMPLE_ID")), found)
        else:  # the table's own names, before the struct's path, before URLs
            own = [name for name in named if name.lower() != "url"] or ([] if is_struct else named)
            sample = own[0] if own else None
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


def _ask(names: Sequence[str], where: str) -> ChoiceNeededError:
    return ChoiceNeededError(f"{where}: which column holds the pictures? Name it with --picture-column: {', '.join(names)}")


def _find_bytes(types: dict[str, pa.DataType], marked: Sequence[str], first_value: FirstValue, where: str) -> str | None:
    """The column with pictures in it: as metadata, types, names or, last, first values have it. Raises InputError."""
    structs = [name for name, kind in types.items() if is_picture_struct(kind.value_type if is_list(kind) else kind)]
    named = [name for name, kind in types.items() if is_byte_strings(kind) and name.lower() in _BYTES_NAMES]
    found = [name for name in marked if not is_text(types[name])] or structs or named
    for fits in (is_byte_strings, is_list):
        if not found:
            found = [name for name, kind in types.items() if fits(kind) and _has_picture(first_value(name))]
    if len(found) > 1:
        preferred = [name for wanted in _BYTES_NAMES for name in found if name.lower() == wanted]
        if not preferred:
            raise _ask(found, where)
        return preferred[0]
    return found[0] if found else None


def _has_picture(value: object) -> bool:
    """Whether a first value is a picture: bytes, whole numbers that are bytes, or a list or struct of these."""
    if isinstance(value, dict):
        return "bytes" in value and _has_picture(value["bytes"])
    if isinstance(value, list) and value and isinstance(value[0], int):
        try:
            head = bytes(number % 256 if -128 <= number < 0 else number for number in value[:64])
        except (ValueError, TypeError):  # larger numbers, a null among them
            return False
        return len(value) >= _LEAST_NUMBERS and is_picture(head)
    if isinstance(value, list):
        first = next((item for item in value if item is not None), None)
        return isinstance(first, bytes | dict) and _has_picture(first)
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
            raise _ask(written, where)
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


VECTOR_NAMES = ("embedding", "embeddings", "img_emb", "image_embedding", "image_embeddings", "clip_embedding")
"""What columns and fields with embeddings are called, best first."""
LABEL = "label"
PREDICTION = "prediction"
_PANDAS_INDEX = ("", "Unnamed: 0")
_NEVER_EMBEDDING = (*SAMPLE_COLUMN_NAMES, LABEL, *_PANDAS_INDEX)
_NUMBERED = re.compile(r"(.*?)([0-9]+)", re.DOTALL)
_MOST_NAMES = 8


def choose_embedding_columns(
    names: Sequence[str], is_numeric: Sequence[bool], embedding_column: str | None, where: str
) -> list[str]:
    """Choose the columns that hold the embedding, one dimension each, in the order of the dimensions.

    The first rule that fits is taken:

    1. `embedding_column` given: the columns named by it and a number (`emb_0`, `emb_1`, ... for `emb_`);
    2. the columns named `0`, `1`, ..., `D-1` (birder's logits);
    3. the one family of numeric columns with a common prefix and such numbers;
    4. all columns but known names of samples, labels and indices, in the order of the table, when all of them are numeric
       (birder's logits of a model with named classes: they are matched by position).

    Numbers count from 0 or 1, without gaps, zero-padded or not; an embedding has at least two dimensions. Rules 1 and 2
    go by the names alone: the caller checks that the columns hold numbers.

    Args:
        names: all column names, in the order of the table.
        is_numeric: which of them hold numbers.
        embedding_column: the user's choice of prefix, or None.
        where: file name, for the error text.

    Raises:
        InputError: no rule fits, two families fit, a number is missing or given twice, or there is a `prediction`
            column beside the numbers: then they are softmax outputs, which no head can score. (A prefix chosen by the
            user is trusted in that matter.)
    """
    if embedding_column:
        return _chosen_family(names, embedding_column, where)
    numeric = dict(zip(names, is_numeric, strict=True)).__getitem__
    families = _families(names)
    plain = families.get("", [])
    if len(plain) > 1 and min(plain)[0] == 0:
        chosen = _in_order(plain, "", where)
    elif embedding_column == "":
        chosen = []
    else:
        fitting = [
            prefix
            for prefix, members in families.items()
            if len(members) > 1 and min(members)[0] <= 1 and all(numeric(name) for _, name in members)
        ]
        if len(fitting) > 1:
            raise InputError(
                f"{where}: the embedding may be the columns that start with {_quoted(fitting, ' or ')};"
                " name the right prefix with --embedding-column"
            )
        chosen = _in_order(families[fitting[0]], fitting[0], where) if fitting else _all_numeric(names, numeric, where)
    if not chosen:
        texts = [name for name in names if name not in _NEVER_EMBEDDING and not numeric(name)]
        why = f"; {_quoted(texts)} hold no numbers" if texts and len(texts) < len(names) else ""
        raise InputError(
            f"{where}: found no embedding among the columns {_quoted(names)}{why};"
            " expected columns 0, 1, 2, ..., or name their prefix with --embedding-column"
        )
    if PREDICTION in names:
        raise InputError(
            f"{where}: the column '{PREDICTION}' shows that the other {len(chosen)} are softmax outputs, not embeddings;"
            " run birder predict again with --save-logits and score that file"
        )
    return chosen


def _families(names: Sequence[str]) -> dict[str, list[tuple[int, str]]]:
    """Names that end in a number, as (number, name) by what precedes the number."""
    found: dict[str, list[tuple[int, str]]] = {}
    for name in names:
        if match := _NUMBERED.fullmatch(name):
            found.setdefault(match[1], []).append((int(match[2]), name))
    return found


def _in_order(members: list[tuple[int, str]], prefix: str, where: str) -> list[str]:
    """The names by ascending number. Raises InputError for a number that is missing or there twice."""
    members = sorted(members)
    first = members[0][0]
    if first > 1:
        raise InputError(
            f"{where}: the embedding's columns start with '{members[0][1]}'; '{prefix}0' to '{prefix}{first - 1}' lack"
        )
    for expected, (number, name) in enumerate(members, start=first):
        if number < expected:
            raise InputError(f"{where}: the embedding's column '{prefix}{number}' is there twice; rename or drop one of them")
        if number > expected:
            raise InputError(
                f"{where}: the embedding's columns go from '{members[0][1]}' to '{members[-1][1]}',"
                f" but '{prefix}{expected}' is missing before '{name}'; the file is not whole"
            )
    return [name for _, name in members]


def _chosen_family(names: Sequence[str], prefix: str, where: str) -> list[str]:
    """Rule 1."""
    suffixes = ((name[len(prefix) :], name) for name in names if name.startswith(prefix))
    members = [(int(suffix), name) for suffix, name in suffixes if suffix.isascii() and suffix.isdigit()]
    if members:
        return _in_order(members, prefix, where)
    if prefix in names:
        raise InputError(
            f"{where}: the column '{prefix}' holds no vectors, and there are no columns '{prefix}0', '{prefix}1', ..."
        )
    prefixes = [known for known, found in _families(names).items() if len(found) > 1]
    hint = f"numbered columns start with {_quoted(prefixes)}" if prefixes else f"the columns are {_quoted(names)}"
    raise InputError(f"{where}: there is no column '{prefix}' and none named '{prefix}' and a number; {hint}")


def _all_numeric(names: Sequence[str], numeric: Callable[[str], bool], where: str) -> list[str]:
    """Rule 4; empty when a column is not numeric."""
    candidates = [name for name in names if name not in _NEVER_EMBEDDING and name != PREDICTION]
    if len(candidates) < 2 or not all(numeric(name) for name in candidates):
        return []
    if all(_is_number(name) for name in candidates):
        raise InputError(
            f"{where}: the first row holds numbers ({_quoted(candidates)}), not the names of the columns; add a row of names"
        )
    for name, times in Counter(candidates).items():
        if times > 1:
            raise InputError(f"{where}: the embedding's column '{name}' is there twice; rename or drop one of them")
    return candidates


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _quoted(names: Sequence[str], joint: str = ", ") -> str:
    """Up to eight names in quotes, long ones cut."""
    shown = [f"'{clipped(name, 40)}'" for name in names[:_MOST_NAMES]]
    return joint.join(shown) + (f", ... ({len(names)} in all)" if len(names) > _MOST_NAMES else "")
