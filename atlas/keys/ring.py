"""The keys of one pool: split by the settings, handed out in turn, tried one after the other."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Self

from pydantic import SecretStr

from atlas.config import ApiKey, Settings, get_settings
from atlas.config.keys import POOLS, add_key
from atlas.config.keys import split_keys as split
from atlas.errors import AtlasError, ConfigurationError, NotFound, QuotaExhausted
from atlas.keys.accounting.accounts import Accounts, KeyStatus
from atlas.keys.accounting.fingerprints import identify
from atlas.keys.accounting.sharing import default_accounts
from atlas.logging import get_logger

__all__ = ["KeyRing", "split"]

#: Requests for which a chosen key is kept, at least.
_CHOICE_USES = 50

log = get_logger(__name__)


@dataclass(slots=True)
class _Session:
    key: ApiKey
    tried: set[ApiKey] = field(default_factory=set)


@dataclass(slots=True)
class _Choice:
    key: ApiKey
    version: int
    left: int


class KeyRing:
    """The keys of a pool (``hunting``, ``tracking`` or ``archeology``, in any case). Thread-safe.

    ``keys`` (strings or `ApiKey`) overrides the settings: the caller's own choice, used whole and under
    any pool name, whatever COMPLIANCE_MODE says. From the settings, COMPLIANCE_MODE leaves only the first
    key of the whole list to every pool; otherwise see `split`. What is learnt of the keys is shared by all
    rings of the process, and with others where DATABASE_URL is set; ``accounts`` keeps it apart.

    Raises `ConfigurationError` for an unknown pool and for a ring without keys. Keys leave only by
    ``keys``, `next_key` and `get_session_key`; everything else shows them masked.
    """

    def __init__(
        self,
        pool_name: str,
        keys: Iterable[str | SecretStr] | None = None,
        *,
        accounts: Accounts | None = None,
    ) -> None:
        self.pool_name = pool_name.strip().lower()
        self._accounts = accounts
        self._keys = _from_settings(self.pool_name) if keys is None else _explicit(keys)
        if not self._keys:
            raise ConfigurationError(
                f"the key ring {self.pool_name!r} is empty",
                hint="set YOUTUBE_API_KEY_POOL_JSON, and KEY_POOL_*_SIZE so that a key is left for it",
            )
        self._by_text = {key.get_secret_value(): key for key in self._keys}
        self._lock = threading.Lock()
        self._turn = 0
        self._choices: dict[str, _Choice] = {}
        self._sessions: dict[int, _Session] = {}
        self._ids = itertools.count(1)

    @classmethod
    def from_keys(cls, keys: Iterable[str | SecretStr], pool_name: str = "custom") -> Self:
        """A ring of the caller's own keys, as ``KeyRing(pool_name, keys)``."""
        return cls(pool_name, keys)

    @property
    def accounts(self) -> Accounts:
        """What is known of the keys: the ring's own, else what all rings of this process share."""
        return default_accounts() if self._accounts is None else self._accounts

    def __repr__(self) -> str:
        return f"KeyRing({self.pool_name!r}, size={self.size})"

    @property
    def keys(self) -> list[str]:
        """The keys in the clear, in order."""
        return list(self._by_text)

    @property
    def size(self) -> int:
        """How many keys the ring has, usable or not."""
        return len(self._keys)

    @property
    def live_size(self) -> int:
        """How many keys may be used now, perhaps after a short wait."""
        accounts = self.accounts
        return sum(accounts.is_usable(key) for key in self._keys)

    @property
    def retry_at(self) -> datetime | None:
        """When the first key comes back (UTC), or None while one may be used."""
        return self.retry_at_for("general")

    def retry_at_for(self, bucket: str) -> datetime | None:
        """`retry_at` for a bucket of quota. Raises `InvalidInput` for an unknown one."""
        accounts = self.accounts
        accounts.units(bucket, 1)
        ends = [accounts.usable_at(key, bucket) for key in self._keys]
        return None if None in ends else min(end for end in ends if end is not None)

    def mark_key_dead(self, key: str) -> None:
        """Use ``key`` no more; as `disable`."""
        self.disable(key)

    def next_key(self) -> str:
        """The next usable key in turn; one that was used too fast only if there is no other.

        Raises `QuotaExhausted` when all are spent, `ConfigurationError` when all are disabled.
        """
        with self._lock:
            turn = self._turn % self.size
            usable = [key for key in self._in_turn(turn) if self.accounts.is_usable(key)]
            if usable:
                key = min(usable, key=self.accounts.seconds_to_wait)
                self._turn = self._keys.index(key) + 1
                return key.get_secret_value()
        raise self.exhausted()

    def choose(self, bucket: str) -> ApiKey | None:
        """The usable key for a request: without a wait if there is one, of the least spent project.

        Kept for `_CHOICE_USES` requests (five for each key of a long ring), or until something is learnt, so
        that the cost does not grow with the number of keys.
        """
        accounts = self.accounts
        choice = self._choices.get(bucket)
        if choice is not None and choice.version == accounts.version and choice.left > 0:
            choice.left -= 1
            return choice.key
        version = accounts.version
        usable = [key for key in self._keys if accounts.is_usable(key, bucket)]
        if not usable:
            return None
        weights = {key: accounts.weight(key, bucket) for key in usable}
        key = min(usable, key=weights.__getitem__)
        # a project that waits is weighed anew each time
        waits = any(wait or queue for wait, queue, _ in weights.values())
        left = 0 if waits else max(_CHOICE_USES, 5 * self.size)
        self._choices[bucket] = _Choice(key, version, left)
        return key

    def next_best(self, bucket: str, besides: Container[str]) -> ApiKey | None:
        """As `choose`, but no key of the projects named in ``besides``."""
        accounts = self.accounts
        usable = [
            key
            for key in self._keys
            if identify(key).project not in besides and accounts.is_usable(key, bucket)
        ]
        return min(usable, key=lambda key: accounts.weight(key, bucket), default=None)

    def start_session(self, session_id: int | None = None) -> int:
        """Begin trying keys for one request, at the least spent one; `end_session` forgets it.

        Sessions do not disturb each other. A ``session_id`` already in use begins anew. Raises as `next_key`.
        """
        with self._lock:
            key = self._pick(self._keys)
            if key is not None:
                if session_id is None:
                    session_id = next(i for i in self._ids if i not in self._sessions)
                self._sessions[session_id] = _Session(key)
                return session_id
        raise self.exhausted()

    def get_session_key(self, session_id: int) -> str:
        """The key that the session is at; a session that was not started is started. Raises as `next_key`."""
        with self._lock:
            return self._session(session_id).key.get_secret_value()

    def attempt_rotation(self, session_id: int) -> bool:
        """Move the session to a usable key it has not tried; False, staying, once there is none.

        A session that was not started is started. Raises as `next_key`.
        """
        with self._lock:
            session = self._session(session_id)
            session.tried.add(session.key)
            key = self._pick([key for key in self._keys if key not in session.tried])
            if key is None:
                return False
            session.key = key
            return True

    def end_session(self, session_id: int) -> None:
        """Forget the session. Repeatable."""
        with self._lock:
            self._sessions.pop(session_id, None)

    def use(self, key: str) -> None:
        """Count one request made with ``key``."""
        self.accounts.use(self._find(key))

    def rest(self, key: str, until: datetime, bucket: str = "general") -> None:
        """Use no key of this key's project for ``bucket`` before ``until`` (aware): its quota is spent."""
        self.accounts.units(bucket, 1)
        self.accounts.rest(self._find(key), until, bucket)

    def slow_down(self, key: str, until: datetime) -> None:
        """Prefer keys of other projects before ``until`` (timezone-aware): it was used too fast."""
        self.accounts.slow_down(self._find(key), until)

    def disable(self, key: str, *, whole_project: bool = False) -> None:
        """Use ``key`` no more, nor with ``whole_project`` any other of its project, for a day."""
        self.accounts.disable(self._find(key), whole_project=whole_project)

    def is_usable(self, key: str, bucket: str = "general") -> bool:
        """Whether ``key`` is neither disabled nor spent. Raises `InvalidInput` for an unknown bucket."""
        self.accounts.units(bucket, 1)
        return self.accounts.is_usable(self._find(key), bucket)

    def seconds_to_wait(self, key: str) -> float:
        """How long to hold back before the next request with ``key``; 0 for none."""
        return self.accounts.seconds_to_wait(self._find(key))

    def status(self) -> tuple[KeyStatus, ...]:
        """What is known of each key, in order, masked."""
        return tuple(self.accounts.status(key) for key in self._keys)

    def exhausted(self, bucket: str = "general") -> AtlasError:
        """The error that says why no key is left, for the caller to raise."""
        accounts = self.accounts
        if all(map(accounts.is_disabled, self._keys)):
            return ConfigurationError(
                f"every key of the ring {self.pool_name!r} was refused for good",
                hint="replace the keys in YOUTUBE_API_KEY_POOL_JSON, or enable the API for their project; "
                "`atlas keys test` tries them again",
            )
        retry_at = self.retry_at_for(bucket)
        what = "" if bucket == "general" else f" for {bucket}"
        return QuotaExhausted(
            f"every key of the ring {self.pool_name!r} is spent{what}",
            pool_name=self.pool_name,
            retry_at=retry_at,
            hint=f"the first is usable again at {retry_at.isoformat()}" if retry_at else None,
        )

    def _pick(self, keys: Sequence[ApiKey]) -> ApiKey | None:
        """The usable key that is preferred, of those given."""
        accounts = self.accounts
        usable = [key for key in keys if accounts.is_usable(key)]
        return min(usable, key=lambda key: accounts.weight(key, "general"), default=None)

    def _in_turn(self, turn: int) -> tuple[ApiKey, ...]:
        return self._keys[turn:] + self._keys[:turn]

    def _session(self, session_id: int) -> _Session:
        session = self._sessions.get(session_id)
        if session is None:
            key = self._pick(self._keys)
            if key is None:
                raise self.exhausted()
            session = self._sessions[session_id] = _Session(key)
        return session

    def _find(self, key: str) -> ApiKey:
        found = self._by_text.get(key)
        if found is None:
            raise NotFound(f"that key is not in the ring {self.pool_name!r}")
        return found


