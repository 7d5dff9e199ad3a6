"""What code outside may import, in whatever order, and what importing must not do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import atlas

ROOT = Path(atlas.__file__).parents[1]


def python(code: str, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", "-c", code],
        capture_output=True,
        text=True,
        cwd=folder,
        env={
            "PYTHONPATH": str(ROOT),
            "PATH": "/usr/bin:/bin",
            "ENV": "test",
            "ATLAS_HOME": str(folder),
            "PYTHONDONTWRITEBYTECODE": "1",
        },
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_package_exports_what_the_contract_names() -> None:
    from atlas import AlertChannel, AlertLevel, AtlasError, __version__, notifier, settings

    assert AlertLevel.CRITICAL.value == 0xE74C3C
    assert AlertChannel.SURVEILLANCE.value == "watch"
    assert issubclass(AtlasError, Exception)
    assert __version__
    assert settings.env == "test"
    assert callable(notifier.send)
    assert set(atlas.__all__) <= set(dir(atlas))


def test_every_import_path_of_the_contract_resolves() -> None:
    from atlas.adapters.maia import MaiaDAO
    from atlas.adapters.maia_ghost import GhostTrackingMixin
    from atlas.archive import Archiver, ArchiveReport
    from atlas.db import Database, db
    from atlas.events import EventBus, events
    from atlas.notifications import AlertChannel, AlertLevel, notifier
    from atlas.reader import StatsReader
    from atlas.utils import (
        HydraExecutor,
        KeyRing,
        execute_youtube_request_async,
        health_check_all,
        retry,
        retry_async,
        validate_channel_id,
        validate_youtube_id,
    )
    from atlas.vault import GCSVault, HuggingFaceVault, LocalVault, Vault, get_vault, vault

    assert issubclass(MaiaDAO, GhostTrackingMixin)
    assert issubclass(LocalVault, Vault)
    assert issubclass(GCSVault, Vault)
    assert issubclass(HuggingFaceVault, Vault)
    assert isinstance(db, Database)
    assert isinstance(events, EventBus)
    named: list[object] = [Archiver, ArchiveReport, StatsReader, AlertChannel, AlertLevel, notifier]
    named += [HydraExecutor, KeyRing, execute_youtube_request_async, health_check_all]
    named += [retry, retry_async, validate_channel_id, validate_youtube_id, get_vault, vault]
    assert all(one is not None for one in named)


@pytest.mark.parametrize("first", ["import atlas", "import atlas.vault", "from atlas import vault"])
def test_both_spellings_of_the_default_objects_work_whatever_comes_first(
    first: str, tmp_path: Path
) -> None:
    code = f"""
{first}
from atlas import vault, db, events
import atlas.vault, atlas.db, atlas.events
from atlas.vault import vault as one
vault.store_json("a/b.json", {{"x": 1}})
assert one.fetch_json("a/b.json") == atlas.vault.fetch_json("a/b.json") == {{"x": 1}}
from unittest.mock import patch
with patch("atlas.vault.vault.append_metrics", return_value="patched"):
    assert vault.append_metrics([]) == one.append_metrics([]) == "patched"
assert db.health_check == atlas.db.db.health_check
assert events.emit == atlas.events.events.emit
print("fine")
"""
    assert python(code, tmp_path) == "fine"


MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in (ROOT / "atlas").rglob("*.py")
    if "_migrations" not in path.parts
)


def test_importing_every_module_reads_no_environment_opens_nothing_and_starts_no_thread(
    tmp_path: Path,
) -> None:
    code = f"""
import os, sys, threading, logging
import structlog, sqlalchemy, pyarrow.dataset, aiohttp, typer, rich.progress, rich.table, rich.console
import alembic.command, adbc_driver_postgresql.dbapi, pydantic_settings, fsspec, tenacity, zoneinfo
handlers = list(logging.getLogger().handlers)
sockets, written, opened, read, ours = [], [], [], [], []
def by_atlas(frame):
    while frame.f_code.co_filename.startswith("<frozen"):
        frame = frame.f_back  # os.environ.get is a method of a frozen module
    return frame.f_code.co_filename.startswith({str(ROOT / "atlas")!r})
def audit(event, args):
    if event in ("socket.connect", "socket.bind", "sqlite3.connect", "subprocess.Popen"):
        sockets.append((event, args))
    if event == "open" and args[1] and any(c in str(args[1]) for c in "wax+"):
        written.append(args)
    if event == "open" and sys._getframe(1).f_code.co_filename.startswith({str(ROOT / "atlas")!r}):
        opened.append(args)
sys.addaudithook(audit)
class Watched(type(os.environ)):
    def __getitem__(self, key):
        if by_atlas(sys._getframe(1)): read.append(key)
        return super().__getitem__(key)
    def __iter__(self):
        if by_atlas(sys._getframe(1)): read.append("all")
        return super().__iter__()
os.environ.__class__ = Watched
import atlas.config
atlas.config.get_settings = atlas.config.Settings.__init__ = lambda *a, **k: ours.append(a)
import importlib
for name in {MODULES!r}:
    importlib.import_module(name)
assert not sockets, sockets
assert not written, written
assert not opened, opened
assert not read, read
assert not ours, "a module read the settings"
assert threading.active_count() == 1, threading.enumerate()
assert logging.getLogger().handlers == handlers
assert not structlog.is_configured()
print("fine")
"""
    assert python(code, tmp_path) == "fine"
    assert [path.name for path in tmp_path.iterdir()] == []


def test_importing_the_package_loads_none_of_the_heavy_libraries(tmp_path: Path) -> None:
    code = """
import sys
import atlas
heavy = {"pyarrow", "sqlalchemy", "gcsfs", "huggingface_hub", "aiohttp", "numpy", "pydantic", "fsspec"}
print(sorted(heavy & set(sys.modules)))
"""
    assert python(code, tmp_path) == "[]"


def test_the_command_line_runs_as_a_module_too() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "atlas", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == f"atlas {atlas.__version__}"
