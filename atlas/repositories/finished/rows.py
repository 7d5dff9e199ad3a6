"""Rows that PostgreSQL is finished with: chosen, and deleted in exactly the versions that were archived."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar

import pyarrow as pa
from sqlalchemy import ARRAY, Text, bindparam, text
from sqlalchemy.ext.asyncio import AsyncSession

from atlas.config import Settings
from atlas.db.sql import identifier
from atlas.tables.archived import ArchivedTable


@dataclass(frozen=True, slots=True)
class FinishedRow:
    """A row as it was read. ``version`` changes with every update of the row."""

    version: str
    values: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Condition:
    """Which rows: the text of a WHERE, and its parameters."""

    where: str
    values: Mapping[str, object]


class FinishedRows(abc.ABC):
    """One table's rows, inside the caller's transaction.

    A subclass names the table and chooses rows. Archived are its columns of the same names, and ``seq``; the
    key is one column of text.
    """

    archived: ClassVar[ArchivedTable]
    #: The table in PostgreSQL.
    relation: ClassVar[str]

    def __init__(self, session: AsyncSession) -> None:
        self.session = session

    @abc.abstractmethod
    def finished(self, cutoff: datetime, settings: Settings) -> Condition:
        """Which rows may go, of those from before ``cutoff``."""

    async def remember(self, keys: Sequence[str]) -> None:
        """Leave behind what has to stay of archived rows: nothing, unless a subclass says so."""
        return

    async def count(self, condition: Condition) -> int:
        """How many there are."""
        query = text(f"SELECT count(*) FROM {identifier(self.relation)} WHERE {condition.where}")
        return int(await self.session.scalar(query, dict(condition.values)) or 0)

    async def read(self, condition: Condition) -> list[FinishedRow]:
        """All of them, in order of the key, with their versions."""
        names = ", ".join(map(identifier, self._columns))
        query = text(
            f"SELECT xmin::text AS version, {names} FROM {identifier(self.relation)} "
            f"WHERE {condition.where} ORDER BY {self._key}"
        )
        rows = (await self.session.execute(query, dict(condition.values))).mappings().all()
        return [
            FinishedRow(row["version"], {name: row[name] for name in self._columns}) for row in rows
        ]

    async def delete(self, rows: Sequence[FinishedRow]) -> int:
        """Delete those whose version is still the one read, and `remember` them; returns how many."""
        deleted = (
            await self.session.scalars(
                text(
                    f"DELETE FROM {identifier(self.relation)} r "
                    "USING unnest(:keys, :versions) AS archived (key, version) "
                    f"WHERE r.{self._key} = archived.key AND r.xmin::text = archived.version "
                    f"RETURNING r.{self._key}"
                ).bindparams(_texts("keys"), _texts("versions")),
                {
                    "keys": [row.values[self.archived.key[0]] for row in rows],
                    "versions": [row.version for row in rows],
                },
            )
        ).all()
        await self.remember(deleted)
        return len(deleted)

    async def delete_archived(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Delete the rows that are still as a file in the vault has them, and `remember` all of its rows."""
        key = self.archived.key[0]
        await self.remember([row[key] for row in rows])
        archived = {row[key]: row for row in self._as_archived(rows)}
        found = await self.read(Condition(f"{self._key} = ANY(:keys)", {"keys": list(archived)}))
        same = [
            one
            for one, row in zip(
                found, self._as_archived([one.values for one in found]), strict=True
            )
            if row == archived[row[key]]
        ]
        await self.delete(same)

    @classmethod
    def table_of(cls, rows: Sequence[FinishedRow], seq: int) -> pa.Table:
        """The rows as they are archived, in the order in which they come."""
        return pa.Table.from_pylist(
            [{**row.values, "seq": seq} for row in rows], cls.archived.schema
        )

    def _as_archived(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """The columns that are kept, as they are read from a file."""
        schema = pa.schema([self.archived.schema.field(name) for name in self._columns])
        kept = [{name: row.get(name) for name in self._columns} for row in rows]
        return list(pa.Table.from_pylist(kept, schema).to_pylist())

    @property
    def _columns(self) -> list[str]:
        return [name for name in self.archived.schema.names if name != "seq"]

    @property
    def _key(self) -> str:
        return identifier(self.archived.key[0])


def _texts(name: str) -> Any:
    return bindparam(name, type_=ARRAY(Text))
