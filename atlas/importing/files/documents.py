"""JSON: values one after the other, one a line, or in an array; each in bounded memory."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from atlas.errors import InvalidInput

#: Characters of the longest value that is taken into memory whole.
VALUE = 16 << 20
_SPACE = re.compile(r"[\s\ufeff\x1e]*")
_BETWEEN = re.compile(r"[\s,\ufeff\x1e]*")
_DECODER = json.JSONDecoder(parse_constant=lambda name: None)


@dataclass(frozen=True, slots=True)
class Value:
    """A value and where it begins; or, with a reason, what is none."""

    line: int
    value: Any = None
    text: str = ""
    reason: str | None = None


def is_json(head: str) -> bool:
    """Whether a text begins as an object or an array."""
    start = head.lstrip(" \t\r\n\ufeff\x1e")
    if start[:1] == "{":
        return re.match(r"\{\s*(?:\"|\}|$)", start) is not None
    return start[:1] == "[" and re.match(r"\[\s*(?:[{\"\[\]]|$)", start) is not None


def values(blocks: Iterator[str]) -> Iterator[Value]:
    """Every value of the text, those of an outer array one by one. A broken line costs that line.

    Raises `InvalidInput` where the rest cannot be read: an array that breaks, a value that is too large.
    """
    return _Values(blocks).read()


class _Values:
    def __init__(self, blocks: Iterator[str]) -> None:
        self._blocks = blocks
        self._text = ""
        self._ended = False
        self._line = 1

    def read(self) -> Iterator[Value]:
        self._skip(_SPACE)
        in_array = self._text.startswith("[")
        if in_array:
            self._drop(1)
        while True:
            self._skip(_BETWEEN if in_array else _SPACE)
            if not self._text:
                if in_array:
                    raise _cut(self._line)
                return
            if in_array and self._text.startswith("]"):
                self._drop(1)
                in_array = False
                self._skip(_SPACE)
                if self._text.startswith("["):  # pages one after the other
                    in_array = True
                    self._drop(1)
                continue
            yield self._next(in_array)

    def _next(self, in_array: bool) -> Value:
        begins = self._line
        wanted = 0
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text)
            except RecursionError:
                return self._broken(begins, in_array, "nested too deeply")
            except ValueError as error:
                at = getattr(error, "pos", 0)
                whole_line = "\n" in self._text[at:]
                if self._ended or (not in_array and whole_line and self._breaks_in_line(at)):
                    return self._broken(begins, in_array, "not JSON")
                if len(self._text) > VALUE:
                    raise InvalidInput(
                        f"a value in line {begins} is longer than {VALUE:,} characters",
                        field="file",
                        hint="write one object a line, or an array of small ones",
                    ) from error
                wanted = max(2 * wanted, 1 << 16)
                self._more(wanted)
                continue
            if (
                end == len(self._text)
                and not self._ended
                and not isinstance(value, dict | list | str)
            ):
                self._more(1)  # a number may go on
                continue
            self._drop(end)
            return Value(begins, value)

    def _breaks_in_line(self, at: int) -> bool:
        """Whether a value of one line is broken in it: what follows begins a value of its own."""
        end = self._text.find("\n", at)
        following = self._text[end + 1 : end + 200].lstrip()
        return following[:1] == "{" and self._text[: end + 1].count("\n") == 1

    def _broken(self, begins: int, in_array: bool, reason: str) -> Value:
        if in_array:
            raise InvalidInput(
                f"the JSON array breaks in line {begins} ({reason})",
                field="file",
                hint="nothing was imported; a file of JSON lines loses no more than the broken line",
            )
        end = self._text.find("\n")
        while end < 0 and not self._ended:
            if len(self._text) > VALUE:
                self._text = self._text[:1000]
            self._more(1)
            end = self._text.find("\n")
        end = len(self._text) if end < 0 else end + 1
        text = self._text[: min(end, 1000)].rstrip("\r\n")
        self._drop(end)
        return Value(begins, None, text, reason)

    def _skip(self, pattern: re.Pattern[str]) -> None:
        while True:
            match = pattern.match(self._text)
            if match and match.end():
                self._drop(match.end())
            if self._text or self._ended:
                return
            self._more(1)

    def _drop(self, count: int) -> None:
        self._line += self._text.count("\n", 0, count)
        self._text = self._text[count:]

    def _more(self, characters: int) -> None:
        gathered = [self._text]
        taken = 0
        while taken < characters:
            block = next(self._blocks, None)
            if block is None:
                self._ended = True
                break
            gathered.append(block)
            taken += len(block)
        self._text = "".join(gathered)


def _cut(line: int) -> InvalidInput:
    return InvalidInput(
        f"the JSON array is cut short in line {line}",
        field="file",
        hint="nothing was imported; download it again",
    )
