"""Which server the settings name, how to connect to it, and what every session needs, set in one place.

Servers, databases and roles may carry defaults of their own (``ALTER ROLE ... SET``) under which correct
SQL does other things, or stops half-way. Every connection (SQLAlchemy, Arrow, the archiver's lock,
migrations) comes through `settle` or `preamble`. docs/postgresql.md says why each setting is there.
Nothing here imports SQLAlchemy, which takes half a second.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import asyncpg

from atlas.config import get_settings
from atlas.db import embedded
from atlas.db.sql import identifier, literal
from atlas.db.url import Target, translate_url
from atlas.errors import ConfigurationError

#: Value by setting. Text of timeouts is in milliseconds; 0 means none.
REQUIRED: Mapping[str, str] = {
    "default_transaction_isolation": "read committed",
    "default_transaction_read_only": "off",
    "default_transaction_deferrable": "off",
    "standard_conforming_strings": "on",
    "quote_all_identifiers": "off",
    "client_encoding": "UTF8",
    "datestyle": "ISO, MDY",
    "timezone": "UTC",
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "idle_session_timeout": "0",
    "transaction_timeout": "0",
}
#: Settings by the release that brought them (`server_version_num`); the others are in all.
_SINCE = {"transaction_timeout": 170000}

#: Bounds of statements that hold where DATABASE_URL's own ``options`` name them: those are meant for Atlas.
CHOSEN = frozenset({"statement_timeout", "lock_timeout", "transaction_timeout"})

#: Connections beyond DATABASE_POOL_SIZE, so that a lock held on one does not starve what it guards.
OVERFLOW = 2

#: Encodings of a database in which every text comes back as it went in.
ENCODINGS = ("UTF8", "SQL_ASCII")

#: The query whose one row is the arguments of `Facts.of`. ``archive_control`` is a table of Atlas only;
#: ``alembic_version`` may be another program's.
FACTS = """
    SELECT coalesce(
               (SELECT nspname::text FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
                WHERE c.oid = to_regclass('archive_control')),
               current_schema()::text
           ) AS schema,
           current_setting('search_path') AS search_path,
           current_setting('server_version_num')::int AS version,
           pg_is_in_recovery() AS standby
"""


@dataclass(frozen=True, slots=True)
class Facts:
    """What a session reads from its server: where Atlas's tables are or will be, and the release."""

    schema: str
    search_path: str
    version: int
    standby: bool

    @classmethod
    def of(cls, schema: str | None, search_path: str, version: int, standby: bool) -> Facts:
        """The facts as `FACTS` has them. Raises `ConfigurationError` where there is no schema at all."""
        if schema is None:
            raise ConfigurationError(
                f"search_path names no schema that exists and may be used: {search_path}",
                hint="create the schema, grant USAGE on it, or correct search_path",
            )
        return cls(schema, search_path, version, standby)


def preamble(
    facts: Facts | None = None,
    *,
    local: bool,
    read_only: bool = False,
    options: Collection[str] = (),
) -> str:
    """The statements that make a session, or with ``local`` the transaction under way, what it must be.

    They take no snapshot. Without ``facts`` the first ones of a connection, which settle what `FACTS` needs.
    Of what the ``options`` of DATABASE_URL name, those in `CHOSEN` are left as they are.
    """
    scope = "SET LOCAL" if local else "SET"
    version = 0 if facts is None else facts.version
    statements = [
        f"{scope} {name} = {literal(value)}"
        for name, value in REQUIRED.items()
        if version >= _SINCE.get(name, 0) and not (name in CHOSEN and name in options)
    ]
    if facts is not None:
        # new tables go to the first schema of the path: always that of the others
        statements.append(f"{scope} search_path = {identifier(facts.schema)}, {facts.search_path}")
        if local and not read_only and not facts.standby:
            statements.insert(0, "SET TRANSACTION READ WRITE")
    return "; ".join(statements)


def check_encoding(encoding: str) -> None:
    """Raise `ConfigurationError` for the encoding of a database that holds no title of every language."""
    if encoding not in ENCODINGS:
        raise ConfigurationError(
            f"the database has the encoding {encoding}, which lacks most characters of titles",
            hint="create it with ENCODING 'UTF8' TEMPLATE template0, and move the rows there",
        )


async def settle(connection: asyncpg.Connection, options: Collection[str] = ()) -> None:
    """Make a new connection what it must be. Raises `ConfigurationError` where that cannot be."""
    if type(connection) is PooledConnection:  # asyncpg takes any of its connections for an instance
        await connection.settle()
        return
    await connection.execute(preamble(local=False, options=options))
    facts = Facts.of(*await connection.fetchrow(FACTS))
    await connection.execute(preamble(facts, local=False, options=options))


class PooledConnection(asyncpg.Connection):  # type: ignore[misc]  # asyncpg ships no types
    """A connection to a pooler in transaction mode: each transaction may meet another session, and so
    settles what it needs for itself, in the round trip of its BEGIN."""

    __slots__ = ("_facts",)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._facts: Facts | None = None

    async def settle(self) -> None:
        """Learn what every later transaction sets."""
        async with self.transaction():
            self._facts = Facts.of(*await self.fetchrow(FACTS))

    async def execute(self, query: str, *args: Any, **options: Any) -> Any:
        """As asyncpg's, whose transactions begin by it."""
        if query.startswith("BEGIN"):
            read_only = "READ ONLY" in query
            query += preamble(self._facts, local=True, read_only=read_only)
        return await super().execute(query, *args, **options)


async def configured_target() -> Target:
    """The server of DATABASE_URL, else the embedded one, which is started. Raises `ConfigurationError`."""
    settings = get_settings()
    if settings.database_url is not None:
        return translate_url(settings.database_url.get_secret_value())
    if not settings.throwaway:
        raise ConfigurationError(
            "DATABASE_URL is not set",
            hint="set DATABASE_URL=postgresql://user:password@host:5432/database, "
            "or ENV=dev for an embedded PostgreSQL",
        )
    return translate_url(await asyncio.to_thread(embedded.start, settings.atlas_home))


def connect_arguments(target: Target) -> dict[str, Any]:
    """What `asyncpg.connect` takes for a connection of Atlas."""
    arguments = dict(target.asyncpg)
    if not target.has_application_name:
        # a start-up parameter that PgBouncer takes; it refuses most others
        arguments["server_settings"] = {"application_name": "atlas"}
    if get_settings().database_pool_mode == "transaction":
        # the pooler gives each transaction another server connection: nothing may be prepared for later
        arguments |= {"statement_cache_size": 0, "connection_class": PooledConnection}
    return arguments


async def ask(target: Target) -> None:
    """See PostgreSQL answer, by a connection of its own. Raises the errors that `Database` raises.

    For who has a second: importing SQLAlchemy takes half of one.
    """
    try:
        connection = await asyncpg.connect(**connect_arguments(target))
        try:
            await settle(connection, target.options)
        finally:
            await connection.close()
    except Exception as error:
        from atlas.db.errors import translate

        raise translate(error, where=target.where, connecting=True) or error from error
