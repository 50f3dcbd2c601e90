"""Finds what the user named: parts with pictures or parts with embeddings, every listing and header read and checked."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TypeVar

from beholder.columns import STAMP_FILE
from beholder.errors import ChoiceNeededError, InputError
from beholder.io import locations, remote, storage
from beholder.io.tables import JSON_SUFFIXES
from beholder.sources.column_choice import holds_embeddings
from beholder.sources.detect import Look, Looks, detect, embedding_kind, picture_kind
from beholder.sources.file_kinds import (
    OTHER_SUFFIXES,
    PARQUET_SUFFIXES,
    PICTURE_SUFFIXES,
    TABLE_SUFFIXES,
    TAR_SUFFIX,
    base_name,
    expand_ranges,
    is_tar_name,
    kind_of_head,
    suffix_of,
)
from beholder.sources.folder import Listing, part_of_files, part_of_listing
from beholder.sources.labels import check_columns, choose_label_columns, refuse_columns, valid_text
from beholder.sources.parquet import columns_of_parquet
from beholder.sources.reader import Part, PicturePart, ReadOptions, SourceOptions, embedding_reader, picture_reader
from beholder.sources.stamp import is_result_file, refuse_scores, without_results
from beholder.sources.table import read_list

_FOLDER_KINDS = (
    {"npy": "npy", "npz": "npz", "parquet": "parquet", "pq": "parquet", "csv": "csv"},
    {"pt": "torch", "pth": "torch", "jsonl": "json", "ndjson": "json"},
)
"""Files of embeddings in a folder; the second ones, which may be models or notes, only where there are none of the first."""
_NUMBER = re.compile(r"(\d+)(?!.*\d)")
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Found:
    """The parts behind sources: of pictures, or of embeddings; the other one is empty."""

    pictures: Sequence[PicturePart] = ()
    embeddings: Sequence[Part] = ()


@dataclass(frozen=True)
class Source:
    """One file or folder behind the sources.

    Attributes:
        kind: as in `PicturePart` or `reader.Part`; "" of embeddings that were not looked into.
        path: where it is opened.
        name: names its shards.
        group: the glob that named it, of single pictures.
        part: of pictures that are listed already.
        num_ignored: files beside it that are nothing.
        metadata: Parquet file with the labels of an `.npy`.
    """

    kind: str
    path: str
    name: str
    group: str = ""
    part: PicturePart | None = None
    num_ignored: int = 0
    metadata: str | None = None


def find(sources: Sequence[str], pictures: SourceOptions, embeddings: ReadOptions) -> Found:
    """Find out what `sources` are, and all parts behind them in a stable order; nothing has been written by then.

    Args:
        sources: files, folders, globs, brace ranges, URLs, and lists of these.
        pictures: how pictures are read.
        embeddings: how embeddings are read.

    Raises:
        InputError: there is nothing, or something that cannot be read.
        ChoiceNeededError: a flag has to say which column is meant.
    """
    looks = Looks()
    if detect(sources, pictures, embeddings.embedding_column, looks=looks) != "pictures":
        return Found(embeddings=find_parts(sources, embeddings, looks))
    if embeddings.embedding_column is not None:
        raise InputError("--embedding-column: these are pictures, which have none; leave it out")
    return Found(pictures=find_pictures(sources, pictures, looks))


def find_only_pictures(sources: Sequence[str], options: SourceOptions) -> list[PicturePart]:
    """Find the parts behind `sources` for a command that takes pictures and nothing else.

    A table that has pictures beside vectors is one of pictures here; one that only says where they are, beside vectors, holds
    embeddings, unless the column with the places is named.

    Raises:
        InputError: there is nothing, or something that cannot be read, or these are embeddings.
        ChoiceNeededError: a flag has to say which column is meant.
    """
    looks = Looks()
    if detect(sources, options, wants_pictures=True, looks=looks) == "embeddings":
        _refuse_embeddings(sources, looks)
    return find_pictures(sources, options, looks)


def _refuse_embeddings(sources: Sequence[str], looks: Looks) -> None:
    """Raise InputError if these are embeddings; what is neither is left to the reader of pictures, which says what is wrong."""
    try:
        parts = find_parts(sources, ReadOptions(), looks)
    except InputError:
        return
    has_columns = parts[0].kind in ("parquet", "csv", "json")
    hint = "; --picture-column names a column of pictures, or of their paths or URLs" if has_columns else ""
    raise InputError(
        f"{parts[0].path} holds embeddings, and pictures are needed here; embeddings are scored with: "
        f"beholder score {sources[0]}{' ...' if len(sources) > 1 else ''}{hint}"
    )


def find_pictures(sources: Sequence[str], options: SourceOptions, looks: Looks | None = None) -> list[PicturePart]:
    """All parts of pictures behind `sources`, in a stable order, every listing and header read and checked.

    Args:
        sources: folders, pictures, tars, zips, Parquet files and CSV tables; globs, brace ranges (`{00000..00012}`), URLs and
            `.txt` lists of any of these. Pictures named one by one (or by a glob) that follow each other make one part.
        options: decides columns.
        looks: what is known of them already.

    Raises:
        InputError: for the first thing that holds no pictures or is not there; nothing has been written by then.
    """
    looks = Looks() if looks is None else looks
    found = [item for source in sources for item in expand_source(source, options, looks)]
    _check_once(found)
    found = give_names(list(gather_singles(found)))

    def inspected(item: Source) -> PicturePart:
        part = item.part or picture_reader(item.kind).inspect(item.path, item.name, options)
        return replace(part, name=item.name, num_ignored=part.num_ignored + item.num_ignored)

    parts = _each(inspected, found)
    if not parts:
        raise InputError(f"no pictures found in {', '.join(sources)}")
    check_columns(parts, options)
    return parts


def find_parts(sources: Sequence[str], options: ReadOptions, looks: Looks | None = None) -> list[Part]:
    """All parts of embeddings behind `sources`, in a stable order, every header read and checked.

    Args:
        sources: files, folders, globs, URLs, or `.txt` lists of those (one a line).
        options: decides columns.
        looks: what is known of them already.

    Raises:
        InputError: for the first thing that cannot be scored; nothing has been written by then.
    """
    looks = Looks() if looks is None else looks
    found = [item for source in sources for item in _expand_embeddings(source, looks)]
    if not found:
        raise InputError(f"no embeddings found in {', '.join(sources)}: expected .npy, .npz, .parquet or .csv files")
    _check_once(found)
    return _each(lambda item: _inspected(item, options, looks), give_names(found))


def _each(function: Callable[[_Item], _Result], items: Sequence[_Item]) -> list[_Result]:
    if len(items) < 4:
        return list(map(function, items))
    with ThreadPoolExecutor(max_workers=8) as pool:
        return list(pool.map(function, items))


def _check_once(found: Sequence[Source]) -> None:
    """Refuse the same thing, or a listed folder and something in it, named twice."""
    places: set[str] = set()
    folders: list[str] = []
    for item in found:
        place = os.path.abspath(locations.local_path(item.path)) if locations.is_local(item.path) else item.path  # noqa: PTH100
        if place in places:
            raise InputError(f"{item.path} is named twice; name it once")
        places.add(place)
        if item.part is not None:
            folders.append(place.rstrip("/") + "/")
    for folder in folders:
        inside = next((place for place in places if place.startswith(folder)), None)
        if inside is not None:
            raise InputError(f"{inside} is named twice, once as a part of {folder}; name it once")


def give_names(found: list[Source]) -> list[Source]:
    """Give things of the same name from different places their path as name, or a number."""
    counts = Counter(item.name for item in found)
    used: set[str] = set()
    named = []
    for item in found:
        name = item.path.split("://", 1)[-1].lstrip("/") if counts[item.name] > 1 else item.name
        number, free = 2, name
        while free in used:
            free, number = f"{name}-{number}", number + 1
        used.add(free)
        named.append(replace(item, name=valid_text(free)))
    return named


def expand_source(source: str, options: SourceOptions, looks: Looks | None = None) -> Iterator[Source]:
    """Everything behind one source of pictures."""
    looks = Looks() if looks is None else looks
    for look in _named(source, looks):
        if look.form == "glob":
            yield from _picture_matches(look, options, looks)
        elif look.form == "folder":
            yield from _picture_folder(look, options)
        else:
            if look.local:
                look.check_file()
            yield Source(picture_kind(look, options), look.path, base_name(look.path))


def _named(source: str, looks: Looks, inside: tuple[str, ...] = ()) -> Iterator[Look]:
    """What a source names: brace ranges and lists of sources are taken apart; `inside`: the lists that led here."""
    if source not in looks:
        remote.forget_listings(source)
    look = looks[source]
    if look.form not in ("range", "list"):
        yield look
        return
    if look.path in inside:
        raise InputError(f"{look.path} lists itself; remove the line")
    for entry in expand_ranges(look.path) if look.form == "range" else read_list(look.path).to_pylist():
        yield from _named(entry, looks, (*inside, look.path))


def _picture_matches(look: Look, options: SourceOptions, looks: Looks) -> Iterator[Source]:
    """What a glob names; files that are no pictures by suffix or content are passed over and counted."""
    pattern, names = look.path, look.matches
    if not pattern.rsplit("/", 1)[-1].startswith("."):  # remote back ends match hidden names as well
        names = [name for name in names if not name.rstrip("/").rsplit("/", 1)[-1].startswith(".")]
    if not names:
        raise InputError(f"nothing matches {pattern}")
    is_of_json = suffix_of(pattern) in JSON_SUFFIXES  # else they are notes beside the pictures
    archives = {*PARQUET_SUFFIXES, "zip", *(TABLE_SUFFIXES if is_of_json else TABLE_SUFFIXES - JSON_SUFFIXES)}
    items: list[Source] = []
    num_ignored = 0
    for name in (f"./{name}" if name.startswith("~") else name for name in names):
        look = looks.known(name)
        if (look.local or not look.suffix) and look.is_folder:
            items += _picture_folder(look, options)
        elif look.suffix in PICTURE_SUFFIXES:
            items.append(Source("files", name, base_name(name), group=pattern))
        elif look.suffix in archives or is_tar_name(name):
            items.append(Source(picture_kind(look, options), name, base_name(name)))
        elif look.suffix not in OTHER_SUFFIXES and look.is_file and kind_of_head(name) == "files":
            items.append(Source("files", name, base_name(name), group=pattern))
        else:
            num_ignored += 1
    if not items:
        raise InputError(f"{pattern} matches {num_ignored} files, none of them a picture or a set of pictures")
    yield replace(items[0], num_ignored=items[0].num_ignored + num_ignored)
    yield from items[1:]


def _picture_folder(look: Look, options: SourceOptions) -> Iterator[Source]:
    """What a folder holds: its pictures, or its tars, or its Parquet files with pictures, or its zips."""
    source = look.path
    if look.is_result:
        raise InputError(f"{source} holds results of beholder, not pictures; name it alone to score embeddings")
    listing, base = look.listing
    stems = {TAR_SUFFIX.sub("", tar) for tar in listing.tars}
    strangers = [path for path in listing.parquets if path.rsplit(".", 1)[0] not in stems]
    packed, unclear = _packed(listing, strangers, base, options)
    if len(listing.names):
        for what, paths in (("tars", listing.tars), ("Parquet files with pictures", [path for path, _ in packed])):
            if paths:
                raise InputError(
                    f"{source} holds both pictures ({len(listing.names):,}) and {what} ({len(paths):,}); "
                    f"say which with a glob, for example '{base}**/*{PurePosixPath(paths[0]).suffix}' or '{base}**/*.jpg'"
                )
        num_ignored = listing.num_ignored + len(listing.parquets) + len(listing.zips)
        where = str(Path(os.path.abspath(look.local))) if look.local else source  # noqa: PTH100
        name = base_name(where) or "pictures"
        part = part_of_listing(replace(listing, num_ignored=num_ignored), source, name, base)
        yield Source("files", source, name, part=part)
        return
    num_ignored = listing.num_ignored + len(strangers) + len(listing.zips)
    if listing.tars:
        chosen = [("tar", tar) for tar in listing.tars]
    elif packed:
        wanted = "parquet" if any(kind == "parquet" for _, kind in packed) else "table"
        chosen = [(kind, path) for path, kind in packed if kind == wanted]
        num_ignored -= len(chosen)
    else:
        chosen = [("zip", path) for path in listing.zips]
        num_ignored -= len(chosen)
    if not chosen and unclear is not None:
        raise unclear
    if not chosen:
        raise InputError(f"{source} holds no pictures, no tars and no Parquet files with pictures")
    for i, (kind, path) in enumerate(chosen):
        yield Source(kind, base + path, path, num_ignored=num_ignored if i == 0 else 0)


def _packed(
    listing: Listing, paths: Sequence[str], base: str, options: SourceOptions
) -> tuple[list[tuple[str, str]], ChoiceNeededError | None]:
    """(path, kind) of the Parquet files that hold pictures, or, where there are no pictures beside, their places.

    Tables of embeddings are neither. Of those that need a choice, the first one's error comes along.
    """
    found: list[tuple[str, str]] = []
    unclear: ChoiceNeededError | None = None
    for path in paths:
        if is_result_file(base + path):
            continue
        try:
            columns, schema = columns_of_parquet(base + path, options)
        except ChoiceNeededError as error:
            unclear = unclear or error
        except InputError:
            continue
        else:
            if columns.kind == "parquet" or not (len(listing.names) or holds_embeddings(schema)):
                found.append((path, columns.kind))
    return found, unclear


def gather_singles(found: Sequence[Source]) -> Iterator[Source]:
    """Single pictures that follow each other as one part, named after their glob, the first one, or their folder."""
    run: list[Source] = []
    for item in [*found, None]:
        if item is not None and item.kind == "files" and item.part is None:
            run.append(item)
            continue
        if run:
            paths, groups = [single.path for single in run], {single.group for single in run}
            path = run[0].group if len(groups) == 1 and run[0].group else paths[0]
            name = run[0].name if len(run) == 1 else _common_name(paths)
            num_ignored = sum(single.num_ignored for single in run)
            yield Source("files", path, name, part=part_of_files(paths, path, name), num_ignored=num_ignored)
            run = []
        if item is not None:
            yield item


def _common_name(paths: Sequence[str]) -> str:
    """The last folder that all have in common, or "pictures"."""
    first, last = min(paths).split("/"), max(paths).split("/")
    common = [a for a, b in zip(first[:-1], last[:-1], strict=False) if a == b]
    return next((piece for piece in reversed(common) if piece not in ("", ".", "..", "~")), "pictures")


def _expand_embeddings(source: str, looks: Looks) -> Iterator[Source]:
    """Every embedding file behind one source."""
    for look in _named(source, looks):
        if look.form == "glob" and not look.matches:
            raise InputError(f"nothing matches {look.path}")
        for one in map(looks.known, look.matches) if look.form == "glob" else [look]:
            yield from _embedding_files(one)


def _embedding_files(look: Look) -> list[Source]:
    """A file, or those in a folder that hold embeddings. Raises InputError."""
    source = look.path
    if not look.is_folder:
        look.check_file()
        return [Source("", source, PurePosixPath(source.replace("\\", "/")).name)]
    if look.local:
        root = str(look.local)
    else:
        fs, inner = remote.filesystem(source)
        root = fs.unstrip_protocol(inner)
    listed = storage.list_files(source)
    files = without_results(listed)
    names = {path: path.removeprefix(root).lstrip("/") for path in files}
    layout = [path for path in files if _is_image_part(names[path], source)]
    if layout:
        return _with_metadata(layout, files, names, source)
    by_kind: dict[str, list[str]] = {}
    for kinds in _FOLDER_KINDS:
        for path in files if not by_kind else ():
            if (kind := kinds.get(suffix_of(path))) is not None:
                by_kind.setdefault(kind, []).append(path)
    if len(by_kind) > 1:
        counts = ", ".join(f"{len(paths)} .{kind}" for kind, paths in sorted(by_kind.items()))
        raise InputError(
            f"{source} holds different kinds of files ({counts}); say which with a glob, for example '{source}/*.npy'"
        )
    if not by_kind:
        if any(suffix_of(path) in PICTURE_SUFFIXES for path in files):
            raise InputError(f"{source} holds pictures, and embeddings were asked for; name the folder with the embeddings")
        refuse_scores(source, listed)
        raise InputError(f"{source} holds no pictures, and no .npy, .npz, .parquet or .csv file with embeddings")
    (paths,) = by_kind.values()
    return [Source("", path, names[path]) for path in sorted(paths, key=locations.natural_key)]


def _is_image_part(name: str, root: str) -> bool:
    """Whether this is an `img_emb/*.npy` of clip-retrieval's layout, seen from the set's folder or from img_emb itself."""
    folder = PurePosixPath(name).parent.name or PurePosixPath(root).name
    return name.endswith(".npy") and folder == "img_emb"


def _index_of(path: str) -> int | None:
    """The last number in the file's stem: 12 for img_emb_0012.npy."""
    match = _NUMBER.search(PurePosixPath(path).stem)
    return int(match.group(1)) if match else None


