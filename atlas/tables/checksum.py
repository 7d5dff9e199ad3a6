"""A checksum over the footer of a Parquet file, inside the footer.

The format has checksums for pages and none for the footer, where a flipped bit moves the bounds of a row
group or renames a column, and has been seen to end the process that decodes it. The footer therefore
carries its own CRC-32, as eight hexadecimal digits under ``atlas.footer_crc32``, computed while these
digits are zeros. To other programs it is one more entry of the footer's metadata.
"""

from __future__ import annotations

import io
import re
import zlib
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

KEY = "atlas.footer_crc32"

_BLANK = "0" * 8
#: The entry as Thrift's compact protocol writes it: the key, then a string of eight bytes.
_ENTRY = re.compile(re.escape(KEY.encode()) + rb"\x18\x08(.{8})", re.DOTALL)
#: After the footer: its length in four bytes, and the magic number.
_ENDING = 8


class ChecksummedWriter(pq.ParquetWriter):  # type: ignore[misc]  # pyarrow ships no types
    """A Parquet writer whose files carry the checksum; the end of the file is written when it is closed."""

    def __init__(self, where: str | Path | IO[bytes], schema: pa.Schema, **options: Any) -> None:
        self._own: IO[bytes] | None = None
        if isinstance(where, str | Path):
            self._own = open(where, "wb")  # noqa: SIM115  # open until `close`
        self._sink = _Sink(where if self._own is None else self._own)
        try:
            super().__init__(self._sink, schema, **options)
        except BaseException:
            self._close_own()
            raise

    def close(self) -> None:
        """Write what is left and the footer. Repeatable."""
        if not self.is_open:
            return
        try:
            self.add_key_value_metadata({KEY: _BLANK})
            self._sink.hold()
            super().close()
            self._sink.release()
        finally:
            self._close_own()

    def _close_own(self) -> None:
        if self._own is not None:
            self._own.close()


class _Sink(io.RawIOBase):
    """Passes on what is written, but for what comes after `hold`."""

    def __init__(self, target: Any) -> None:
        super().__init__()
        self._target = target
        self._written = 0
        self._held: bytearray | None = None

    def write(self, data: Any) -> int:
        size = memoryview(data).nbytes
        if self._held is None:
            self._target.write(data)
        else:
            self._held += data
        self._written += size
        return size

    def hold(self) -> None:
        self._held = bytearray()

    def release(self) -> None:
        """Pass on what was held back, with the checksum of the footer at its end."""
        held = self._held or bytearray()
        start = len(held) - _ENDING - int.from_bytes(held[-_ENDING:-4], "little")
        entry = _ENTRY.search(held, max(0, start))
        if entry is not None:  # after a failed write there is no footer
            held[slice(*entry.span(1))] = f"{zlib.crc32(held[start:]):08x}".encode()
        self._target.write(held)

    def tell(self) -> int:
        return self._written

    def writable(self) -> bool:
        return True


def check_footer(raw: bytes) -> None:
    """Raise ValueError if a footer, with length and magic number, is not what was written.

    Footers of other writers have no checksum and pass. A damaged entry passes too where the damage keeps
    it from being found: it is then not in what the footer says.
    """
    for entry in _ENTRY.finditer(raw):
        blank = raw[: entry.start(1)] + _BLANK.encode() + raw[entry.end(1) :]
        if entry.group(1) != f"{zlib.crc32(blank):08x}".encode():
            raise ValueError("its footer is damaged")
