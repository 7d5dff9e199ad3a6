"""Opening what is to be imported: files, folders, archives and standard input, detected by their content.

Compression is peeled off layer by layer, in bounded memory. What is no table is refused by its kind
(`refuse`), never by showing what it holds.
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import os
import select
import shutil
import stat
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from atlas.errors import NO_SPACE, InvalidInput
from atlas.importing.files.text import printable

#: Layers of compression around one table.
_LAYERS = 3
#: What may come out of a compressed file before its ratio is looked at, and the ratio that is a bomb. Tables
#: of repeated rows reach some 100 to 1.
_FREE, _RATIO = 64 << 20, 250
_HEAD = 4096
#: Seconds after which a reader of standard input looks whether it is still wanted.
_PATIENCE = 0.2

#: What the first bytes say of things that are no tables.
_KINDS: tuple[tuple[bytes, str], ...] = (
    (b"%PDF", "a PDF document: export the table behind it as CSV"),
    (b"SQLite format 3\0", "an SQLite database: export the table as CSV"),
    (b"\x89PNG", "an image"),
    (b"\xff\xd8\xff", "an image"),
    (b"GIF8", "an image"),
    (b"\xd0\xcf\x11\xe0", "a spreadsheet or document of an old Office: save it as CSV"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive: unpack it"),
    (b"Rar!", "a RAR archive: unpack it"),
    (b"\x7fELF", "a program"),
    (b"MZ", "a program"),
    (b"ARROW1", "an Arrow file: write it as Parquet"),
    (b"ORC", "an ORC file: write it as Parquet"),
    (b"Obj\x01", "an Avro file: write it as Parquet or CSV"),
    (b"\x93NUMPY", "a NumPy array: write it as CSV"),
    (b"\x89HDF", "an HDF5 file: write it as Parquet or CSV"),
    (b"\x80\x02", "a Python pickle: write it as Parquet or CSV"),
    (b"\x80\x03", "a Python pickle: write it as Parquet or CSV"),
    (b"\x80\x04", "a Python pickle: write it as Parquet or CSV"),
    (b"\x80\x05", "a Python pickle: write it as Parquet or CSV"),
    (b"ID3", "a sound"),
    (b"OggS", "a sound or film"),
    (b"\x1aE\xdf\xa3", "a film"),
    (b"PGDMP", "a dump of PostgreSQL: restore it"),
    (b"version https://git-lfs", "a pointer of Git LFS: fetch the file itself (`git lfs pull`)"),
    (b"{\\rtf", "a text document (RTF): save the table as CSV"),
    (b"<?xml", "an XML document: export the table as CSV or JSON"),
    (
        b"<!doctype html",
        "a web page (HTML): the address may need a log-in; download the file itself",
    ),
    (b"<html", "a web page (HTML): the address may need a log-in; download the file itself"),
)
_UTF16 = (b"\xff\xfe", b"\xfe\xff")

#: Bytes that no text has; \x01 and \x1e..\x1f set cells apart in some.
_CONTROLS = bytes(one for one in range(32) if one not in b"\t\n\r\f\x1b\x01\x1e\x1f")

Count = Callable[[int], None]


class NoTable(InvalidInput):
    """What was given holds no table; the message says what it is."""


@dataclass(frozen=True, slots=True)
class Source:
    """One table to be read: its name, for people, and its content without compression.

    ``lenient``: one of several that a folder or an archive holds, where what is no table is passed over.
    ``refused``: a part of an archive that is none.
    """

    name: str
    content: IO[bytes]
    lenient: bool = False
    refused: NoTable | None = None

    def head(self) -> bytes:
        """The first bytes, without taking them."""
        return peek(self.content)


def refuse(name: str, what: str, hint: str | None = None) -> NoTable:
    """The error for something that is no table."""
    kind, _, advice = what.partition(": ")
    return NoTable(
        f"{printable(name)} is {kind}", field="file", value=name, hint=hint or advice or None
    )


def peek(content: IO[bytes]) -> bytes:
    """The first bytes of a buffered reader."""
    assert isinstance(content, io.BufferedReader)
    return content.peek(_HEAD)[:_HEAD]


@contextmanager
def broken_as_input(name: str) -> Iterator[None]:
    """What a decompressor says of broken content, as `InvalidInput`."""
    try:
        yield
    except NoTable:
        raise
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile, zipfile.BadZipFile) as error:
        cut = isinstance(error, EOFError)
        raise InvalidInput(
            f"cannot read {printable(name)}: "
            + ("it is cut short" if cut else f"it is broken ({printable(str(error))[:80]})"),
            field="file",
            value=name,
            hint="nothing was imported; download it again",
        ) from error
    except (pa.ArrowInvalid, pa.ArrowException) as error:
        raise InvalidInput(
            f"cannot read {printable(name)}: it is broken", field="file", value=name
        ) from error
    except OSError as error:
        if error.errno in NO_SPACE:
            raise  # temporary files, not the input
        raise InvalidInput(
            f"cannot read {printable(name)}: {error.strerror or printable(str(error))[:80]}",
            field="file",
            value=name,
        ) from error


def total_size(paths: Sequence[Path]) -> int | None:
    """Bytes on disk of all that is given; None where one of them is a stream."""
    size = 0
    for path in files_of(paths):
        if str(path) == "-" or not path.is_file():
            return None
        size += path.stat().st_size
    return size


def files_of(paths: Sequence[Path]) -> list[Path]:
    """Every file that is meant: a folder stands for the files in it, in the order of their names."""
    found = []
    for path in paths:
        if str(path) != "-" and path.is_dir():
            found += [one for one in sorted(path.rglob("*")) if _is_meant(one, path)]
        else:
            found.append(path)
    return found


def _is_meant(path: Path, folder: Path) -> bool:
    hidden = any(part.startswith((".", "__MACOSX")) for part in path.relative_to(folder).parts)
    return not hidden and path.is_file() and not path.name.endswith(".rejected.csv")


@contextmanager
def opened(path: Path, count: Count, *, lenient: bool = False) -> Iterator[Iterator[Source]]:
    """The tables of one file, one after the other; ``count`` receives the number of bytes read.

    Raises `InvalidInput` for what cannot be read.
    """
    name = "standard input" if str(path) == "-" else path.name
    with ExitStack() as stack, broken_as_input(name):
        counted = (
            _Waiting(sys.stdin.buffer, count)
            if str(path) == "-"
            else _Counted(stack.enter_context(path.open("rb")), count)
        )
        yield _tables(name, io.BufferedReader(counted, 1 << 18), counted, stack, lenient, 0)


def _tables(
    name: str,
    content: io.BufferedReader[Any],
    raw: _Counted,
    stack: ExitStack,
    lenient: bool,
    depth: int,
) -> Iterator[Source]:
    head = peek(content)
    if depth > _LAYERS:
        raise refuse(name, f"compressed more than {_LAYERS} times over: unpack it")
    if head.startswith(b"PK\x03\x04"):
        yield from _members(name, _seekable(content, stack), raw, stack, depth)
        return
    layer = _decompressor(head)
    if layer is not None:
        peeled = _Bounded(layer(content), name, raw)
        inner = name.rsplit(".", 1)[0] if "." in name else name
        yield from _tables(
            inner, io.BufferedReader(peeled, 1 << 18), raw, stack, lenient, depth + 1
        )
        return
    check_kind(name, head)
    if head.startswith(b"PAR1"):
        content = _seekable(content, stack)
    yield Source(name, content, lenient)


def _decompressor(head: bytes) -> Callable[[io.BufferedReader[Any]], Any] | None:
    if head.startswith(b"\x1f\x8b"):
        return lambda content: gzip.GzipFile(fileobj=content)
    if head.startswith(b"BZh") and head[4:10] in (b"1AY&SY", b"\x17rE8P\x90"):
        return bz2.BZ2File
    if head.startswith(b"\xfd7zXZ\0"):
        return lzma.LZMAFile
    if head.startswith(b"\x28\xb5\x2f\xfd"):
        return lambda content: pa.CompressedInputStream(pa.PythonFile(content, mode="r"), "zstd")
    return None


def check_kind(name: str, head: bytes) -> None:
    """Raise `NoTable` where the first bytes are those of something that is no table."""
    if not head:
        raise NoTable(f"{printable(name)} is empty", field="file", value=name)
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for magic, what in _KINDS:
        if head.startswith(magic) or (magic[:1] == b"<" and start.startswith(magic)):
            raise refuse(name, what)
    if head[4:8] == b"ftyp" or (
        head.startswith(b"RIFF") and head[8:12] in (b"AVI ", b"WEBP", b"WAVE")
    ):
        raise refuse(name, "a film, sound or image")
    if head[257:262] == b"ustar":
        raise refuse(name, "a tar archive: unpack it and import the folder")
    if head.startswith((b"PAR1", *_UTF16)):
        return
    controls = len(head) - len(head.translate(None, _CONTROLS))
    nuls = head.count(b"\0") > len(head) // 50
    if (nuls or (controls > len(head) // 100 and not _is_utf8(head))) and not _like_utf16(head):
        raise refuse(
            name, "no text and no table that is known", "CSV, JSON or Parquet can be imported"
        )


def _is_utf8(head: bytes) -> bool:
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)  # a character may be cut at the end
    except UnicodeDecodeError:
        return False
    return True


def _like_utf16(head: bytes) -> bool:
    """Whether the NULs are the halves of characters: nearly all on one side of each pair."""
    even, odd = head[0::2].count(b"\0"), head[1::2].count(b"\0")
    return max(even, odd) > len(head) // 5 and min(even, odd) * 20 < max(even, odd)


def _members(
    name: str, content: io.BufferedReader[Any], raw: _Counted, stack: ExitStack, depth: int
) -> Iterator[Source]:
    archive = stack.enter_context(zipfile.ZipFile(content))
    names = set(archive.namelist())
    if "[Content_Types].xml" in names or "mimetype" in names or "xl/workbook.bin" in names:
        raise refuse(name, "a spreadsheet or another Office document: save it as CSV")
    members = [
        one
        for one in archive.infolist()
        if not one.is_dir()
        and not any(part.startswith((".", "__MACOSX")) for part in one.filename.split("/"))
    ]
    if not members:
        raise refuse(name, "an archive without files")
    for member in sorted(members, key=lambda one: one.filename):
        inner = f"{name}/{member.filename}"
        if member.flag_bits & 1:
            raise refuse(inner, "encrypted: unpack it")
        try:
            opened_member = archive.open(member)
        except NotImplementedError as error:
            raise refuse(inner, "compressed in an unusual way: unpack it") from error
        with opened_member as file:
            bounded = _Bounded(file, inner, None, member.compress_size)
            peeled = io.BufferedReader(bounded, 1 << 18)
            try:
                yield from _tables(inner, peeled, raw, stack, len(members) > 1, depth + 1)
            except NoTable as error:
                yield Source(inner, peeled, len(members) > 1, error)


def _seekable(content: io.BufferedReader[Any], stack: ExitStack) -> io.BufferedReader[Any]:
    """The same content where one can go back; what comes from a pipe goes to a temporary file first."""
    raw = getattr(content.raw, "file", None)
    if raw is not None and stat.S_ISREG(os.fstat(raw.fileno()).st_mode):
        again = stack.enter_context(os.fdopen(os.dup(raw.fileno()), "rb"))
        again.seek(0)
        return again
    spooled: Any = tempfile.TemporaryFile()  # noqa: SIM115  # the stack closes it
    stack.enter_context(spooled)
    shutil.copyfileobj(content, spooled, 1 << 20)
    spooled.seek(0)
    return io.BufferedReader(spooled)


class _Counted(io.RawIOBase):
    """A file that reports how many bytes of it were read."""

    def __init__(self, file: Any, count: Count) -> None:
        self.file, self.count, self.position = file, count, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self.file.read(len(buffer))
        buffer[: len(data)] = data
        self.position += len(data)
        self.count(len(data))
        return len(data)


class _Waiting(_Counted):
    """Standard input: while nothing comes, ``count`` is called now and then, which may end the reading."""

    def readinto(self, buffer: Any) -> int:
        taken = 0
        raw = getattr(self.file, "raw", None)
        if raw is None:
            return super().readinto(buffer)
        # filled as a file would fill it: the first bytes decide what it is
        while taken < len(buffer):
            while not select.select([raw], [], [], _PATIENCE)[0]:
                self.count(0)
            data = raw.read(len(buffer) - taken)
            if not data:
                break
            buffer[taken : taken + len(data)] = data
            taken += len(data)
            self.position += len(data)
            self.count(len(data))
        return taken


class _Bounded(io.RawIOBase):
    """What comes out of a decompressor, which must not be thousands of times what went in."""

    def __init__(
        self, file: Any, name: str, raw: _Counted | None, compressed: int | None = None
    ) -> None:
        self._file, self._name, self._raw, self._compressed = file, name, raw, compressed
        self._out = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        self._out += len(data)
        taken = self._compressed if self._raw is None else self._raw.position
        if self._out > _FREE and self._out > _RATIO * max(1, taken or 0):
            raise InvalidInput(
                f"{printable(self._name)} unpacks to more than {_RATIO} times its size: a decompression bomb",
                field="file",
                value=self._name,
                hint="unpack it yourself if it is meant to be so, and import what comes out",
            )
        return len(data)
