"""Taking over the database of the platform's first version.

Its tables (``schema.sql``: ids are varchar, times have no zone and mean UTC) are moved aside into a schema
of their own, untouched; then the tables of this version are made, and rows copied in bounded steps. Every
step is one transaction that compares what it wrote with what it read and notes how far it came, so that a
run which died goes on where it stopped. `drop_old` is a command of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import DateTime, bindparam, text
from sqlalchemy.ext.asyncio import AsyncSession

from atlas.config import get_settings
from atlas.db import Database
from atlas.db.administration import migrations
from atlas.db.sql import identifier
from atlas.errors import ConfigurationError, Damaged
from atlas.importing.first_schema import ALL, COUNTERS, ID_IS_VALID, STATS, TABLES, OldTable
from atlas.logging import get_logger
from atlas.repositories.hot.partitions import Partitions, slot
from atlas.repositories.hot.stats import EARLIEST
from atlas.types import Progress

log = get_logger(__name__)

#: Rows in one step.
STEP = 5_000


@dataclass(frozen=True, slots=True)
class TakenOver:
    """What became of one old table: rows copied, and those left out: kept twice, or of no possible video."""

    table: str
    rows: int
    left_out: int


async def take_over(database: Database, progress: Progress | None = None) -> list[TakenOver]:
    """Bring a database of the first schema to this version, or go on where an earlier run stopped.

    Raises `ConfigurationError` where there is nothing of the first schema, or a table of one of its names
    is another program's; nothing was changed then.
    """
    async with database.transaction() as session:
        await _move_aside(session)
    await migrations.upgrade(database)
    report_progress = progress or (lambda done, total, what: None)
    report = []
    async with database.transaction(read_only=True) as session:
        old = await _Old.open(session)
    for table in TABLES:
        if table.name in old.columns:
            report.append(await _copy(database, old, table, report_progress))
    if STATS.name in old.columns:
        report.append(await _copy_stats(database, old, report_progress))
    async with database.transaction() as session:
        await _finish(session, old)
    log.info("database_taken_over", rows={one.table: one.rows for one in report})
    return report


async def drop_old(database: Database) -> list[str]:
    """Drop the tables that were moved aside, once all rows were copied; returns their names.

    Raises `ConfigurationError` where the take-over is not finished, and `DatabaseError` where tables of
    other programs refer to them; nothing is dropped then.
    """
    async with database.transaction() as session:
        old = await _Old.open(session)
        done = await session.scalar(text(f"SELECT bool_and(done) FROM {old.schema}.progress"))
        if not done:
            raise ConfigurationError(
                "the take-over is not finished", hint="run `atlas db upgrade --take-over` again"
            )
        names = [f"{old.schema}.{identifier(name)}" for name in (*old.columns, "progress")]
        await session.execute(text(f"DROP TABLE {', '.join(names)}"))
        await session.execute(text(f"DROP SCHEMA {old.schema}"))
    return names


@dataclass(frozen=True, slots=True)
class _Old:
    """The schema of the old tables, quoted, and by table its columns with their types."""

    schema: str
    columns: dict[str, dict[str, str]]

    @classmethod
    async def open(cls, session: AsyncSession) -> _Old:
        schema = await _aside(session)
        columns = await _columns(session, schema)
        columns.pop("progress", None)
        if not columns:
            raise ConfigurationError(
                "there are no tables of the platform's first schema here",
                hint="run `atlas db upgrade` without --take-over",
            )
        return cls(identifier(schema), columns)

    def value(self, table: str, column: str, how: str | None) -> str:
        """The old value of a column as SQL, times in UTC."""
        old = f"o.{identifier(column)}"
        if self.columns[table][column] == "timestamp without time zone":
            old = f"timezone('UTC', {old})"
        return old if how is None else how.format(old)


async def _aside(session: AsyncSession) -> str:
    return str(await session.scalar(text("SELECT current_schema() || '_before_atlas'")))


async def _columns(session: AsyncSession, schema: str) -> dict[str, dict[str, str]]:
    rows = await session.execute(
        text(
            "SELECT table_name::text, column_name::text, data_type::text "
            "FROM information_schema.columns WHERE table_schema = :schema"
        ),
        {"schema": schema},
    )
    found: dict[str, dict[str, str]] = {}
    for table, column, kind in rows:
        found.setdefault(table, {})[column] = kind
    return found


async def _move_aside(session: AsyncSession) -> None:
    """Move the old tables with their indexes and sequences; nothing where that was done before."""
    await session.execute(text("SET LOCAL lock_timeout = '5s'"))
    await session.execute(text("SELECT pg_advisory_xact_lock(hashtext('atlas.migrations'))"))
    aside = await _aside(session)
    if await _columns(session, aside):
        return
    here = await _columns(session, str(await session.scalar(text("SELECT current_schema()"))))
    if "archive_control" in here or "videos" not in here:
        raise ConfigurationError(
            "there are no tables of the platform's first schema here",
            hint="run `atlas db upgrade` without --take-over",
        )
    theirs = [table for table in ALL if table.name in here]
    for table in theirs:
        if missing := sorted({*table.known_by} - {*here[table.name]}):
            raise ConfigurationError(
                f"table {table.name} is not the platform's: it lacks {', '.join(missing)}",
                hint="move it to a schema of its own, or give Atlas one by search_path",
            )
    schema = identifier(aside)
    await session.execute(text(f"CREATE SCHEMA {schema}"))
    for table in theirs:
        await session.execute(text(f"ALTER TABLE {identifier(table.name)} SET SCHEMA {schema}"))
    await session.execute(
        text(
            f"CREATE TABLE {schema}.progress (name text PRIMARY KEY, reached text, "
            "rows bigint NOT NULL DEFAULT 0, left_out bigint NOT NULL DEFAULT 0, "
            "done boolean NOT NULL DEFAULT false)"
        )
    )
    for table in (*TABLES, STATS):
        if table in theirs:
            await session.execute(
                text(f"INSERT INTO {schema}.progress (name) VALUES (:name)"), {"name": table.name}
            )


async def _copy(
    database: Database, old: _Old, table: OldTable, report_progress: Progress
) -> TakenOver:
    kinds = old.columns[table.name]
    columns = [name for name in table.columns if name in kinds]
    source = f"{old.schema}.{identifier(table.name)}"
    key, new = f"o.{identifier(table.key)}", identifier(table.name)
    kind = kinds[table.key]
    after = f"(CAST(:reached AS text) IS NULL OR {key} > CAST(CAST(:reached AS text) AS {kind}))"
    values = ", ".join(old.value(table.name, name, table.columns[name]) for name in columns)
    step = text(f"""
        WITH batch AS MATERIALIZED (SELECT * FROM {source} o WHERE {after} ORDER BY {key} LIMIT {STEP}),
        taken AS (
            INSERT INTO {new} ({", ".join(map(identifier, columns))})
            SELECT {values} FROM batch o WHERE {table.valid} ON CONFLICT DO NOTHING RETURNING 1
        )
        SELECT (SELECT {key}::text FROM batch o ORDER BY {key} DESC LIMIT 1) AS reached, count(*) AS rows,
               count(*) FILTER (WHERE NOT coalesce({table.valid}, false)) AS left_out,
               (SELECT count(*) FROM taken) AS taken
        FROM batch o
        """)
    there = text(f"""
        SELECT count(*) FROM {source} o JOIN {new} n ON n.{identifier(table.key)} = {key}
        WHERE {after} AND {key} <= CAST(CAST(:last AS text) AS {kind})
        """)
    async with database.session() as session:
        total = await session.scalar(text(f"SELECT count(*) FROM {source}"))
    while True:
        async with database.transaction() as session:
            state = await _state(session, old, table.name)
            if state.done:
                return TakenOver(table.name, state.rows, state.left_out)
            found = (await session.execute(step, {"reached": state.reached})).one()
            if found.rows:
                values_ = {"reached": state.reached, "last": found.reached}
                copied = await session.scalar(there, values_)
                # a term that two old rows had may be there once only
                if copied != found.rows - found.left_out and table.name != "search_queue":
                    raise Damaged(
                        f"{table.name}: {found.rows - found.left_out} rows were read, {copied} are there"
                    )
            kept = found.rows - found.left_out
            await _note(session, old, table.name, found.reached, kept, found.left_out)
        report_progress(state.rows + found.rows, total, table.name)


async def _copy_stats(database: Database, old: _Old, report_progress: Progress) -> TakenOver:
    """Samples, a partition's span in each step."""
    kinds = old.columns[STATS.name]
    moment = old.value(STATS.name, "timestamp", None)
    counters = [name for name in COUNTERS if name in kinds]
    values = ", ".join(f"o.{name}::bigint AS {name}" for name in counters)
    sums = ", ".join(f"sum({name})::text" for name in counters)
    valid = " AND ".join(
        [ID_IS_VALID.format("video_id"), *(f"coalesce(o.{name}, 0) >= 0" for name in counters)]
    )
    span = "at >= :lower AND at < :upper"
    # where a sample was kept twice, one of them: which one was the later is not known
    rows = f"""
        SELECT DISTINCT ON (o.video_id, {moment}) o.video_id::text AS video_id, {moment} AS at, {values}
        FROM {old.schema}.video_stats_log o WHERE {valid}
        """
    following = text(
        f"SELECT min({moment}) FROM {old.schema}.video_stats_log o "
        f"WHERE {moment} >= greatest(coalesce(:reached, '-infinity'), CAST(:earliest AS timestamptz)) "
        f"AND {moment} < clock_timestamp() + interval '1 day'"
    ).bindparams(bindparam("reached", type_=DateTime(timezone=True)))
    hours = get_settings().stats_partition_hours
    async with database.session() as session:
        total = await session.scalar(text(f"SELECT count(*) FROM {old.schema}.video_stats_log"))
    while True:
        async with database.transaction() as session:
            state = await _state(session, old, STATS.name)
            if state.done:
                return TakenOver(STATS.name, state.rows, state.left_out)
            reached = state.reached and datetime.fromisoformat(state.reached)
            moment_ = await session.scalar(following, {"reached": reached, "earliest": EARLIEST})
            if moment_ is None:
                await _note(session, old, STATS.name, None, 0, int(total or 0) - state.rows)
                continue
            lower, upper = slot(moment_, hours)
            await Partitions(session).ensure([lower], hours)
        async with database.transaction() as session:
            await _state(session, old, STATS.name)
            given = {"lower": lower, "upper": upper}
            found = (
                await session.execute(
                    text(f"SELECT count(*), {sums} FROM ({rows}) AS r WHERE {span}"), given
                )
            ).one()
            names = ", ".join(counters)
            await session.execute(
                text(
                    f"INSERT INTO video_stats_log (video_id, timestamp, {names}) "
                    f"SELECT video_id, at, {names} FROM ({rows}) AS r WHERE {span} ON CONFLICT DO NOTHING"
                ),
                given,
            )
            there = (
                await session.execute(
                    text(
                        f"SELECT count(*), {', '.join(f'sum(n.{name})::text' for name in counters)} "
                        f"FROM ({rows}) AS r JOIN video_stats_log n ON n.video_id = r.video_id "
                        f"AND n.timestamp = r.at WHERE {span} AND n.timestamp >= :lower "
                        "AND n.timestamp < :upper"
                    ),
                    given,
                )
            ).one()
            if tuple(found) != tuple(there):
                raise Damaged(
                    f"video_stats_log from {lower}: {tuple(found)} were read, {tuple(there)} are there",
                    hint="rows and sums of the counters; run it again while no collector is at work",
                )
            await _note(session, old, STATS.name, upper.isoformat(), found[0], 0)
        report_progress(state.rows + found[0], total, STATS.name)


