"""What the user named in (folders, files, globs, lists, tars, tables, URLs), the parts with their pictures out."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

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
from beholder.errors import ChoiceNeededError, InputError
from beholder.io import storage
from beholder.io.json_tables import JSON_SUFFIXES
from beholder.io.text import decoded, is_utf16
from beholder.pixels.picture import PicturePart, PictureReader, SourceOptions
from beholder.sources import folder as files
from beholder.sources.detect import detect
from beholder.sources.file_kinds import (
    OTHER_SUFFIXES,
    PARQUET_SUFFIXES,
    PICTURE_SUFFIXES,
    RANGE,
    TABLE_SUFFIXES,
    TAR_SUFFIX,
    compression_of,
    expand_ranges,
    head_of,
    is_tar_name,
    kind_of_bytes,
    kind_of_head,
    names_pictures,
    suffix_of,
)
from beholder.sources.folder import Listing
from beholder.sources.labels import check_columns, choose_label_columns, refuse_columns, valid_text
from beholder.sources.reader import Part, Reader, ReadOptions
from beholder.sources.stamp import read_stamp


@dataclass(frozen=True)
class Source:
    """One thing behind the sources: `kind` as in PicturePart, "folder" for one that is listed already (`part`)."""

    kind: str
    path: str
    name: str
    group: str = ""
    part: PicturePart | None = None
    num_ignored: int = 0


def picture_reader(kind: str) -> PictureReader:
    """The reader for a kind of part: "files", "tar", "parquet", "table" or "zip"."""
    if kind == "files":
        return files.FilesReader()
    if kind == "tar":
        from beholder.sources.tar import TarReader

        return TarReader()
    if kind == "parquet":
        from beholder.sources.parquet import PackedReader

        return PackedReader()
    if kind == "zip":
        from beholder.sources.zip import ZipReader

        return ZipReader()
    from beholder.sources.table import TableReader

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


def _inspected(item: Source, options: SourceOptions) -> PicturePart:
    part = item.part or picture_reader(item.kind).inspect(item.path, item.name, options)
    return replace(part, name=item.name, num_ignored=part.num_ignored + item.num_ignored)


def expand_source(source: str, options: SourceOptions, inside: tuple[str, ...] = ()) -> Iterator[Source]:
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
        yield Source(kind_of(source, options), source, _base_name(source))
    elif suffix_of(source) in PICTURE_SUFFIXES:
        yield Source("files", source, _base_name(source))
    elif not is_tar_name(source) and storage.is_folder(source):
        yield from _folder(source, options)
    else:
        yield Source(kind_of(source, options), source, _base_name(source))


def kind_of(path: str, options: SourceOptions) -> str:
    """Kind of one file: by its first bytes, then by its suffix. Raises InputError for what is of no known kind."""
    head = head_of(path)
    kind = kind_of_bytes(head)
    suffix = suffix_of(path)
    if suffix in PICTURE_SUFFIXES:
        return "files"
    if kind == "parquet":
        from beholder.sources.parquet import columns_of_parquet

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


def _matches(pattern: str, options: SourceOptions) -> Iterator[Source]:
    """What a glob names, in natural order; files that are no pictures by suffix or content are passed over and counted."""
    names = storage.expand_glob(pattern)
    if not pattern.rsplit("/", 1)[-1].startswith("."):  # remote back ends match hidden names as well
        names = [name for name in names if not name.rstrip("/").rsplit("/", 1)[-1].startswith(".")]
    if not names:
        raise InputError(f"nothing matches {pattern}")
    names = [f"./{name}" if name.startswith("~") else name for name in sorted(names, key=storage.natural_key)]
    is_of_json = suffix_of(pattern) in JSON_SUFFIXES  # else they are notes beside the pictures
    tables = TABLE_SUFFIXES if is_of_json else TABLE_SUFFIXES - JSON_SUFFIXES
    items: list[Source] = []
    num_ignored = 0
    for name in names:
        suffix, local = suffix_of(name), storage.is_local(name)
        if (local and os.path.isdir(name)) or (not local and not suffix and storage.is_folder(name)):  # noqa: PTH112
            items += _folder(name, options)
        elif suffix in PICTURE_SUFFIXES:
            items.append(Source("files", name, _base_name(name), group=pattern))
        elif (suffix in tables or suffix in (*PARQUET_SUFFIXES, "zip")) or is_tar_name(name):
            items.append(Source(kind_of(name, options), name, _base_name(name)))
        elif local and suffix not in OTHER_SUFFIXES and os.path.isfile(name) and kind_of_head(name) == "files":  # noqa: PTH113
            items.append(Source("files", name, _base_name(name), group=pattern))
        else:
            num_ignored += 1
    if not items:
        raise InputError(f"{pattern} matches {num_ignored} files, none of them a picture or a set of pictures")
    yield replace(items[0], num_ignored=items[0].num_ignored + num_ignored)
    yield from items[1:]


def _listed(source: str, options: SourceOptions, inside: tuple[str, ...]) -> Iterator[Source]:
    """A list: a table of pictures when its first line names one (or a URL), else more sources, one a line."""
    from beholder.sources.table import read_list

    entries = read_list(source)
    first = entries[0].as_py()
    if names_pictures(first):
        yield Source("table", source, _base_name(source))
        return
    for entry in entries.to_pylist():
        yield from expand_source(entry, options, (*inside, source))


def _folder(source: str, options: SourceOptions) -> Iterator[Source]:
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
        yield Source("files", source, name, part=part)
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
        yield Source(kind, base + path, path, num_ignored=num_ignored if i == 0 else 0)


def _tar_stem(tar: str) -> str:
    return TAR_SUFFIX.sub("", tar)


def _packed(listing: Listing, base: str, options: SourceOptions) -> tuple[list[tuple[str, str]], ChoiceNeededError | None]:
    """(path, kind) of the Parquet files that hold pictures, or, where there are no pictures beside, their places.

    Tables beside a tar and tables of embeddings are neither. Of those that need a choice, the first one's error comes along.
    """
    from beholder.sources.column_choice import holds_embeddings
    from beholder.sources.parquet import columns_of_parquet

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


def gather_singles(found: Sequence[Source]) -> Iterator[Source]:
    """Single pictures that follow each other as one part, named after their glob, the first one, or their folder."""
    run: list[Source] = []
    for item in [*found, None]:
        if item is not None and item.kind == "files" and item.part is None:
            run.append(item)
            continue
        if run:
            yield _together(run)
            run = []
        if item is not None:
            yield item


def _together(run: Sequence[Source]) -> Source:
    groups = {item.group for item in run}
    path = run[0].group if len(groups) == 1 and run[0].group else run[0].path
    name = run[0].name if len(run) == 1 else _common_name([item.path for item in run])
    part = files.part_of_files([item.path for item in run], path, name)
    return Source("files", path, name, part=part, num_ignored=sum(item.num_ignored for item in run))


def _common_name(paths: Sequence[str]) -> str:
    """The last folder that all have in common, or "pictures"."""
    first, last = min(paths).split("/"), max(paths).split("/")
    common = [a for a, b in zip(first[:-1], last[:-1], strict=False) if a == b]
    return next((piece for piece in reversed(common) if piece not in ("", ".", "..", "~")), "pictures")


def _check_once(found: Sequence[Source]) -> None:
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


def give_names(found: list[Source]) -> list[Source]:
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


_SUFFIX_KINDS = {".npy": "npy", ".npz": "npz", ".parquet": "parquet", ".pq": "parquet", ".csv": "csv"}
_SPARE_KINDS = {".pt": "torch", ".pth": "torch", ".jsonl": "json", ".ndjson": "json"}
"""Taken in a folder only where there is nothing else: such files often are models, or notes about the others."""
_PICTURES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif", ".heic", ".ppm"}
_LIST_HINT = "a list holds one path or URL a line, in UTF-8"
_TEXT_IN_DISGUISE = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\xff\xfe", b"\xfe\xff")
"""gzip, zstd, UTF-16: left to the CSV reader, which says what to do with them."""
_NUMBER = re.compile(r"(\d+)(?!.*\d)")


def embedding_reader(kind: str) -> Reader:
    """The reader for a kind of part."""
    if kind == "npy":
        from beholder.sources.npy import NpyReader

        return NpyReader()
    if kind == "npz":
        from beholder.sources.npy import NpzReader

        return NpzReader()
    if kind == "parquet":
        from beholder.sources.parquet import ParquetReader

        return ParquetReader()
    if kind == "torch":
        from beholder.sources.torch_files import TorchReader

        return TorchReader()
    if kind == "json":
        from beholder.sources.json_lines import JsonReader

        return JsonReader()
    from beholder.sources.csv import CsvReader

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
    part = embedding_reader(_kind_of(path)).inspect(path, name, options)
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


@dataclass(frozen=True)
class Found:
    """The parts behind sources: of pictures, or of embeddings; the other one is empty."""

    pictures: Sequence[PicturePart] = ()
    embeddings: Sequence[Part] = ()


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
    if detect(sources, pictures, embeddings.embedding_column) != "pictures":
        return Found(embeddings=find_parts(sources, embeddings))
    if embeddings.embedding_column is not None:
        raise InputError("--embedding-column: these are pictures, which have none; leave it out")
    return Found(pictures=find_pictures(sources, pictures))


def find_only_pictures(sources: Sequence[str], options: SourceOptions) -> list[PicturePart]:
    """Find the parts behind `sources` for a command that takes pictures and nothing else.

    A table that has pictures beside vectors is one of pictures here; one that only says where they are, beside vectors, holds
    embeddings, unless the column with the places is named.

    Raises:
        InputError: there is nothing, or something that cannot be read, or these are embeddings.
        ChoiceNeededError: a flag has to say which column is meant.
    """
    if detect(sources, options, wants_pictures=True) == "embeddings":
        _refuse_embeddings(sources)
    return find_pictures(sources, options)


def _refuse_embeddings(sources: Sequence[str]) -> None:
    """Raise InputError if these are embeddings; what is neither is left to the reader of pictures, which says what is wrong."""
    try:
        parts = find_parts(sources, ReadOptions())
    except InputError:
        return
    has_columns = parts[0].kind in ("parquet", "csv", "json")
    hint = "; --picture-column names a column of pictures or of their places" if has_columns else ""
    raise InputError(
        f"{parts[0].path} holds embeddings, and pictures are needed here; embeddings are scored with: "
        f"beholder score {sources[0]}{' ...' if len(sources) > 1 else ''}{hint}"
    )
