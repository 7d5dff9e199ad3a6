"""What works on every server, by every way to it: standbys, ICU, IPv6, sockets, passwords, encryption."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote

import pytest

from atlas.adapters.maia import MaiaDAO
from atlas.archive import Archiver
from atlas.db import Database
from atlas.db.administration import migrations
from atlas.db.administration.examination import examine_access, examine_sessions
from atlas.db.arrow import ArrowConnection
from atlas.errors import ConfigurationError, DatabaseError
from atlas.ingest import record_samples
from atlas.reader import StatsReader
from atlas.types import Sample
from atlas.vault import LocalVault
from tests.support.samples import OLD, as_written, samples, visible
from tests.support.servers.postgres import name_of
from tests.support.servers.standby import Node, debian, running_pair
from tests.support.sql import scalar

PASSWORD = "p%41@ss/w:rd #?&%"
WEEK = timedelta(days=7)


@dataclass(frozen=True)
class Own:
    """A server that asks for passwords over TCP and takes encrypted connections only, and its standby."""

    primary: Node
    standby: Node
    port: int

    def url(self, host: str, database: str = "postgres") -> str:
        """Of a superuser, by an address or through the socket in a folder."""
        account, path = f"postgres:{quote(PASSWORD, safe='')}", f"/{database}"
        if host.startswith("/"):
            return f"postgresql://{account}@{path}?host={host}&port={self.port}"
        return f"postgresql://{account}@{host}:{self.port}{path}"


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Own]:
    if shutil.which("openssl") is None:
        pytest.skip("needs the program openssl, for a certificate")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PGPORT", str(port))  # for its programs and its clients alike
        with running_pair(debian()) as (primary, standby):
            take_encrypted_connections(primary)
            yield Own(primary, standby, port)


def take_encrypted_connections(node: Node) -> None:
    """Listen on the loopback addresses too, where encryption and a password are asked for."""
    node.server.execute(f"ALTER ROLE postgres PASSWORD '{PASSWORD}'")
    node.server.execute("ALTER SYSTEM SET ssl = on")
    key = "-x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=localhost"
    subprocess.run(
        ["openssl", "req", *key.split(), "-keyout", "server.key", "-out", "server.crt"],
        cwd=node.folder,
        check=True,
        capture_output=True,
    )
    owner = node.folder.stat()
    for name in ("server.key", "server.crt"):
        (node.folder / name).chmod(0o600)
        os.chown(node.folder / name, owner.st_uid, owner.st_gid)
    (node.folder / "pg_hba.conf").write_text(
        "local all all trust\nlocal replication all trust\nhostssl all all all scram-sha-256\n"
    )
    hosts = "127.0.0.1,::1" if has_ipv6() else "127.0.0.1"
    log, options = str(node.folder / "log"), f"-h {hosts} -k {node.sockets}"
    node.run("pg_ctl", "restart", "-w", "-m", "fast", "-l", log, "-o", options)


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as tried:
            tried.bind(("::1", 0))
    except OSError:
        return False
    return True


async def both_connect(url: str) -> None:
    """Connect by each driver."""
    database = Database(url)
    try:
        await database.initialize()
        with ArrowConnection(await database.libpq_url()) as connection:
            assert connection.rows("SELECT 1") == [(1,)]
    finally:
        await database.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "socket"])
async def test_a_password_with_every_character_serves_by_every_address(host: str, own: Own) -> None:
    if "::1" in host and not has_ipv6():
        pytest.skip("this machine has no IPv6")
    await both_connect(own.url(str(own.primary.sockets) if host == "socket" else host))


@pytest.mark.parametrize("mode", ["require", "prefer", "allow"])
async def test_a_server_that_takes_encrypted_connections_only_is_reached(
    mode: str, own: Own
) -> None:
    await both_connect(own.url("127.0.0.1") + f"?sslmode={mode}")


async def test_a_server_that_refuses_plain_connections_says_what_to_set(own: Own) -> None:
    url = own.url("127.0.0.1") + "?sslmode=disable"
    for connect in (Database(url).initialize, lambda: both_connect(url)):
        with pytest.raises(ConfigurationError, match="no encryption") as caught:
            await connect()
        assert caught.value.hint is not None and "sslmode=require" in caught.value.hint
        assert PASSWORD not in str(caught.value)
    with pytest.raises(ConfigurationError, match="no encryption") as arrow:
        ArrowConnection(await Database(url).libpq_url())
    assert (arrow.value.message, arrow.value.hint) == (caught.value.message, caught.value.hint)


async def test_a_standby_answers_readers_and_says_why_it_takes_no_writes(
    own: Own, tmp_path: Path
) -> None:
    url = own.primary.server.create()
    name = name_of(url)
    primary = Database(own.url(str(own.primary.sockets), name))
    await migrations.upgrade(primary)
    vault = LocalVault(tmp_path)
    rows = samples(times=6)
    await record_samples(primary, rows)
    await Archiver(primary, vault).run(WEEK)
    fresh = [Sample("fresh", datetime.now(UTC), views=1)]
    await record_samples(primary, fresh)
    own.standby.catch_up(own.primary)
    standby = Database(own.url(str(own.standby.sockets), name))
    assert await visible(standby, vault) == as_written([*rows, *fresh])
    assert (await StatsReader(standby, vault).history("fresh")).num_rows == 1
    assert "on a standby, which takes no writes" in await examine_access(standby)
    assert (await examine_sessions(standby))[0] == "as Atlas needs them"
    for write in (
        record_samples(standby, fresh),
        MaiaDAO(standby, vault).add_to_search_queue(["cats"]),
        Archiver(standby, vault).run(WEEK),
    ):
        with pytest.raises(DatabaseError) as caught:
            await write
        assert "standby" in str(caught.value.hint)
    for one in (primary, standby):
        await one.close()


async def test_an_order_of_letters_by_icu_changes_no_answer(own: Own, tmp_path: Path) -> None:
    url = own.primary.server.create(
        options="LOCALE_PROVIDER icu ICU_LOCALE 'en-US' TEMPLATE template0"
    )
    database = Database(own.url(str(own.primary.sockets), name_of(url)))
    await migrations.upgrade(database)
    ids = ["_b", "-a", "a", "B", "ab", "Aa", "aB", "0z", "Z"]
    rows = [
        Sample(video_id, OLD + timedelta(hours=hour), views=hour)
        for video_id in ids
        for hour in range(3)
    ]
    vault = LocalVault(tmp_path)
    await record_samples(database, rows)
    assert await visible(database, vault) == as_written(rows)
    await Archiver(database, vault).run(WEEK)
    await record_samples(database, rows[::2])
    assert await visible(database, vault) == as_written(rows)
    for video_id in ids:
        assert (await StatsReader(database, vault).history(video_id)).num_rows == 3
    await MaiaDAO(database, vault).ingest_videos(
        [{"id": one, "snippet": {"title": one}} for one in ids]
    )
    assert await scalar(database, "SELECT count(*) FROM videos") == len(ids)
    await database.close()