async def _state(session: AsyncSession, old: _Old, name: str) -> Any:
    query = f"SELECT reached, rows, left_out, done FROM {old.schema}.progress WHERE name = :name FOR UPDATE"
    return (await session.execute(text(query), {"name": name})).one()


async def _note(
    session: AsyncSession, old: _Old, name: str, reached: str | None, rows: int, left_out: int
) -> None:
    """How far a table was copied; ``reached`` None: to its end."""
    await session.execute(
        text(
            f"UPDATE {old.schema}.progress SET reached = coalesce(:reached, reached), "
            "rows = rows + :rows, left_out = left_out + :left_out, "
            "done = CAST(:reached AS text) IS NULL WHERE name = :name"
        ),
        {"name": name, "reached": reached, "rows": rows, "left_out": left_out},
    )


async def _finish(session: AsyncSession, old: _Old) -> None:
    """What the old tables say elsewhere: transcripts that are there, and the next number of a term."""
    if "transcripts" in old.columns:
        await session.execute(
            text(
                "UPDATE videos SET has_transcript = true WHERE NOT has_transcript "
                f"AND id IN (SELECT video_id::text FROM {old.schema}.transcripts)"
            )
        )
    await session.execute(
        text(
            "SELECT setval(pg_get_serial_sequence('search_queue', 'id'), "
            "greatest((SELECT max(id) FROM search_queue), 1))"
        )
    )
