"""From bytes to text: the encoding, detected from the content, and what may be shown of it.

A byte that is no text in the encoding becomes `BROKEN`: it costs the cell that it stands in, and no more.
"""

from __future__ import annotations

import codecs
import unicodedata
from collections.abc import Iterator
from functools import partial
from typing import IO

from atlas.errors import InvalidInput

#: Stands for each byte that could not be decoded: a character that no text has.
BROKEN = "\uffff"

_BLOCK = 3 << 18
#: How much of the text that is not ASCII decides the encoding.
_EVIDENCE = 1 << 16
_SCAN = 1 << 20
_HANDLER = "atlas.importing.broken"
_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
#: Encodings of exports, in Windows' extended versions where there are any; distinguished by the frequency of
#: characters.
_LEGACY = [
    "cp932",
    "euc_jp",
    "cp949",
    "gb18030",
    "big5",
    "cp1251",
    "koi8_r",
    "cp1250",
    "cp1252",
    "cp1253",
    "cp1254",
    "cp1255",
    "cp1256",
    "cp874",
]
#: Letters of languages beyond a to z, by the code page in which they are written. Which of these it is
#: charset-normalizer often leaves open: they differ in few characters, letters in each.
_ALPHABETS = {
    "cp1252": (
        "àâæçéèêëîïôœùûüÿ",  # French
        "äöüß",
        "áéíñóúü",  # Spanish
        "àáâãçéêíóôõúü",  # Portuguese
        "àèéìíîòóùú",  # Italian
        "àçèéíïòóúü",  # Catalan
        "äåæéöøü",  # Scandinavian, Finnish
        "áæéíðóöúýþ",  # Icelandic
        "áèéëïíóöúü",  # Dutch
    ),
    "cp1250": (
        "ąćęłńóśźż",  # Polish
        "áčďéěíňóřšťúůýž",
        "áäčďéíĺľňóôŕšťúýž",  # Slovak
        "áéíóöőúüű",  # Hungarian
        "âăîşţ",  # Romanian
        "ćčđšž",  # Croatian, Slovene
    ),
    "cp1254": ("âçğıiîöşüûİ",),
}
#: Punctuation that has one place in all of them.
_MARKS = "‘’“”„‚–—…•€™©®«»°·\xa0"


def _replaced(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return BROKEN * (error.end - error.start), error.end


codecs.register_error(_HANDLER, _replaced)


def printable(text: str) -> str:
    """The text without what could command a terminal: control characters are shown as ``\\x1b``."""
    return "".join(
        one if unicodedata.category(one) not in ("Cc", "Cf", "Cs", "Co", "Cn") else _escaped(one)
        for one in text
    )


def _escaped(one: str) -> str:
    return one.encode("unicode_escape").decode("ascii")


def is_broken(text: str) -> bool:
    """Whether the text has characters that were not decoded, or a NUL, which no database takes."""
    return BROKEN in text or "\0" in text


def check_encoding(name: str) -> str:
    """The name of an encoding, or `InvalidInput`."""
    try:
        info = codecs.lookup(name)
        b"".decode(info.name)
    except (LookupError, ValueError) as error:
        raise InvalidInput(
            f"--encoding {printable(name)[:40]}: there is no such encoding",
            field="encoding",
            value=name,
            hint="utf-8, utf-16, cp1252, shift_jis and others that Python knows",
        ) from error
    return info.name


class Decoded:
    """The text of a file, block by block; ``encoding`` says what it turned out to be."""

    def __init__(self, content: IO[bytes], encoding: str | None = None) -> None:
        self._content = content
        self._given = encoding
        self.encoding = encoding or "ascii"

    def __iter__(self) -> Iterator[str]:
        first = self._content.read(_BLOCK)
        encoding = self._given or _by_form(first)
        if encoding is None:
            # as long as all is ASCII every candidate reads it alike: the first other bytes decide
            while first and first.isascii():
                yield first.decode("ascii")
                first = self._content.read(_BLOCK)
            if not first:
                return
            while len(first) < _SCAN and (more := self._content.read(_BLOCK)):
                first += more
            encoding = detected(first)
        self.encoding = encoding
        decoder = codecs.getincrementaldecoder(encoding)(_HANDLER)
        beginning = True
        while first:
            text = decoder.decode(first)
            if beginning and text:
                text, beginning = text.removeprefix("\ufeff"), False
            yield text
            first = self._content.read(_BLOCK)
        yield decoder.decode(b"", True)


def _by_form(head: bytes) -> str | None:
    """The encoding where a mark at the beginning, or the place of NULs, says it."""
    for mark, encoding in _BOMS:
        if head.startswith(mark):
            return encoding
    pairs = head[: len(head) // 2 * 2][:4096]
    even, odd = pairs[0::2].count(b"\0"), pairs[1::2].count(b"\0")
    if max(even, odd) > len(pairs) // 5 and min(even, odd) * 20 < max(even, odd):
        return "utf-16-le" if odd > even else "utf-16-be"
    return None


def detected(sample: bytes) -> str:
    """The encoding of text that is not all ASCII.

    UTF-8 where it fits, or nearly: broken bytes among many whole characters. Else what charset-normalizer
    finds likely, and cp1252, which reads every byte, at last.
    """
    whole = broken = 0
    decoder = codecs.getincrementaldecoder("utf-8")(_HANDLER)
    text = decoder.decode(sample)  # an unfinished character at the end waits
    broken = text.count(BROKEN)
    if not broken:
        return "utf-8"
    whole = sum(not one.isascii() for one in text) - broken
    if whole >= 2 * broken:
        return "utf-8"
    return _likely(_evidence(sample))


def _evidence(sample: bytes) -> bytes:
    """The lines that say something of the encoding."""
    lines = [line for line in sample.splitlines(keepends=True) if not line.isascii()]
    evidence = b""
    for line in lines:
        if len(evidence) > _EVIDENCE:
            break
        evidence += line[:4096]
    return evidence


def _likely(evidence: bytes) -> str:
    from charset_normalizer import from_bytes

    best = from_bytes(
        evidence, cp_isolation=_LEGACY, threshold=0.3, preemptive_behaviour=False
    ).best()
    found = best.encoding if best is not None else "cp1252"
    found = {
        "shift_jis": "cp932",
        "euc_kr": "cp949",
        "gb2312": "gb18030",
        "latin_1": "cp1252",
    }.get(found, found)
    return max(_ALPHABETS, key=partial(_letters, evidence)) if found in _ALPHABETS else found


def _letters(evidence: bytes, encoding: str) -> int:
    """How many characters fit the language that fits each line best, less those that fit none."""
    fitting = 0
    for line in evidence.decode(encoding, _HANDLER).splitlines():
        wide = [one for one in line.lower() if not one.isascii() and one not in _MARKS]
        fits = max(sum(one in letters for one in wide) for letters in _ALPHABETS[encoding])
        fitting += 2 * fits - len(wide)
    return fitting
