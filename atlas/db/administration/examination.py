"""What `atlas doctor` asks of a database: each question returns what was found, or raises what mends it."""

from __future__ import annotations

import uuid

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from atlas.config import get_settings
from atlas.db import sessions
from atlas.db.database import Database
from atlas.db.driver import driver_of
from atlas.errors import ConfigurationError

#: Defaults of this user, this database, or both.
_DEFAULTS = text("""
    SELECT split_part(setting, '=', 1) AS name, substr(setting, strpos(setting, '=') + 1) AS value,
           concat_ws(' IN ', CASE WHEN setrole <> 0 THEN format('ROLE %I', pg_get_userbyid(setrole)) END,
                     CASE WHEN setdatabase <> 0 THEN format('DATABASE %I', current_database()) END) AS place
    FROM pg_db_role_setting, unnest(setconfig) AS setting
    WHERE setrole IN (0, current_user::regrole)
      AND setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
    """)

_IN_FORCE = text("""
    SELECT lower(name) AS name, setting, setting || coalesce(' ' || unit, '') AS shown,
           source = 'client' AS by_url
    FROM pg_settings WHERE lower(name) = ANY(:names)
    """)

_ACCESS = text("""
    SELECT pg_get_userbyid(relowner)::text AS owner, current_user::text AS me,
           pg_has_role(relowner, 'USAGE') AS owns,
           has_table_privilege(oid, 'SELECT') AS reads,
           has_table_privilege(oid, 'SELECT, INSERT, UPDATE, DELETE')
               AND has_table_privilege(oid, 'INSERT') AND has_table_privilege(oid, 'UPDATE')
               AND has_table_privilege(oid, 'DELETE') AS writes,
           (SELECT bool_and(has_function_privilege(oid, 'EXECUTE')) FROM pg_proc
            WHERE pronamespace = current_schema()::regnamespace AND starts_with(proname, 'atlas_'))
               AS makes,
           pg_is_in_recovery() AS standby
    FROM pg_class WHERE oid = 'video_stats_log'::regclass
    """)

_STRANGERS = text("""
    SELECT c.relname::text AS name, pg_get_userbyid(c.relowner)::text AS owner
    FROM pg_class c, pg_class parent
    WHERE parent.relnamespace = current_schema()::regnamespace AND parent.relkind = 'p'
      AND c.relowner <> parent.relowner
      AND (c.oid IN (SELECT inhrelid FROM pg_inherits WHERE inhparent = parent.oid)
           OR parent.relname = 'video_stats_log' AND c.oid IN (
               SELECT to_regclass(quote_ident(relation)) FROM archive_files WHERE relation IS NOT NULL))
    ORDER BY 1
    """)


async def examine_sessions(database: Database) -> tuple[str, str]:
    """The settings in force, and which defaults they had to replace. Raises `ConfigurationError`."""
    async with database.transaction() as session:
        sessions.check_encoding(str(await session.scalar(text("SHOW server_encoding"))))
        await _one_schema(session)
        rows = await session.execute(_IN_FORCE, {"names": list(sessions.REQUIRED)})
        ignored = {"default_transaction_isolation"} if _pooled() else set()
        others = [
            row
            for row in rows
            if row.name not in ignored and row.setting != sessions.REQUIRED[row.name]
        ]
        chosen = [row for row in others if row.by_url and row.name in sessions.CHOSEN]
        if wrong := [row.name for row in others if row not in chosen]:
            shown = ", ".join(f"{row.name}={row.shown}" for row in others if row.name in wrong)
            raise ConfigurationError(
                f"sessions do not keep {shown}",
                hint="a pooler resets them: set DATABASE_POOL_MODE=transaction, or "
                + "; ".join(f"ALTER ROLE ... RESET {name}" for name in wrong),
            )
        defaults = [
            row
            for row in await session.execute(_DEFAULTS)
            if row.value != sessions.REQUIRED.get(row.name.lower(), row.value)
        ]
    if chosen:
        kept = ", ".join(f"{row.name}={row.shown}" for row in chosen)
        return f"as Atlas needs them, but for {kept} by DATABASE_URL", (
            "what takes longer is cancelled, an archive or a migration too: leave it out of the options"
        )
    if not defaults:
        return "as Atlas needs them", ""
    found = ", ".join(f"{row.name}={row.value}" for row in defaults)
    mend = "; ".join(f"ALTER {row.place or 'ROLE ALL'} RESET {row.name}" for row in defaults)
    return (
        f"as Atlas needs them; it replaces {found}",
        f"no harm to Atlas; for other programs: {mend}",
    )


