"""What this process knows of each key: how often used, resting, slowed down, or dead.

Quota belongs to the Google Cloud project, so rests are kept by project; a key of no known project
stands for itself. The state is in memory and ends with the process.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from atlas.config import ApiKey
from atlas.types import utc

__all__ = ["Accounts", "KeyStatus", "mask"]

#: A key shorter than this is hidden whole: its last characters would give too much of it away.
_SHOW_FROM = 16


@dataclass(frozen=True, slots=True)
class KeyStatus:
    """What is known of one key; ``key`` is masked. Times are UTC; None: not so now.

    ``resting_until``: its quota is spent. ``slow_until``: it was used too fast. ``uses`` counts requests.
    """

    key: str
    project: str | None
    uses: int
    resting_until: datetime | None
    slow_until: datetime | None
    disabled: bool


def mask(key: str) -> str:
    """A form of a key that may be shown: its last four characters, or none of a short one."""
    return f"…{key[-4:]}" if len(key) >= _SHOW_FROM else "…"


def _now() -> datetime:
    return datetime.now(UTC)


class Accounts:
    """Thread-safe. ``clock`` gives the time, timezone-aware, for programs that keep their own."""

    def __init__(self, clock: Callable[[], datetime] = _now) -> None:
        self.now = clock
        self._lock = threading.Lock()
        self._uses: dict[ApiKey, int] = {}
        self._disabled: set[str | ApiKey] = set()
        self._resting: dict[str | ApiKey, datetime] = {}
        self._slow: dict[str | ApiKey, datetime] = {}

    def use(self, key: ApiKey) -> None:
        """Count one request made with ``key``."""
        with self._lock:
            self._uses[key] = self._uses.get(key, 0) + 1

    def rest(self, key: ApiKey, until: datetime) -> None:
        """The quota of the key's project is spent: use none of its keys before ``until`` (aware)."""
        self._put_off(self._resting, key, until)

    def slow_down(self, key: ApiKey, until: datetime) -> None:
        """The key's project was asked too fast: prefer others, and wait, before ``until`` (aware)."""
        self._put_off(self._slow, key, until)

    def disable(self, key: ApiKey, *, whole_project: bool = False) -> None:
        """Never use ``key`` again, nor with ``whole_project`` any other of its project."""
        with self._lock:
            self._disabled.add(_account(key) if whole_project else key)

    def is_disabled(self, key: ApiKey) -> bool:
        """Whether the key or its project was disabled."""
        with self._lock:
            return key in self._disabled or _account(key) in self._disabled

    def is_usable(self, key: ApiKey) -> bool:
        """Whether the key may be used now, perhaps after a short wait: neither disabled nor spent."""
        return not self.is_disabled(key) and self._ends(self._resting, key) is None

    def seconds_to_wait(self, key: ApiKey) -> float:
        """How long to hold back before the next request with ``key``; 0 for none."""
        end = self._ends(self._slow, key)
        return 0.0 if end is None else max(0.0, (end - self.now()).total_seconds())

    def status(self, key: ApiKey) -> KeyStatus:
        """What is known of ``key``."""
        return KeyStatus(
            key=mask(key.get_secret_value()),
            project=key.project,
            uses=self._uses.get(key, 0),
            resting_until=self._ends(self._resting, key),
            slow_until=self._ends(self._slow, key),
            disabled=self.is_disabled(key),
        )

    def _put_off(self, times: dict[str | ApiKey, datetime], key: ApiKey, until: datetime) -> None:
        until = utc(until, field="until").astimezone(UTC)
        with self._lock:
            times[_account(key)] = max(until, times.get(_account(key), until))

    def _ends(self, times: dict[str | ApiKey, datetime], key: ApiKey) -> datetime | None:
        with self._lock:
            end = times.get(_account(key))
        return end if end is not None and end > self.now() else None


def _account(key: ApiKey) -> str | ApiKey:
    """What a quota is counted by: the project, or the key itself where none is known."""
    return key.project or key
