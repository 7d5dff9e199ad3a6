"""Text of SQL: the one place where names and values are quoted.

Values go as bind parameters wherever a statement takes them; DDL, COPY and SET take none.
"""

from __future__ import annotations


def identifier(name: str) -> str:
    """A name as SQL has it, whatever it holds; one that PostgreSQL cannot hold is a ValueError."""
    if not name or "\x00" in name:
        raise ValueError(f"not a name in PostgreSQL: {name!r:.80}")
    return '"' + name.replace('"', '""') + '"'


def literal(value: str) -> str:
    """A text literal. Every session has ``standard_conforming_strings``, so backslashes are plain."""
    if "\x00" in value:
        raise ValueError("PostgreSQL holds no text with a NUL in it")
    return "'" + value.replace("'", "''") + "'"