def _from_settings(pool_name: str) -> tuple[ApiKey, ...]:
    if pool_name not in POOLS:
        raise ConfigurationError(
            f"there is no key pool {pool_name!r}", hint=f"the pools are {', '.join(POOLS)}"
        )
    settings: Settings = get_settings()
    keys = settings.youtube_api_keys
    if settings.compliance_mode:
        return keys[:1]
    reserved = settings.key_pool_archeology_size + settings.key_pool_tracking_size
    if 0 < len(keys) <= reserved:
        log.warning("key_pools_shared", pool=pool_name, keys=len(keys), needed=reserved + 1)
    pools = split(keys, settings.key_pool_archeology_size, settings.key_pool_tracking_size)
    return tuple(pools[pool_name])


def _explicit(keys: Iterable[str | SecretStr]) -> tuple[ApiKey, ...]:
    found: dict[str, ApiKey] = {}
    for key in [keys] if isinstance(keys, str) else keys:
        if not isinstance(key, str | SecretStr):
            raise ConfigurationError(f"a key must be text, got {type(key).__name__}")
        text = (key if isinstance(key, str) else key.get_secret_value()).strip()
        if text:
            try:
                add_key(found, text, getattr(key, "project", None))
            except ValueError as error:
                raise ConfigurationError(f"keys: {error}") from None
    return tuple(found.values())
