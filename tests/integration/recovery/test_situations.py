"""The five situations of docs/recovery.md, each with the commands and the output that the page shows."""

from __future__ import annotations

import asyncio
import os
import shlex
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from atlas.archive import Archiver
from atlas.config import reset_settings
from atlas.db import Database
from atlas.ingest import record_samples
from atlas.types import Sample
from atlas.vault import LocalVault
from tests.support.cli import Run
from tests.support.pages import Section, comparable, section
from tests.support.samples import OLD, Counters, Key, as_written, samples, visible
from tests.support.servers import standby
from tests.support.servers.postgres import Server, name_of, programs
from tests.support.sql import execute, scalar

DAY, WEEK = timedelta(days=1), timedelta(days=7)
NOW = datetime.now(UTC)


class Operator:
    """Somebody who has the page open, and a shell in which DATABASE_URL is set."""

    def __init__(self, atlas: Run, heading: str, folder: Path) -> None:
        self.atlas, self.folder = atlas, folder
        self.page: Section = section("recovery.md", heading)
        self.shown = iter(self.page.blocks("text"))
        self.environment: dict[str, str] = {}
        self.path: Path | None = None
        self.user: str | None = None

    def types(self, command: str, *, code: int = 0) -> str:
        """Type one command; returns what it printed."""
        if command.startswith("atlas "):
            done = self.atlas(*shlex.split(command)[1:], **self.environment)
        else:
            path = os.pathsep.join(filter(None, [str(self.path or ""), os.environ["PATH"]]))
            done = subprocess.run(
                ["sh", "-c", command],
                env=os.environ | self.environment | {"PATH": path},
                cwd=self.folder if self.user is None else "/",
                user=self.user,
                capture_output=True,
                text=True,
                check=False,
            )
        assert done.returncode == code, (command, done.stdout, done.stderr)
        errors = [one for one in done.stderr.splitlines() if one.startswith(("error:", "hint:"))]
        return "\n".join([*done.stdout.splitlines(), *errors])

    def follows(self) -> None:
        """Type each line of the commands, and read below them what they printed."""
        for block in self.page.blocks("sh"):
            self.reads("\n".join(self.types(line) for line in block.splitlines()))

    def reads(self, printed: str) -> None:
        """The page goes on with what was printed, but for what it leaves out."""
        rest = comparable(printed)
        for part in filter(None, map(comparable, next(self.shown).split("…"))):
            _, found, rest = rest.partition(part)
            assert (
                found == part
            ), f"the page shows\n{part}\nwhere this is left of what was printed:\n{rest}\n{printed}"


@pytest.fixture
def vault(tmp_path: Path) -> LocalVault:
    """The vault that the environment of every test names."""
    return LocalVault(tmp_path / "home" / "vault", home=tmp_path / "home")


@pytest.fixture
def operator(atlas: Run, tmp_path: Path) -> Iterator[Callable[[str], Operator]]:
    """Opens the page at a heading; at the end all that is shown there was printed."""
    opened: list[Operator] = []

    def open_page(heading: str) -> Operator:
        opened.append(Operator(atlas, heading, tmp_path))
        return opened[-1]

    yield open_page
    for person in opened:
        assert list(person.shown) == [], "the page shows what nothing printed"


@pytest.fixture
def create(postgres_server: Server) -> Iterator[Callable[..., str]]:
    """Makes databases, and drops them at the end."""
    made: list[str] = []

    def create(template: str | None = None) -> str:
        made.append(postgres_server.create(template and name_of(template)))
        return made[-1]

    yield create
    for url in made:
        postgres_server.drop(url)


@pytest.fixture
async def opened() -> AsyncIterator[Callable[[str], Database]]:
    """Opens databases, and closes them at the end."""
    made: list[Database] = []

    def open_one(url: str) -> Database:
        made.append(Database(url))
        return made[-1]

    yield open_one
    for one in made:
        await one.close()


def of_day(number: int) -> list[Sample]:
    """A day's samples, old enough to be archived."""
    return samples(times=24, start=OLD + number * DAY)


async def archived(database: Database, vault: LocalVault, rows: list[Sample]) -> None:
    await record_samples(database, rows)
    await Archiver(database, vault).run(WEEK)


def without(shown: dict[Key, Counters], video_id: str) -> dict[Key, Counters]:
    return {key: counters for key, counters in shown.items() if key[0] != video_id}


#: What was sampled today, and is hot.
TODAY = samples(times=1, start=NOW.replace(minute=0, second=0, microsecond=0) - timedelta(hours=2))


async def test_the_disk_is_lost(
    database: Database,
    vault: LocalVault,
    operator: Callable[[str], Operator],
    create: Callable[..., str],
    opened: Callable[[str], Database],
) -> None:
    await archived(database, vault, of_day(0))
    await Archiver(database, vault).forget(["video-0003"])
    await record_samples(database, TODAY)
    await execute(
        database, "INSERT INTO watchlist (video_id, next_track_at) VALUES ('video-0001', now())"
    )
    person = operator("1. ")
    person.environment["DATABASE_URL"] = create()
    person.follows()
    lost = opened(person.environment["DATABASE_URL"])
    await record_samples(lost, [Sample("video-0003", OLD, 1)])
    # lost: what was hot, and the watchlist; what was forgotten stays so
    assert await visible(lost, vault) == without(as_written(of_day(0)), "video-0003")
    assert await scalar(lost, "SELECT count(*) FROM watchlist") == 0