def _with_metadata(layout: list[str], files: list[str], names: dict[str, str], source: str) -> list[Source]:
    """img_emb_I.npy with metadata_J.parquet, I = J as numbers, from a sibling folder named *metadata*."""
    if PurePosixPath(source).name == "img_emb":
        parent = str(PurePosixPath(source).parent) if "://" not in source else source.rsplit("/", 1)[0]
        files = [path for path in storage.list_files(parent) if "metadata" in path]
    tables: dict[tuple[str, int], str] = {}
    for path in files:
        pure, index = PurePosixPath(path), _index_of(path)
        if pure.suffix == ".parquet" and "metadata" in pure.parent.name and index is not None:
            key = (str(pure.parent.parent), index)
            if key in tables:
                raise InputError(f"{path} and {tables[key]} both claim to be the metadata of part {index}; remove one")
            tables[key] = path
    paired = []
    for path in sorted(layout, key=locations.natural_key):
        index, home = _index_of(path), str(PurePosixPath(path).parent.parent)
        table = tables.get((home, index)) if index is not None else None
        if table is None and any(folder == home for folder, _ in tables):
            raise InputError(f"{path} has no metadata file with number {index} beside it; add it, or score the .npy alone")
        paired.append(Source("", path, names[path], metadata=table))
    return paired


def _inspected(item: Source, options: ReadOptions, looks: Looks) -> Part:
    path, metadata = item.path, item.metadata
    if PurePosixPath(path).name == STAMP_FILE:
        raise InputError(f"{path} is a stamp, not embeddings")
    part = embedding_reader(embedding_kind(looks.known(path))).inspect(path, item.name, options)
    if metadata is None:
        if part.kind == "npy":
            refuse_columns(part, options)
        return part
    with remote.read_errors(metadata), storage.open_parquet(metadata) as table:
        num_rows = table.metadata.num_rows
        chosen = choose_label_columns(table.schema_arrow.names, options, metadata)
        labels = table.schema_with_ranges(chosen)
        table.check_dictionaries(columns=chosen)
    if num_rows != part.num_rows:
        raise InputError(f"{path} has {part.num_rows} rows but its metadata {metadata} has {num_rows}; they must be the same")
    return replace(part, metadata_path=metadata, detail={**part.detail, "labels": labels})
