"""The ways in which a run of the tests comes to its databases: ``ATLAS_TEST_WAY``.

``hostile``: every default of the database is the worst that PostgreSQL takes. ``pgbouncer``: through a
pooler in transaction mode. ``owner``, ``worker``: as a member of that role. ``reader``: what is read by
`StatsReader` is read as a member of that role.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from atlas.db import Database
from atlas.db.administration.roles import Roles, apply
from atlas.reader import StatsReader
from atlas.vault import Vault
from tests.support.servers import pgbouncer, postgres
from tests.support.servers.postgres import Server, name_of

VARIABLE = "ATLAS_TEST_WAY"

#: What an administrator, a managed service or another program's set-up may have left as a default. The
#: timeouts are such that a busy machine does not meet them while it connects.
HOSTILE = {
    "default_transaction_isolation": "serializable",
    "default_transaction_read_only": "on",
    "default_transaction_deferrable": "on",
    "standard_conforming_strings": "off",
    "quote_all_identifiers": "on",
    "client_encoding": "LATIN1",
    "datestyle": "German, DMY",
    "timezone": "Asia/Kathmandu",
    "statement_timeout": "2s",
    "lock_timeout": "2s",
    "idle_in_transaction_session_timeout": "2s",
    "idle_session_timeout": "2s",
    "transaction_timeout": "2s",
    "search_path": '"$user", decoy, public',
}

#: Schemas that come first in the path; the second holds what looks like Atlas's.
_DECOYS = (
    'CREATE SCHEMA IF NOT EXISTS "{user}"',
    "CREATE SCHEMA decoy",
    "CREATE TABLE decoy.alembic_version (version_num text)",
    "CREATE TABLE decoy.videos (id int)",
)


def way() -> str:
    """The way of this run; empty for the plain one."""
    return os.environ.get(VARIABLE, "")


@contextlib.contextmanager
def reached(server: Server, url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL by which this run comes to a migrated database."""
    how = way()
    if how in ("owner", "worker", "reader"):
        postgres.run(_apply_roles(url))
    if how == "hostile":
        make_hostile(server, url)
        yield url
    elif how == "pgbouncer":
        monkeypatch.setenv("DATABASE_POOL_MODE", "transaction")
        with pgbouncer.running(url) as pooled:
            yield pooled
    elif how in ("owner", "worker"):
        yield login(server, url, how)
    elif how == "reader":
        reader = login(server, url, "reader")
        make = StatsReader.__init__

        def as_reader(
            self: StatsReader, database: object = None, vault: Vault | None = None
        ) -> None:
            make(self, Database(reader), vault)

        monkeypatch.setattr(StatsReader, "__init__", as_reader)
        yield url
    else:
        yield url


async def _apply_roles(url: str) -> None:
    database = Database(url)
    await apply(database, Roles())
    await database.close()


def make_hostile(server: Server, url: str) -> None:
    """Give a database every default of `HOSTILE` that its server knows, and decoys for its search path."""
    user = server.execute("SELECT current_user")
    for statement in _DECOYS:
        server.execute(statement.format(user=user), url)
    for name, value in HOSTILE.items():
        if server.execute(f"SELECT count(*) FROM pg_settings WHERE lower(name) = '{name}'"):
            value = value if name == "search_path" else f"'{value}'"
            server.execute(f'ALTER DATABASE "{name_of(url)}" SET {name} = {value}')


def login(server: Server, url: str, role: str) -> str:
    """The URL of the same database for a user who is a member of ``atlas_<role>``; made if need be."""
    user = f"atlas_test_{role}"
    server.execute(f"""
        DO $$ BEGIN
            CREATE ROLE {user} LOGIN PASSWORD 'test' IN ROLE atlas_{role};
        EXCEPTION WHEN duplicate_object OR unique_violation THEN
            GRANT atlas_{role} TO {user};
        END $$
        """)
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=f"{user}:test@{host}").geturl()
