"""Files of one set that were scored in different ways: scores of two heads are refused, other differences are told."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from beholder.columns import PICTURES
from beholder.errors import InputError
from beholder.locate.named_sources import named_in
from beholder.scoreset.head_key import HeadKey


def check_one_head(source: str, files: Iterable[tuple[str, Mapping[str, Mapping[str, Any]]]]) -> None:
    """Refuse a set of which a column has the scores of one head in one file, and of another in another.

    Args:
        source: as the user named the set.
        files: names, with score column -> what the file says of its head.

    Raises InputError.
    """
    by_column: dict[str, tuple[str, HeadKey]] = {}
    for name, heads in files:
        for column, head in heads.items():
            key = HeadKey.of_record(head)
            if key is None:
                continue
            first, other = by_column.setdefault(column, (name, key))
            if not key.is_same(other):
                apart = "" if key.short != other.short else ", another head of that name"
                raise InputError(
                    f"{source}: {column} is by {other.short} in {first} and by {key.short} in {name}{apart}; scores of two "
                    "heads cannot be compared, so name the files of one"
                )


def differences(files: Iterable[tuple[str, Mapping[str, Any]]]) -> list[str]:
    """Lines about files whose pictures were scored with other towers or presets than those of the others.

    `files`: names, with the record of each; {} where it has none.
    """
    pixels = [(name, found["pixels"], found) for name, found in files if isinstance(found.get("pixels"), dict)]
    told = (
        _difference("by the tower", ((name, record.get("backbone")) for name, _, record in pixels)),
        _difference("with the preset", ((name, how.get("preset")) for name, how, _ in pixels)),
    )
    return [line for line in told if line]


def all_sources(files: Iterable[tuple[str, Mapping[str, Any]]], record: Mapping[str, Any]) -> dict[str, Any]:
    """The record of a set, with the sources of pictures that the records of all its files name, each once.

    Only of runs that were given in the same folder, with the same columns of names and pictures: the same words name the same.

    Args:
        files: names, with the record of each; {} where it has none.
        record: of the set: the first one's.
    """
    own = named_in(record)
    sources = list(own.get("sources", ()))
    for _, other in files:
        said = named_in(other)
        if {**said, "sources": ()} == {**own, "sources": ()}:
            sources += [source for source in said.get("sources", ()) if source not in sources]
    return {**record, PICTURES: {**record[PICTURES], "sources": sources}} if own.get("sources") else dict(record)


def _difference(how: str, values: Iterable[tuple[str, Any]]) -> str:
    """A line about values that are not the same for all files; "" where they are."""
    seen: dict[str, str] = {}
    for name, value in values:
        if isinstance(value, str):
            seen.setdefault(value, name)
    if len(seen) < 2:
        return ""
    told = ", ".join(f"{value} ({name})" for value, name in list(seen.items())[:3])
    return f"pictures of this set were scored {how} {told}: such scores differ, and are compared all the same"
