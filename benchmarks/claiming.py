"""Claims of the watchlist through the DAO, beside the same SQL through AsyncSession and bare asyncpg."""

from __future__ import annotations

import uuid
from pathlib import Path

import asyncpg
from sqlalchemy import text
from sqlalchemy.dialects import postgresql

from atlas.adapters.maia import MaiaDAO
from atlas.db import Database
from atlas.repositories.leases import claim_statement
from atlas.repositories.watchlist import TRACK
from benchmarks.support import Result, stopwatch

_ENTRIES = 100_000
_BATCH = 50
_ROUNDS = 400


async def measure(database: Database, folder: Path, rows: int) -> list[Result]:
    statement = claim_statement(TRACK)
    await _fill(database)
    dao = MaiaDAO(database)
    with stopwatch() as ours:
        for _ in range(_ROUNDS):
            assert len(await dao.fetch_tracking_batch(_BATCH)) == _BATCH
    await _fill(database)
    with stopwatch() as session_way:
        for _ in range(_ROUNDS):
            async with database.transaction() as session:
                assert (
                    len(
                        (
                            await session.execute(
                                statement, {"limit": _BATCH, "token": uuid.uuid4()}
                            )
                        ).all()
                    )
                    == _BATCH
                )
    await _fill(database)
    compiled = str(statement.compile(dialect=postgresql.asyncpg.dialect()))
    connection = await asyncpg.connect(await database.libpq_url())
    try:
        with stopwatch() as bare:
            for _ in range(_ROUNDS):
                assert len(await connection.fetch(compiled, _BATCH, uuid.uuid4())) == _BATCH
    finally:
        await connection.close()
    claimed = _ROUNDS * _BATCH
    rate = claimed / ours.seconds
    return [
        Result("claims, MaiaDAO", rate, "AsyncSession", claimed / session_way.seconds, goal=0.85),
        Result("claims, MaiaDAO", rate, "bare asyncpg", claimed / bare.seconds),
    ]


async def _fill(database: Database) -> None:
    async with database.transaction() as session:
        await session.execute(text("TRUNCATE watchlist"))
        await session.execute(
            text(
                "INSERT INTO watchlist (video_id, next_track_at) "
                "SELECT 'vid' || lpad(n::text, 8, '0'), now() - n * interval '1 second' "
                "FROM generate_series(1, :entries) n"
            ),
            {"entries": _ENTRIES},
        )
