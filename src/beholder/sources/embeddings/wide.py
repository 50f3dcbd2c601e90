"""Column names of a table with one column per dimension in, the columns of its embedding in order out."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence

from beholder.columns import SAMPLE_COLUMN_NAMES
from beholder.errors import InputError

LABEL = "label"
PREDICTION = "prediction"
_PANDAS_INDEX = ("", "Unnamed: 0")
_NEVER_EMBEDDING = (*SAMPLE_COLUMN_NAMES, LABEL, *_PANDAS_INDEX)
_NUMBERED = re.compile(r"(.*?)([0-9]+)", re.DOTALL)
_MOST_NAMES = 8


def choose_embedding_columns(
    names: Sequence[str], is_numeric: Callable[[str], bool] | Sequence[bool], embedding_column: str | None, where: str
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
        is_numeric: which columns hold numbers: asked by name, or one truth value per name.
        embedding_column: the user's choice of prefix, or None.
        where: file name, for the error text.

    Raises:
        InputError: no rule fits, two families fit, a number is missing or given twice, or there is a `prediction`
            column beside the numbers: then they are softmax outputs, which no head can score. (A prefix chosen by the
            user is trusted in that matter.)
    """
    numeric = _asked_by_name(names, is_numeric)
    if embedding_column:
        return _chosen_family(names, embedding_column, where)
    chosen = _numbered(names, where) or (None if embedding_column == "" else _only_family(names, numeric, where))
    if not chosen and embedding_column != "":
        chosen = _all_numeric(names, numeric, where)
    if not chosen:
        raise _no_embedding(names, numeric, where)
    if PREDICTION in names:
        raise InputError(
            f"{where}: the column '{PREDICTION}' shows that the other {len(chosen)} are softmax outputs, not embeddings;"
            " run birder predict again with --save-logits and score that file"
        )
    return chosen


def _asked_by_name(names: Sequence[str], is_numeric: Callable[[str], bool] | Sequence[bool]) -> Callable[[str], bool]:
    if callable(is_numeric):
        return is_numeric
    by_name = dict(zip(names, is_numeric, strict=True))
    return by_name.__getitem__


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


def _numbered(names: Sequence[str], where: str) -> list[str]:
    """Rule 2; empty when there is no column `0`."""
    members = _families(names).get("", [])
    if len(members) < 2 or min(members)[0] != 0:
        return []
    return _in_order(members, "", where)


def _only_family(names: Sequence[str], numeric: Callable[[str], bool], where: str) -> list[str]:
    """Rule 3; empty when there is no such family."""
    found = {
        prefix: members
        for prefix, members in _families(names).items()
        if len(members) > 1 and min(members)[0] <= 1 and all(numeric(name) for _, name in members)
    }
    if len(found) > 1:
        raise InputError(
            f"{where}: the embedding may be the columns that start with {_quoted(list(found), ' or ')};"
            " name the right prefix with --embedding-column"
        )
    return next((_in_order(members, prefix, where) for prefix, members in found.items()), [])


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


def _no_embedding(names: Sequence[str], numeric: Callable[[str], bool], where: str) -> InputError:
    texts = [name for name in names if name not in _NEVER_EMBEDDING and not numeric(name)]
    why = f"; {_quoted(texts)} hold no numbers" if texts and len(texts) < len(names) else ""
    return InputError(
        f"{where}: found no embedding among the columns {_quoted(names)}{why};"
        " expected columns 0, 1, 2, ..., or name their prefix with --embedding-column"
    )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _quoted(names: Sequence[str], joint: str = ", ") -> str:
    """Up to eight names in quotes, long ones cut."""
    shown = [f"'{name if len(name) <= 40 else name[:37] + '...'}'" for name in names[:_MOST_NAMES]]
    return joint.join(shown) + (f", ... ({len(names)} in all)" if len(names) > _MOST_NAMES else "")
