"""What the user named in (files, folders, globs, lists, URLs), the parts to score out, all headers checked first."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import PurePosixPath

from beholder.columns import (
    DONE_FOLDER,
    EARLIER_FOLDER,
    EMBEDDINGS_FOLDER,
    EMBEDDINGS_FORMAT,
    INPUTS_FOLDER,
    REJECTS_FOLDER,
    REJECTS_SUFFIX,
    SCORE_SET_FORMAT,
    SIDECAR_SUFFIX,
    STAMP_FILE,
)
from beholder.errors import InputError
from beholder.io import storage
from beholder.io.tables import JSON_SUFFIXES, decoded
from beholder.sources.embeddings.labels import choose_label_columns, refuse_columns
from beholder.sources.embeddings.reader import Part, Reader, ReadOptions
from beholder.sources.embeddings.stamp import read_stamp

_SUFFIX_KINDS = {".npy": "npy", ".npz": "npz", ".parquet": "parquet", ".pq": "parquet", ".csv": "csv"}
_SPARE_KINDS = {".pt": "torch", ".pth": "torch", ".jsonl": "json", ".ndjson": "json"}
"""Taken in a folder only where there is nothing else: such files often are models, or notes about the others."""
_PICTURES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".heic", ".ppm"}
_LIST_HINT = "a list holds one path or URL a line, in UTF-8"
_TEXT_IN_DISGUISE = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\xff\xfe", b"\xfe\xff")
"""gzip, zstd, UTF-16: left to the CSV reader, which says what to do with them."""
_NUMBER = re.compile(r"(\d+)(?!.*\d)")


def reader_of(kind: str) -> Reader:
    """The reader for a kind of part."""
    if kind == "npy":
        from beholder.sources.embeddings.npy import NpyReader

        return NpyReader()
    if kind == "npz":
        from beholder.sources.embeddings.npz import NpzReader

        return NpzReader()
    if kind == "parquet":
        from beholder.sources.embeddings.parquet import ParquetReader

        return ParquetReader()
    if kind == "torch":
        from beholder.sources.embeddings.torch_files import TorchReader

        return TorchReader()
    if kind == "json":
        from beholder.sources.embeddings.json_lines import JsonReader

        return JsonReader()
    from beholder.sources.embeddings.csv import CsvReader

    return CsvReader()


def find_parts(sources: Sequence[str], options: ReadOptions) -> list[Part]:
    """All parts behind `sources`, in a stable order, every header read and checked.

    Args:
        sources: files, folders, globs, URLs, or `.txt` lists of those (one a line).
        options: decides columns.

    Raises:
        InputError: for the first thing that cannot be scored; nothing has been written by then.
    """
    found: list[tuple[str, str, str | None]] = []
    for source in _expand(sources):
        found += _files_of(source)
    if not found:
        raise InputError(f"no embeddings found in {', '.join(sources)}: expected .npy, .npz, .parquet or .csv files")
    _check_unique(found)
    with ThreadPoolExecutor(max_workers=1 if len(found) < 4 else 8) as pool:
        return list(pool.map(lambda item: _inspect(item[0], item[1], item[2], options), found))


def _expand(sources: Sequence[str], inside: tuple[str, ...] = ()) -> list[str]:
    """Globs and lists replaced by what they name; `inside`: the lists that led here."""
    expanded: list[str] = []
    for source in sources:
        storage.forget_listings(source)
        if source.lower().endswith(".txt"):
            if source in inside:
                raise InputError(f"{source} lists itself; remove the line")
            text = decoded(storage.read_range(source, 0, storage.size(source)), source, _LIST_HINT)
            lines = text.split("\n")
            entries = [line for line in map(str.strip, lines) if line and not line.startswith("#")]
            if not entries:
                raise InputError(f"{source} lists nothing: expected one path or URL a line")
            expanded += _expand(entries, (*inside, source))
        elif storage.is_glob(source):
            matches = storage.expand_glob(source)
            if not matches:
                raise InputError(f"nothing matches {source}")
            expanded += sorted(matches, key=storage.natural_key)
        else:
            expanded.append(source.rstrip("/") if len(source) > 1 else source)
    return expanded


def _files_of(source: str) -> list[tuple[str, str, str | None]]:
    """(path, name, metadata path) of every embedding file that `source` names."""
    if not storage.is_folder(source):
        if not storage.exists(source):
            raise InputError(f"{source} does not exist; check the path")
        if storage.is_local(source) and not storage.local_path(source).is_file():
            raise InputError(f"{source} is no file but a pipe or device, which cannot be read twice; save it to a file first")
        return [(source, PurePosixPath(source.replace("\\", "/")).name, None)]
    root = (
        storage.filesystem(source)[0].unstrip_protocol(storage.filesystem(source)[1])
        if not storage.is_local(source)
        else source
    )
    listed = storage.list_files(source)
    files = _without_results(listed)
    names = {path: _relative(path, root) for path in files}
    layout = [path for path in files if _is_image_part(names[path], root)]
    if layout:
        return _pair_metadata(layout, files, names, source)
    by_kind: dict[str, list[str]] = {}
    for path in files:
        kind = _SUFFIX_KINDS.get(PurePosixPath(path).suffix.lower())
        if kind is not None:
            by_kind.setdefault(kind, []).append(path)
    if not by_kind:
        for path in files:
            kind = _SPARE_KINDS.get(PurePosixPath(path).suffix.lower())
            if kind is not None:
                by_kind.setdefault(kind, []).append(path)
    if len(by_kind) > 1:
        counts = ", ".join(f"{len(paths)} .{kind}" for kind, paths in sorted(by_kind.items()))
        raise InputError(
            f"{source} holds different kinds of files ({counts}); say which with a glob, for example '{source}/*.npy'"
        )
    if not by_kind:
        if any(PurePosixPath(path).suffix.lower() in _PICTURES for path in files):
            raise InputError(f"{source} holds pictures, and embeddings were asked for; name the folder with the embeddings")
        _refuse_scores(source, listed)
        raise InputError(f"{source} holds no pictures, and no .npy, .npz, .parquet or .csv file with embeddings")
    (paths,) = by_kind.values()
    return [(path, names[path], None) for path in sorted(paths, key=storage.natural_key)]


def _refuse_scores(source: str, files: list[str]) -> None:
    """Raise InputError for a folder in which scores of runs are all there is; it says where the kept embeddings are."""
    runs = [
        path.rpartition("/")[0] for path in files if path.endswith(f"/{STAMP_FILE}") and _format_of(path) == SCORE_SET_FORMAT
    ]
    kept = [f"{run}/{EMBEDDINGS_FOLDER}" for run in runs if f"{run}/{EMBEDDINGS_FOLDER}/{STAMP_FILE}" in files]
    if kept:
        others = f" (and {len(kept) - 1:,} more)" if len(kept) > 1 else ""
        raise InputError(f"{source} holds scores; the embeddings that were kept are in {kept[0]}{others}: score those")
    if runs:
        raise InputError(f"{source} holds scores and no embeddings; score its pictures with --keep-embeddings to have them")


def _format_of(path: str) -> object:
    """The format in a record; None where it is damaged."""
    try:
        return read_stamp(path).record.get("format")
    except InputError:
        return None


def _without_results(files: list[str]) -> list[str]:
    """Leave out score sets (of earlier runs, say), folders and single files with their rejects; and rejects of embeddings."""
    folders, singles = [], set()
    for path in files:
        if not path.endswith(STAMP_FILE):
            continue
        kind = _format_of(path)
        is_folder = path.rsplit("/", 1)[-1] == STAMP_FILE
        if kind not in (SCORE_SET_FORMAT, EMBEDDINGS_FORMAT):
            continue
        if is_folder:
            root = path.removesuffix(STAMP_FILE)
            own = (REJECTS_FOLDER, DONE_FOLDER, INPUTS_FOLDER, EARLIER_FOLDER)
            folders += [root] if kind == SCORE_SET_FORMAT else [f"{root}{folder}/" for folder in own]
        else:
            out = path.removesuffix(SIDECAR_SUFFIX)
            singles |= {out, out + REJECTS_SUFFIX} if kind == SCORE_SET_FORMAT else {out + REJECTS_SUFFIX}
    return [path for path in files if path not in singles and not path.startswith(tuple(folders))]


def _relative(path: str, root: str) -> str:
    root = str(storage.local_path(root)) if storage.is_local(root) else root
    return path.removeprefix(root).lstrip("/")


def _is_image_part(name: str, root: str) -> bool:
    """Whether this is an `img_emb/*.npy` of clip-retrieval's layout, seen from the set's folder or from img_emb itself."""
    parents = PurePosixPath(name).parts[:-1]
    inside = bool(parents) and parents[-1] == "img_emb"
    return name.endswith(".npy") and (inside or (not parents and PurePosixPath(root).name == "img_emb"))


def _index_of(path: str) -> int | None:
    """The last number in the file's stem: 12 for img_emb_0012.npy."""
    match = _NUMBER.search(PurePosixPath(path).stem)
    return int(match.group(1)) if match else None


