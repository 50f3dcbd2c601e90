"""What the user named in (folders, files, globs, lists, tars, tables, URLs), the parts with their pictures out."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from beholder.errors import ChoiceNeededError, InputError
from beholder.io import storage
from beholder.io.tables import JSON_SUFFIXES, is_utf16
from beholder.pixels.picture import PicturePart, PictureReader, SourceOptions
from beholder.sources.pictures import folder as files
from beholder.sources.pictures.labels import check_columns, valid_text
from beholder.sources.pictures.listing import Listing
from beholder.sources.pictures.looks import RANGE, expand_ranges, head_of, kind_of_head, names_pictures
from beholder.sources.pictures.magic import (
    OTHER_SUFFIXES,
    PARQUET_SUFFIXES,
    PICTURE_SUFFIXES,
    TABLE_SUFFIXES,
    TAR_SUFFIX,
    compression_of,
    is_tar_name,
    kind_of_bytes,
    suffix_of,
)


@dataclass(frozen=True)
class Found:
    """One thing behind the sources: `kind` as in PicturePart, "folder" for one that is listed already (`part`)."""

    kind: str
    path: str
    name: str
    group: str = ""
    part: PicturePart | None = None
    num_ignored: int = 0


def reader_of(kind: str) -> PictureReader:
    """The reader for a kind of part: "files", "tar", "parquet", "table" or "zip"."""
    if kind == "files":
        return files.FilesReader()
    if kind == "tar":
        from beholder.sources.pictures.tar import TarReader

        return TarReader()
    if kind == "parquet":
        from beholder.sources.pictures.parquet import PackedReader

        return PackedReader()
    if kind == "zip":
        from beholder.sources.pictures.zip import ZipReader

        return ZipReader()
    from beholder.sources.pictures.table import TableReader

    return TableReader()


def find_pictures(sources: Sequence[str], options: SourceOptions) -> list[PicturePart]:
    """All parts behind `sources`, in a stable order, every listing and header read and checked.

    Args:
        sources: folders, pictures, tars, zips, Parquet files and CSV tables; globs, brace ranges (`{00000..00012}`), URLs and
            `.txt` lists of any of these. Pictures named one by one (or by a glob) that follow each other make one part.
        options: decides columns.

    Raises:
        InputError: for the first thing that holds no pictures or is not there; nothing has been written by then.
    """
    found = [item for source in sources for item in expand_source(source, options)]
    _check_once(found)
    found = give_names(list(gather_singles(found)))
    with ThreadPoolExecutor(max_workers=1 if len(found) < 4 else 8) as pool:
        parts = list(pool.map(lambda item: _inspected(item, options), found))
    if not parts:
        raise InputError(f"no pictures found in {', '.join(sources)}")
    check_columns(parts, options)
    return parts


def _inspected(item: Found, options: SourceOptions) -> PicturePart:
    part = item.part or reader_of(item.kind).inspect(item.path, item.name, options)
    return replace(part, name=item.name, num_ignored=part.num_ignored + item.num_ignored)


def expand_source(source: str, options: SourceOptions, inside: tuple[str, ...] = ()) -> Iterator[Found]:
    """Everything behind one source; `inside`: the lists that led here."""
    storage.forget_listings(source)
    if len(source) > 1 and source.endswith("/"):
        source = source.rstrip("/") or "/"
    if RANGE.search(source) and not (storage.is_local(source) and storage.exists(source)):
        for path in expand_ranges(source):
            yield from expand_source(path, options, inside)
    elif storage.is_glob(source):
        yield from _matches(source, options)
    elif suffix_of(source) == "txt":
        if source in inside:
            raise InputError(f"{source} lists itself; remove the line")
        yield from _listed(source, options, inside)
    elif storage.is_local(source) and storage.is_folder(source):
        yield from _folder(source, options)
    elif storage.is_local(source):
        if not storage.exists(source):
            raise InputError(f"{source} does not exist; check the path")
        if not storage.local_path(source).is_file():
            raise InputError(f"{source} is no file but a pipe or device, which cannot be read twice; save it to a file first")
        yield Found(kind_of(source, options), source, _base_name(source))
    elif suffix_of(source) in PICTURE_SUFFIXES:
        yield Found("files", source, _base_name(source))
    elif not is_tar_name(source) and storage.is_folder(source):
        yield from _folder(source, options)
    else:
        yield Found(kind_of(source, options), source, _base_name(source))


def kind_of(path: str, options: SourceOptions) -> str:
    """Kind of one file: by its first bytes, then by its suffix. Raises InputError for what is of no known kind."""
    head = head_of(path)
    kind = kind_of_bytes(head)
    suffix = suffix_of(path)
    if suffix in PICTURE_SUFFIXES:
        return "files"
    if kind == "parquet":
        from beholder.sources.pictures.parquet import columns_of_parquet

        return columns_of_parquet(path, options)[0].kind
    if kind is not None:
        return kind
    if is_tar_name(path) or (compression_of(head) and suffix not in TABLE_SUFFIXES and not path.endswith(".csv.gz")):
        return "tar"
    if not head:
        raise InputError(f"{path} is empty (0 bytes); write it again, or leave it out")
    if suffix in TABLE_SUFFIXES and (b"\0" not in head or is_utf16(head)):
        return "table"
    if suffix in (*PARQUET_SUFFIXES, "zip"):
        raise InputError(f"{path} is not .{suffix} inside: it starts with {head[:8]!r}; is it whole, or of another kind?")
    raise InputError(f"{path} is of no kind that is known: expected pictures, a tar, a zip, Parquet, CSV or a .txt list")


def _matches(pattern: str, options: SourceOptions) -> Iterator[Found]:
    """What a glob names, in natural order; files that are no pictures by suffix or content are passed over and counted."""
    names = storage.expand_glob(pattern)
    if not pattern.rsplit("/", 1)[-1].startswith("."):  # remote back ends match hidden names as well
        names = [name for name in names if not name.rstrip("/").rsplit("/", 1)[-1].startswith(".")]
    if not names:
        raise InputError(f"nothing matches {pattern}")
    names = [f"./{name}" if name.startswith("~") else name for name in sorted(names, key=storage.natural_key)]
    is_of_json = suffix_of(pattern) in JSON_SUFFIXES  # else they are notes beside the pictures
    tables = TABLE_SUFFIXES if is_of_json else TABLE_SUFFIXES - JSON_SUFFIXES
    items: list[Found] = []
    num_ignored = 0
    for name in names:
        suffix, local = suffix_of(name), storage.is_local(name)
        if (local and os.path.isdir(name)) or (not local and not suffix and storage.is_folder(name)):  # noqa: PTH112
            items += _folder(name, options)
        elif suffix in PICTURE_SUFFIXES:
            items.append(Found("files", name, _base_name(name), group=pattern))
        elif (suffix in tables or suffix in (*PARQUET_SUFFIXES, "zip")) or is_tar_name(name):
            items.append(Found(kind_of(name, options), name, _base_name(name)))
        elif local and suffix not in OTHER_SUFFIXES and os.path.isfile(name) and kind_of_head(name) == "files":  # noqa: PTH113
            items.append(Found("files", name, _base_name(name), group=pattern))
        else:
            num_ignored += 1
    if not items:
        raise InputError(f"{pattern} matches {num_ignored} files, none of them a picture or a set of pictures")
    yield replace(items[0], num_ignored=items[0].num_ignored + num_ignored)
    yield from items[1:]


def _listed(source: str, options: SourceOptions, inside: tuple[str, ...]) -> Iterator[Found]:
    """A list: a table of pictures when its first line names one (or a URL), else more sources, one a line."""
    from beholder.sources.pictures.table import read_list

    entries = read_list(source)
    first = entries[0].as_py()
    if names_pictures(first):
        yield Found("table", source, _base_name(source))
        return
    for entry in entries.to_pylist():
        yield from expand_source(entry, options, (*inside, source))


def _folder(source: str, options: SourceOptions) -> Iterator[Found]:
    """What a folder holds: its pictures, or its tars, or its Parquet files with pictures, or its zips."""
    if storage.is_local(source) and files.is_result_folder(str(storage.local_path(source))):
        raise InputError(f"{source} holds results of beholder, not pictures; name it alone to score embeddings")
    if storage.is_local(source):
        listing, base = files.scan_local(str(storage.local_path(source))), files.prefix_of(source)
    else:
        listing, base = files.scan_remote(source)
    packed, unclear = _packed(listing, base, options)
    others = {"tars": listing.tars, "Parquet files with pictures": [path for path, _ in packed]}
    name = _folder_name(source)
    if len(listing.names):
        for what, paths in others.items():
            if paths:
                raise InputError(
                    f"{source} holds both pictures ({len(listing.names):,}) and {what} ({len(paths):,}); "
                    f"say which with a glob, for example '{base}**/*{PurePosixPath(paths[0]).suffix}' or '{base}**/*.jpg'"
                )
        num_ignored = listing.num_ignored + len(listing.parquets) + len(listing.zips)
        part = files.part_of_listing(replace(listing, num_ignored=num_ignored), source, name, base)
        yield Found("files", source, name, part=part)
        return
    if listing.tars:
        stems = {_tar_stem(tar) for tar in listing.tars}
        strangers = [path for path in listing.parquets if path.rsplit(".", 1)[0] not in stems]
        chosen = [("tar", tar) for tar in listing.tars]
        num_ignored = listing.num_ignored + len(strangers) + len(listing.zips)
    elif packed:
        wanted = "parquet" if any(kind == "parquet" for _, kind in packed) else "table"
        chosen = [(kind, path) for path, kind in packed if kind == wanted]
        num_ignored = listing.num_ignored + len(listing.parquets) - len(chosen) + len(listing.zips)
    else:
        chosen = [("zip", path) for path in listing.zips]
        num_ignored = listing.num_ignored + len(listing.parquets)
    if not chosen and unclear is not None:
        raise unclear
    if not chosen:
        raise InputError(f"{source} holds no pictures, no tars and no Parquet files with pictures")
    for i, (kind, path) in enumerate(chosen):
        yield Found(kind, base + path, path, num_ignored=num_ignored if i == 0 else 0)


def _tar_stem(tar: str) -> str:
    return TAR_SUFFIX.sub("", tar)


def _packed(listing: Listing, base: str, options: SourceOptions) -> tuple[list[tuple[str, str]], ChoiceNeededError | None]:
    """(path, kind) of the Parquet files that hold pictures, or, where there are no pictures beside, their places.

    Tables beside a tar and tables of embeddings are neither. Of those that need a choice, the first one's error comes along.
    """
    from beholder.sources.pictures.parquet import columns_of_parquet
    from beholder.sources.pictures.picture_columns import holds_embeddings

    stems = {_tar_stem(tar) for tar in listing.tars}
    found: list[tuple[str, str]] = []
    unclear: ChoiceNeededError | None = None
    for path in listing.parquets:
        if path.rsplit(".", 1)[0] in stems or files.is_result_file(base + path):
            continue
        try:
            columns, schema = columns_of_parquet(base + path, options)
        except ChoiceNeededError as error:
            unclear = unclear or error
            continue
        except InputError:
            continue
        if columns.kind == "parquet" or not (len(listing.names) or holds_embeddings(schema)):
            found.append((path, columns.kind))
    return found, unclear


def _folder_name(source: str) -> str:
    if storage.is_local(source):
        source = str(Path(os.path.abspath(storage.local_path(source))))  # noqa: PTH100
    return _base_name(source) or "pictures"


def _base_name(path: str) -> str:
    path = path.split("?", 1)[0] if storage.is_web(path) else path
    return path.rstrip("/").rsplit("/", 1)[-1]


def gather_singles(found: Sequence[Found]) -> Iterator[Found]:
    """Single pictures that follow each other as one part, named after their glob, the first one, or their folder."""
    run: list[Found] = []
    for item in [*found, None]:
        if item is not None and item.kind == "files" and item.part is None:
            run.append(item)
            continue
        if run:
            yield _together(run)
            run = []
        if item is not None:
            yield item


def _together(run: Sequence[Found]) -> Found:
    groups = {item.group for item in run}
    path = run[0].group if len(groups) == 1 and run[0].group else run[0].path
    name = run[0].name if len(run) == 1 else _common_name([item.path for item in run])
    part = files.part_of_files([item.path for item in run], path, name)
    return Found("files", path, name, part=part, num_ignored=sum(item.num_ignored for item in run))


def _common_name(paths: Sequence[str]) -> str:
    """The last folder that all have in common, or "pictures"."""
    first, last = min(paths).split("/"), max(paths).split("/")
    common = [a for a, b in zip(first[:-1], last[:-1], strict=False) if a == b]
    return next((piece for piece in reversed(common) if piece not in ("", ".", "..", "~")), "pictures")


def _check_once(found: Sequence[Found]) -> None:
    """Refuse the same thing, or a folder and something in it, named twice."""
    places: set[str] = set()
    folders: list[str] = []
    for item in found:
        place = os.path.abspath(storage.local_path(item.path)) if storage.is_local(item.path) else item.path  # noqa: PTH100
        if place in places:
            raise InputError(f"{item.path} is named twice; name it once")
        places.add(place)
        if item.part is not None:
            folders.append(place.rstrip("/") + "/")
    for folder in folders:
        inside = next((place for place in places if place.startswith(folder)), None)
        if inside is not None:
            raise InputError(f"{inside} is named twice, once as a part of {folder}; name it once")


def give_names(found: list[Found]) -> list[Found]:
    """Give things of the same name from different places their path as name, or a number."""
    counts: dict[str, int] = {}
    for item in found:
        counts[item.name] = counts.get(item.name, 0) + 1
    longer = [item.path.split("://", 1)[-1].lstrip("/") if counts[item.name] > 1 else item.name for item in found]
    used: set[str] = set()
    named = []
    for item, name in zip(found, longer, strict=True):
        number, free = 2, name
        while free in used:
            free, number = f"{name}-{number}", number + 1
        used.add(free)
        named.append(replace(item, name=valid_text(free)))
    return named
