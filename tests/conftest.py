"""Fixtures for every test: a clean environment and real PostgreSQL."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from pydantic import AliasChoices
from sqlalchemy.ext.asyncio import AsyncSession

from atlas.config import Settings, reset_settings
from atlas.db import Database
from atlas.keys.accounting.sharing import forget_default
from tests.support import ways
from tests.support.logs import capturable, logging_restored
from tests.support.servers import guard, postgres
from tests.support.servers.postgres import Server

# a busy machine is no failure
hypothesis.settings.register_profile("atlas", deadline=None)
hypothesis.settings.load_profile("atlas")


def _variables() -> frozenset[str]:
    names: set[str] = set()
    for field, info in Settings.model_fields.items():
        alias = info.validation_alias
        names.update(map(str, alias.choices) if isinstance(alias, AliasChoices) else {field})
    return frozenset(name.upper() for name in names)


VARIABLES = _variables()

#: Where a live service may be named; a smoke test may ask for other ones.
LIVE_SERVICES = ("DATABASE_URL", "HF_REPO_ID", "HF_DATASET_ID", "GCS_BUCKET_NAME")

#: A folder in memory: a database is copied there ten times faster, and nobody keeps what a test writes.
_MEMORY = "/dev/shm"
#: Bytes that must be free there: a run takes a fraction of it.
_ROOM = 6 * 10**9


def _has_room(folder: str) -> bool:
    """Whether a run may put its files there, and start what it installs there."""
    try:
        found = os.statvfs(folder)
    except OSError:
        return False
    free = found.f_bavail * found.f_frsize
    return free >= _ROOM and not found.f_flag & os.ST_NOEXEC and os.access(folder, os.W_OK)


@pytest.hookimpl(tryfirst=True)  # before pytest-socket reads its option
def pytest_configure(config: pytest.Config) -> None:
    # hundreds of tests start a process: each would compile anew what it imports
    sys.dont_write_bytecode = False
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    # a shell starts what goes to the background deaf to SIGINT, and so would be the programs under test
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if "TMPDIR" not in os.environ and _has_room(_MEMORY):
        os.environ["TMPDIR"] = tempfile.tempdir = _MEMORY
    if worker := getattr(config, "workerinput", None):
        guard.join(worker["servers"])
    if allowed := config.option.allow_hosts:
        config.option.allow_hosts = ",".join([allowed, *postgres.hosts()])
    config.addinivalue_line(
        "markers",
        "smoke(*variables): talks to a live service; skipped unless the environment has every one "
        "of the variables (without arguments: at least one that names a service)",
    )
    for mark, (unfit, why) in ways.UNFIT.items():
        line = f"{mark}: skipped where {ways.VARIABLE} is {unfit}: {why}"
        config.addinivalue_line("markers", line)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    node.workerinput["servers"] = str(guard.folder())


def pytest_unconfigure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        guard.end()


def pytest_report_header() -> str:
    return f"postgresql: {postgres.kind()}, reached in the way {ways.way() or 'plain'!r}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for mark, (unfit, why) in ways.UNFIT.items():
            if ways.way() == unfit and item.get_closest_marker(mark):
                item.add_marker(pytest.mark.skip(reason=why))
        marker = item.get_closest_marker("smoke")
        if marker is None:
            continue
        item.add_marker(pytest.mark.enable_socket)
        missing = [name for name in marker.args if not os.environ.get(name)]
        if missing:
            item.add_marker(pytest.mark.skip(reason=f"no live service: set {', '.join(missing)}"))
        elif not marker.args and not any(map(os.environ.get, LIVE_SERVICES)):
            reason = f"no live service: set one of {', '.join(LIVE_SERVICES)}"
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(autouse=True)
def _clean_environment(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[None]:
    """Nothing of the developer's settings reaches a test, and nothing of a test the next one.

    The working folder is ``tmp_path``, so that no ``.env`` is found, by child processes neither.
    """
    if request.node.get_closest_marker("smoke") is None:
        for name in [name for name in os.environ if name.upper() in VARIABLES]:
            monkeypatch.delenv(name)
        monkeypatch.setenv("ENV", "test")
        monkeypatch.setenv("ATLAS_HOME", str(tmp_path / "home"))
        monkeypatch.chdir(tmp_path)
    capturable()
    reset_settings()
    with logging_restored():
        yield
    reset_settings()


@pytest.fixture(scope="session", autouse=True)
def _servers_end(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Servers that tests start for themselves end with the run, even with one that is killed."""
    guard.watch(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Server]:
    """The server of this process, started by the first test that needs it."""
    with postgres.running() as server:
        yield server


@pytest.fixture(scope="session")
def postgres_url(postgres_server: Server) -> str:
    """A superuser's URL, for a database that nobody works in."""
    return postgres_server.url


@pytest.fixture(scope="session")
def migrated_template(postgres_server: Server) -> Iterator[str]:
    """Name of a migrated database that nobody connects to, to be copied."""
    url = postgres_server.migrated()
    ways.prepare(url)
    yield postgres.name_of(url)
    postgres_server.drop(url)


@pytest.fixture
def empty_database_url(postgres_server: Server) -> Iterator[str]:
    """URL of a fresh database without any table."""
    url = postgres_server.create()
    yield url
    postgres_server.drop(url)


@pytest.fixture
def database_url(
    postgres_server: Server, migrated_template: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """URL of a fresh migrated database, which DATABASE_URL names too."""
    url = postgres_server.create(migrated_template)
    with ways.reached(postgres_server, url, monkeypatch) as reached:
        monkeypatch.setenv("DATABASE_URL", reached)
        reset_settings()
        yield reached
        forget_default()
    postgres_server.drop(url)


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """A fresh migrated database to commit and lock in; the default `atlas.db.db` is the same."""
    database = Database(database_url)
    yield database
    await database.close()


@pytest.fixture(scope="session")
def _shared_url(postgres_server: Server, migrated_template: str) -> Iterator[str]:
    url = postgres_server.create(migrated_template)
    yield url
    postgres_server.drop(url)


@pytest.fixture
async def session(_shared_url: str) -> AsyncIterator[AsyncSession]:
    """A session on a database shared with other tests; even what it commits is rolled back."""
    database = Database(_shared_url)
    engine = await database.engine()
    async with engine.connect() as connection:
        transaction = await connection.begin()
        async with AsyncSession(
            connection, expire_on_commit=False, join_transaction_mode="create_savepoint"
        ) as session:
            yield session
        await transaction.rollback()
    await database.close()