def _pair_metadata(
    layout: list[str], files: list[str], names: dict[str, str], source: str
) -> list[tuple[str, str, str | None]]:
    """Pair img_emb_I.npy with metadata_J.parquet, I = J as numbers, from a sibling folder named *metadata*."""
    if PurePosixPath(source).name == "img_emb":
        parent = str(PurePosixPath(source).parent) if "://" not in source else source.rsplit("/", 1)[0]
        files = [path for path in storage.list_files(parent) if "metadata" in path]
    tables: dict[tuple[str, int], str] = {}
    for path in files:
        pure = PurePosixPath(path)
        index = _index_of(path)
        if pure.suffix == ".parquet" and "metadata" in pure.parent.name and index is not None:
            key = (str(pure.parent.parent), index)
            if key in tables:
                raise InputError(f"{path} and {tables[key]} both claim to be the metadata of part {index}; remove one")
            tables[key] = path
    paired = []
    for path in sorted(layout, key=storage.natural_key):
        index, home = _index_of(path), str(PurePosixPath(path).parent.parent)
        table = tables.get((home, index)) if index is not None else None
        has_any = any(folder == home for folder, _ in tables)
        if table is None and has_any:
            raise InputError(f"{path} has no metadata file with number {index} beside it; add it, or score the .npy alone")
        paired.append((path, names[path], table))
    return paired


