"""Fixtures of the integration tests."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from atlas.db import Database
from atlas.scheduling import Work
from tests.support.cli import Program, Run, program
from tests.support.servers.postgres import Server
from tests.support.sql import execute


@pytest.fixture(scope="session")
def _program() -> Iterator[Program]:
    with program() as made:
        yield made


@pytest.fixture
def atlas(_program: Program, tmp_path: Path) -> Run:
    """Runs ``atlas ARGS`` in ``tmp_path`` with the test's environment and what is given on top."""

    def run(*arguments: str, **variables: str | None) -> subprocess.CompletedProcess[str]:
        environment = {k: v for k, v in {**os.environ, **variables}.items() if v is not None}
        paths = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        return _program.run(list(arguments), environment | paths, tmp_path)

    return run


@pytest.fixture
async def empty(postgres_server: Server, migrated_template: str) -> AsyncIterator[Database]:
    """A second database without rows."""
    url = postgres_server.create(migrated_template)
    database = Database(url)
    yield database
    await database.close()
    postgres_server.drop(url)


@pytest.fixture
def work(database: Database) -> Work:
    return Work(database)


@pytest.fixture
async def filled(database: Database) -> None:
    """Three rows of each kind, the first the longest due."""
    await execute(
        database,
        "INSERT INTO search_queue (query_term, priority) SELECT 'term ' || n, -n "
        "FROM generate_series(1, 3) n",
    )
    await execute(
        database,
        "INSERT INTO watchlist (video_id, next_track_at, published_at) SELECT 'v' || n, "
        "now() - interval '1 hour' + n * interval '1 second', now() - interval '2 hours' "
        "FROM generate_series(1, 3) n",
    )
    await execute(
        database,
        "INSERT INTO videos (id, title, discovered_at) SELECT 'v' || n, 't', "
        "now() - interval '1 hour' + n * interval '1 second' FROM generate_series(1, 3) n",
    )
