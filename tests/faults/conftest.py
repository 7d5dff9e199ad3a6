"""Fixtures of the fault suite."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from atlas.db import Database
from tests.support.children.archive_child import Child, Orders, start_server
from tests.support.places import Place
from tests.support.servers.cluster import Cluster, running_cluster
from tests.support.servers.postgres import name_of


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A server of this process that tests may kill."""
    with running_cluster() as cluster:
        yield cluster


@pytest.fixture(scope="session")
def cluster_template(cluster: Cluster) -> str:
    """Name of a migrated database on it, to be copied."""
    return name_of(cluster.server.migrated())


@pytest.fixture
async def mortal_database(cluster: Cluster, cluster_template: str) -> AsyncIterator[Database]:
    """A fresh migrated database on the server that tests may kill."""
    url = cluster.server.create(cluster_template)
    database = Database(url)
    yield database
    await database.close()
    cluster.server.drop(url)


@pytest.fixture(scope="session", autouse=True)
def _fork_server() -> None:
    start_server()


@pytest.fixture
def quiet() -> Iterator[None]:
    """This process logs warnings only: rendering every step takes longer than most steps."""
    logger = logging.getLogger("atlas")
    before = logger.level
    logger.setLevel(logging.WARNING)
    yield
    logger.setLevel(before)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Any]:
    """Starts a child on a database and a place (the vault in ``tmp_path``); all are gone at the end."""
    children: list[Child] = []

    def start(database: Database, job: str, *arguments: str, **orders: Any) -> Child:
        log = tmp_path / f"child-{len(children)}.log"
        place = orders.pop("place", Place("local", str(tmp_path / "vault"), tmp_path / "home"))
        children.append(Child(Orders(job, str(database._url), place, log, arguments, **orders)))
        return children[-1]

    yield start
    for child in children:
        child.kill()
