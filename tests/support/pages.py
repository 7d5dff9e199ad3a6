"""A page of docs/ as somebody follows it: what to type, and what is printed then."""

from __future__ import annotations

import re
import socket
from dataclasses import dataclass
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"

#: What differs from one run to the next, and what stands for it.
_VARIES = (
    (r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d", "TIME"),
    (r"\d{4}-\d\d-\d\d", "DATE"),
    (r"\d{4}_\d\d_\d\d_\w+", "REVISION"),
    (r"[\d.,]+ (bytes|kB|MB)", "SIZE"),
    (r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", "UUID"),
    (r"\S+/date=\S+", "KEY"),
    (r"\b(gs|file)://\S*?(?=[,;:]?\s)", "VAULT"),
    (r"[─━┃│┏┓┗┛┡┩└┘├┤┬┴┼╇┳┻]+|\s+", " "),
)


@dataclass(frozen=True)
class Section:
    """A part of a page, from one heading to the next."""

    text: str

    def blocks(self, language: str) -> list[str]:
        """Its blocks in that language, in order."""
        return re.findall(rf"^```{language}\n(.*?)^```$", self.text, re.M | re.S)

    def inline(self, beginning: str) -> str:
        """The command in the midst of the text that begins so."""
        (found,) = set(re.findall(rf"`({re.escape(beginning)}[^`]*)`", self.text))
        return str(found)


def section(page: str, heading: str) -> Section:
    """The part of docs/``page`` under the heading that begins so."""
    parts = re.split(r"^## ", (DOCS / page).read_text(), flags=re.M)
    (found,) = [part for part in parts if part.startswith(heading)]
    return Section(found)


def comparable(printed: str) -> str:
    """What was printed, without what differs from one machine or run to the next."""
    printed = printed.replace(socket.gethostname(), "db-1")
    for pattern, stands in _VARIES:
        printed = re.sub(pattern, stands, printed)
    return printed.strip()
