"""Which server the settings name and how to connect to it; nothing here imports SQLAlchemy."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg

from atlas.config import get_settings
from atlas.db import embedded, sessions
from atlas.db.url import Target, translate_url
from atlas.errors import ConfigurationError


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
        arguments |= {"statement_cache_size": 0, "connection_class": sessions.PooledConnection}
    return arguments


async def ask(target: Target) -> None:
    """See PostgreSQL answer, by a connection of its own. Raises the errors that `Database` raises.

    For who has a second: importing SQLAlchemy takes half of one.
    """
    try:
        connection = await asyncpg.connect(**connect_arguments(target))
        try:
            await sessions.settle(connection, target.options)
        finally:
            await connection.close()
    except Exception as error:
        from atlas.db.errors import translate

        raise translate(error, where=target.where, connecting=True) or error from error
