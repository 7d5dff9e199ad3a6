"""What every repository shares: a session it never commits, and batches in a fixed order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from datetime import datetime
from typing import Any, TypeVar

from pydantic_core import PydanticSerializationError, to_json
from sqlalchemy.ext.asyncio import AsyncSession

from atlas.db.clock import clock
from atlas.errors import InvalidInput
from atlas.types import Channel, Video

T = TypeVar("T")
R = TypeVar("R", Channel, Video)

#: Rows in one statement: bounds its memory on both sides. Batches travel as arrays or as one JSON
#: document, so the driver's limit of 32,767 parameters is never near.
CHUNK = 5_000


class Repository:
    """Works inside the caller's transaction; never commits, never rolls back."""

    def __init__(self, session: AsyncSession) -> None:
        self.session = session

    async def now(self) -> datetime:
        """The database's clock."""
        return await clock(self.session)


def chunks(items: Sequence[T], size: int = CHUNK) -> Iterator[Sequence[T]]:
    """``items`` in order, ``size`` at a time."""
    return (items[start : start + size] for start in range(0, len(items), size))


def merged(records: Iterable[R]) -> list[R]:
    """Each record once; of repeats the later facts, where they are known.

    In byte order of the ids, the order in which every statement locks rows: transactions that lock
    in one order cannot deadlock.
    """
    unique: dict[str, R] = {}
    for record in records:
        if (earlier := unique.get(record.id)) is None:
            unique[record.id] = record
            continue
        facts = {field.name: getattr(record, field.name) for field in fields(record)}
        known = {name: value for name, value in facts.items() if value not in (None, "")}
        unique[record.id] = replace(earlier, **known)
    return [unique[record_id] for record_id in sorted(unique)]


def on_conflict(table: str, key: str, facts: Mapping[str, str]) -> str:
    """The clause that sets ``facts`` (SQL by column) on a row that is there, if that changes any."""
    columns, values = ", ".join(f"{table}.{name}" for name in facts), ", ".join(facts.values())
    changes = ", ".join(f"{name} = {value}" for name, value in facts.items())
    return (
        f"ON CONFLICT ({key}) DO UPDATE SET {changes} "
        f"WHERE ({columns}) IS DISTINCT FROM ({values})"
    )


def known(table: str, *columns: str) -> dict[str, str]:
    """For `on_conflict`: each column takes the new value unless that is NULL."""
    return {name: f"coalesce(excluded.{name}, {table}.{name})" for name in columns}


def as_json(records: Iterable[Any]) -> str:
    """Dataclasses as a JSON array for ``jsonb_to_recordset``. Raises `InvalidInput` for what is no text."""
    # text as it is: a server whose encoding is SQL_ASCII refuses \u escapes
    try:
        return to_json(list(records)).decode()
    except PydanticSerializationError as error:
        raise InvalidInput("a text has half of a surrogate pair, which is no character") from error
