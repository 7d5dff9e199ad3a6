"""How many commits this machine has made of late, so that a repository's limit is not run into."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from pathlib import Path

from atlas.errors import VaultUnavailable
from atlas.logging import get_logger
from atlas.vault import files

log = get_logger(__name__)

_HOUR = 3600.0


class CommitBudget:
    """At most ``limit`` commits in any hour by every process that shares ``home``.

    The Hub counts by repository; machines that share one share its limit, and need a part of it each.
    """

    def __init__(
        self, home: Path, identity: str, limit: int, clock: Callable[[], float] = time.time
    ) -> None:
        digest = hashlib.sha256(identity.encode()).hexdigest()[:16]
        self._path = home / "commits" / digest
        self._identity, self._limit, self._clock = identity, limit, clock

    def take(self) -> None:
        """Count a commit that is about to be tried.

        Raises `VaultUnavailable`, whose ``retry_after`` says in how many seconds one is free, and
        `VaultFull`, `VaultDenied` or `VaultError` where the count cannot be kept.
        """
        with files.raised_as_vault_error(str(self._path)):
            files.make_folder(self._path.parent)
            with files.locked(self._path.with_suffix(".lock")):
                wait = self._count()
        if wait is not None:
            log.warning(
                "commit_budget_spent",
                vault=self._identity,
                limit=self._limit,
                wait_seconds=round(wait),
            )
            message = f"{self._identity}: {self._limit} commits were tried within the hour"
            fewer = "store many files in one call (store_batch), or raise HF_COMMITS_PER_HOUR"
            unavailable = VaultUnavailable(message, hint=fewer)
            unavailable.retry_after = wait
            raise unavailable

    def _count(self) -> float | None:
        now = self._clock()
        # what lies ahead was written before the clock was set back
        recent = sorted(moment for moment in self._read() if now - _HOUR < moment <= now)
        if len(recent) >= self._limit:
            return recent[-self._limit] + _HOUR - now
        # not flushed to the disk: a power cut may forget a few commits
        self._path.write_text("".join(f"{moment}\n" for moment in [*recent, now]))
        return None

    def _read(self) -> list[float]:
        try:
            return [float(line) for line in self._path.read_text().split()]
        except (FileNotFoundError, ValueError):  # none yet, or cut off by a crash
            return []
