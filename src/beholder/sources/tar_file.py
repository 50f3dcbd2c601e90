"""The format of tars: members in order, where their bytes are, and what is wrong where a tar breaks off."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import lzma
import os
import re
import tarfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, Any, cast

from beholder.columns import PictureReason
from beholder.errors import InputError, os_error_text, text_of
from beholder.io import locations, remote, storage
from beholder.io.remote import RemoteFile
from beholder.sources.file_kinds import HEAD_BYTES, compression_of, is_tar_header
from beholder.sources.labels import valid_text

MOST_MEMBER_BYTES = 1 << 30
"""Larger members are not read into memory."""
_MOST_SWOLLEN_BYTES, _MOST_RATIO = 64 << 20, 200
"""A member that unpacks to more than both is not unpacked: 1 MB can be made to give 1 GB."""
_MOST_HEADER_BYTES = 16 << 20
BLOCK_BYTES = 512
_ZEROS = bytes(BLOCK_BYTES)
_KEY = re.compile(r"((?:.*/|)[^.]+)[.]([^/]*)", re.DOTALL)
_PLAIN_FILE = re.compile(
    rb"(.{100})[0-7]{7}[\0 ][0-7]{7}[\0 ][0-7]{7}[\0 ]"  # name, mode, user, group
    rb"([0-7]{11})[\0 ][0-7]{11}[\0 ]([0-7]{6})\0 0"  # size, time, checksum, type
    rb".{172}(?:[0-7]{7}[\0 ]|\0{8}){2}(.{155}).{12}",  # link, magic, owner; device; prefix
    re.DOTALL,
)
"""The header of a file that needs no other, as GNU tar, bsdtar and Python write it (POSIX.1-1988, ustar)."""
_META = re.compile(r"__[^/]*__($|/)")
_DECOMPRESSORS: dict[str, Callable[[IO[bytes]], Any]] = {
    "gz": lambda raw: gzip.GzipFile(fileobj=raw),
    "bz2": bz2.BZ2File,
    "xz": lzma.LZMAFile,
}
DAMAGE = (
    tarfile.TarError, zlib.error, gzip.BadGzipFile, lzma.LZMAError, ValueError, ArithmeticError, LookupError, RecursionError,
    MemoryError, EOFError, OSError,
)  # fmt: skip
"""What `tarfile` and the decompressors raise for bytes that are not as they should be, or cannot be read."""


class TarBroken(Exception):  # noqa: N818 (an end, told by an exception)
    """The tar cannot be read further. `name`: the member where it broke off, if known."""

    def __init__(self, reason: PictureReason, message: str, name: str | None = None) -> None:
        super().__init__(message)
        self.reason, self.message, self.name = reason, message, name


@dataclass(slots=True)
class Member:
    """A file in a tar. It is not to be changed; making frozen ones would take four times as long, for each picture.

    Attributes:
        name: its path in the tar, valid UTF-8, without a leading "./" or "/".
        offset: where its stored bytes begin in the (uncompressed) tar.
        num_stored: how many stored bytes there are.
        size: bytes of the file; more than stored for a sparse one.
        holes: (offset in the file, length) of the stored stretches of a sparse file; None for others.
        link: the file it is a link to, or None.
        header: where the first of its headers begins.
    """

    name: str
    offset: int
    num_stored: int
    size: int
    holes: tuple[tuple[int, int], ...] | None = None
    link: str | None = None
    header: int = 0


def is_swollen(num_bytes: int, num_stored: int) -> bool:
    """Whether a member that is packed, or stored with holes, would unpack to far more than any picture does."""
    return num_bytes > max(_MOST_SWOLLEN_BYTES, _MOST_RATIO * num_stored)


def split_key(name: str) -> tuple[str, str] | None:
    """(key, extension) by webdataset's rule: the key ends before the first dot of the last piece of the path.

    A name without a dot has the extension "". None for what webdataset passes over, hidden files, and what lies in folders
    that systems make for themselves.
    """
    last = name.rsplit("/", 1)[-1]
    if not last or last.startswith(".") or _META.match(name):
        return None
    if "/" in name and any(locations.is_system_name(os.fsencode(folder)) for folder in name.split("/")[:-1]):
        return None
    found = _KEY.fullmatch(name)
    return (found[1], found[2].lower()) if found else (name, "")


class TarFile:
    """A tar, local or remote, plain or compressed (gz, bz2, xz), read from front to back.

    Attributes:
        is_plain: whether it is not compressed, so that offsets are those of the file.
        has_globals: whether a header met so far says something of all members behind it, so that none can be skipped.
        num_bytes: size of the file as stored.
    """

    def __init__(self, path: str, num_bytes: int) -> None:
        """Open it. Raises InputError when it cannot be opened, or is no tar."""
        self.path, self.num_bytes = path, num_bytes
        self.has_globals = False
        self._raw: IO[bytes] = storage.open_stream(path, num_bytes)
        try:
            with remote.read_errors(path):
                head = self._raw.read(HEAD_BYTES)
                self._raw.seek(0)
            compression = compression_of(head)
            self.is_plain = compression is None
            self._file: IO[bytes] = self._raw
            if compression is not None:
                self._file = cast(IO[bytes], io.BufferedReader(_Unpacked(_DECOMPRESSORS[compression](self._raw)), 1 << 16))
                head = self._first_block()
            if not is_tar_header(head) and head != _ZEROS:
                raise InputError(f"{path} is not a tar: it starts with {head[:8]!r}; is it whole, or of another kind?")
        except BaseException:
            self._raw.close()
            raise

    def _first_block(self) -> bytes:
        try:
            head: bytes = self._file.read(BLOCK_BYTES)
            self._file.seek(0)
            return head
        except DAMAGE as error:
            raise InputError(f"{self.path} cannot be decompressed: {text_of(error)}; write it again") from None

    def __enter__(self) -> TarFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._raw.close()

    def members(self, at: int = 0) -> Iterator[Member]:
        """Files and links in order, from the one whose header begins at byte `at`.

        Raises TarBroken where the tar is cut or damaged; InputError when a server fails.
        """
        headers = _Headers(fileobj=cast(IO[bytes], _HeaderBytes(self._file)))
        while True:
            try:
                at, block = self._skip_zeros(at)
                if at < 0:
                    return
                member = None if headers.pax_headers else _plain_member(block, at, headers)
                if member is None:
                    self._file.seek(at)
                    headers.offset = at
                    info = tarfile.TarInfo.fromtarfile(headers)
            except DAMAGE as error:
                raise self._broken(error, at) from None
            if member is not None:
                at = member.offset + -(-member.size // BLOCK_BYTES) * BLOCK_BYTES
            else:
                if headers.offset <= at:
                    raise TarBroken(PictureReason.UNREADABLE, f"the tar is damaged: a header at byte {at} leads backwards")
                member = _member(info, at)
                at = headers.offset
                self.has_globals = self.has_globals or bool(headers.pax_headers)
            if member is None:
                continue
            if self.is_plain and member.offset + member.num_stored > self.num_bytes:
                there = max(self.num_bytes - member.offset, 0)
                message = f"the tar breaks off: {there} of the {member.num_stored} bytes of {member.name} are there"
                raise TarBroken(PictureReason.TRUNCATED, message, member.name)
            yield member

    def _skip_zeros(self, at: int) -> tuple[int, bytes]:
        """Where the next header is, and its block: at `at`, or behind zeros (of tars that were joined); -1 at the end."""
        self._file.seek(at)
        while (block := self._file.read(BLOCK_BYTES)) == _ZEROS:
            at += BLOCK_BYTES
        if self.is_plain and at > self.num_bytes:
            raise TarBroken(PictureReason.TRUNCATED, f"the tar breaks off after {self.num_bytes} bytes")
        if not block or not block.strip(b"\0"):
            return -1, b""
        return at, block

    def _broken(self, error: BaseException, at: int, name: str | None = None) -> TarBroken:
        """What an exception met at byte `at` means."""
        if isinstance(error, EOFError) or (isinstance(error, tarfile.HeaderError) and self._is_at_end()):
            return TarBroken(PictureReason.TRUNCATED, f"the tar breaks off near byte {at}", name)
        why = os_error_text(error) if isinstance(error, OSError) else text_of(error) or type(error).__name__
        return TarBroken(PictureReason.UNREADABLE, f"the tar is damaged near byte {at}: {why[:200]}", name)

    def _is_at_end(self) -> bool:
        try:
            return not self._file.read(1)
        except DAMAGE:
            return True

    def read(self, member: Member, most: int | None = None) -> bytes:
        """The first `most` bytes (None: all) of a member. Raises TarBroken when they cannot be had."""
        wanted = member.num_stored if most is None else min(most, member.num_stored)
        try:
            self._file.seek(member.offset)
            stored: bytes = self._file.read(wanted)
        except DAMAGE as error:
            raise self._broken(error, member.offset, member.name) from None
        if len(stored) < wanted:
            raise TarBroken(PictureReason.TRUNCATED, f"the tar breaks off inside {member.name}", member.name)
        return stored if member.holes is None or most is not None else _filled(member, stored)


class _Headers(tarfile.TarFile):
    """What `tarfile.TarInfo.fromtarfile` needs to read one header; it looks for none itself and keeps none."""

    def next(self) -> tarfile.TarInfo | None:
        """None: the constructor would read the first member."""
        return None


class _HeaderBytes:
    """What headers are read from; one that claims to be huge is refused before memory is taken for it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self.tell, self.seek = file, file.tell, file.seek

    def read(self, num_bytes: int) -> bytes:
        """The next `num_bytes` bytes, fewer at the end. Raises HeaderError for more than a header can have."""
        if num_bytes > _MOST_HEADER_BYTES:
            raise tarfile.HeaderError(f"a header of {num_bytes} bytes")
        return self._file.read(num_bytes)


