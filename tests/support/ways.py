"""The ways in which a run of the tests comes to its databases: ``ATLAS_TEST_WAY``.

``hostile``: every default of the database is the worst that PostgreSQL takes. ``pgbouncer``: through a
pooler in transaction mode. ``owner``: as a member of that role. ``worker``: likewise, but for the archiver,
which is the owner's. ``reader``: what `StatsReader` reads is read as a member of that role.

A test that cannot go one of the ways has a mark of `UNFIT`, and is skipped there.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from atlas.archive import Archiver
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


#: Behind the pooler: as many as a test holds at once, fewer than it has clients.
_SERVER_CONNECTIONS = 6

#: The way that a mark rules out, and why, by mark.
UNFIT = {
    "needs_owner": ("worker", "changes tables itself, as a worker may not"),
    "needs_writing_reader": ("reader", "a read notes what later reads rely on"),
    "needs_direct_connection": (
        "pgbouncer",
        "copies a database, from which a pooler stays connected",
    ),
}

#: The ways that are roles.
ROLES = ("owner", "worker", "reader")


def prepare(template: str) -> None:
    """Give a template what each of its copies needs for the way of this run."""
    if way() in ROLES:
        postgres.run(_apply_roles(template))


@contextlib.contextmanager
def reached(server: Server, url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL by which this run comes to a migrated database."""
    how = way()
    if how == "hostile":
        make_hostile(server, url)
        yield url
    elif how == "pgbouncer":
        monkeypatch.setenv("DATABASE_POOL_MODE", "transaction")
        with pgbouncer.running(url, f"default_pool_size = {_SERVER_CONNECTIONS}") as pooled:
            yield pooled
    elif how in ROLES:
        users = {role: login(server, url, role) for role in ROLES}
        if how == "worker":
            _connect_as(monkeypatch, Archiver, users["owner"])
        elif how == "reader":
            _connect_as(monkeypatch, StatsReader, users["reader"])
        yield url if how == "reader" else users[how]
    else:
        yield url


def _connect_as(
    monkeypatch: pytest.MonkeyPatch, kind: type[Archiver] | type[StatsReader], url: str
) -> None:
    """Have every object of a class work on the database of ``url``, whatever it is given."""
    make = kind.__init__
    database = Database(url)  # one that lives on: its connections end with each loop

    def made(self: Archiver | StatsReader, _: object = None, vault: Vault | None = None) -> None:
        make(self, database, vault)  # type: ignore[arg-type]  # the method of its own class

    monkeypatch.setattr(kind, "__init__", made)


async def _apply_roles(url: str) -> None:
    database = Database(url)
    await apply(database, Roles())
    await database.close()


def make_hostile(server: Server, url: str) -> None:
    """Give a database every default of `HOSTILE` that its server knows, and decoys for its search path."""
    settings = {
        name: value if name == "search_path" else f"'{value}'" for name, value in HOSTILE.items()
    }
    user = server.execute("SELECT current_user")
    known = " ".join(
        f"IF EXISTS (SELECT FROM pg_settings WHERE lower(name) = '{name}') THEN "
        f'ALTER DATABASE "{name_of(url)}" SET {name} = {value}; END IF;'
        for name, value in settings.items()
    )
    decoys = "; ".join(_DECOYS).format(user=user)
    server.execute(f"DO $$ BEGIN {decoys}; {known} END $$", url)


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
