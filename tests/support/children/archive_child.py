"""Runs a job of the archive in a process of its own, which suffers what its orders say.

Children are forked from a server that has imported everything: starting one takes milliseconds, not the
second that an interpreter and its imports take.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import multiprocessing
import os
import signal
import sys
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from multiprocessing import forkserver
from pathlib import Path
from typing import Any
from unittest import mock

import psutil

from atlas.archive import Archiver
from atlas.config import reset_settings
from atlas.db import Database
from atlas.errors import (
    ArchiverBusy,
    CorruptObject,
    LeaseLost,
    Unavailable,
    VerificationFailed,
)
from atlas.janitor import Janitor
from tests.support.faulty_store import Faults, FaultyStore
from tests.support.impatience import no_pauses
from tests.support.logs import log_to_stderr
from tests.support.places import Place
from tests.support.samples import OLD

#: Samples older than this are archived.
RETENTION = timedelta(days=7)
#: Seconds after which a child counts as hanging.
PATIENCE = 60.0

DONE, KILLED = 0, -signal.SIGKILL
#: What a child's exit code says of how its job ended; 1 is every other error.
CODES: dict[int, type[Exception] | tuple[type[Exception], ...]] = {
    10: Unavailable,
    11: (VerificationFailed, CorruptObject),
    12: ArchiverBusy,
    13: LeaseLost,
}
UNAVAILABLE, VERIFICATION_FAILED, BUSY, LEASE_LOST = CODES

#: What is restored and released.
SPAN = (OLD + timedelta(hours=4), OLD + timedelta(hours=11))

JOBS: dict[str, Callable[..., Awaitable[object]]] = {
    "archive": lambda archiver: archiver.run(RETENTION),
    # with a cap, slices go one after the other
    "archive_in_turn": lambda archiver: archiver.run(RETENTION, 10**9),
    "compact": lambda archiver: archiver.compact(),
    "gc": lambda archiver: archiver.collect_garbage(timedelta(0)),
    "restore": lambda archiver: archiver.restore(*SPAN),
    "release": lambda archiver: archiver.release(),
    "forget": lambda archiver, *video_ids: archiver.forget(video_ids),
    "janitor": lambda archiver: Janitor(archiver.database, archiver._vault).run(),
}


@dataclass(frozen=True)
class Orders:
    """What a child does and what befalls it.

    ``kill_at`` and ``pause_at`` name a log event, and its occurrence, at which the process sends itself
    SIGKILL or SIGSTOP. ``log`` is where its log and the traceback of an error go.
    """

    job: str
    url: str
    place: Place
    log: Path
    arguments: tuple[str, ...] = ()
    kill_at: tuple[str, int] | None = None
    pause_at: tuple[str, int] | None = None
    faults: Faults | None = None
    lease_seconds: float | None = None
    #: Seconds after which it gives a request up.
    patience: float | None = None
    environment: dict[str, str] = field(default_factory=lambda: dict(os.environ))


class Child:
    """A running child."""

    def __init__(self, orders: Orders) -> None:
        self.orders = orders
        self._process = _context().Process(target=_main, args=(orders,))
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return int(self._process.pid)

    def kill(self) -> None:
        """SIGKILL, if it still runs."""
        self._process.kill()

    async def paused(self) -> None:
        """Wait until it has stopped itself at ``pause_at``."""
        async with asyncio.timeout(PATIENCE):
            while not await self.ended(0.01):
                with contextlib.suppress(psutil.NoSuchProcess):
                    if psutil.Process(self.pid).status() == psutil.STATUS_STOPPED:
                        return
        raise AssertionError(f"it ended instead:\n{self.told()}")

    def resume(self) -> None:
        """Let it go on."""
        os.kill(self.pid, signal.SIGCONT)

    async def ended(self, timeout: float) -> bool:
        """Wait for its end, at most so long."""
        await asyncio.to_thread(self._process.join, timeout)
        return self._process.exitcode is not None

    async def code(self) -> int:
        """How it ended: 0, a code of `CODES`, or minus the signal. Any other error fails the test."""
        if not await self.ended(PATIENCE):
            os.kill(self.pid, signal.SIGABRT)  # has it tell where it hangs
            await self.ended(5)
            self.kill()
            raise AssertionError(f"the child hangs:\n{self.told()}")
        code = self._process.exitcode
        assert code is not None
        assert code in (DONE, KILLED, *CODES), f"the child ended with {code}:\n{self.told()}"
        return int(code)

    def told(self) -> str:
        """The end of its log."""
        return self.orders.log.read_text()[-6000:] if self.orders.log.exists() else "(no log)"


def start_server() -> None:
    """Start the process that children are forked from; the first child would start it otherwise."""
    # the server looks for what it imports before it is told this process's path
    with mock.patch.dict(os.environ, {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}):
        _context()
        forkserver.ensure_running()


def _context() -> Any:
    context = multiprocessing.get_context("forkserver")
    # the clients too, which vaults import at their first use
    context.set_forkserver_preload(
        ["tests.support.children.archive_child", "gcsfs.core", "huggingface_hub.hf_file_system"]
    )
    return context


def _main(orders: Orders) -> None:
    with orders.log.open("ab", buffering=0) as told:
        os.dup2(told.fileno(), sys.stderr.fileno())
    faulthandler.enable()
    os.environ.clear()
    os.environ.update(orders.environment)
    reset_settings()
    _log_and_suffer(orders)
    if orders.lease_seconds is not None:
        import atlas.archive.fencing.lock

        atlas.archive.fencing.lock.LEASE_SECONDS = orders.lease_seconds
    if orders.patience is not None:
        import atlas.vault.stores.gcs
        import atlas.vault.stores.retrying

        if orders.place.provider == "gcs":
            atlas.vault.stores.gcs._SILENCE_SECONDS = orders.patience
        else:  # whose client would wait for ever
            atlas.vault.stores.retrying.CALL_SECONDS = orders.patience
            atlas.vault.stores.retrying.READ_SECONDS = orders.patience
    code = DONE
    try:
        asyncio.run(_work(orders))
    except Exception as error:
        traceback.print_exc()
        code = next((code for code, kind in CODES.items() if isinstance(error, kind)), 1)
    sys.exit(code)


async def _work(orders: Orders) -> None:
    database, vault = Database(orders.url), orders.place.vault()
    if orders.faults is not None:
        vault.store = FaultyStore(vault.store, orders.faults)
    try:
        with no_pauses() if orders.place.provider != "local" else contextlib.nullcontext():
            await JOBS[orders.job](Archiver(database, vault), *orders.arguments)
    finally:
        await database.close()


def _log_and_suffer(orders: Orders) -> None:
    seen: Counter[str] = Counter()

    def watch(_: Any, __: str, facts: Any) -> Any:
        event = facts["event"]
        seen[event] += 1
        if orders.kill_at == (event, seen[event]):
            os.kill(os.getpid(), signal.SIGKILL)
        if orders.pause_at == (event, seen[event]):
            os.kill(os.getpid(), signal.SIGSTOP)
        return facts

    log_to_stderr(watch)
