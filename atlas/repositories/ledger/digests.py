"""Forgotten ids that are known by their hash alone, from records in the vault."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import ARRAY, LargeBinary, Text, TextClause, bindparam, text
from sqlalchemy.ext.asyncio import AsyncSession

from atlas.db.sql import identifier
from atlas.repositories.erasure import FORGOTTEN, Erasure
from atlas.repositories.ring.pages import RingReader
from atlas.vault.owners import digest

#: The same in SQL.
_DIGEST = "sha256(convert_to((SELECT owner FROM archive_control) || ':' || {id}, 'UTF8'))"


def not_erased(column: str) -> str:
    """The condition that a column's id is not known to be forgotten by its hash."""
    return (
        "NOT EXISTS (SELECT FROM erased_digests erased WHERE erased.digest = "
        f"{_DIGEST.format(id=column)})"
    )


@dataclass(frozen=True, slots=True)
class Erased:
    """Ids that an owner forgot and this database knows by their hashes alone."""

    owner: uuid.UUID
    digests: frozenset[bytes]

    def among(self, video_ids: Iterable[str]) -> list[str]:
        """Those of the ids that were forgotten."""
        return [one for one in video_ids if digest(self.owner, one) in self.digests]


class ErasedDigests:
    """Hashes of forgotten ids, and the records that they came from, inside the caller's transaction."""

    def __init__(self, session: AsyncSession) -> None:
        self.session = session

    async def known_records(self) -> frozenset[str]:
        """Keys of the records that were read, or written by this database."""
        return frozenset(await self.session.scalars(text("SELECT object_key FROM erasure_records")))

    async def remember_records(self, keys: Collection[str]) -> None:
        """These records need not be read again."""
        await self.session.execute(
            text(
                "INSERT INTO erasure_records (object_key) SELECT unnest(:keys) ON CONFLICT DO NOTHING"
            ).bindparams(bindparam("keys", type_=ARRAY(Text))),
            {"keys": sorted(keys)},
        )

    async def add(self, digests: Collection[bytes], sealed: Sequence[str]) -> list[str]:
        """Keep these hashes, and bar every id of theirs that the database holds; returns those ids.

        ``sealed`` are tables of samples beside the hot one. An id that is barred already stays as it is.
        """
        await self.session.execute(
            _with_digests(
                "INSERT INTO erased_digests (digest) SELECT unnest(:digests) ON CONFLICT DO NOTHING"
            ),
            {"digests": sorted(digests)},
        )
        tables = ("video_stats_log", *map(identifier, sealed))
        held = " UNION ".join(
            [
                "SELECT id FROM videos",
                "SELECT video_id FROM watchlist",
                "SELECT video_id FROM video_tombstones",
                *(f"SELECT video_id FROM {table}" for table in tables),
            ]
        )
        ids = await self.session.scalars(
            text(
                f"SELECT held.id FROM ({held}) held (id) "
                f"WHERE {_DIGEST.format(id='held.id')} IN (SELECT digest FROM erased_digests)"
            )
        )
        return await self.met({*ids, *await self._in_ring(digests)})

    async def _in_ring(self, digests: Collection[bytes]) -> list[str]:
        """Ids of the ring with one of these hashes. Reads all of it: a second for a million ids."""
        owner = await self.session.scalar(text("SELECT owner FROM archive_control"))
        if not digests or owner is None:
            return []
        erased = Erased(owner, frozenset(digests))
        return [one async for ids in RingReader(self.session).ids() for one in erased.among(ids)]

    async def all(self) -> frozenset[bytes]:
        """Hashes of ids that were not met."""
        return frozenset(await self.session.scalars(text("SELECT digest FROM erased_digests")))

    async def met(self, video_ids: Collection[str]) -> list[str]:
        """These ids are known by now: bar them, and need their hashes no more. Returns those that were not
        barred before."""
        if not video_ids:
            return []
        ids = sorted(video_ids)
        barred = set(
            await self.session.scalars(
                _with_ids(f"SELECT video_id {FORGOTTEN} AND video_id = ANY(:ids)"), {"ids": ids}
            )
        )
        new = [one for one in ids if one not in barred]
        await Erasure(self.session).bar(new)
        await self.session.execute(
            _with_ids(
                "DELETE FROM erased_digests WHERE digest IN "
                f"(SELECT {_DIGEST.format(id='id')} FROM unnest(:ids) AS ids (id))"
            ),
            {"ids": ids},
        )
        return new

    async def refused_among(self, video_ids: Sequence[str]) -> list[str]:
        """Those of the ids that have such a hash; they are barred by name from now on."""
        ids = await self.session.scalars(
            _with_ids(
                "SELECT id FROM unnest(:ids) AS ids (id) "
                f"WHERE {_DIGEST.format(id='id')} IN (SELECT digest FROM erased_digests)"
            ),
            {"ids": list(video_ids)},
        )
        return await self.met(list(ids))


def _with_ids(statement: str) -> TextClause:
    return text(statement).bindparams(bindparam("ids", type_=ARRAY(Text)))


def _with_digests(statement: str) -> TextClause:
    return text(statement).bindparams(bindparam("digests", type_=ARRAY(LargeBinary)))
