"""How large the pages of a column chunk become when they are decoded, read from their headers.

A footer says how many rows a row group has and how large it is; of a file that somebody else wrote it may say
anything. The headers of the pages are what a decoder obeys: they are read here, before it is let loose.
Parquet's page headers are structures of Thrift's compact protocol.
"""

from __future__ import annotations

from typing import Any

#: What one page, and one column chunk, may take decoded.
PAGE_BYTES = 64 << 20
CHUNK_BYTES = 128 << 20

#: Kinds of pages, by the field that has their header: data, dictionary, data in the second version.
_DATA, _DICTIONARY, _DATA_V2 = 5, 7, 8
#: Encodings whose values take what the page says: those of text that share parts of others do not.
_ENCODINGS = {0, 2, 3, 4, 5, 8, 9}
_DEPTH = 8


def check_pages(data: memoryview, values: int) -> None:
    """Raise ValueError unless the pages of a column chunk hold ``values`` values, in bounded memory."""
    at = found = decoded = 0
    while at < len(data):
        header, at = _structure(data, at, 0)
        size, compressed = header.get(2), header.get(3)
        if not isinstance(size, int) or not isinstance(compressed, int):
            raise ValueError("a page has no size")
        if not 0 <= size <= PAGE_BYTES or not 0 <= compressed <= len(data) - at:
            raise ValueError(f"a page of {size} bytes, {compressed} compressed, is not decoded")
        decoded += size
        kind = next((one for one in (_DATA, _DICTIONARY, _DATA_V2) if one in header), None)
        if kind is not None:
            page = header[kind]
            if not isinstance(page, dict):
                raise ValueError("a page's header is none")
            count, encoding = page.get(1), page.get(4 if kind == _DATA_V2 else 2)
            if not isinstance(count, int) or not 0 <= count <= values or encoding not in _ENCODINGS:
                raise ValueError(f"a page of {count} values in encoding {encoding} is not decoded")
            found += 0 if kind == _DICTIONARY else count
        at += compressed
    if found != values or decoded > CHUNK_BYTES:
        raise ValueError(f"its pages have {found} values in {decoded} bytes, its footer {values}")


def _structure(data: memoryview, at: int, depth: int) -> tuple[dict[int, Any], int]:
    fields: dict[int, Any] = {}
    number = 0
    while (head := _byte(data, at)) != 0:
        at += 1
        if head >> 4:
            number += head >> 4
        else:
            number, at = _integer(data, at)
        fields[number], at = _value(data, at, head & 15, depth + 1)
    return fields, at + 1


def _value(data: memoryview, at: int, kind: int, depth: int) -> tuple[Any, int]:
    if depth > _DEPTH:
        raise ValueError("a page header is nested too deeply")
    if kind in (1, 2):  # a truth value lies in its head
        return kind == 1, at
    if kind in (4, 5, 6):
        return _integer(data, at)
    if kind in (3, 7):  # a byte, a double
        return None, at + (1 if kind == 3 else 8)
    if kind == 8:  # bytes, of bounds
        size, at = _varint(data, at)
        return None, at + size
    if kind in (9, 10):
        head = _byte(data, at)
        count, at = (head >> 4, at + 1) if head >> 4 != 15 else _varint(data, at + 1)
        if count > len(data):
            raise ValueError("a page header has a list that is longer than it")
        for _ in range(count):
            _, at = _value(data, at, head & 15, depth + 1)
        return None, at
    if kind == 12:
        return _structure(data, at, depth)
    raise ValueError(f"a page header has a field of kind {kind}")


def _integer(data: memoryview, at: int) -> tuple[int, int]:
    value, at = _varint(data, at)
    return (value >> 1) ^ -(value & 1), at


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 64:
        byte = _byte(data, at)
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
    raise ValueError("a page header has a number of more than 64 bits")


def _byte(data: memoryview, at: int) -> int:
    if at >= len(data):
        raise ValueError("a page header breaks off")
    return data[at]
