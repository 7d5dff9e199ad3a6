"""How a program ends whose keys are spent: cleanly, with one notice, and after its other tasks finished."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from datetime import datetime
from typing import Any, NoReturn, TypeVar

from atlas.errors import QuotaExhausted
from atlas.keys.accounting.accounts import Accounts
from atlas.logging import get_logger
from atlas.types import AlertLevel

__all__ = ["GRACE", "announce", "emit_exhausted", "is_ending", "leave", "run"]

#: Seconds that neighbours of a spent agent get to finish, and then once more to clean up when cancelled.
GRACE = 30.0
#: Seconds that a notification may take.
_NOTICE_TIMEOUT = 15.0

T = TypeVar("T")
_ending: ContextVar[asyncio.Event | None] = ContextVar("atlas_ending", default=None)

log = get_logger(__name__)


async def emit_exhausted(
    error: QuotaExhausted, agent: str, bucket: str, accounts: Accounts
) -> None:
    """Record the event, where keys are shared by a database."""
    if accounts.sharing is not None:
        facts = {"agent": agent, "bucket": bucket, "retry_at": error.retry_at}
        await accounts.sharing.emit("hydra.pool_exhausted", error.pool_name, facts)


async def announce(error: QuotaExhausted, agent: str, bucket: str, accounts: Accounts) -> None:
    """Log the end, settle what was spent, and notify people once a cool-down, whoever is first."""
    retry_at = error.retry_at
    log.critical(
        "quota_exhausted",
        agent=agent,
        pool=error.pool_name,
        bucket=bucket,
        retry_at=retry_at.isoformat() if retry_at else None,
        hint=error.hint,
    )
    sharing = accounts.sharing
    if sharing is not None:
        await sharing.flush()
    if retry_at is None or not accounts.first_notice(f"{error.pool_name}:{bucket}", retry_at):
        return
    if sharing is not None and not await sharing.claim_notice(
        f"{error.pool_name}:{bucket}", retry_at
    ):
        return
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(_notify(error, agent, bucket, retry_at), _NOTICE_TIMEOUT)


async def _notify(error: QuotaExhausted, agent: str, bucket: str, retry_at: datetime) -> None:
    from atlas.notifications import notifier

    fields = {
        "Agent": agent,
        "Pool": error.pool_name,
        "Bucket": bucket,
        "Back at": f"{retry_at:%F %T} UTC",
    }
    await notifier.send("API quota spent", error.message, level=AlertLevel.WARNING, fields=fields)


def is_ending() -> bool:
    """Whether the program that runs under `run` is about to end."""
    ending = _ending.get()
    return ending is not None and ending.is_set()


def leave() -> NoReturn:
    """End the calling task, and with it the program.

    Under `run` the task ends as a cancelled one does, and the others are waited for. Elsewhere it is
    ``SystemExit(0)``, but for a task that is being cancelled already: a second exit would cut short the
    clean-up of all others.
    """
    ending = _ending.get()
    if ending is not None:
        ending.set()
        raise asyncio.CancelledError("the API keys are spent")
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError("the API keys are spent")
    raise SystemExit(0)


def run(
    main: Coroutine[Any, Any, T] | Callable[[], Coroutine[Any, Any, T]],
    *,
    grace: float | None = None,
) -> T:
    """Run a program to its end, as ``asyncio.run`` does, and return its result.

    When an executor in it runs out of keys, its task ends; the other tasks have ``grace`` seconds (30) to
    finish (`HydraExecutor.ending` signals it), are cancelled then and have as long to clean up; then
    ``SystemExit(0)`` is raised. An error of ``main`` is raised as it is, others are logged.
    """
    return asyncio.run(_supervise(main, GRACE if grace is None else grace))


async def _supervise(
    main: Coroutine[Any, Any, T] | Callable[[], Coroutine[Any, Any, T]], grace: float
) -> T:
    ending = asyncio.Event()
    token = _ending.set(ending)
    try:
        program = asyncio.ensure_future(main() if callable(main) else main)
    finally:
        _ending.reset(token)
    signal = asyncio.create_task(ending.wait())
    await asyncio.wait({program, signal}, return_when=asyncio.FIRST_COMPLETED)
    if not ending.is_set():
        signal.cancel()
        return await program
    await _finish(signal, grace)
    # the program first: it cancels what it started, and a second cancellation would cut clean-up short
    if not program.done():
        program.cancel("the API keys are spent")
        await asyncio.wait({program}, timeout=grace)
    for task in _others(signal):
        if not task.cancelling():
            task.cancel("the API keys are spent")
    await _finish(signal, grace)
    if not program.cancelled() and program.done() and (error := program.exception()) is not None:
        raise error
    raise SystemExit(0)


def _others(signal: asyncio.Task[Any]) -> set[asyncio.Task[Any]]:
    return asyncio.all_tasks() - {asyncio.current_task(), signal}


async def _finish(signal: asyncio.Task[Any], seconds: float) -> None:
    """Wait until no other task is left, those included that the others start meanwhile."""
    deadline = asyncio.get_running_loop().time() + seconds
    while tasks := _others(signal):
        left = deadline - asyncio.get_running_loop().time()
        if left <= 0:
            return
        done, _ = await asyncio.wait(tasks, timeout=left)
        for task in done:
            if not task.cancelled() and (error := task.exception()) is not None:
                log.error("task_failed_while_ending", error=type(error).__name__)