async def test_a_backup_was_restored(
    database: Database,
    database_url: str,
    vault: LocalVault,
    operator: Callable[[str], Operator],
    create: Callable[..., str],
    opened: Callable[[str], Database],
    postgres_server: Server,
) -> None:
    person = operator("2. ")
    person.path = programs(postgres_server)
    person.environment["DATABASE_URL"] = database_url
    await archived(database, vault, of_day(0))
    await record_samples(database, of_day(1))
    person.types(person.page.inline("pg_dump "))
    archiver = Archiver(database, vault)
    await archived(database, vault, [])
    await archiver.forget(["video-0003"])
    await archiver.compact()
    await archiver.collect_garbage(timedelta(0))
    await archived(database, vault, of_day(2))
    await record_samples(database, TODAY)
    await database.close()

    person.environment["DATABASE_URL"] = create()
    person.follows()
    restored = opened(person.environment["DATABASE_URL"])
    # lost: what was hot when the old database went away
    kept = as_written([*of_day(0), *of_day(1), *of_day(2)])
    assert await visible(restored, vault) == without(kept, "video-0003")
    assert await scalar(restored, "SELECT count(*) FROM stale_samples") > 0


@pytest.mark.parametrize("installed", [standby.debian, standby.wheel], ids=["debian", "wheel"])
async def test_a_standby_was_promoted(
    installed: Callable[[], Path],
    vault: LocalVault,
    operator: Callable[[str], Operator],
    opened: Callable[[str], Database],
) -> None:
    with standby.running_pair(installed()) as (primary, second):
        url = await asyncio.to_thread(primary.server.migrated)
        database = opened(url)
        await archived(database, vault, of_day(0))
        await record_samples(database, of_day(1))
        await asyncio.to_thread(second.catch_up, primary)
        await asyncio.to_thread(second.cut_off)
        # the tail: archived, then hot
        await archived(database, vault, of_day(2))
        await record_samples(database, TODAY)
        await database.close()
        await asyncio.to_thread(primary.kill)

        person = operator("3. ")
        person.path, person.user = second.programs, standby.user()
        person.environment["DATABASE_URL"] = second.server.database_url(name_of(url))
        person.environment["STANDBY_DATA"] = str(second.folder)
        await asyncio.to_thread(person.follows)
        promoted = opened(person.environment["DATABASE_URL"])
        # lost: of the tail what had not reached the vault
        assert await visible(promoted, vault) == as_written([*of_day(0), *of_day(1), *of_day(2)])
        await promoted.close()
        # the old primary comes back
        await asyncio.to_thread(primary.start)
        person.environment["DATABASE_URL"] = url
        assert "EpochBehind" in await asyncio.to_thread(
            person.types, "atlas archive --json", code=1
        )


async def test_a_copy_used_the_vault(
    database: Database,
    database_url: str,
    vault: LocalVault,
    operator: Callable[[str], Operator],
    create: Callable[..., str],
    opened: Callable[[str], Database],
) -> None:
    await archived(database, vault, of_day(0))
    await record_samples(database, of_day(1))
    await database.close()
    copy_url = create(database_url)
    copy = opened(copy_url)
    await archived(copy, vault, [Sample(one.video_id, one.timestamp, 1) for one in of_day(1)])

    person = operator("4. ")
    person.environment["DATABASE_URL"] = database_url
    person.reads(person.types("atlas archive", code=1))
    person.follows()
    assert await visible(database, vault) == as_written([*of_day(0), *of_day(1)])
    person.types("atlas archive")
    assert await visible(database, vault) == as_written([*of_day(0), *of_day(1)])

    person.environment["DATABASE_URL"] = copy_url
    assert "EpochBehind" in person.types("atlas archive --json", code=1)
    # with other settings no job of it begins, and its hot tables can be used
    person.environment["VAULT_PREFIX"] = "staging"
    assert "WrongVault" in person.types("atlas archive --json", code=2)
    await record_samples(copy, TODAY)
    assert await scalar(copy, "SELECT count(*) FROM video_stats_log") == len(TODAY)
    person.environment = {"DATABASE_URL": database_url}
    person.types("atlas archive")


async def test_the_wrong_vault(
    database: Database,
    database_url: str,
    vault: LocalVault,
    migrated_template: str,
    operator: Callable[[str], Operator],
    create: Callable[..., str],
    postgres_server: Server,
) -> None:
    await archived(database, vault, of_day(0))
    before = [info.key for info in vault.store.list("")]
    person = operator("5. ")
    person.environment["DATABASE_URL"] = new = create(
        postgres_server.database_url(migrated_template)
    )
    person.reads(person.types("atlas archive", code=2))
    (doctor,) = person.page.blocks("sh")
    person.reads(person.types(doctor.strip(), code=1))
    assert [info.key for info in vault.store.list("")] == before
    # a prefix of its own
    person.environment["VAULT_PREFIX"] = "another"
    person.types("atlas archive")
    # wrong settings, and the right ones
    person.environment["DATABASE_URL"] = database_url
    assert "WrongVault" in person.types("atlas archive --json", code=2)
    del person.environment["VAULT_PREFIX"]
    person.types("atlas archive")
    # the vault goes elsewhere
    move = person.page.inline("atlas vault move ").replace("PREFIX_OR_VAULT", "elsewhere")
    person.types(f"{move} --yes")
    assert "WrongVault" in person.types("atlas archive --json", code=2)
    person.environment["VAULT_PREFIX"] = "elsewhere"
    person.types("atlas archive")
    person.environment["DATABASE_URL"] = new
    reset_settings()