class _Unpacked(RemoteFile):
    """What a decompressor gives, piece by piece, so that all that comes before a cut is had."""

    def __init__(self, opened: Any) -> None:
        super().__init__(opened, contextlib.nullcontext)

    def read(self, size: int = -1) -> bytes:
        """What is at hand, at most `size` bytes."""
        data: bytes = self._opened.read1(size)
        return data


def _plain_member(block: bytes, at: int, headers: tarfile.TarFile) -> Member | None:
    """What `tarfile` would read of the header at byte `at`, for a tenth of the time; None of one that has to be read by it."""
    found = _PLAIN_FILE.fullmatch(block)
    if found is None or 256 + _sum(block) - sum(block[148:156]) != int(found[3], 8):
        return None
    raw, prefix = (text.partition(b"\0")[0] for text in found.group(1, 4))
    name = (prefix + b"/" + raw if prefix else raw).decode(headers.encoding or "utf-8", headers.errors or "strict")
    size = int(found[2], 8)
    return Member(_relative(valid_text(name)), at + BLOCK_BYTES, size, size, header=at)


def _sum(block: bytes) -> int:
    """Of the 512 bytes of a block. Adler-32's lower half is 1 + the sum modulo 65,521, which 512 bytes below 128 stay under."""
    return (zlib.adler32(block) & 0xFFFF) - 1 if block.isascii() else sum(block)


def _relative(name: str) -> str:
    """A member's name without a leading "./" or "/"."""
    while name.startswith(("./", "/")):
        name = name.removeprefix("./").lstrip("/")
    return name


def _member(info: tarfile.TarInfo, header: int) -> Member | None:
    """The member that the header at byte `header` describes; None for folders, devices and the like."""
    name = _relative(valid_text(info.name))
    if info.issym() or info.islnk():
        return Member(name, info.offset_data, 0, 0, link=valid_text(info.linkname), header=header)
    if not info.isreg():
        return None
    if info.sparse is None:
        return Member(name, info.offset_data, info.size, info.size, header=header)
    stretches: Any = info.sparse
    holes = tuple((int(offset), int(length)) for offset, length in stretches if length)
    return Member(name, info.offset_data, sum(length for _, length in holes), info.size, holes, header=header)


def _filled(member: Member, stored: bytes) -> bytes:
    """A sparse file with its holes filled with zeros."""
    data, at = bytearray(member.size), 0
    for offset, length in member.holes or ():
        data[offset : offset + length] = stored[at : at + length]
        at += length
    return bytes(data[: member.size])