def _check_unique(found: list[tuple[str, str, str | None]]) -> None:
    """Give files of the same name from different places their path as name; refuse the same file twice."""
    seen: set[str] = set()
    for path, _, _ in found:
        place = os.path.abspath(storage.local_path(path)) if storage.is_local(path) else path  # noqa: PTH100 (keeps links)
        if place in seen:
            raise InputError(f"{path} is named twice; name it once")
        seen.add(place)
    counts: dict[str, int] = {}
    for _, name, _ in found:
        counts[name] = counts.get(name, 0) + 1
    for position, (path, name, table) in enumerate(found):
        if counts[name] > 1:
            found[position] = (path, path.split("://", 1)[-1].lstrip("/"), table)


def _kind_of(path: str) -> str:
    """Kind by content: the first bytes; text counts as CSV."""
    head = storage.read_range(path, 0, min(8, storage.size(path)))
    if head.startswith(b"\x93NUMPY"):
        return "npy"
    if head.startswith(b"PAR1"):
        return "parquet"
    suffix = PurePosixPath(path).suffix.lower()
    if suffix in (".pt", ".pth") and head:
        return "torch"
    if head.startswith(b"PK\x03\x04"):
        return "npz"
    if not head:
        raise InputError(f"{path} is empty (0 bytes); write it again, or leave it out")
    if suffix in _PICTURES:
        raise InputError(f"{path} is a picture, and embeddings were asked for; name the file with the embeddings")
    if suffix in (".npy", ".npz", ".parquet", ".pq"):
        raise InputError(f"{path} is not {suffix} inside: it starts with {head!r}; is it whole, or of another kind?")
    if b"\0" in head and not head.startswith(_TEXT_IN_DISGUISE):
        raise InputError(f"{path} is of no kind that is known: expected .npy, .npz, .parquet or .csv")
    return "json" if suffix.removeprefix(".") in JSON_SUFFIXES else "csv"


def _inspect(path: str, name: str, metadata_path: str | None, options: ReadOptions) -> Part:
    if PurePosixPath(path).name == STAMP_FILE:
        raise InputError(f"{path} is a stamp, not embeddings")
    part = reader_of(_kind_of(path)).inspect(path, name, options)
    if metadata_path is None:
        if part.kind == "npy":
            refuse_columns(part, options)
        return part
    with storage.remote_errors(metadata_path), storage.open_parquet(metadata_path) as table:
        num_rows = table.metadata.num_rows
        labels = table.schema_with_ranges
        table.check_dictionaries(columns=choose_label_columns(labels.names, options, metadata_path))
    if num_rows != part.num_rows:
        raise InputError(
            f"{path} has {part.num_rows} rows but its metadata {metadata_path} has {num_rows}; they must be the same"
        )
    return replace(part, metadata_path=metadata_path, detail={**part.detail, "labels": labels})
