"""What makes two errors the same: the types along the chain and the place in the program.

No message and no line number takes part, so that a group survives other data and other versions of the
file, as long as the line itself reads the same.
"""

from __future__ import annotations

import hashlib
import linecache
import re
import sys
import sysconfig
from collections.abc import Iterator
from types import TracebackType

__all__ = ["ALGORITHM", "chain", "fingerprint", "place", "stack"]

#: Version of the algorithm; stored with each group.
ALGORITHM = 1

_MOST_LINKS, _MOST_FRAMES = 10, 50
#: Frames that stand for an error of which none is the program's own.
_FOREIGN_FRAMES = 3
_FOREIGN = tuple(
    {path for name in ("stdlib", "platstdlib", "purelib", "platlib") if (path := sysconfig.get_path(name))}
)  # fmt: skip
_SPACE = re.compile(r"\s+")
_NUMBER = re.compile(r"0x[0-9a-f]+|\d+|'[^']*'|\"[^\"]*\"", re.I)


def chain(error: BaseException) -> list[BaseException]:
    """The error and what it came from, the last one first."""
    links: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in links and len(links) < _MOST_LINKS:
        links.append(link)
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
    return links


def fingerprint(error: BaseException, message: str) -> str:
    """32 hexadecimal digits; ``message`` counts only where the error has no frames."""
    links = chain(error)
    frames = [frame for link in links for frame in _frames(link)]
    own = [frame for frame in frames if frame.is_own] or frames[-_FOREIGN_FRAMES:]
    parts = [f"v{ALGORITHM}", *(_type_name(link) for link in links)]
    parts += [f"{frame.module}:{frame.function}:{frame.line}" for frame in own]
    if not own:
        parts.append(_NUMBER.sub("?", message))
    text = "\n".join(parts).encode("utf-8", "replace")
    return hashlib.blake2b(text, digest_size=16).hexdigest()


def place(error: BaseException) -> str:
    """Where it was raised, as module and function: the innermost frame of the program's own."""
    frames = list(_frames(error))
    own = [frame for frame in frames if frame.is_own] or frames
    return f"{own[-1].module}.{own[-1].function}" if own else "?"


def stack(error: BaseException) -> str:
    """The frames along the chain without values, innermost last."""
    lines = []
    for link in reversed(chain(error)):
        lines += [
            f"{frame.module}.{frame.function} line {frame.number}: {frame.line}"
            for frame in _frames(link)
        ]
        lines.append(_type_name(link))
    return "\n".join(lines[-_MOST_FRAMES:])


class _Frame:
    __slots__ = ("function", "is_own", "line", "module", "number")

    def __init__(self, traceback: TracebackType) -> None:
        code = traceback.tb_frame.f_code
        self.module = str(traceback.tb_frame.f_globals.get("__name__", "?"))
        self.function = code.co_qualname
        self.number = traceback.tb_lineno
        line = linecache.getline(code.co_filename, self.number, traceback.tb_frame.f_globals)
        self.line = _SPACE.sub(" ", line).strip()
        self.is_own = not code.co_filename.startswith(
            (*_FOREIGN, "<frozen", sys.base_prefix + "/lib")
        )


def _frames(error: BaseException) -> Iterator[_Frame]:
    found: list[TracebackType] = []
    traceback = error.__traceback__
    while traceback is not None:
        found.append(traceback)
        traceback = traceback.tb_next
    # of a recursion only the innermost frames show where it failed
    return map(_Frame, found[-_MOST_FRAMES:])


def _type_name(error: BaseException) -> str:
    kind = type(error)
    return (
        kind.__qualname__
        if kind.__module__ == "builtins"
        else f"{kind.__module__}.{kind.__qualname__}"
    )
