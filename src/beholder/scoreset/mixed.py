"""Files of one set that were scored in different ways: scores of two heads are refused, other differences are told."""

from __future__ import annotations

import math
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
    firsts: dict[str, Mapping[str, Any]] = {}
    for name, heads in files:
        for column, head in heads.items():
            key = HeadKey.of_record(head)
            if key is None:
                continue
            first, other = by_column.setdefault(column, (name, key))
            firsts.setdefault(column, head)
            if not (key.is_same(other) or _has_same_weights(head, firsts[column])):
                apart = "" if key.short != other.short else ", another head of that name"
                raise InputError(
                    f"{source}: {column} is by {other.short} in {first} and by {key.short} in {name}{apart}; scores of two "
                    "heads cannot be compared, so name the files of one"
                )


def _has_same_weights(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two affine heads, of files with other bytes, give the same scores, by the length of their weights and their bias.

    Heads of length 1 without a bias may be any.
    """
    pairs = [(one.get(name), other.get(name)) for name in ("weight_norm", "bias")]
    if one.get("dim") != other.get("dim") or one.get("weight_norm") in (0.0, 1.0):
        return False
    return all(
        isinstance(mine, float) and isinstance(its, float) and math.isclose(mine, its, rel_tol=1e-12) for mine, its in pairs
    )


def differences(files: Iterable[tuple[str, Mapping[str, Any]]]) -> list[str]:
    """Lines about files whose pictures were scored with other towers or presets than those of the others.

    `files`: names, with the record of each; {} where it has none.
    """
    of_pictures = [(name, found) for name, found in files if isinstance(found.get("pixels"), dict)]
    told = (
        _difference("by the tower", ((name, _tower(record)) for name, record in of_pictures)),
        _difference("with the preset", ((name, record["pixels"].get("preset")) for name, record in of_pictures)),
        _folders(of_pictures),
    )
    return [line for line in told if line]


def _folders(files: Iterable[tuple[str, Mapping[str, Any]]]) -> str:
    """A line about runs that were not given in one folder; "" where they were."""
    seen: dict[str, str] = {}
    for name, record in files:
        if folder := named_in(record).get("folder"):
            seen.setdefault(folder, name)
    if len(seen) < 2:
        return ""
    told = ", ".join(f"{folder} ({name})" for folder, name in list(seen.items())[:3])
    return (
        f"runs of this set were made in different folders, {told}: pictures are looked for from the first; name those of the "
        "others with --pictures"
    )


def _tower(record: Mapping[str, Any]) -> tuple[Any, Any]:
    """What a tower is known by, its weights where they are known, and what it is called."""
    name, weights = record.get("backbone"), record.get("weights_sha256")
    return weights or name, f"{name}, weights {weights[:8]}" if isinstance(weights, str) else name


def all_sources(files: Iterable[tuple[str, Mapping[str, Any]]], record: Mapping[str, Any]) -> dict[str, Any]:
    """The record of a set, with the sources of pictures that the records of all its files name, each once.

    Only of runs that were given in the same folder, with the same columns of names and pictures: the same words name the same.
    Where a file names no sources, its names may be any, so the set names none.

    Args:
        files: names, with the records that files have; {} for those that have none.
        record: of the set: the first one's.
    """
    own, all_said = named_in(record), [named_in(other) for _, other in files]
    if "sources" not in own:
        return dict(record)
    pictures = dict(record[PICTURES])
    if any("sources" not in said for said in all_said):
        del pictures["sources"]
    else:
        alike = [own, *(said for said in all_said if {**said, "sources": ()} == {**own, "sources": ()})]
        pictures["sources"] = list(dict.fromkeys(source for said in alike for source in said["sources"]))
    return {**record, PICTURES: pictures}


def _difference(how: str, values: Iterable[tuple[str, Any]]) -> str:
    """A line about values that are not the same for all files; "" where they are."""
    seen: dict[str, tuple[str, str]] = {}
    for name, value in values:
        key, said = value if isinstance(value, tuple) else (value, value)
        if isinstance(key, str):
            seen.setdefault(key, (f"{said}", name))
    if len(seen) < 2:
        return ""
    told = ", ".join(f"{said} ({name})" for said, name in list(seen.values())[:3])
    return f"pictures of this set were scored {how} {told}: such scores differ, and are compared all the same"