async def server_version(database: Database) -> str:
    """PostgreSQL's version, as it states it."""
    async with database.transaction(read_only=True) as session:
        return str(await session.scalar(text("SHOW server_version")))


async def examine_pooler(database: Database) -> str:
    """Whether a pooler is in between, and known. Raises `ConfigurationError`."""
    engine = await database.engine()
    async with engine.connect() as connection:
        driver = await driver_of(connection)
        theirs = await connection.scalar(text("SELECT pg_backend_pid()"))
        if theirs == driver.get_server_pid():
            return "a direct connection"
        if _pooled():
            return "a pooler, in transaction mode by DATABASE_POOL_MODE"
        # what one client sets another one finds, where they take turns on one session
        mark = uuid.uuid4().hex
        await connection.commit()
        await connection.execute(
            text("SELECT set_config('atlas.mark', :mark, false)"), {"mark": mark}
        )
        await connection.commit()
        try:
            async with engine.connect() as other:
                seen = await other.scalar(text("SELECT current_setting('atlas.mark', true)"))
        finally:
            await connection.execute(text("RESET atlas.mark"))
            await connection.commit()
    if seen == mark:
        raise ConfigurationError(
            "a pooler in transaction mode is in between, and Atlas does not know",
            hint="set DATABASE_POOL_MODE=transaction, or give DATABASE_URL the server's own port",
        )
    return "a pooler that keeps sessions"


async def examine_access(database: Database) -> str:
    """What this user may do. Raises `ConfigurationError` where that is no whole role."""
    async with database.transaction(read_only=True) as session:
        row = (await session.execute(_ACCESS)).one()
        strangers = (await session.execute(_STRANGERS)).all()
    if strangers:
        names = ", ".join(f"{one.name} ({one.owner})" for one in strangers[:3])
        raise ConfigurationError(
            f"partitions of tables of {row.owner} belong to others ({len(strangers)}): {names}",
            hint="run `atlas db roles --apply` as a superuser: until then nobody else can archive "
            "or drop them",
        )
    if not row.reads:
        raise ConfigurationError(
            f"{row.me} may not read the tables of {row.owner}", hint="see `atlas db roles`"
        )
    where = " on a standby, which takes no writes" if row.standby else ""
    if row.owns:
        return f"{row.me} owns the tables: migrates, archives and collects{where}"
    if row.writes and row.makes:
        return f"{row.me} collects; {row.owner} migrates and archives{where}"
    if row.writes:
        raise ConfigurationError(
            f"{row.me} may write rows, but not have partitions made or dropped",
            hint="run `atlas db roles --apply` as a superuser, or as the owner of the tables",
        )
    return f"{row.me} only reads{where}"


async def _one_schema(session: AsyncSession) -> None:
    schemas = list(
        await session.scalars(
            text(
                "SELECT schema::text FROM unnest(current_schemas(false)) AS schema "
                "WHERE to_regclass(quote_ident(schema) || '.archive_control') IS NOT NULL"
            )
        )
    )
    if len(set(schemas)) > 1:
        raise ConfigurationError(
            f"search_path names two schemas with Atlas's tables: {', '.join(dict.fromkeys(schemas))}",
            hint="leave one of them in search_path, for every user of Atlas the same",
        )


def _pooled() -> bool:
    return get_settings().database_pool_mode == "transaction"
