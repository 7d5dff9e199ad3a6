"""Three roles: who owns the tables, who works with them, who reads them.

- the *owner* migrates and archives; tables, sequences and functions are its own;
- the *worker* does all that collectors do: it reads and writes rows, and has no DDL. What it needs done to
  partitions the functions ``atlas_*`` do, which run as the owner;
- the *reader* reads.

They are groups without a login: whoever connects is made a member of one. What the owner makes later is
covered by default privileges, and so are the tables of later versions.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import ARRAY, Text, bindparam, text
from sqlalchemy.ext.asyncio import AsyncSession

from atlas.db.database import Database
from atlas.db.sql import identifier
from atlas.errors import DatabaseError
from atlas.models import Base

#: unique_violation, duplicate_object: roles are the server's, and another database may have made them.
_MADE_MEANWHILE = frozenset({"23505", "42710"})

#: PostgreSQL's version whose tables may be vacuumed by who does not own them.
_MAINTAIN_SINCE = 170_000

_KINDS = {"r": "TABLE", "p": "TABLE", "S": "SEQUENCE", "f": "FUNCTION"}

#: Atlas's tables, their partitions, sealed tables and functions, in the schema of the session.
_OBJECTS = text("""
    WITH RECURSIVE own AS (
        SELECT oid FROM pg_class
        WHERE relnamespace = current_schema()::regnamespace AND relkind IN ('r', 'p')
          AND (relname = ANY(:tables) OR oid IN (
              SELECT to_regclass(quote_ident(relation)) FROM archive_files WHERE relation IS NOT NULL))
        UNION
        SELECT inhrelid FROM pg_inherits JOIN own ON inhparent = own.oid
    )
    SELECT relkind::text AS kind, oid::regclass::text AS name,
           pg_get_userbyid(relowner)::text AS owner
    FROM pg_class WHERE oid IN (SELECT oid FROM own)
    UNION ALL
    -- numbers that columns take by default; those of identity columns go with their tables
    SELECT DISTINCT 'S', sequence.oid::regclass::text, pg_get_userbyid(sequence.relowner)::text
    FROM pg_attrdef d JOIN pg_depend n ON n.classid = 'pg_attrdef'::regclass AND n.objid = d.oid
    JOIN pg_class sequence ON sequence.oid = n.refobjid AND sequence.relkind = 'S'
    WHERE n.refclassid = 'pg_class'::regclass AND d.adrelid IN (SELECT oid FROM own)
    UNION ALL
    SELECT 'f', oid::regprocedure::text, pg_get_userbyid(proowner)::text
    FROM pg_proc WHERE pronamespace = current_schema()::regnamespace AND starts_with(proname, 'atlas_')
    ORDER BY 1, 2
    """).bindparams(bindparam("tables", type_=ARRAY(Text)))


@dataclass(frozen=True, slots=True)
class Roles:
    """The names of the three groups."""

    owner: str = "atlas_owner"
    worker: str = "atlas_worker"
    reader: str = "atlas_reader"


async def grants(session: AsyncSession, roles: Roles) -> list[str]:
    """The statements that make the roles and give each what is its own; to run them again changes nothing.

    For a migrated database. Who runs them owns the tables or is a superuser, and may make roles.
    """
    owner, worker, reader = (identifier(one) for one in (roles.owner, roles.worker, roles.reader))
    row = (
        await session.execute(
            text(
                "SELECT quote_ident(current_schema()), quote_ident(current_database()), "
                "rolsuper, has_schema_privilege('public', current_schema(), 'CREATE'), "
                "current_setting('server_version_num')::int "
                "FROM pg_roles WHERE rolname = current_user"
            )
        )
    ).one()
    schema, database, superuser, open_to_all, version = row
    # who may make functions there could have the owner's call them
    closed = [f"REVOKE CREATE ON SCHEMA {schema} FROM PUBLIC"] if open_to_all else []
    known = set(await session.scalars(text("SELECT rolname::text FROM pg_roles")))
    tables = [*Base.metadata.tables, "alembic_version"]
    objects = (await session.execute(_OBJECTS, {"tables": tables})).all()
    statements = [
        f"CREATE ROLE {identifier(name)} NOLOGIN"
        for name in (roles.owner, roles.worker, roles.reader)
        if name not in known
    ]
    if not superuser:
        statements.append(f"GRANT {owner} TO CURRENT_USER")
    statements += [
        f"GRANT USAGE, CREATE ON SCHEMA {schema} TO {owner}",
        *closed,
        f"GRANT USAGE ON SCHEMA {schema} TO {worker}, {reader}",
        f"GRANT TEMPORARY ON DATABASE {database} TO {owner}, {worker}",
    ]
    for kind, name, owned_by in objects:
        if owned_by != roles.owner:
            statements.append(f"ALTER {_KINDS[kind]} {name} OWNER TO {owner}")
    for kind, name, _ in objects:
        if kind == "f":
            statements.append(f"REVOKE EXECUTE ON FUNCTION {name} FROM PUBLIC")
            statements.append(f"GRANT EXECUTE ON FUNCTION {name} TO {worker}")
        elif kind == "S":
            statements.append(f"GRANT USAGE, SELECT ON SEQUENCE {name} TO {worker}")
        elif name.rpartition(".")[2] == "alembic_version":
            statements.append(f"GRANT SELECT ON {name} TO {worker}, {reader}")
        else:
            statements.append(f"GRANT SELECT ON {name} TO {reader}")
            statements.append(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {name} TO {worker}")
    if version >= _MAINTAIN_SINCE:  # the janitor's parking
        statements.append(f"GRANT MAINTAIN ON watchlist_ring, watchlist_filter TO {worker}")
    defaults = f"ALTER DEFAULT PRIVILEGES FOR ROLE {owner} IN SCHEMA {schema} GRANT"
    return [
        *statements,
        f"{defaults} SELECT ON TABLES TO {reader}",
        f"{defaults} SELECT, INSERT, UPDATE, DELETE ON TABLES TO {worker}",
        f"{defaults} USAGE, SELECT ON SEQUENCES TO {worker}",
        f"{defaults} EXECUTE ON FUNCTIONS TO {worker}",
    ]


async def apply(database: Database, roles: Roles) -> list[str]:
    """Run the `grants` in one transaction; returns them. Raises `ConfigurationError` for want of a right."""
    try:
        return await _apply(database, roles)
    except DatabaseError as error:
        if error.sqlstate not in _MADE_MEANWHILE:
            raise
        return await _apply(database, roles)


async def _apply(database: Database, roles: Roles) -> list[str]:
    async with database.transaction() as session:
        statements = await grants(session, roles)
        for statement in statements:
            await session.execute(text(statement.replace(":", "\\:")))
    return statements
