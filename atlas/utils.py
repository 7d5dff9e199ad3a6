"""One place for what agents use: keys, retries, id checks and the health check."""

from __future__ import annotations

import asyncio
import re
import threading
from contextlib import suppress

from atlas.keys import HydraExecutor, KeyRing, YouTubeAPIError, execute_youtube_request_async
from atlas.logging import get_logger
from atlas.retry import retry, retry_async

__all__ = [
    "HydraExecutor",
    "KeyRing",
    "YouTubeAPIError",
    "execute_youtube_request_async",
    "health_check_all",
    "retry",
    "retry_async",
    "validate_channel_id",
    "validate_youtube_id",
]

#: Seconds after which a silent vault counts as unhealthy.
VAULT_TIMEOUT = 10.0
#: Any key does: a store that can say "no such object" is reachable. Nothing is written.
_PROBE = "_health"

_VIDEO_ID = re.compile(r"[A-Za-z0-9_-]{11}")
_CHANNEL_ID = re.compile(r"UC[A-Za-z0-9_-]{22}")

log = get_logger(__name__)


def validate_youtube_id(video_id: object) -> bool:
    """Whether ``video_id`` has the shape of a YouTube video id: 11 of A-Z a-z 0-9 _ -."""
    return isinstance(video_id, str) and _VIDEO_ID.fullmatch(video_id) is not None


def validate_channel_id(channel_id: object) -> bool:
    """Whether ``channel_id`` has the shape of a YouTube channel id: UC and 22 of A-Z a-z 0-9 _ -."""
    return isinstance(channel_id, str) and _CHANNEL_ID.fullmatch(channel_id) is not None


async def health_check_all() -> dict[str, bool]:
    """``{"database": ..., "vault": ...}``: whether the default database and vault answer now.

    Both are asked at once; nothing is written; the vault is given `VAULT_TIMEOUT` seconds. Never raises:
    what is wrong (settings included) is logged.
    """
    database, vault = await asyncio.gather(_database_is_healthy(), _vault_is_healthy())
    return {"database": database, "vault": vault}


async def _database_is_healthy() -> bool:
    try:
        from atlas.db import db

        return await db.health_check()
    except Exception as error:
        log.warning("database_unhealthy", error=type(error).__name__)
        return False


async def _vault_is_healthy() -> bool:
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[bool] = loop.create_future()

    def resolve(healthy: bool) -> None:
        if not answer.done():
            answer.set_result(healthy)

    def probe() -> None:
        healthy = _probe_vault()
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(resolve, healthy)

    # a daemon thread, because the loop's own pool would hold up the end of the program for a silent vault
    threading.Thread(target=probe, name="atlas-vault-probe", daemon=True).start()
    try:
        return await asyncio.wait_for(answer, VAULT_TIMEOUT)
    except TimeoutError:
        log.warning("vault_unhealthy", error="TimeoutError")
        return False


def _probe_vault() -> bool:
    try:
        from atlas.vault import vault

        vault.store.stat(_PROBE)
    except Exception as error:
        log.warning("vault_unhealthy", error=type(error).__name__)
        return False
    return True
